"""The empirical NTK against neural-tangents: values, time and peak memory on the same weights.

    python -m benchmarks.empirical_ntk --rival_python=PATH

PATH is a Python with neural-tangents 0.6.5, jax and jaxlib 0.4.30, numpy < 2, scipy < 1.13. Both
libraries run in processes of their own, which take turns call by call; of neural-tangents every
implementation is measured and the fastest compared. Times are CPU seconds of the process (least
of the calls, compilation excluded), memory is the peak above that before the first call.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

_CALLS = 5
_CASES = {
    # name: (batch, input shape, layers as (kind, width), with 10 outputs)
    "fcn width 512, depth 3, batch 64": (64, (784,), ("dense",) * 3, 512),
    "cnn 3 layers, 64 channels, 16x16, batch 16": (16, (16, 16, 3), ("convolution",) * 3, 64),
}


def _weights(case):
    batch, shape, kinds, width = _CASES[case]
    rng, weights, fan = np.random.default_rng(0), [], shape[-1]
    for kind in (*kinds, "readout"):
        window = (3, 3) if kind == "convolution" else ()
        if kind == "readout":
            fan, width = fan * int(np.prod(shape[:-1])), 10
        size = (*window, fan, width)
        weights.append(rng.normal(size=size) * np.sqrt(2 / np.prod(size[:-1])))
        weights.append(0.1 * rng.normal(size=width))
        fan = width
    x = rng.normal(size=(batch, *shape))
    return [w.astype("float32") for w in weights], x.astype("float32")


def _ours(case, method):
    import keras

    from mfcnn import empirical

    _, shape, kinds, width = _CASES[case]
    layers = [keras.Input(shape)]
    for kind in kinds:
        if kind == "dense":
            layers.append(keras.layers.Dense(width, activation="relu"))
        else:
            layers.append(keras.layers.Conv2D(width, 3, padding="same", activation="relu"))
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])
    weights, x = _weights(case)
    model.set_weights(weights)
    jit = method.endswith("+xla")
    method = method.removesuffix("+xla")
    return lambda: np.asarray(empirical.ntk(model, x, None, "full", method, jit_compile=jit))


def _rival(case, implementation):
    import jax
    import jax.interpreters.ad
    from jax._src import source_info_util

    # Names that neural-tangents' structured implementation expects and jax 0.4.30 has moved.
    jax.interpreters.ad.source_info_util = source_info_util
    jax.interpreters.ad.config = jax.config
    import neural_tangents as nt

    weights, x = _weights(case)
    weights = [jax.numpy.asarray(w) for w in weights]

    def f(params, x):
        for w, b in zip(params[:-2:2], params[1:-2:2]):
            if w.ndim == 4:
                numbers = ("NHWC", "HWIO", "NHWC")
                x = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)
            else:
                x = x @ w
            x = jax.nn.relu(x + b)
        return x.reshape(x.shape[0], -1) @ params[-2] + params[-1]

    kernel = nt.empirical_ntk_fn(
        f, trace_axes=(), vmap_axes=0, implementation=nt.NtkImplementation(int(implementation))
    )
    kernel, x = jax.jit(kernel), jax.numpy.asarray(x)
    return lambda: np.asarray(kernel(x, None, weights))


def worker(side, case, option, path):
    """Serves calls: one line in, one line with its CPU seconds out; the values go to a file."""
    call = {"ours": _ours, "rival": _rival}[side](case, option)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values = call()
    np.save(path, values)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        call()
        seconds = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps([seconds, peak / 1024]), flush=True)


class _Server:
    def __init__(self, python, side, case, option, path):
        command = [python, os.path.abspath(__file__), side, case, option, path]
        environment = dict(os.environ, PYTHONPATH=os.getcwd(), TF_CPP_MIN_LOG_LEVEL="3")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.name, self.path, self.seconds, self.memory = f"{side} {option}", path, [], 0
        while (line := self.process.stdout.readline()) and line.strip() != "ready":
            pass
        self.alive = bool(line)

    def call(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        seconds, self.memory = json.loads(self.process.stdout.readline())
        self.seconds.append(seconds)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def main(rival_python):
    options = [("ours", sys.executable, m) for m in ("structured", "structured+xla")]
    options += [("rival", rival_python, i) for i in "123"]
    for case in _CASES:
        print(f"\n{case}, 10 outputs, full, float32")
        with tempfile.TemporaryDirectory() as folder:
            servers = [
                _Server(python, side, case, option, os.path.join(folder, f"{side}{option}.npy"))
                for side, python, option in options
            ]
            servers = [s for s in servers if s.alive or print(f"  {s.name}: did not run")]
            for number in range(_CALLS):
                for server in servers:
                    # The slow ones need no seven calls to be recognized as slow.
                    if number < 2 or min(server.seconds) < 5 * min(min(s.seconds) for s in servers):
                        server.call()
            values = {s.name: np.load(s.path) for s in servers}
            for server in servers:
                server.stop()
                print(f"  {server.name}: {min(server.seconds):.3f} s, {server.memory:.0f} MB")
            rivals = [s for s in servers if "rival" in s.name]
            best = min(rivals, key=lambda s: min(s.seconds))
            for ours in (s for s in servers if "ours" in s.name):
                error = np.abs(values[ours.name] - values[best.name]).max()
                print(
                    f"  {ours.name} / {best.name}: time {min(ours.seconds) / min(best.seconds):.2f}"
                    f", memory {ours.memory / max(best.memory, 1):.2f}; largest difference "
                    f"{error / np.abs(values[best.name]).max():.1e} of the largest entry"
                )


if __name__ == "__main__":
    if sys.argv[1] in ("ours", "rival"):
        worker(*sys.argv[1:])
    else:
        main(sys.argv[1].removeprefix("--rival_python="))
