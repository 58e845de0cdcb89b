"""What MkDocs calls while it builds the site (`hooks:` in mkdocs.yml)."""

import base64
import os
import pathlib
import re
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # MkDocs runs this file, not the module
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from latex2mathml.converter import convert  # noqa: E402
from mkdocs.config.defaults import MkDocsConfig  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402
from mkdocs.structure.pages import Page  # noqa: E402

from tools.site import executed, gallery, notebooks, reference, repository  # noqa: E402

CACHE = ROOT / "build" / "executed"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and pictures that are not in docs/, and runs the pages that have code."""
    for address, file in repository.PAGES.items():
        text = (ROOT / file).read_text()
        _add(files, config, address, repository.with_site_links(text, file, address))
    for address, file in repository.pictures().items():
        _add(files, config, address, (ROOT / file).read_bytes())
    _add(files, config, "gallery.md", gallery.page())
    for address, text in reference.pages().items():
        _add(files, config, address, text)
    for file in list(files.documentation_pages()):
        markdown = file.content_string
        if executed.stated_seconds(markdown) is not None:
            _execute(files, config, file.src_uri, markdown)
    _add(files, config, "interactive/phase_diagram.html", _phase_diagram())
    return files


def _add(files: Files, config: MkDocsConfig, address: str, content: str | bytes) -> None:
    if (known := files.get_file_from_path(address)) is not None:
        files.remove(known)
    files.append(File.generated(config, address, content=content))


def _execute(files: Files, config: MkDocsConfig, address: str, markdown: str) -> None:
    """Replaces a page by itself with its outputs, and adds it as a notebook."""
    found = executed.run_cached(markdown, address, CACHE)
    stem = pathlib.PurePosixPath(address).stem
    print(f"{address}: {found.seconds:.1f} s, stated {executed.stated_seconds(markdown)} s")

    def picture_of(snippet: int, number: int, picture: str) -> str:
        name = f"{stem}-{snippet + 1}-{number + 1}.png"
        folder = pathlib.PurePosixPath(address).parent
        _add(files, config, str(folder / "drawn" / name), base64.b64decode(picture))
        return f"drawn/{name}"

    shown = executed.with_outputs(markdown, found, picture_of)
    shown += f"*The same as a notebook: [{stem}.ipynb]({stem}.ipynb).*\n"
    _add(files, config, address.replace(".md", ".ipynb"), notebooks.notebook(markdown))
    _add(files, config, address, shown)


def _phase_diagram() -> str:
    """The page of the interactive phase diagram, computed anew when the theory changed."""
    from experiments import interactive_phase_diagram

    return interactive_phase_diagram.page(
        interactive_phase_diagram._QUICK["activations"], interactive_phase_diagram._QUICK["grid"]
    )


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Leads the links of pages in docs/ that leave it to where their files are in the site."""
    address = page.file.src_uri
    if (ROOT / "docs" / address).is_file():
        return repository.with_site_links(markdown, f"docs/{address}", address)
    return markdown


def on_page_content(html: str, **kwargs: Any) -> str:
    """Formulas as MathML, which browsers draw without a program."""
    return _FORMULA.sub(
        lambda m: convert(_unescaped(m[2]), "block" if m[1] == "div" else "inline"), html
    )


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
