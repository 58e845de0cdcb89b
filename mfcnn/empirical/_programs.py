"""Compiled blocks of the kernel: factors and rows of Jacobians, and products with vectors."""

import weakref
from typing import Any

import keras
import tensorflow as tf

from mfcnn.empirical import _contraction, _functional, _inputs, _traces

__all__ = ["Features", "Products"]

# Operations that hand their output's cotangent on to each input of the same shape.
_SUMS = frozenset({"Add", "AddV2", "AddN", "BiasAdd", "Identity"})


class Features:
    """Jacobians of some combinations of outputs, in factors where a weight's use is known.

    Args:
        model: held weakly.
        outputs: "trace" or "full".
        unknown: indices of the weights whose Jacobian is formed row by row.
        jit_compile: whether XLA compiles the blocks.
    """

    def __init__(self, model: keras.Model, outputs: str, unknown: tuple, jit_compile: bool):
        self._reference, self._outputs = weakref.ref(model), outputs
        self._unknown, self._jit_compile = unknown, jit_compile
        self._everything = len(unknown) == len(model.trainable_variables)
        compiled = {"autograph": False, "jit_compile": jit_compile or None}
        self.block = tf.function(self._block, **compiled)
        self.diagonal = tf.function(lambda x, seeds: self._block(x, seeds, None, None), **compiled)
        self.gradient = tf.function(self._gradient, autograph=False)
        self.rows = tf.function(lambda x, seeds: self._rows(x, seeds, unknown), **compiled)

    def _block(self, x1: Any, seeds1: tf.Tensor, x2: Any, seeds2: tf.Tensor | None) -> tf.Tensor:
        """[n1, n2], summed over the seeds, or [n1, n2, k1, k2]."""
        first = self._features(x1, seeds1)
        second = first if x2 is None else self._features(x2, seeds2)
        terms = []
        for (_, f1), (_, f2) in zip(first, second):
            if isinstance(f1, _contraction.Factors):
                terms.append(_contraction.contract(f1, f2, self._outputs))
            else:
                terms.append(_contraction.contract_jacobians(f1, f2, self._outputs))
        theta = tf.add_n(terms)
        return theta if self._outputs == "trace" else tf.transpose(theta, [0, 2, 1, 3])

    def contract(self, rows1: list[tf.Tensor], rows2: list[tf.Tensor]) -> tf.Tensor:
        """A block from the rows of all weights."""
        terms = [
            _contraction.contract_jacobians(*both, self._outputs) for both in zip(rows1, rows2)
        ]
        theta = tf.add_n(terms)
        return theta if self._outputs == "trace" else tf.transpose(theta, [0, 2, 1, 3])

    def _features(self, x: Any, seeds: tf.Tensor) -> list[tuple[tuple[int, ...], Any]]:
        """(indices of variables, their `Factors` or Jacobian [n, k, p]), for seeds [k, outputs]."""
        if self._everything:
            return [
                ((i,), row) for i, row in zip(self._unknown, self._rows(x, seeds, self._unknown))
            ]
        model, n = _alive(self._reference), _inputs.length(x)
        weights = _functional.initial_values(model)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(weights)
            y, known, unknown = _traces.traced(model, weights, x, self._unknown)
        uses = [use for found in known.values() for use in found]
        # Before the cotangents exist, for they consume the same tensors.
        single = {id(found[0]): i for i, found in known.items() if len(found) == 1}
        candidates = [use for use in uses if id(use) in single]
        biases = {id(use): _contraction.bias_of(use, candidates, n) for use in candidates}
        merged = {id(bias) for bias in biases.values()}
        deltas = iter(self._cotangents(tape, y, [use.output for use in uses], seeds))
        result: list[tuple[tuple[int, ...], Any]] = []
        for i, found in known.items():
            mine = [
                _contraction.factors(use, next(deltas), n, weights[0].dtype, biases.get(id(use)))
                for use in found
            ]
            if len(mine) > 1:
                # Jacobians of a weight that is used several times add up before they multiply.
                result.append(((i,), tf.add_n([_contraction.explicit(f) for f in mine])))
            elif id(found[0]) not in merged:
                bias = biases.get(id(found[0]))
                indices = (i,) if bias is None else (i, single[id(bias)])
                result.append((indices, mine[0]))
        if unknown:
            result += [((i,), row) for i, row in zip(unknown, self._rows(x, seeds, unknown))]
        return result

    def _cotangents(self, tape: Any, y: tf.Tensor, outputs: list, seeds: tf.Tensor) -> list:
        """The derivative of seed . y by every tensor that a weight made, for each seed."""
        # A tape that gives one tensor for two sources keeps the graph alive forever.
        last = [_last_of_equal_cotangents(z, y) for z in outputs]
        sources = list({id(z): z for z in last}.values())

        def of_seed(seed: tf.Tensor) -> list:
            cotangent = tf.broadcast_to(tf.cast(seed, y.dtype), tf.shape(y))
            return tape.gradient(y, sources, cotangent, unconnected_gradients="zero")

        if not outputs:
            return []
        loops = any("While" in name for name in _functional.operation_types(y.graph))
        if seeds.shape[0] == 1:
            found = [delta[None] for delta in of_seed(seeds[0])]
        elif loops and self._jit_compile:  # A vectorized loop is beyond XLA.
            found = tf.map_fn(of_seed, seeds, fn_output_signature=[z.dtype for z in sources])
        else:
            found = tf.vectorized_map(of_seed, seeds)
        deltas = {id(z): delta for z, delta in zip(sources, found)}
        return [deltas[id(z)] for z in last]

    def _rows(self, x: Any, seeds: tf.Tensor, indices: tuple[int, ...]) -> list[tf.Tensor]:
        """The Jacobians [n, k, p] of some weights, example by example and seed by seed."""
        model = _alive(self._reference)
        dtype = model.trainable_variables[0].dtype

        def of_example(one: Any) -> list[tf.Tensor]:
            one = keras.tree.map_structure(lambda leaf: leaf[None], one)
            weights = _functional.initial_values(model)
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(weights)
                y = _functional.evaluate(model, weights, one)
            _functional.check_deterministic(y.graph)
            chosen = [weights[i] for i in indices]

            def row(seed: tf.Tensor) -> list[tf.Tensor]:
                seed = tf.cast(seed, y.dtype)[None]
                gradients = tape.gradient(y, chosen, seed, unconnected_gradients="zero")
                return [tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradients]

            return _map(row, seeds, seeds.shape[0], [dtype] * len(indices))

        return _map(of_example, x, _inputs.length(x), [dtype] * len(indices))

    def _gradient(self, x: Any, seeds: tf.Tensor, m: tf.Tensor) -> list[tf.Tensor]:
        """sum_i m[i] seed . d f(x_i) / d w for one seed, from the features: flat, by variable."""
        variables = _alive(self._reference).trainable_variables
        result = [tf.zeros([tf.size(v.value)], m.dtype) for v in variables]
        for indices, feature in self._features(x, seeds):
            if isinstance(feature, _contraction.Factors):
                gradients = _contraction.weighted(feature, m)
            else:
                gradients = [tf.einsum("n,np->p", m, feature[:, 0])]
            for i, gradient in zip(indices, gradients):
                result[i] = gradient
        return result


def _last_of_equal_cotangents(tensor: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The last sum on the way to y whose cotangent is this tensor's: it goes nowhere else."""
    while tensor is not y:
        consumers = tensor.consumers()
        if len(consumers) != 1 or consumers[0].type not in _SUMS:
            break
        (consumer,), (output,) = consumers, consumers[0].outputs
        once = sum(part is tensor for part in consumer.inputs) == 1
        if not once or not output.shape.is_fully_defined() or output.shape != tensor.shape:
            break
        tensor = output
    return tensor


def _map(function: Any, elements: Any, count: int, dtypes: list) -> list[tf.Tensor]:
    """`tf.map_fn`, without the copies of its stack where there is one element."""
    if count == 1:
        only = keras.tree.map_structure(lambda leaf: leaf[0], elements)
        return [result[None] for result in function(only)]
    return tf.map_fn(function, elements, fn_output_signature=dtypes)


def _alive(reference: Any) -> keras.Model:
    """The model of a program, which its caller holds."""
    model = reference()
    assert model is not None
    return model


class Products:
    """Products of the Jacobian with vectors, and the kernel by them, for one shape of inputs."""

    def __init__(self, model: keras.Model, outputs: str, k: int, jit_compile: bool = False):
        self._reference, self._outputs, self._k = weakref.ref(model), outputs, k
        self.vjp = tf.function(self._vjp, autograph=False, jit_compile=jit_compile or None)
        self.jvp = tf.function(self._jvp, autograph=False, jit_compile=jit_compile or None)
        self.block = tf.function(self._block, autograph=False, jit_compile=jit_compile or None)

    def _vjp(self, x: Any, cotangent: tf.Tensor) -> list[tf.Tensor]:
        """J^T cotangent: the plain vector-Jacobian product by which all else is judged."""
        model = _alive(self._reference)
        weights = _functional.initial_values(model)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            y = _functional.evaluate(model, weights, x)
        _functional.check_deterministic(y.graph)
        seed = tf.cast(cotangent, y.dtype)
        gradients = tape.gradient(y, weights, seed, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in gradients]

    def _jvp(self, x: Any, tangents: list[tf.Tensor]) -> tf.Tensor:
        """J tangents, [n, k] in the weights' dtype."""
        model = _alive(self._reference)
        weights = _functional.initial_values(model)
        tangent = _functional.jvp(
            lambda values: _functional.evaluate(model, values, x), weights, tangents
        )
        return tf.cast(tangent, weights[0].dtype)

    def _block(self, x1: Any, x2: Any) -> tf.Tensor:
        """[n1, n2], summed over the outputs, or [n1, n2, k, k], column by column."""
        k, n1, n2 = self._k, _inputs.length(x1), _inputs.length(x2)
        dtype = _alive(self._reference).trainable_variables[0].dtype

        def column(index: tf.Tensor) -> tf.Tensor:
            one = keras.tree.map_structure(lambda leaf: tf.gather(leaf, index // k)[None], x2)
            tangents = self._vjp(one, tf.one_hot(index % k, k)[None])
            product = self._jvp(x1, tangents)
            return product[:, index % k] if self._outputs == "trace" else product

        columns = tf.map_fn(column, tf.range(n2 * k), fn_output_signature=dtype)
        if self._outputs == "trace":
            return tf.transpose(tf.reduce_sum(tf.reshape(columns, [n2, k, n1]), 1))
        return tf.transpose(tf.reshape(columns, [n2, k, n1, k]), [2, 0, 3, 1])
