"""Pages whose code runs: their snippets, one after the other, with what they print and draw.

    python -m tools.site.executed docs/howto/*.md   # what each page prints, and its CPU seconds

A page is executed if it states its time in a line "Runs in 5 s on one core." Its snippets are the
blocks of ```python; they share their names and run in an empty folder.
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import pathlib
import re
import sys
import tempfile
import time
import traceback
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
SNIPPET = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
STATED = re.compile(r"^Runs in (\d+) s on one core\b", re.MULTILINE)


class Output(NamedTuple):
    """What a snippet printed, and the pictures that it drew, PNG in base64."""

    text: str
    pictures: tuple[str, ...]


class Run(NamedTuple):
    """The outputs of a page's snippets in order, and the CPU seconds of all."""

    outputs: list[Output]
    seconds: float


def stated_seconds(markdown: str) -> int | None:
    """The time that a page states, None for one that is not executed."""
    found = STATED.search(markdown)
    return int(found[1]) if found else None


def run(markdown: str, name: str, names: dict[str, Any] | None = None) -> Run:
    """Runs the snippets of a page.

    Args:
        markdown: the page.
        name: what tracebacks call it.
        names: a dict that takes the page's variables.

    Returns:
        A `Run`.
    """
    import keras
    import matplotlib

    matplotlib.use("Agg")
    names = {} if names is None else names
    names["__name__"] = "page"
    # Names of layers and random numbers do not depend on the pages before.
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        start = time.process_time()
        outputs = [_run_snippet(code, name, names) for code in SNIPPET.findall(markdown)]
        return Run(outputs, time.process_time() - start)


def _run_snippet(code: str, name: str, names: dict[str, Any]) -> Output:
    from matplotlib import pyplot as plt

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, name, "exec"), names)
    pictures = []
    for number in plt.get_fignums():
        image = io.BytesIO()
        plt.figure(number).savefig(image, format="png", dpi=130, bbox_inches="tight")
        pictures.append(base64.b64encode(image.getvalue()).decode())
    plt.close("all")
    return Output(printed.getvalue(), tuple(pictures))


def run_cached(markdown: str, name: str, folder: pathlib.Path) -> Run:
    """`run`, but for pages that ran before: with the same snippets, on the same mfcnn."""
    identity = hashlib.sha256("\0".join(SNIPPET.findall(markdown)).encode())
    for path in sorted((ROOT / "mfcnn").rglob("*.py")):
        identity.update(path.read_bytes())
    path = folder / f"{identity.hexdigest()[:32]}.json"
    if not path.is_file():
        found = run(markdown, name)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
    outputs, seconds = json.loads(path.read_text())
    return Run([Output(text, tuple(pictures)) for text, pictures in outputs], seconds)


def with_outputs(markdown: str, found: Run, picture_of: Any) -> str:
    """The page with each snippet's output behind it, and the time that it took at its end.

    Args:
        markdown: the page.
        found: its `Run`.
        picture_of: (snippet's number, picture's number, PNG in base64) -> address of the picture.

    Returns:
        Markdown.
    """
    numbered = iter(enumerate(found.outputs))

    def shown(match: re.Match) -> str:
        number, output = next(numbered)
        parts = [match[0]]
        if output.text.strip():
            parts.append(f'``` {{ .text .output title="prints" }}\n{output.text.rstrip()}\n```')
        parts += [
            f"![what this code draws]({picture_of(number, i, picture)})"
            for i, picture in enumerate(output.pictures)
        ]
        return "\n\n".join(parts)

    return SNIPPET.sub(shown, markdown) + (
        f"\n\n---\n\n*The code of this page ran when the page was built, "
        f"in {found.seconds:.0f} CPU seconds.*\n"
    )


def main() -> None:
    """Runs the pages that are named, and prints."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import mfcnn  # noqa: F401  (not in the first page's time)

    for path in map(pathlib.Path, sys.argv[1:]):
        markdown = path.read_text()
        if (stated := stated_seconds(markdown)) is None:
            continue
        try:
            found = run(markdown, path.name)
        except Exception:
            traceback.print_exc()
            print(f"== {path}: failed")
            continue
        for output in found.outputs:
            print(output.text, end="" if output.text.endswith("\n") else "\n")
        pictures = sum(len(output.pictures) for output in found.outputs)
        print(
            f"== {path}: {found.seconds:.1f} s, stated {stated} s; {pictures} pictures", flush=True
        )


if __name__ == "__main__":
    main()
