"""Kernels of random finite networks: many draws of a Keras model's weights in one graph."""

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from mfcnn import initializers, layers
from mfcnn.kernels._models import weights

L = keras.layers


# The weights that layers may have, and the initializers' names where they differ.
_NAMES = {
    "_kernel": "kernel_initializer",
    "kernel": "kernel_initializer",
    "depthwise_kernel": "depthwise_initializer",
    "pointwise_kernel": "pointwise_initializer",
    "_embeddings": "embeddings_initializer",
    "key_kernel": "",
    "value_kernel": "",
    "bias": "bias_initializer",
    "gamma": "gamma_initializer",
    "beta": "beta_initializer",
}


def _weights(model):
    """All (layer, variable, initializer with fresh values at each call) that are trained."""
    seen = set()
    trained = {id(variable) for variable in model.trainable_variables}
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _weights(layer)
            continue
        parts = [layer]
        if isinstance(layer, L.MultiHeadAttention):
            parts = [layer.query_dense, layer.key_dense, layer.value_dense, layer.output_dense]
        for part in parts:
            yield from _weights_of(part, seen, trained)


def _weights_of(layer, seen, trained):
    """Those of one layer, each once."""
    for name, initializer_name in _NAMES.items():
        variable = getattr(layer, name, None)
        if not isinstance(variable, keras.Variable) or id(variable) in seen:
            continue
        seen.add(id(variable))
        if isinstance(layer, (L.DepthwiseConv1D, L.DepthwiseConv2D)) and name == "kernel":
            initializer_name = "depthwise_initializer"
        initializer = getattr(layer, initializer_name, None)
        if initializer is None:  # NTK parameterization
            initializer = keras.initializers.RandomNormal(stddev=1.0)
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = keras.random.SeedGenerator(np.random.randint(2**31))
        fresh = type(initializer).from_config(config)
        yield layer, variable, fresh, id(variable) in trained


def _deviations(layer, variable, initializer, standard):
    """Standard deviation of each entry: the weight is this times a standard normal one."""
    scaled = layers.NTKDense, layers.NTKConvolution, layers.NTKSelfAttention
    if standard or isinstance(layer, scaled):
        return 1.0
    shape = tuple(variable.shape)[1 if hasattr(layer, "depth") else 0 :]
    if len(shape) < 2:
        return np.sqrt(weights.entry_variance(initializer, shape) or 0.0)
    if weights.constant(initializer) is not None:
        return 0.0  # the scale of a normalization
    variance, profile = weights.kernel_profile(initializer, shape)
    return np.sqrt(variance * profile)[..., None, None]


def kernels_of_draws(model, x, draws, standard=False):
    """The kernels of independently drawn networks, [draws, 2, n, n]: NNGP and NTK.

    The NNGP is the mean product over the output's units, which share no weights; the NTK that of
    the first unit, by the trained weights in units of their standard deviation, or as they are.
    """
    owners, variables, draw, trained = zip(*_weights(model))
    deviations = [
        _deviations(layer, variable, initializer, standard) if is_trained else 0.0
        for layer, variable, initializer, is_trained in zip(owners, variables, draw, trained)
    ]
    x = tf.nest.map_structure(lambda one: tf.constant(one, tf.float32), x)

    def values():
        for layer, variable, initializer in zip(owners, variables, draw):
            shape = tuple(variable.shape)
            if hasattr(layer, "depth"):
                yield initializers.stack_initializer(initializer, layer.depth, shape[1:])
            else:
                yield initializer(shape)

    def one(_):
        drawn = list(values())
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(drawn)
            with keras.StatelessScope(list(zip(variables, drawn))):
                y = model(x, training=False)
            outputs = tf.unstack(y[:, 0])
        nngp = tf.matmul(y, y, transpose_b=True) / y.shape[1]
        rows = []
        for output in outputs:
            gradients = tape.gradient(output, drawn, unconnected_gradients="zero")
            parts = [
                tf.reshape(tf.convert_to_tensor(g) * tf.constant(deviation, tf.float32), [-1])
                for g, deviation in zip(gradients, deviations)
            ]
            rows.append(tf.concat(parts, 0))
        rows = tf.stack(rows)
        return tf.stack([nngp, tf.matmul(rows, rows, transpose_b=True)])

    run = tf.function(
        # One by one: oneDNN's concatenation is not safe in parallel iterations.
        lambda: tf.map_fn(
            one, tf.range(draws), parallel_iterations=1, fn_output_signature=tf.float32
        ),
        autograph=False,
    )
    return run().numpy().astype(np.float64)


def significance(estimates, expected, rounding=0.0):
    """The probability that a sum of means is this far from what is expected, by chance.

    One test for all entries together, correlated as they are: the squared deviation in the metric
    of its own covariance is chi-squared distributed, whatever the number of entries.

    Args:
        estimates: list of (factor, samples [draws, entries]) whose means are summed, many draws.
        expected: [entries].
        rounding: standard error of each entry beside that of the draws: sign has kernels without.

    Returns:
        (probability, standard errors [entries]).
    """
    deviation, covariance = -expected, rounding**2 * np.eye(len(expected))
    for factor, samples in estimates:
        deviation = deviation + factor * samples.mean(axis=0)
        covariance = covariance + factor**2 * np.cov(samples.T) / len(samples)
    statistic = deviation @ np.linalg.solve(covariance, deviation)
    errors = np.sqrt(np.diag(covariance))
    return stats.chi2.sf(statistic, deviation.size), errors
