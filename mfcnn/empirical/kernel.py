"""The neural tangent kernel of a Keras model of finite width, in blocks of bounded memory."""

import math
import weakref
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mfcnn.empirical import functional, structure

__all__ = ["METHODS", "OUTPUTS", "MethodChoice", "choose_method", "ntk"]

METHODS = ("structured", "jacobian", "products")
OUTPUTS = ("trace", "full")
_BLOCK_BYTES = 2**29
_PROBE = 7919


class MethodChoice(NamedTuple):
    """What `choose_method` found.

    Attributes:
        method: the cheapest method.
        multiplications: estimated multiplications of each method.
        batch_size: rows of a block.
        explicit_weights: names of the weights whose Jacobian the method "structured" must form
            row by row, because they are used in ways it does not know.
    """

    method: str
    multiplications: dict
    batch_size: int
    explicit_weights: tuple


def ntk(model, x1, x2=None, outputs="trace", method="auto", batch_size=None, jit_compile=False):
    """The empirical neural tangent kernel of a model at its present weights.

    Theta[i, j, a, b] = sum_w (d f_a(x1_i) / d w) (d f_b(x2_j) / d w), over the trainable weights;
    the trace is its mean over a = b. The model runs in inference mode.

    Args:
        model: a built Keras model with one input and one output, which is flattened to k numbers.
        x1: inputs [n1, ...] of the dtype of the model's weights.
        x2: inputs [n2, ...]; None is x1, at half the cost.
        outputs: "trace" or "full".
        method: "structured" uses the form of dense and convolution layers and never forms their
            Jacobian where that is dearer; "jacobian" forms the Jacobian row by row; "products"
            takes a vector-Jacobian and a Jacobian-vector product for each column and never forms
            it; "auto" takes what `choose_method` says.
        batch_size: rows of a block; by default as many as fit about 512 MB.
        jit_compile: whether XLA compiles the blocks.

    Returns:
        A tensor of the weights' dtype, [n1, n2] for the trace and [n1, n2, k, k] for the full.

    Raises:
        TypeError, ValueError: for a model that is not built or is stochastic, inputs of another
            shape or dtype, or an unknown option.

    Source: NTK paper, section 2; finite-width paper, equation 2.
    """
    x1, x2 = _check(model, x1, x2, outputs)
    if method not in ("auto", *METHODS):
        raise ValueError(f"method must be 'auto' or one of {METHODS}. Received: {method!r}")
    if batch_size is not None and (int(batch_size) != batch_size or batch_size < 1):
        raise ValueError(f"batch_size must be an int of at least 1. Received: {batch_size!r}")
    if method == "auto" or batch_size is None:
        choice = choose_method(model, x1, x2, outputs, None if method == "auto" else method)
        method, batch_size = choice.method, batch_size or choice.batch_size
    unknown = _analysis(model, x1).unknown
    program = _program(model, outputs, method, bool(jit_compile), unknown)
    rows = _split(x1.shape[0], batch_size)
    columns = rows if x2 is None else _split(x2.shape[0], batch_size)
    blocks = [[None] * len(columns) for _ in rows]
    for i, (row, height) in enumerate(rows):
        first = tf.gather(x1, row)
        for j, (column, width) in enumerate(columns):
            if x2 is None and j < i:
                blocks[i][j] = np.swapaxes(np.swapaxes(blocks[j][i], 0, 1), 2, -1)
            elif x2 is None and j == i:
                blocks[i][j] = program.diagonal(first).numpy()[:height, :width]
            else:
                second = tf.gather(x1 if x2 is None else x2, column)
                blocks[i][j] = program.block(first, second).numpy()[:height, :width]
    theta = np.concatenate([np.concatenate(row, axis=1) for row in blocks], axis=0)
    return tf.convert_to_tensor(theta[..., 0, 0] if outputs == "trace" else theta)


def choose_method(model, x1, x2=None, outputs="trace", method=None):
    """Estimates the cost of each method of `ntk` and takes the least.

    Args:
        model: as for `ntk`.
        x1: inputs [n1, ...].
        x2: inputs [n2, ...] or None.
        outputs: "trace" or "full".
        method: a method to stick to, so that only the batch size is chosen.

    Returns:
        A `MethodChoice`.

    Raises:
        TypeError, ValueError: as `ntk`.
    """
    x1, x2 = _check(model, x1, x2, outputs)
    n1, n2 = x1.shape[0], (x1 if x2 is None else x2).shape[0]
    operations, indices, k = _analysis(model, x1)
    unknown = [model.trainable_variables[i] for i in indices]
    parameters = sum(math.prod(v.shape) for v in model.trainable_variables)
    unknown_parameters = sum(math.prod(v.shape) for v in unknown)
    # How often a weight of unknown use is used is unknown; positions of the image bound it.
    positions = math.prod(x1.shape[1:-1]) if unknown else 1
    forward = sum(count for count, _ in operations)
    forward += unknown_parameters * positions
    pairs = n1 * n2 * (k if outputs == "trace" else k * k)
    shapes = [shape for _, shape in operations]
    backward = (n1 + n2) * (1 + 2 * k) * forward
    costs = {
        "structured": (n1 + n2) * (1 + k) * forward
        + sum(min(structure.use_costs(n1, n2, k, *shape, outputs)) for shape in shapes)
        + (backward + pairs * unknown_parameters if unknown else 0),
        "jacobian": backward + pairs * parameters,
        "products": n2 * k * (3 * forward + 3 * n1 * forward),
    }
    best = method or min(costs, key=costs.get)
    size = model.trainable_variables[0].value.dtype.size

    def block_bytes(n):
        if best == "structured":
            numbers = n * k * unknown_parameters
            for p, d, o in shapes:
                by_jacobian, by_positions = structure.use_costs(n, n, k, p, d, o, outputs)
                explicit = by_jacobian <= by_positions and p > 1
                pairs = n * n * p * p * (1 + (k * k if outputs == "full" else 1))
                numbers += n * p * (d + k * o) + (n * k * d * o if explicit else pairs / 2)
        else:
            numbers = n * k * parameters if best == "jacobian" else n * positions
        return 2 * size * numbers

    batch_size = max(n1, n2)
    while batch_size > 1 and block_bytes(batch_size) > _BLOCK_BYTES:
        batch_size -= -(-batch_size // 5)
    return MethodChoice(best, costs, batch_size, tuple(v.path for v in unknown))


def _check(model, x1, x2, outputs):
    functional.check_model(model)
    if outputs not in OUTPUTS:
        raise ValueError(f"outputs must be one of {OUTPUTS}. Received: outputs={outputs!r}")
    x1 = functional.check_inputs(model, x1, "x1")
    if x2 is not None:
        x2 = functional.check_inputs(model, x2, "x2")
        if x1.shape[1:] != x2.shape[1:]:
            raise ValueError(
                f"x1 and x2 must hold inputs of one shape. Received: {x1.shape} and {x2.shape}"
            )
    return x1, x2


def _split(count, size):
    """Index vectors of equal length that cover range(count), with the number of valid entries."""
    length = math.ceil(count / math.ceil(count / size))
    return [
        (np.minimum(np.arange(k, k + length), count - 1), min(length, count - k))
        for k in range(0, count, length)
    ]


def _traced(model, weights, x, unknown=()):
    """The outputs [n, k] with the sorted weights: uses of the known, indices of the others."""
    y = functional.evaluate(model, weights, x)
    functional.check_deterministic(y.graph)
    found = [
        None if i in unknown else structure.find_uses(w, x.shape[0]) for i, w in enumerate(weights)
    ]
    known = {i: uses for i, uses in enumerate(found) if uses}
    # A weight without any use has the derivative zero; one inside a loop or call is unknown.
    return y, known, tuple(i for i, uses in enumerate(found) if uses is None)


class _Analysis(NamedTuple):
    """Costs of the uses of the known weights, indices of the others, number of outputs."""

    operations: list
    unknown: tuple
    outputs: int


def _analysis(model, x):
    """The `_Analysis` of a trace that is not run.

    Its batch size is a prime that no layer has as a width, so that an axis which has the batch's
    length by chance is not taken for the batch.
    """
    variables, found = model.trainable_variables, []
    analyses = _ANALYSES.setdefault(model, {})
    key = (tuple(x.shape[1:]), x.dtype, *(id(v) for v in variables))
    if key not in analyses:

        @tf.function(autograph=False)
        def trace(x):
            found[:] = _traced(model, [tf.identity(v.value) for v in variables], x)

        concrete = trace.get_concrete_function(tf.TensorSpec([_PROBE, *x.shape[1:]], x.dtype))
        y, known, unknown = found
        analyses[key] = _Analysis(
            [structure.floating_operations(u, _PROBE) for uses in known.values() for u in uses],
            unknown,
            y.shape[1],
        )
        del concrete  # The graph had to live until here.
    return analyses[key]


_ANALYSES = weakref.WeakKeyDictionary()
_PROGRAMS = weakref.WeakKeyDictionary()


def _program(model, *options):
    programs = _PROGRAMS.setdefault(model, {})
    key = (*options, *(id(v) for v in model.trainable_variables))
    if key not in programs:
        programs[key] = _Program(weakref.ref(model), *options)
    return programs[key]


class _Program:
    """The compiled blocks of one model: [n1, n2, k, k], with k = 1 and divided for the trace."""

    def __init__(self, model, outputs, method, jit_compile, unknown):
        self._model, self._outputs, self._method = model, outputs, method
        self._unknown, self._jit_compile = unknown, jit_compile
        compiled = {"autograph": False, "jit_compile": jit_compile or None}
        self.block = tf.function(self._block, **compiled)
        self.diagonal = tf.function(lambda x: self._block(x, None), **compiled)

    def _weights(self):
        return [tf.identity(v.value) for v in self._model().trainable_variables]

    def _block(self, x1, x2):
        if self._method == "products":
            return self._by_products(x1, x1 if x2 is None else x2)
        features = self._rows if self._method == "jacobian" else self._features
        first = features(x1)
        second = first if x2 is None else features(x2)
        k, terms = first[0], []
        for f1, f2 in zip(first[1], second[1]):
            if isinstance(f1, structure.Factors):
                terms.append(structure.contract(f1, f2, self._outputs))
            else:
                terms.append(structure.contract_jacobians(f1, f2, self._outputs))
        theta = tf.add_n(terms)
        if self._outputs == "trace":
            return theta[:, :, None, None] / k
        return tf.transpose(theta, [0, 2, 1, 3])

    def _features(self, x):
        """(k, Factors or Jacobians [n, k, p], one for each weight of known use, then the rest)."""
        model, weights, n = self._model(), self._weights(), x.shape[0]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(weights)
            y, known, unknown = _traced(model, weights, x, self._unknown)
        k, uses = y.shape[1], [use for found in known.values() for use in found]

        outputs = [use.output for use in uses]

        def cotangents(output):
            seed = tf.broadcast_to(tf.cast(output, y.dtype), [n, k])
            return tape.gradient(y, outputs, seed, unconnected_gradients="zero")

        # Before the cotangents exist, for they consume the same tensors.
        biases = {id(use): structure.bias_of(use, _single(known), n) for use in _single(known)}
        merged = {id(bias) for bias in biases.values()}
        if uses:
            loops = any("While" in name for name in functional.operation_types(y.graph))
            if loops and self._jit_compile:  # A vectorized loop is beyond XLA.
                types = [z.dtype for z in outputs]
                deltas = iter(tf.map_fn(cotangents, tf.eye(k), fn_output_signature=types))
            else:
                deltas = iter(tf.vectorized_map(cotangents, tf.eye(k)))
        result = []
        for found in known.values():
            mine = [
                structure.factors(use, next(deltas), n, weights[0].dtype, biases.get(id(use)))
                for use in found
            ]
            if len(mine) > 1:
                # Jacobians of a weight that is used several times add up before they multiply.
                result.append(tf.add_n([structure.explicit(f) for f in mine]))
            elif id(found[0]) not in merged:
                result.append(mine[0])
        if unknown:
            result.append(self._rows(x, unknown)[1][0])
        return k, result

    def _rows(self, x, indices=None):
        """(k, [the Jacobian [n, k, p]]) for some or all weights, example by example."""
        model, weights = self._model(), self._weights()
        if indices is None:
            indices = range(len(weights))
        k = output_size(model, x)

        def of_example(one):
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(weights)
                y = functional.evaluate(model, weights, one[None])
            functional.check_deterministic(y.graph)
            chosen = [weights[i] for i in indices]

            def row(output):
                seed = tf.cast(output, y.dtype)[None]
                gradient = tape.gradient(y, chosen, seed, unconnected_gradients="zero")
                return tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradient], 0)

            return tf.map_fn(row, tf.eye(k), fn_output_signature=weights[0].dtype)

        return k, [tf.map_fn(of_example, x, fn_output_signature=weights[0].dtype)]

    def _by_products(self, x1, x2):
        model, weights = self._model(), self._weights()
        k, n2 = output_size(model, x1), x2.shape[0]
        dtype = weights[0].dtype

        def column(index):
            one, output = tf.gather(x2, index // k)[None], tf.one_hot(index % k, k)[None]

            def at_one(values):
                return functional.evaluate(model, values, one)

            y = at_one(weights)
            functional.check_deterministic(y.graph)
            tangents = functional.vjp(at_one, weights, tf.cast(output, y.dtype))
            product = functional.jvp(
                lambda values: functional.evaluate(model, values, x1), weights, tangents
            )
            product = tf.cast(product, dtype)
            return product[:, index % k, None] if self._outputs == "trace" else product

        columns = tf.map_fn(column, tf.range(n2 * k), fn_output_signature=dtype)
        columns = tf.reshape(columns, [n2, k, x1.shape[0], -1])
        if self._outputs == "trace":
            return tf.transpose(tf.reduce_mean(columns, 1), [1, 0, 2])[..., None]
        return tf.transpose(columns, [2, 0, 3, 1])


def _single(known):
    """The uses of weights that are used once."""
    return [found[0] for found in known.values() if len(found) == 1]


def output_size(model, x):
    """The number k of outputs for inputs like x."""
    return _analysis(model, x).outputs
