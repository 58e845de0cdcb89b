"""The how-to page: its snippets run in order, and do what the page says."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "my_deep_network_does_not_train.md"


def test_the_page_leads_from_a_model_that_fails_to_one_that_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(snippet, PAGE.name, "exec"), names)
    assert "will not train" in capsys.readouterr().out
    assert not names["report"].trainable and (tmp_path / "report.html").is_file()
    assert names["history"].history["accuracy"][-1] > 0.5
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) > 40
