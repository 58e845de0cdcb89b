"""mfcnn's kernels against neural-tangents: same inputs, one run, alternating; values before times.

neural-tangents is not a dependency: it runs in an environment of its own (neural-tangents 0.6.5,
jax and jaxlib 0.4.30, numpy < 2, scipy < 1.13) as a second process, fed through a pipe:

    python -m benchmarks.kernels --rival_python=/path/to/that/venv/bin/python

Times are CPU seconds (user + system) of the process that computes, the best of --repeats, after
compilation, which is reported apart. Each repeat makes as many calls as fill 0.1 s, the same number
on both sides: a single call of a millisecond would measure how cold the caches are.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

CASES = {
    # name: (architecture, activation, inputs, depth, dtype, weight variance, bias variance)
    "fcn_small_3": ("fcn", "erf", (100, 100), 3, "float64", 2.25, 0.09),
    "fcn_small_10": ("fcn", "erf", (100, 100), 10, "float64", 2.25, 0.09),
    "cnn_f_small_3": ("flatten", "erf", (20, 8, 8, 3), 3, "float64", 2.25, 0.09),
    "cnn_p_small_3": ("pool", "erf", (6, 8, 8, 3), 3, "float64", 2.25, 0.09),
    "fcn_erf_10": ("fcn", "erf", (1000, 3072), 10, "float64", 2.25, 0.09),
    "fcn_erf_100": ("fcn", "erf", (1000, 3072), 100, "float64", 2.25, 0.09),
    "fcn_relu_100": ("fcn", "relu", (1000, 3072), 100, "float64", 2.0, 0.09),
    "fcn_equal_norm_100": ("fcn_equal", "erf", (1000, 3072), 100, "float64", 1.2, 0.1),
    "cnn_f_relu_20": ("flatten", "relu", (20, 8, 8, 3), 20, "float64", 2.0, 0.09),
    "cnn_p_relu_20": ("pool", "relu", (6, 8, 8, 3), 20, "float64", 2.0, 0.09),
    "cnn_f_erf_20": ("flatten", "erf", (20, 8, 8, 3), 20, "float64", 2.25, 0.09),
    "cnn_p_erf_20": ("pool", "erf", (6, 8, 8, 3), 20, "float64", 2.25, 0.09),
    "cnn_f_10": ("flatten", "erf", (100, 8, 8, 3), 10, "float64", 2.25, 0.09),
    "cnn_f_100": ("flatten", "erf", (100, 8, 8, 3), 100, "float64", 2.25, 0.09),
    "cnn_f_100_float32": ("flatten", "erf", (100, 8, 8, 3), 100, "float32", 2.25, 0.09),
    "cnn_p_10": ("pool", "erf", (20, 8, 8, 3), 10, "float64", 2.25, 0.09),
    "cnn_p_100": ("pool", "erf", (20, 8, 8, 3), 100, "float64", 2.25, 0.09),
    "cnn_p_100_float32": ("pool", "erf", (20, 8, 8, 3), 100, "float32", 2.25, 0.09),
}
# Without a rival, as a ratio to another case of our own: tanh, which it does not have, precision,
# and depth.
ALONE = {
    "fcn_tanh_100": (("fcn", "tanh", (1000, 3072), 100, "float64", 2.25, 0.09), "fcn_erf_100"),
    "fcn_tanh_10": (("fcn", "tanh", (1000, 3072), 10, "float64", 2.25, 0.09), "fcn_erf_10"),
    "cnn_f_tanh_10": (("flatten", "tanh", (100, 8, 8, 3), 10, "float64", 2.25, 0.09), "cnn_f_10"),
    "cnn_f_tanh_100": (
        ("flatten", "tanh", (100, 8, 8, 3), 100, "float64", 2.25, 0.09),
        "cnn_f_100",
    ),
    "cnn_p_tanh_10": (("pool", "tanh", (20, 8, 8, 3), 10, "float64", 2.25, 0.09), "cnn_p_10"),
    "cnn_p_tanh_100": (("pool", "tanh", (20, 8, 8, 3), 100, "float64", 2.25, 0.09), "cnn_p_100"),
    "cnn_f_single_100": (CASES["cnn_f_100_float32"], "cnn_f_100"),
    "cnn_p_single_100": (CASES["cnn_p_100_float32"], "cnn_p_100"),
    "fcn_equal_norm_10": (
        ("fcn_equal", "erf", (1000, 3072), 10, "float64", 1.2, 0.1),
        "fcn_equal_norm_100",
    ),
    "fcn_equal_norm_10000": (
        ("fcn_equal", "erf", (1000, 3072), 10000, "float64", 1.2, 0.1),
        "fcn_equal_norm_100",
    ),
}


def make_inputs(case, seed=0):
    """Inputs of a case: norms that differ by a factor of four, or all equal."""
    architecture, _, shape, *_ = case
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    if architecture == "fcn_equal":
        return x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(shape[1])
    return x * rng.uniform(0.5, 2.0, size=[shape[0]] + [1] * (len(shape) - 1))


def mfcnn_function(case):
    """The kernel of a case in mfcnn, as a function of numpy inputs to two arrays."""
    from mfcnn import kernels

    architecture, activation, _, depth, dtype, weight_variance, bias_variance = case
    if architecture.startswith("fcn"):
        kernel = kernels.fully_connected(depth, activation, weight_variance, bias_variance, dtype)
    else:
        kernel = kernels.convolutional(
            depth, activation, weight_variance, bias_variance, readout=architecture, dtype=dtype
        )
    return lambda x: [np.asarray(k) for k in kernel(x)]


def rival_function(case):
    """The same in neural-tangents, with its compiled loop over equal layers."""
    import jax

    jax.config.update("jax_enable_x64", case[4] == "float64")
    from neural_tangents import stax

    architecture, activation, _, depth, dtype, weight_variance, bias_variance = case
    stds = {"W_std": weight_variance**0.5, "b_std": bias_variance**0.5}
    phi = {"erf": stax.Erf, "relu": stax.Relu}[activation]
    if architecture.startswith("fcn"):
        first = layer = stax.Dense(1, **stds)
        readout = ()
    else:
        first = layer = stax.Conv(1, (3, 3), padding="CIRCULAR", **stds)
        readout = (stax.Flatten() if architecture == "flatten" else stax.GlobalAvgPool(),)
    # `repeat` needs the same layout of the kernel before and after; two convolutions restore it.
    one, count = [phi(), layer], depth - 1
    step = 1 if architecture.startswith("fcn") else 2
    body = [stax.repeat(stax.serial(*one * step), count // step)] + one * (count % step)
    _, _, kernel = stax.serial(first, *body, phi(), *readout, stax.Dense(1, **stds))
    function = jax.jit(lambda x: kernel(x, None, ("nngp", "ntk")))

    def evaluate(x):
        result = function(np.asarray(x, dtype))
        return [np.asarray(result.nngp), np.asarray(result.ntk)]

    return evaluate


def serve():
    """The rival's process: one JSON request a line, answers on a pipe and in a file."""
    functions = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["case"]
        x = make_inputs(CASES[name])
        start = time.process_time()
        if name not in functions:
            functions[name] = rival_function(CASES[name])
        for _ in range(request["calls"]):
            result = functions[name](x)
        seconds = (time.process_time() - start) / request["calls"]
        np.savez(request["path"], *result)
        print(json.dumps({"seconds": seconds}), flush=True)


class Rival:
    """The rival's process, one for each case: its dtype is a setting of the whole process."""

    def __init__(self, python):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [python, str(pathlib.Path(__file__).resolve()), "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __call__(self, name, path, calls=1):
        """Evaluates a case into a file; returns the CPU seconds of a call."""
        request = {"case": name, "path": path, "calls": calls}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())["seconds"]

    def close(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def overhead(calls=300):
    """A call on five inputs in empty compiled calls, TensorFlow's own floor: CPU milliseconds."""
    import tensorflow as tf

    from mfcnn import kernels

    empty = tf.function(lambda x: x + 1.0, jit_compile=True)
    kernel, x = kernels.fully_connected(3, "erf", 1.5, 0.1), np.random.default_rng(0)
    x = x.normal(size=(5, 10))
    tensor, milliseconds = tf.constant(x), []
    for function in (lambda: empty(tensor), lambda: kernel(x)):
        function()
        start = time.process_time()
        for _ in range(calls):
            function()
        milliseconds.append(1e3 * (time.process_time() - start) / calls)
    floor, own = milliseconds
    return {"case": "five_inputs", "empty_ms": floor, "ms": own, "empty_calls": own / floor}


def timed(function, x, calls=1):
    """The result and the CPU seconds of a call."""
    start = time.process_time()
    for _ in range(calls):
        result = function(x)
    return result, (time.process_time() - start) / calls


def compare(name, python, repeats):
    """One case: compilation, agreement, then alternating times."""
    from mfcnn import kernels

    case = CASES.get(name) or ALONE[name][0]
    x = make_inputs(case)
    mine = mfcnn_function(case)
    kernels.clear_cache()  # cases of one program would find it compiled
    result, first = timed(mine, x)
    calls = math.ceil(0.1 / max(timed(mine, x)[1], 1e-3))
    row = {"case": name}
    rival = Rival(python) if name in CASES and python else None
    times, rival_times = [], []
    if rival:
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "rival.npz")
            rival_first = rival(name, path)
            with np.load(path) as saved:
                expected = [saved[k] for k in ("arr_0", "arr_1")]
            distinct = ~np.eye(x.shape[0], dtype=bool)
            for field, a, b in zip(("nngp", "ntk"), result, expected):
                error = np.max(np.abs(a - b)[distinct]) / np.max(np.abs(b[distinct]))
                row[f"{field}_difference"] = float(error)
            for _ in range(repeats):
                times.append(timed(mine, x, calls)[1])
                rival_times.append(rival(name, path, calls))
            rival.close()
    else:
        other = ALONE[name][1]
        other_x, other_function = make_inputs(CASES[other]), mfcnn_function(CASES[other])
        other_function(other_x)
        other_times = []
        for _ in range(repeats):
            times.append(timed(mine, x, calls)[1])
            other_times.append(timed(other_function, other_x, calls)[1])
        row |= {f"ratio_to_{other}": min(times) / min(other_times)}
    row |= {"seconds": min(times), "compilation": first - min(times)}
    if rival:
        row |= {
            "rival_seconds": min(rival_times),
            "rival_compilation": rival_first - min(rival_times),
            "ratio": min(rival_times) / min(times),
        }
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rival_python", help="python of an environment with neural-tangents")
    parser.add_argument("--cases", nargs="*", default=[*CASES, *ALONE])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", help="a JSON file for the rows")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    rows = [overhead()]
    print(json.dumps(rows[0]))
    for name in arguments.cases:
        rows.append(compare(name, arguments.rival_python, arguments.repeats))
        print(json.dumps({k: float(f"{v:.3g}") if k != "case" else v for k, v in rows[-1].items()}))
    if arguments.output:
        pathlib.Path(arguments.output).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
