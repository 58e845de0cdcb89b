"""Random Keras models: every route to their derivatives against a tape's Jacobian.

    python -m tests.empirical.random_models --count=300

Each model is a chain of two to four layers of over forty kinds, drawn by its seed: convolutions,
recurrent layers, attention, normalization, resizing, shared, frozen, nested and masked layers, and
custom layers that use their weights in odd ways. The kernel by factors and by products and the
linearized model are compared with the Jacobian that a GradientTape takes. A route is

    right      within rounding of the tape's,
    refused    an error that says why,
    wrong      anything else: there must be none.
"""

import argparse
import collections
import csv
import os

import keras
import numpy as np
import tensorflow as tf

from mfcnn import empirical, models
from tests.empirical.random_layers import KINDS

L = keras.layers
OUTPUTS, EXAMPLES = 2, 3
# Float32 sums of both signs, through a few layers of either route.
TOLERANCE = 3e-4


def random_model(seed: int) -> tuple[keras.Model, np.ndarray, list[str]]:
    """A model, inputs for it and the kinds of its layers."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    rank = int(rng.choice([3, 2, 1], p=[0.4, 0.35, 0.25]))
    shape = {3: (6, 6, 2), 2: (4, 3), 1: (5,)}[rank]
    tokens = rank == 2 and rng.random() < 0.25
    names = ["tokens"] if tokens else []
    if tokens:
        shape, x = (4,), rng.integers(1, 6, (EXAMPLES, 4)).astype("int32")
        inputs = keras.Input(shape, dtype="int32")
        h = L.Embedding(6, 3, mask_zero=bool(rng.random() < 0.5))(inputs)
        x[0, -1] = 0
    else:
        x = rng.normal(size=(EXAMPLES, *shape)).astype("float32")
        inputs = h = keras.Input(shape)
    if rank == 3:
        h = L.Conv2D(3, 3, padding="same", activation="tanh")(h)
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(sorted(KINDS[len(h.shape) - 1])))
        try:
            new = KINDS[len(h.shape) - 1][name]()(h)
        except ValueError:  # The layer does not fit: a window larger than the image, say.
            continue
        names.append(name)
        if new.shape == h.shape and rng.random() < 0.25:
            new, names = L.Add()([new, h]), [*names, "residual"]
        h = new
    while len(h.shape) > 2:
        pool = L.GlobalAveragePooling2D() if len(h.shape) == 4 else L.GlobalAveragePooling1D()
        pooled = rng.random() < 0.5 or None in h.shape[1:]  # einsums forget the length
        h = pool(h) if pooled else L.Flatten()(h)
    return keras.Model(inputs, L.Dense(OUTPUTS)(h), name=f"random_{seed}"), x, names


def jacobian(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """The Jacobian [n, k, p] that a tape takes of a batch."""
    with tf.GradientTape(persistent=True) as tape:
        y = model(x, training=False)
    weights = [v.value for v in model.trainable_variables]
    j = tape.jacobian(y, weights, unconnected_gradients="zero", experimental_use_pfor=False)
    rows = [np.reshape(part, [len(x), OUTPUTS, -1]) for part in j]
    return np.concatenate(rows, 2).astype(np.float64)


def exact_kernel(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """The kernel [n, n, k, k] of the tape's Jacobians, example by example."""
    rows = np.concatenate([jacobian(model, one[None]) for one in x])
    return np.einsum("iap,jbp->ijab", rows, rows)


def _linearized(model: keras.Model, x: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """J u of the linearized model for a random u, and the tape's."""
    linear = models.linearize(model)
    rng, parts = np.random.default_rng(1), []
    for u in linear.displacement:
        value = rng.standard_normal(u.shape)
        parts.append(np.ravel(value))
        u.assign(value)
    at_zero = model(x, training=False).numpy()
    return np.stack([linear(x).numpy() - at_zero, expected @ np.concatenate(parts)])


def outcomes(seed: int) -> tuple[list[str], dict[str, str]]:
    """The kinds of a model's layers, and what each route did."""
    model, x, names = random_model(seed)
    if not model.trainable_variables:
        return names, {}
    result = {}
    try:
        exact = jacobian(model, x)
    except Exception as error:  # A tape cannot either: then everything must refuse.
        exact, result["tape"] = None, f"fails: {type(error).__name__}"
    for route in ("structured", "products", "linearized"):
        try:
            if route == "linearized":
                found, expected = _linearized(model, x, np.zeros([1]) if exact is None else exact)
            else:
                found = empirical.ntk(model, x, outputs="full", method=route).numpy()
                expected = exact_kernel(model, x)
        except (ValueError, NotImplementedError) as error:
            result[route] = f"refused: {str(error)[:200]}"
            continue
        except Exception as error:
            result[route] = f"wrong: {type(error).__name__}: {str(error)[:200]}"
            continue
        error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30)
        result[route] = "right" if error < TOLERANCE else f"wrong: by {error:.1e}"
    return names, result


def _done(path: str) -> list[list[str]]:
    """The rows of an earlier run."""
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return list(csv.reader(file))[1:]


def main() -> None:
    """Runs the models, goes on where an earlier run stopped, and prints what came out."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--output_dir", default="runs/random_models")
    options = parser.parse_args()
    os.makedirs(options.output_dir, exist_ok=True)
    path = os.path.join(options.output_dir, "random_models.csv")
    rows = _done(path)
    done = {int(row[0]) for row in rows}
    with open(path, "a", newline="") as file:
        writer = csv.writer(file)
        if not rows:
            writer.writerow(["seed", "layers", "route", "outcome"])
        for seed in range(options.first, options.first + options.count):
            if seed in done:
                continue
            names, result = outcomes(seed)
            new = [
                [seed, " + ".join(names), *pair] for pair in (result or {"all": "right"}).items()
            ]
            rows += new
            writer.writerows(new)
            file.flush()
            keras.backend.clear_session()
    report(rows)


def report(rows: list[list[str]]) -> None:
    """Prints the counts of each route, and what was not right."""
    total: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for seed, names, route, outcome in rows:
        total[route][outcome.split(":")[0]] += 1
        if outcome != "right":
            print(f"{seed} {route} of {names}: {' '.join(outcome.split())}")
    kinds = {name for row in rows for name in row[1].split(" + ")}
    print(f"\n{len({row[0] for row in rows})} models of {len(kinds)} kinds of layers")
    for route, counts in total.items():
        print(f"{route:12s}", dict(counts))


if __name__ == "__main__":
    main()
