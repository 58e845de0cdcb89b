r"""The deep loop against its floor, stock Keras, PyTorch and JAX, in turn, in one run.

    python -m benchmarks.deep_stack --depths=100,1000 --channels=16 \
        --rival_python=/path/to/a/python/with/torch/and/jax
    python -m benchmarks.deep_stack --depths=20,100,1000 --channels=16 --sides=2,4,8 \
        --batches=4,32,128 --implementations=mfcnn,mfcnn_jit,floor          # nearest to the floor
    python -m benchmarks.deep_stack --depths=10000 --channels=16 --sides=2 --batches=4,16,64,256 \
        --implementations=mfcnn_jit                                         # images a second

Prints for each depth, width, side and batch: CPU seconds of trace and compilation (the first step
less a later one), CPU time of a step per layer and image, images a CPU second, the ratio to the
floor (one layer's forward and backward pass, written without a loop, the fastest of its forms) and
to each rival, peak memory of a step against the prediction, and that of drawing the kernels before
it; at the end the largest ratio to the floor. JAX's scan is taken with the library's convolution
and with the matrix product of windows, both rematerialized. Each measurement is a process of its
own; the implementations take turns `rounds` times and the least of the times counts.
"""

import itertools
import json
import pathlib
import subprocess
import sys

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list("depths", ["100", "1000", "10000"], "Depths.")
flags.DEFINE_list("channels", ["16", "64", "128"], "Channels.")
flags.DEFINE_list("batches", ["32"], "Images in a step; a quarter for 64 and more channels.")
flags.DEFINE_list("sides", ["8"], "Heights and widths.")
flags.DEFINE_integer("steps", 3, "Steps timed in each process.")
flags.DEFINE_integer("rounds", 2, "Turns of each implementation.")
flags.DEFINE_integer("threads", 1, "Threads of each implementation.")
flags.DEFINE_integer("timeout", 900, "Seconds for one process.")
flags.DEFINE_list(
    "implementations",
    "mfcnn,mfcnn_jit,mfcnn_fused,floor,keras,torch,torch_checkpoint,jax,jax_matmul",
    "What to measure; floor is all its forms.",
)
flags.DEFINE_string("rival_python", sys.executable, "Interpreter that has torch and jax.")

_CHILD = pathlib.Path(__file__).with_name("deep_stack_child.py")
_KERAS_DEPTH = 100  # stock Keras needs minutes to its first step beyond
_DENSE_SIDE = 4  # beyond it one matrix between all positions is far from the fastest


def implementations(side):
    """The names of what is measured at this side."""
    floors = ["floor_library", "floor_matmul_jit"] + ["floor_dense_jit"] * (side <= _DENSE_SIDE)
    for name in FLAGS.implementations:
        yield from floors if name == "floor" else [name]


def measure(implementation, depth, channels, batch, side):
    """The child's result as a dict, or a dict with the reason why there is none."""
    if implementation == "keras" and depth > _KERAS_DEPTH:
        return {"error": f"left out above {_KERAS_DEPTH} layers"}
    rival = implementation.startswith(("torch", "jax"))
    numbers = (depth, channels, batch, side, FLAGS.steps, FLAGS.threads)
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


def compare(depth, channels, batch, side):
    """Measures all implementations in turn and returns their best results by name."""
    best = {}
    for _ in range(FLAGS.rounds):
        for name in implementations(side):
            if "error" in best.get(name, {}):
                continue
            result = measure(name, depth, channels, batch, side)
            if name not in best or result["step"] < best[name]["step"]:
                best[name] = result
    return best


def report(depth, channels, batch, side, best):
    """Prints one table and returns our ratio to the floor, or None."""
    what = f"depth {depth}, {channels} channels, batch {batch}, {side}x{side} positions"
    print(f"\n{what}, {FLAGS.threads} thread(s)")
    times = {
        name: 1e6 * r["step"] / r.get("layers", depth) / batch
        for name, r in best.items()
        if "error" not in r
    }
    floor = min((t for name, t in times.items() if name.startswith("floor")), default=None)
    names = ("compile s", "us/layer/image", "images/s", "to floor", "peak MB", "drawing")
    columns = "".join(f"{name:>{width}}" for name, width in zip(names, (10, 16, 10, 10, 9, 9)))
    print(f"{'':18}{columns}  predicted")
    for name, result in best.items():
        if "error" in result:
            print(f"{name:18}  {result['error']}")
            continue
        speed = 1e6 / times[name] / depth
        ratio = f"{times[name] / floor:10.2f}" if floor else f"{'':10}"
        base = result.get("base", 0)
        line = f"{name:18}{result['compile']:10.2f}{times[name]:16.2f}{speed:10.1f}{ratio}"
        line += f"{(result['peak'] - base) / 1e6:9.0f}"
        if "predicted" in result:
            line += f"{(result['built'] - base) / 1e6:9.0f}"
            line += f"  {result['predicted'] / 1e6:.0f} MB above the start"
        print(line, flush=True)
    ours = min((t for name, t in times.items() if name.startswith("mfcnn")), default=None)
    for name in ("keras", "torch", "torch_checkpoint", "jax", "jax_matmul"):
        if ours and name in times:
            print(f"mfcnn is {times[name] / ours:.2f} times as fast as {name}")
    return (ours / floor, what) if ours and floor else None


def main(argv):
    """Measures every depth, width, side and batch of the flags."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    sizes = (FLAGS.channels, FLAGS.sides, FLAGS.depths, FLAGS.batches)
    ratios = []
    for channels, side, depth, batch in itertools.product(*(map(int, each) for each in sizes)):
        batch = batch if channels < 64 else max(batch // 4, 1)
        best = compare(depth, channels, batch, side)
        ratios.append(report(depth, channels, batch, side, best))
    largest = max(filter(None, ratios), default=None)
    if largest:
        print("\nlargest ratio to the floor: {:.2f} at {}".format(*largest))


if __name__ == "__main__":
    app.run(main)
