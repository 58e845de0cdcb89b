"""README.md: its snippets run in order from nothing but the text, and its links lead somewhere."""

import pathlib
import re
import runpy
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_snippet_says_how_long_it_takes():
    assert len(SNIPPETS) >= 5
    for snippet in SNIPPETS:
        assert re.match(r"# \d+ s\b", snippet), snippet


def test_the_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for snippet in SNIPPETS:
        start = time.process_time()
        exec(compile(snippet, "README.md", "exec"), names)
        print(f"{snippet.splitlines()[0]}: taken {time.process_time() - start:.1f} s")
    assert (tmp_path / "model.keras").is_file()
    assert names["mean"].shape == (64, 10) and names["ntks"].shape == (3, 16, 16)
    assert names["theta"].shape == names["infinite"].shape == (8, 8)


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_every_link_leads_to_a_file(link):
    assert link.startswith("https://") or (ROOT / link).is_file()


def test_a_known_address_makes_every_link_absolute():
    text = runpy.run_path(str(ROOT / "setup.py"))["description"]("https://host/owner/mfcnn")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all(link.startswith("https://host/owner/mfcnn/") for link in links)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert pictures and all("/raw/main/" in picture for picture in pictures)
