"""The working memory of the empirical NTK: the method chosen, predicted and measured bytes.

    python -m benchmarks.empirical_memory

Each model runs in a process of its own. The peak is that of the resident memory while blocks of the
chosen plan are computed, above what was resident once the programs were traced. Large models have
thousands of equal blocks; `--blocks` of them are run.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

_MB = 2**20


def _applications(name: str, size: int) -> tuple[Any, np.ndarray]:
    import keras

    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    return model, np.random.default_rng(0).normal(size=(2, size, size, 3))


def _lstm(units: int, inputs: int) -> tuple[Any, np.ndarray]:
    import keras

    model = keras.Sequential(
        [keras.Input((20, inputs)), keras.layers.LSTM(units), keras.layers.Dense(10)]
    )
    return model, np.random.default_rng(0).normal(size=(2, 20, inputs))


def _dense(width: int) -> tuple[Any, np.ndarray]:
    import keras

    hidden = [keras.layers.Dense(width, "relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
    return model, np.random.default_rng(0).normal(size=(512, 784))


MODELS: dict[str, Callable] = {
    "ResNet50 224x224, 1,000 outputs": lambda: _applications("ResNet50", 224),
    "MobileNetV2 224x224, 1,000 outputs": lambda: _applications("MobileNetV2", 224),
    "LSTM, 20 million weights": lambda: _lstm(2000, 500),
    "dense 3 x 512, batch 512": lambda: _dense(512),
}


def _resident(peak: bool = False) -> float:
    """MB of this process, now or at its peak since the last `_forget_peak`."""
    name = "VmHWM" if peak else "VmRSS"
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) / 1024


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def measure(name: str, blocks: int) -> str:
    """A row of the table."""
    from mfcnn import empirical
    from mfcnn.empirical import _inputs, _programs, _tangent_kernel

    model, x = MODELS[name]()
    choice = empirical.choose_method(model, x)
    x = _inputs.convert(model, x, "x")
    work = _tangent_kernel._Kernel(model, x, None, "trace", False)
    plan = work.plans(_tangent_kernel._MEMORY, None)[choice.method]
    x = _inputs.take(x, np.arange(min(plan.batch_size, _inputs.length(x))))
    calls = _calls(work, plan, model, x, _programs)
    traced, start = _resident(), time.process_time()
    _forget_peak()
    for call in (calls * blocks)[: max(blocks, len(calls))]:
        call()
    seconds = (time.process_time() - start) / max(blocks, len(calls))
    weights = sum(math.prod(v.shape) for v in model.trainable_variables)
    return (
        f"| {name} | {weights / 1e6:.1f} | {choice.method} | {plan.batch_size} | "
        f"{plan.outputs_at_a_time} of {work.trace.outputs} | {plan.bytes / _MB:.0f} | "
        f"{_resident(True) - traced:.0f} | {seconds:.1f} |"
    )


def _calls(work: Any, plan: Any, model: Any, x: Any, programs: Any) -> list[Callable]:
    """One block of the plan, traced: a pair of two sides, as all but those on the diagonal are."""
    every = tuple(range(len(model.trainable_variables)))
    if plan.method == "products":
        product = programs.Products(model, "trace", work.trace.outputs)
        one = np.zeros([1, work.trace.outputs], "float32")
        product.vjp.get_concrete_function(x[:1], one)

        def call() -> None:
            product.jvp(x, product.vjp(x[:1], one))

        return [call]
    unknown = work.trace.unknown if plan.method == "structured" else every
    features = work._features(unknown)
    seeds = work._seeds(plan)[0][0]
    if plan.method == "jacobian":
        features.rows.get_concrete_function(x, seeds)
        return [lambda: features.contract(features.rows(x, seeds), features.rows(x, seeds))]
    features.block.get_concrete_function(x, seeds, x, seeds)
    return [lambda: features.block(x, seeds, x, seeds)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=list(MODELS))
    parser.add_argument("--blocks", type=int, default=2)
    options = parser.parse_args()
    if options.model:
        print(measure(options.model, options.blocks), flush=True)
        return
    print("| model | weights, millions | method | examples | outputs at a time | predicted, MB |")
    print("| measured, MB | CPU s a block |")
    for name in MODELS:
        command = [sys.executable, "-m", "benchmarks.empirical_memory", f"--model={name}"]
        command += [f"--blocks={options.blocks}"]
        result = subprocess.run(command, capture_output=True, text=True)
        print(result.stdout.strip() or result.stderr.strip()[-500:], flush=True)


if __name__ == "__main__":
    main()
