"""Infinite-width kernels of keras.applications at 32x32: exact, sampled, or why not.

    python -m benchmarks.model_kernels --channels=64

Each model has a process of its own: CPU seconds to read the model and to compute the kernel of the
inputs, and the peak of its resident memory above what libraries and the model take. A sampled
kernel is shown with the largest of its standard errors.
"""

import argparse
import subprocess
import sys
import time

import numpy as np

from benchmarks.empirical_memory import _forget_peak, _resident

MODELS = ("VGG16", "ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0", "ConvNeXtTiny")


def measure(name: str, inputs: int, channels: int, pooling: str | None) -> str:
    """A row of the table."""
    import keras

    from mfcnn import kernels

    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(
        weights=None,
        include_top=pooling is None,
        input_shape=(32, 32, 3),
        classes=10,
        classifier_activation=None,
        pooling=pooling,
    )
    x = np.random.default_rng(0).uniform(0, 255, (inputs, 32, 32, 3))
    started, before, reasons = time.process_time(), _resident(), []
    _forget_peak()
    for sampled in (False, channels):
        how = f"sampled, {channels} channels" if sampled else "closed form"
        try:
            result = kernels.from_keras(model, sampled=sampled)(x)
        except (ValueError, MemoryError) as error:
            reasons.append(f"{how}: {' '.join(str(error).split())}")
            continue
        relative = ""
        if sampled:
            pairs = ((result.nngp_error, result.nngp), (result.ntk_error, result.ntk))
            errors = [np.max(np.asarray(e) / np.asarray(v)) for e, v in pairs]
            relative = ", standard error {:.1%} (NNGP), {:.1%} (NTK)".format(*errors)
        nngp, ntk = (np.asarray(k) for k in (result.nngp, result.ntk))
        assert np.all(np.isfinite(nngp)) and np.all(np.isfinite(ntk))
        values = f"NNGP(x, x) {nngp[0, 0]:.4g}, NTK(x, x) {ntk[0, 0]:.4g}"
        reasons.append(f"{how}{relative}: {values}")
        break
    seconds, memory = time.process_time() - started, _resident(peak=True) - before
    return f"| {name} | {'; '.join(reasons)} | {seconds:.0f} | {memory:.0f} |"


def main() -> None:
    """Prints the table, a process for each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--inputs", type=int, default=1)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--pooling", help="avg or max: the model without its top")
    parser.add_argument("--one", help="a model measured in this process")
    options = parser.parse_args()
    if options.one:
        print(measure(options.one, options.inputs, options.channels, options.pooling))
        return
    print("| model | kernel | CPU s | peak MB |\n|---|---|---|---|", flush=True)
    for name in options.models:
        command = [sys.executable, "-m", "benchmarks.model_kernels", f"--one={name}"]
        command += [f"--inputs={options.inputs}", f"--channels={options.channels}"]
        command += [f"--pooling={options.pooling}"] if options.pooling else []
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines() or [f"| {name} | {done.stderr[-300:]} | | |"]
        print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
