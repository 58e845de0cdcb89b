r"""The deep loop against its floor, stock Keras, PyTorch and JAX, in turn, in one run.

    python -m benchmarks.deep_stack --depths=100,1000 --channels=16 \
        --rival_python=/path/to/a/python/with/torch/and/jax

Prints for each depth and width: CPU seconds of trace and compilation (the first step less a later
one), CPU time of a step per layer and image, its ratio to the floor (one layer's forward and
backward pass, written without a loop, the faster of two forms) and to each rival, peak memory of a
step against the prediction, and that of drawing the kernels before it. Each measurement is a
process of its own; the implementations take turns `rounds` times and the least of the times counts.
"""

import json
import pathlib
import subprocess
import sys

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("depths", ["100", "1000", "10000"], "Depths.")
flags.DEFINE_list("channels", ["16", "64", "128"], "Channels.")
flags.DEFINE_integer("batch", 32, "Images in a step; a quarter of it for 64 and more channels.")
flags.DEFINE_integer("side", 8, "Height and width.")
flags.DEFINE_integer("steps", 3, "Steps timed in each process.")
flags.DEFINE_integer("rounds", 2, "Turns of each implementation.")
flags.DEFINE_integer("threads", 1, "Threads of each implementation.")
flags.DEFINE_integer("timeout", 900, "Seconds for one process.")
flags.DEFINE_list(
    "implementations",
    "mfcnn,mfcnn_jit,mfcnn_fused,floor_library,floor_matmul_jit,keras,torch,torch_checkpoint,jax",
    "What to measure.",
)
flags.DEFINE_string("rival_python", sys.executable, "Interpreter that has torch and jax.")

_CHILD = pathlib.Path(__file__).with_name("deep_stack_child.py")
_KERAS_DEPTH = 100  # stock Keras needs minutes to its first step beyond


def measure(implementation, depth, channels, batch):
    """The child's result as a dict, or a dict with the reason why there is none."""
    if implementation == "keras" and depth > _KERAS_DEPTH:
        return {"error": f"left out above {_KERAS_DEPTH} layers"}
    rival = implementation.startswith(("torch", "jax"))
    numbers = (depth, channels, batch, FLAGS.side, FLAGS.steps, FLAGS.threads)
    command = [FLAGS.rival_python if rival else sys.executable, str(_CHILD), implementation]
    try:
        child = subprocess.run(
            command + [str(n) for n in numbers],
            capture_output=True,
            text=True,
            timeout=FLAGS.timeout,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"no result in {FLAGS.timeout} s"}
    if child.returncode:
        return {"error": (child.stderr.strip().splitlines() or ["killed"])[-1][:100]}
    return json.loads(child.stdout.strip().splitlines()[-1])


def compare(depth, channels, batch):
    """Measures all implementations in turn and returns their best results by name."""
    best = {}
    for _ in range(FLAGS.rounds):
        for name in FLAGS.implementations:
            if "error" in best.get(name, {}):
                continue
            result = measure(name, depth, channels, batch)
            if name not in best or result["step"] < best[name]["step"]:
                best[name] = result
    return best


def report(depth, channels, batch, best):
    """Prints one table."""
    print(f"\ndepth {depth}, {channels} channels, batch {batch}, {FLAGS.threads} thread(s)")
    times = {
        name: 1e6 * r["step"] / r.get("layers", depth) / batch
        for name, r in best.items()
        if "error" not in r
    }
    floor = min((t for name, t in times.items() if name.startswith("floor")), default=None)
    columns = f"{'compile s':>10}{'us/layer/image':>16}{'to floor':>10}{'peak MB':>9}{'drawing':>9}"
    print(f"{'':18}{columns}  predicted")
    for name, result in best.items():
        if "error" in result:
            print(f"{name:18}  {result['error']}")
            continue
        ratio = f"{times[name] / floor:10.2f}" if floor else f"{'':10}"
        base = result.get("base", 0)
        line = f"{name:18}{result['compile']:10.2f}{times[name]:16.1f}{ratio}"
        line += f"{(result['peak'] - base) / 1e6:9.0f}"
        if "predicted" in result:
            line += f"{(result['built'] - base) / 1e6:9.0f}"
            line += f"  {result['predicted'] / 1e6:.0f} MB above the start"
        print(line, flush=True)
    ours = min((t for name, t in times.items() if name.startswith("mfcnn")), default=None)
    for name in ("keras", "torch", "torch_checkpoint", "jax"):
        if ours and name in times:
            print(f"mfcnn is {times[name] / ours:.2f} times as fast as {name}")


def main(argv):
    """Measures every depth and width of the flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    for channels in map(int, FLAGS.channels):
        batch = FLAGS.batch if channels < 64 else max(FLAGS.batch // 4, 1)
        for depth in map(int, FLAGS.depths):
            report(depth, channels, batch, compare(depth, channels, batch))


if __name__ == "__main__":
    app.run(main)
