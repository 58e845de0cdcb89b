"""The pages of the site: their code runs, their links lead somewhere, the gallery is complete."""

import doctest
import json
import pathlib
import re

import pytest

from tools.site import executed, gallery, notebooks, reference, repository

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
EXECUTED = {name: seconds for name in PAGES if (seconds := executed.stated_seconds(PAGES[name]))}
QUICK = 5  # seconds, up to which a page runs in the quick suite; `make docs` runs all of them
FILES = {str(DOCS.name + "/" + name): text for name, text in PAGES.items()} | {
    file: (ROOT / file).read_text() for file in repository.PAGES.values()
}


@pytest.mark.parametrize(
    "name",
    [n if EXECUTED[n] <= QUICK else pytest.param(n, marks=pytest.mark.slow) for n in EXECUTED],
)
def test_the_code_of_a_page_runs(name):
    found = executed.run(PAGES[name], name)
    pictures = sum(len(output.pictures) for output in found.outputs)
    print(f"{name}: {found.seconds:.1f} s, stated {EXECUTED[name]} s; {pictures} pictures")
    assert pictures or any(output.text.strip() for output in found.outputs)


def test_every_page_with_code_states_its_time():
    with_code = {name for name, text in PAGES.items() if executed.SNIPPET.search(text)}
    assert with_code == set(EXECUTED) and len(EXECUTED) >= 18
    assert sum(seconds for seconds in EXECUTED.values() if seconds <= QUICK) <= 60


def test_there_are_ten_how_tos_and_a_page_for_each_document():
    how_tos = [name for name in EXECUTED if name.startswith("howto/")]
    assert len(how_tos) >= 9 and "my_deep_network_does_not_train.md" in EXECUTED
    assert {n for n in EXECUTED if n.startswith("papers/")} == {
        f"papers/{name}.md" for name in ("cnn", "ntk", "slides", "finite_width", "linearization")
    }


def test_a_figure_takes_some_twenty_lines():
    for name in EXECUTED:
        if name.startswith("papers/"):
            for code in executed.SNIPPET.findall(PAGES[name]):
                assert len([line for line in code.splitlines() if line.strip()]) <= 25, (name, code)


@pytest.mark.parametrize("file", FILES)
def test_every_relative_link_leads_to_a_file(file):
    text = re.sub(r"^```.*?^```$", "", FILES[file], flags=re.DOTALL | re.MULTILINE)
    generated = {"gallery.md", "figures.md", "interactive/phase_diagram.html"} | set(
        repository.PAGES
    )
    for target in re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path = (ROOT / file).parent / target
        inside = pathlib.Path(file).parent / target
        in_site = str(pathlib.Path(re.sub(r"[^/]+/\.\./", "", str(inside)))).removeprefix("docs/")
        assert path.exists() or in_site in generated, (file, target)


def test_links_are_led_to_where_files_are_in_the_site():
    led = repository.with_site_links
    assert led("![a](results/x/y.png)", "experiments/README.md", "figures.md") == "a"
    picture = "results/phase_diagram/phase_diagram.png"
    assert led(f"![a]({picture})", "experiments/README.md", "figures.md") == f"![a]({picture})"
    text = "[notes](../BUILD_NOTES.md), [here](#a), [there](https://host/a), `[no](../setup.py)`"
    assert led(text, "docs/theory.md", "theory.md") == text.replace(
        "../BUILD_NOTES.md", "project/build_notes.md"
    ).replace("[no](../setup.py)", "no")


def test_a_page_shows_what_its_code_prints_and_draws():
    drawing = "import matplotlib.pyplot as plt\nplt.plot([1])"
    codes = "print(6 * 7)", drawing
    page = "Runs in 1 s on one core.\n\n" + "\n".join(f"```python\n{code}\n```" for code in codes)
    found = executed.run(page, "page")
    shown = executed.with_outputs(page, found, lambda snippet, i, data: f"{snippet}-{i}.png")
    assert "42\n```" in shown and "](1-0.png)" in shown and found.outputs[1].pictures
    cells = json.loads(notebooks.notebook(page))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "code"]


def test_the_code_of_a_page_that_did_not_change_does_not_run_again(tmp_path):
    page = "Runs in 1 s on one core.\n\n```python\nimport time\nprint(time.time_ns())\n```\n"
    first, again = (executed.run_cached(page, "page", tmp_path) for _ in range(2))
    other = executed.run_cached(page.replace("print", "print  "), "page", tmp_path)
    assert first == again and other.outputs != first.outputs


def test_the_gallery_has_every_picture_and_its_command():
    page = gallery.page()
    for picture in repository.pictures():
        assert f"]({picture})" in page, picture
    commands = re.findall(r"^mfcnn figure .*$", page, re.MULTILINE)
    assert len(commands) == len(repository.pictures())
    assert "mfcnn figure phase_diagram" in commands
    of_sgd = next(command for command in commands if "--optimizer=sgd" in command)
    assert of_sgd.startswith("mfcnn figure train_depths ")
    assert "--depths=50,200,1000,10000" in of_sgd


def test_the_reference_has_every_public_name():
    import mfcnn

    pages = reference.pages()
    for room in reference.ORDER:
        module = getattr(mfcnn, room)
        for name in module.__all__:
            page = pages[f"api/{room}.md"]
            assert f"::: mfcnn.{room}.{name}\n" in page or f"`{name}`" in page, name


@pytest.mark.parametrize("module", [gallery, notebooks, repository])
def test_the_examples_of_the_tools_run(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
