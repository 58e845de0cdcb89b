"""The command `mfcnn`: starts the package's programs by short names, wherever it is installed.

A module of its own beside the package, so that its help does not wait for TensorFlow. In a checkout
the programs are in experiments/ and tpu/, as `python -m experiments.train` finds them; in the wheel
they lie in mfcnn/_programs.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import runpy
import sys

# Command: (module, an example, what it does). Those whose module is not there are not shown.
COMMANDS = {
    "train": ("experiments.train", "train --depth=1000", "trains a plain CNN"),
    "diagnose": (
        "experiments.diagnose",
        "diagnose model.keras",
        "a Keras model against the theory, layer by layer",
    ),
    "compile-check": (
        "tpu.compile_check",
        "compile-check --topology=v5e:2x2",
        "whether a network fits a TPU, without one",
    ),
    "launch": (
        "tpu.launch",
        "launch --processes=2 -- train --strategy=multiworker",
        "starts the processes of a distributed run",
    ),
    "execute": (
        "tpu.execute",
        "execute --platform=cpu --devices=4",
        "trains with the compiled per-replica program, by PJRT",
    ),
}
_MAIN = '\nif __name__ == "__main__"'
_NO_FIGURES = {"train", "diagnose"}  # programs of experiments/ that draw none


def programs_root() -> pathlib.Path:
    """The folder that holds experiments/ and tpu/.

    Raises:
        SystemExit: if mfcnn is not installed, or its programs are not beside it.
    """
    spec = importlib.util.find_spec("mfcnn")  # finds it without importing it
    if spec is None or not spec.origin:
        sys.exit("mfcnn: the package mfcnn is not installed in this Python")
    package = pathlib.Path(spec.origin).parent
    for root in (package / "_programs", package.parent):
        if (root / "experiments" / "train.py").is_file():
            return root
    sys.exit(f"mfcnn: its programs are not beside the package in {package}")


def commands(root: pathlib.Path) -> dict[str, str]:
    """The modules of the commands that are there."""
    return {
        name: module
        for name, (module, *_) in COMMANDS.items()
        if (root / (module.replace(".", "/") + ".py")).is_file()
    }


def usage(root: pathlib.Path) -> str:
    """What `mfcnn --help` prints."""
    lines = [COMMANDS[name][1:] for name in commands(root)]
    lines += [
        ("figure", "lists the figures of the papers"),
        ("figure NAME [flags]", "computes and draws one of them"),
        ("COMMAND --help", "the flags of a command"),
        ("--version", "the version"),
    ]
    width = max(len(example) for example, _ in lines)
    shown = "".join(f"  mfcnn {example:{width}}  {text}\n" for example, text in lines)
    return f"usage: mfcnn COMMAND [flags]\n\n{shown}"


def figures(root: pathlib.Path) -> dict[str, str]:
    """The figures by name, each with the first line of its text."""
    found = {}
    for path in sorted((root / "experiments").glob("*.py")):
        text = path.read_text()
        if _MAIN in text and path.stem not in _NO_FIGURES:
            found[path.stem] = text.split('"""')[1].strip().splitlines()[0]
    return found


def main(arguments: list[str] | None = None) -> None:
    """Runs `mfcnn COMMAND ...`."""
    given = sys.argv[1:] if arguments is None else arguments
    command, rest = (given[0], given[1:]) if given else ("help", [])
    if command == "--version":
        print(importlib.metadata.version("mfcnn"))
        return
    root = programs_root()
    if command in ("help", "-h", "--help"):
        print(usage(root), end="")
        return
    known = commands(root)
    if command == "figure":
        module, rest = _figure(root, rest)
    elif command in known:
        module = known[command]
    else:
        listed = ", ".join([*known, "figure"])
        sys.exit(f"mfcnn: {command!r} is none of {listed}. `mfcnn --help` says more.")
    if command == "launch":
        rest = _launched(rest, known)
    sys.path.insert(0, str(root))
    # The processes that a program starts find the programs too.
    path = filter(None, (str(root), os.environ.get("PYTHONPATH")))
    os.environ["PYTHONPATH"] = os.pathsep.join(path)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.argv = [f"mfcnn {command}", *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _figure(root: pathlib.Path, rest: list[str]) -> tuple[str, list[str]]:
    """The module of a figure and its flags; without a name it lists them."""
    known = figures(root)
    if not rest or rest[0].startswith("-"):
        width = max(map(len, known))
        print("".join(f"{name:{width}}  {text}\n" for name, text in known.items()), end="")
        sys.exit(0)
    if rest[0] not in known:
        sys.exit(f"mfcnn figure: {rest[0]!r} is none of {', '.join(known)}")
    return f"experiments.{rest[0]}", rest[1:]


def _launched(rest: list[str], known: dict[str, str]) -> list[str]:
    """`-- train ...` as the launcher wants it: arguments of Python."""
    at = rest.index("--") + 1 if "--" in rest else len(rest)
    if at >= len(rest) or rest[at] not in known:
        return rest
    return [*rest[:at], "-m", known[rest[at]], *rest[at + 1 :]]


if __name__ == "__main__":
    main()
