"""Runs a binary's main with flags, in this process, and reads what it wrote."""

import csv

from absl import flags

from experiments import binary


def run(module, directory, *arguments):
    """Calls module.define_flags and module.main, and leaves the flags as they were."""
    defined = flags.FLAGS
    kept = {
        name: defined[name]
        for name in list(defined)
        if (defined.find_module_defining_flag(name) or "experiments").startswith("experiments")
    }
    for name in kept:
        delattr(defined, name)
    before = set(defined)
    try:
        module.define_flags()
        defined(["test", f"--output_dir={directory}", *arguments])
        with binary.opened():
            module.main([])
    finally:
        for name in set(defined) - before:
            delattr(defined, name)
        for name, flag in kept.items():
            defined[name] = flag


def table(path, **chosen):
    """The rows of a CSV file with these values, as dicts; what is a number is a float."""
    with open(path) as file:
        rows = [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    return [row for row in rows if all(row[k] == v for k, v in chosen.items())]


def _number(text):
    try:
        return float(text)
    except ValueError:
        return text
