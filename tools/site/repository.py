"""Files of the repository as pages of the site, and links between them.

A page's links are those of its file in the repository, so that they lead somewhere there too; for
the site they are led to the page or picture that the file has become. A link to what is not part of
the site loses its address and keeps its words.
"""

import os
import pathlib
import re

__all__ = ["PAGES", "pictures", "with_site_links"]

ROOT = pathlib.Path(__file__).parents[2]

# Pages that are not in docs/: address in the site, file in the repository.
PAGES = {
    "index.md": "README.md",
    "figures.md": "experiments/README.md",
    "project/pods.md": "tpu/README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/build_notes.md": "BUILD_NOTES.md",
    "project/changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")
_BLOCK = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def pictures() -> dict[str, str]:
    """The pictures of results/: address in the site, file in the repository."""
    found = sorted((ROOT / "experiments" / "results").glob("*/*.png"))
    return {str(p.relative_to(ROOT / "experiments")): str(p.relative_to(ROOT)) for p in found}


def _address(file: str) -> str | None:
    """Where a file of the repository is in the site."""
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    of_pages = {path: address for address, path in PAGES.items()}
    of_pictures = {path: address for address, path in pictures().items()}
    return (of_pages | of_pictures).get(file)


def with_site_links(markdown: str, file: str, address: str) -> str:
    """A page whose relative links lead to pages of the site.

    Args:
        markdown: the page, with the links of its file.
        file: the page's path in the repository.
        address: the page's path in the site.

    Returns:
        Markdown.

    Example:
        >>> with_site_links("[map](docs/theory.md#slides)", "README.md", "index.md")
        '[map](theory.md#slides)'
        >>> with_site_links("[setup](setup.cfg)", "README.md", "index.md")
        'setup'
    """

    def link(match: re.Match) -> str:
        mark, words, target = match.groups()
        words = _LINK.sub(link, words)
        target, hash_mark, anchor = target.partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return f"{mark}[{words}]({target}{hash_mark}{anchor})"
        path = os.path.normpath(os.path.join(os.path.dirname(file), target))
        if (found := _address(path)) is None:
            return words
        relative = os.path.relpath(found, os.path.dirname(address) or ".")
        return f"{mark}[{words}]({relative}{hash_mark}{anchor})"

    parts = _BLOCK.split(markdown)
    return "".join(part if i % 2 else _LINK.sub(link, part) for i, part in enumerate(parts))
