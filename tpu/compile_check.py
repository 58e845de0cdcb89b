r"""Compiles the training step for a TPU without one, and says whether it fits.

    python -m tpu.compile_check --topology=v5e:2x2 --depth=10000 --filters=128

The step is that of `mfcnn.training`, made from the flags of `experiments.train`, which are all
accepted: check a flagfile of `tpu/configs` before paying for a TPU. TensorFlow lowers it to
StableHLO; libtpu's compiler, which needs no TPU, compiles that for a replica on each chip of the
topology. Variables are never filled: any depth can be checked on any machine.

Needs `pip install '.[tpu-check]'`, or another Python that has jax and libtpu, given as --python.
Exit status: 0 it fits, 2 it does not, 1 the check itself failed.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
if __name__ == "__main__" and str(ROOT) not in sys.path:  # started as a file
    sys.path.insert(0, str(ROOT))

import keras  # noqa: E402
from absl import flags  # noqa: E402

from experiments import binary, ranges, vanilla  # noqa: E402
from tpu import lowering, slices  # noqa: E402

FLAGS = flags.FLAGS

IMAGES = {
    "digits": (8, 8, 1),
    "mnist": (28, 28, 1),
    "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3),
    "imagenet_snakes": (224, 224, 3),
}
CLASSES = 10

# Of the main job's flags, where the check has others.
DEFAULTS = {"strategy": "tpu", "dataset": "cifar10", "batch_size": 128}


class CheckError(RuntimeError):
    """The check could not be made."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What is known of a compiled step, for one chip; bytes but where said."""

    topology: str
    replicas: int
    parameters: int
    forward_flops: int  # of one replica's images
    compiled: dict[str, int]
    error: str = ""

    @property
    def fits(self) -> bool:
        """Whether the compiler took it."""
        return not self.error

    @property
    def hbm(self) -> int | None:
        """Bytes of HBM in use at the peak, None if it does not fit."""
        if not self.fits:
            return None
        new = self.compiled["outputs"] - self.compiled["aliased"]
        return sum(self.compiled[k] for k in ("arguments", "temporaries", "code")) + new

    @property
    def available(self) -> float | None:
        """Bytes of HBM that the compiler grants, None for a kind that was never measured."""
        gib = slices.HBM.get(slices.kind_of(self.topology))
        found = re.search(r"exceeds available HBM \(([\d.]+)G\)", self.error)
        if found:
            gib = float(found[1])
        return gib and gib * 2**30

    def __str__(self) -> str:
        """The report as lines of text."""
        available = f"{self.available / 2**30:.2f} GiB" if self.available else "unknown"
        lines = [
            f"compiles for {self.topology}: {'yes' if self.fits else 'NO'}",
            f"replicas:     {self.replicas}",
            f"parameters:   {self.parameters:,}",
            f"FLOPs:        {3 * self.forward_flops:.4g} a step and chip (forward and backward; "
            f"recomputation adds up to {self.forward_flops:.4g} a checkpoint level)",
        ]
        if self.fits:
            parts = ("arguments", "temporaries", "code")
            text = ", ".join(f"{k} {self.compiled[k] / 2**30:.2f}" for k in parts)
            hbm = self.hbm or 0
            share = f" = {hbm / self.available:.0%}" if self.available else ""
            lines.append(f"HBM a chip:   {hbm / 2**30:.2f} GiB ({text}) of {available}{share}")
        else:
            lines.append(f"HBM a chip:   more than {available}: {self.error.splitlines()[0]}")
        return "\n".join(lines)


def define_flags() -> None:
    """Defines the flags of the check beside those of the main job."""
    vanilla.define_flags()
    for name, default in DEFAULTS.items():
        FLAGS.set_default(name, default)
    flags.DEFINE_string(
        "topology",
        "v5e:2x2",
        "Kind and shape of the slice, like v5e:4x4, v6e:2x2 or v5p:2x2x1; v5e:1x1 is one chip.",
    )
    flags.DEFINE_string("python", sys.executable, "Python that has jax and libtpu.")
    flags.DEFINE_boolean("largest", False, "Find the largest depth that fits instead.")
    flags.DEFINE_boolean(
        "against_replicas", True, "With shard_stack: print HBM on smaller slices too."
    )
    flags.DEFINE_float("compile_timeout", 1800.0, "Seconds for one compilation.", **ranges.SECONDS)
    flags.register_validator(
        "topology",
        lambda name: slices.device_count(name) > 0,
        "topology must be like v5e:2x2 or v5p:2x2x1",
    )


def lower(config: Mapping[str, Any], replicas: int) -> tuple[str, int, int]:
    """Lowers one replica's training step, its sum over the replicas included.

    Args:
        config: dict of the main job's flags.
        replicas: number of replicas; divides the batch.

    Returns:
        (StableHLO text, number of parameters, FLOPs of one forward pass of a replica).

    Raises:
        ValueError: if the replicas do not divide the batch, or as `vanilla_cnn` says.
    """
    shape = IMAGES[config["dataset"]]
    if config["resize"]:
        shape = (config["resize"], config["resize"], shape[2])
    step = lowering.make_step(config, shape, CLASSES, replicas)
    flops = lowering.forward_flops(step.model) * step.batch
    return step.train().text, step.model.count_params(), flops


def check(
    config: Mapping[str, Any],
    topology: str,
    python: str = sys.executable,
    timeout: float = 1800.0,
) -> Report:
    """Lowers the step of a configuration and compiles it for a topology.

    Args:
        config: dict of the main job's flags.
        topology: name of a TPU topology, like "v5e:2x2".
        python: path of a Python that has jax and libtpu.
        timeout: seconds for the compilation.

    Returns:
        A `Report`.

    Raises:
        CheckError: without jax or libtpu, for an unknown topology, or if the compiler fails for
            another reason than memory.
        ValueError: as `lower` says.
    """
    replicas = slices.device_count(topology)
    text, parameters, flops = lower(config, replicas)
    keras.backend.clear_session()
    with tempfile.NamedTemporaryFile("w", suffix=".mlir", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        compiled = _run_child(python, [file.name, topology, str(replicas)], timeout)
    error = compiled.pop("error", "")
    if error and "RESOURCE_EXHAUSTED" not in error:
        raise CheckError(f"The step does not compile for {topology}: {error}")
    return Report(topology, replicas, parameters, flops, compiled, error)


def print_hbm(config: Mapping[str, Any], topology: str, **options: Any) -> None:
    """Prints HBM a chip against the number of replicas, each with as many images as here."""
    images = config["batch_size"] // slices.device_count(topology)
    print(f"HBM a chip against the number of replicas, {images} images a chip:")
    for name in slices.smaller_slices(topology):
        replicas = slices.device_count(name)
        try:
            report = check({**config, "batch_size": images * replicas}, name, **options)
        except CheckError as error:
            print(f"{replicas:12,}  {name}: {error}", flush=True)
            continue
        limit = f"more than {(report.available or 0) / 2**30:.2f} GiB"
        used = f"{report.hbm / 2**30:.2f} GiB" if report.hbm is not None else limit
        print(f"{replicas:12,}  {name}: {used}", flush=True)


def largest_depth(
    config: Mapping[str, Any], topology: str, tolerance: float = 0.02, **options: Any
) -> tuple[int, Report]:
    """The largest depth that fits, to a relative tolerance, by compiling several.

    Returns:
        (depth, its Report).
    """
    low, high, depth, best = 0, math.inf, config["depth"], None
    used = []
    while high > (1 + tolerance) * low or best is None:
        report = check({**config, "depth": depth}, topology, **options)
        print(f"depth {depth}: {'fits' if report.fits else 'does not fit'}", flush=True)
        if report.fits:
            low, best = depth, report
            used.append((depth, report.hbm or 0))
        else:
            high = depth
        depth = _next_depth(used, low, high, report.available, tolerance)
        if depth < 1:
            raise CheckError(f"Not even one layer fits on {topology}.")
    return low, best


def _next_depth(
    used: list[tuple[int, int]], low: int, high: float, available: float | None, tolerance: float
) -> int:
    if not used:
        return int(high // 4)
    if available:
        # Memory grows about linearly with depth: aim a little below the border, then above.
        (d0, m0), (d1, m1) = used[0] if len(used) > 1 else (0, 0), used[-1]
        guess = d1 + (available - m1) * (d1 - d0) / (m1 - m0) if m1 > m0 else 2 * d1
        for target in (guess * (1 - tolerance / 3), guess * (1 + tolerance / 3)):
            if low * (1 + tolerance / 4) < target < high / (1 + tolerance / 4):
                return int(target)
    return int(math.sqrt(low * high)) if high < math.inf else 2 * low


def _run_child(python: str, arguments: Sequence[str], timeout: float) -> dict[str, Any]:
    path = (str(ROOT), os.environ.get("PYTHONPATH"))
    try:
        result = subprocess.run(
            [python, "-m", "tpu.compile_child", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
    except OSError as error:
        raise CheckError(f"--python={python} cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise CheckError(f"The compiler took longer than {timeout:g} s.") from error
    try:
        answer = json.loads(result.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as error:
        last = "\n".join(result.stderr.strip().splitlines()[-5:])
        raise CheckError(f"The compiler ended with status {result.returncode}: {last}") from error
    if "missing" in answer:
        raise CheckError(
            f"{python} has no {' and no '.join(answer['missing'])}: pip install '.[tpu-check]', or "
            "give --python, a Python that has both."
        )
    if "refused" in answer:
        raise CheckError(answer["refused"])
    return answer


def main(_: list[str]) -> int:
    """Checks the flags' configuration; the exit status."""
    config = vanilla.configuration()
    options = {"python": FLAGS.python, "timeout": FLAGS.compile_timeout}
    print(
        f"{config['dataset']}, {config['filters']} filters, {config['batch_size']} images in all, "
        f"{config['optimizer']}, {config['precision']}.",
        flush=True,
    )
    if FLAGS.largest:
        depth, report = largest_depth(config, FLAGS.topology, **options)
    else:
        depth, report = config["depth"], check(config, FLAGS.topology, **options)
    print(f"depth:        {depth:,}\n{report}", flush=True)
    if config["shard_stack"] and FLAGS.against_replicas:
        print_hbm({**config, "depth": depth}, FLAGS.topology, **options)
    return 0 if report.fits else 2


if __name__ == "__main__":
    binary.start(define_flags, main)
