r"""CNN paper, Figure 1, on the accelerator that is there: 10,000 layers x 128 channels on MNIST.

    python -m benchmarks.figure1_device --python=/path/to/a/python/with/jax/and/torch

Trains the compiled program of `tpu.execute`, batch 128, for ten minutes, and prints a table of
seconds a step, TFLOP/s and their share of the device's peak, test accuracy; beside it the same
network in JAX (one scan in another) and PyTorch (checkpoint_sequential), each in a process of its
own. A FLOP that is computed again in the backward pass does not count. On a machine without
TensorFlow give --folder, one that `python -m tpu.execute --platform=gpu --export=FOLDER` wrote.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_enum("platform", "gpu", ["cpu", "gpu", "tpu"], "What PJRT executes it on.")
flags.DEFINE_string("python", sys.executable, "Python that has jax, and torch for its row.")
flags.DEFINE_string("folder", None, "Of the program; written first if not given.")
flags.DEFINE_integer("depth", 10_000, "Layers.", lower_bound=1)
flags.DEFINE_integer("filters", 128, "Channels.", lower_bound=1)
flags.DEFINE_integer("batch_size", 128, "Images in a step.", lower_bound=1)
flags.DEFINE_string("dataset", "mnist", "Data set; of 28x28 images.")
flags.DEFINE_float("minutes", 10.0, "Of training.", lower_bound=0)
flags.DEFINE_integer("rival_steps", 10, "Steps timed of each rival.", lower_bound=1)
flags.DEFINE_list("rivals", ["jax", "torch"], "What to measure beside it.")

# TFLOP/s of dense products in the precision that XLA takes for float32 by default: TF32 on NVIDIA's
# cards, bfloat16 on TPUs; from the vendors' data sheets.
PEAK = {
    "H200": 495,
    "H100": 495,
    "A100": 156,
    "L4": 60,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
}
_RIVAL = pathlib.Path(__file__).with_name("device_rival.py")
_NETWORK = (
    "--initialization=delta_orthogonal --padding=circular --stem_padding=same --readout_scale=1 "
    "--bias_scale=1 --critical_readout --weight_variance=1.05 --bias_variance=2.01e-5 "
    "--optimizer=momentum --learning_rate=0.001 --steps=40000 --eval_every=500"
)


def write_folder(folder):
    """Writes the program to a folder by `tpu.execute`."""
    sizes = [f"--{n}={FLAGS[n].value}" for n in ("dataset", "depth", "filters", "batch_size")]
    command = [sys.executable, "-m", "tpu.execute", f"--platform={FLAGS.platform}"]
    subprocess.run([*command, f"--export={folder}", *sizes, *_NETWORK.split()], check=True)


def measure(folder):
    """Trains the folder's program; a dict of what the runner measured and the last row."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as directory:
        run, measured = pathlib.Path(directory, "run"), pathlib.Path(directory, "measured.json")
        command = [FLAGS.python, "-m", "runner", f"--platform={FLAGS.platform}"]
        options = [f"--output_dir={run}", f"--measured={measured}", f"--minutes={FLAGS.minutes}"]
        subprocess.run([*command, *options], cwd=folder, env=environment, check=True)
        accuracy = (run / "metrics.csv").read_text().splitlines()[-1].split(",")[-1]
        return {**json.loads(measured.read_text()), "test_accuracy": float(accuracy)}


def measure_rival(name):
    """A dict of device and time, or of the reason why there is none."""
    sizes = (FLAGS.depth, FLAGS.filters, FLAGS.batch_size, FLAGS.rival_steps)
    command = [FLAGS.python, str(_RIVAL), name, *map(str, sizes)]
    environment = {**os.environ}
    if FLAGS.platform == "cpu":
        environment["JAX_PLATFORMS"] = "cpu"
    child = subprocess.run(command, capture_output=True, text=True, env=environment)
    if child.returncode:
        return {"error": (child.stderr.strip().splitlines() or ["killed"])[-1][:100]}
    return json.loads(child.stdout.strip().splitlines()[-1])


def row(name, found, flops):
    """A row of the table."""
    if "error" in found:
        return f"| {name} | {found['error']} | | | |"
    rate = flops / found["seconds_a_step"] / 1e12
    named = (value for key, value in PEAK.items() if re.search(rf"\b{key}\b", found["device"]))
    peak = next(named, None)
    share = f"{rate / peak:.0%} of {peak}" if peak else "unknown"
    accuracy = found.get("test_accuracy")
    shown = "" if accuracy is None else f"{accuracy:.4f} at step {found['step']}"
    return f"| {name} | {found['seconds_a_step']:.4g} | {rate:.3g} | {share} | {shown} |"


def main(_):
    with tempfile.TemporaryDirectory() as directory:
        folder = FLAGS.folder or os.path.join(directory, "program")
        if not FLAGS.folder:
            write_folder(folder)
        found = measure(folder)
    flops = found["flops_a_step"]
    lines = [
        f"{found['device']}, {FLAGS.depth} layers x {FLAGS.filters}, batch {FLAGS.batch_size}",
        "",
        "| | seconds a step | TFLOP/s | of the peak | test accuracy |",
        "|---|---|---|---|---|",
        row(f"mfcnn, {FLAGS.minutes:g} minutes", found, flops),
    ]
    lines += [row(name, measure_rival(name), flops) for name in FLAGS.rivals]
    print("\n".join(lines))


if __name__ == "__main__":
    app.run(main)
