"""Runs a binary's main with flags, in this process."""

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
