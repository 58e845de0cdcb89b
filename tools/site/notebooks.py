"""A page as a Jupyter notebook: text and code cells in their order."""

import json

from tools.site.executed import SNIPPET

__all__ = ["notebook"]


def notebook(markdown: str) -> str:
    """The page as .ipynb, without outputs.

    Example:
        >>> cells = json.loads(notebook("# Title\\n\\n```python\\nx = 1\\n```\\n"))["cells"]
        >>> [cell["cell_type"] for cell in cells]
        ['markdown', 'code']
    """
    cells, end = [], 0
    for match in SNIPPET.finditer(markdown):
        cells += [_cell("markdown", markdown[end : match.start()]), _cell("code", match[1])]
        end = match.end()
    cells.append(_cell("markdown", markdown[end:]))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book = {
        "cells": [cell | {"id": f"cell-{i}"} for i, cell in enumerate(filter(None, cells))],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(book, indent=1)


def _cell(kind: str, source: str) -> dict:
    if not source.strip():
        return {}
    cell = {"cell_type": kind, "metadata": {}, "source": source.strip().splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})
