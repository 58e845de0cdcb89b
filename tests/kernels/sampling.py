"""Kernels of random finite networks: many draws of a Keras model's weights in one graph."""

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

from mfcnn import initializers
from mfcnn.kernels import _initial_variances


def _weights(model):
    """All (layer, variable, initializer with fresh values at each call) of a model."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _weights(layer)
            continue
        for name in ("kernel", "bias"):
            variable = getattr(layer, name, None)
            if variable is None:
                continue
            initializer = getattr(layer, f"{name}_initializer", None)
            if initializer is None:  # NTK parameterization
                initializer = keras.initializers.RandomNormal(stddev=1.0)
            config = initializer.get_config()
            if "seed" in config:
                config["seed"] = keras.random.SeedGenerator(np.random.randint(2**31))
            yield layer, variable, type(initializer).from_config(config)


def _deviations(layer, variable):
    """Standard deviation of each entry: the weight is this times a standard normal one."""
    if not hasattr(layer, "kernel_initializer"):
        return 1.0
    shape = tuple(variable.shape)[1 if hasattr(layer, "depth") else 0 :]
    if variable.name != "kernel":
        return np.sqrt(_initial_variances.bias_variance(layer, layer.bias_initializer, shape[-1]))
    variance, profile = _initial_variances.weight_variance(layer, layer.kernel_initializer, shape)
    return np.sqrt(variance * profile / shape[-2])[..., None, None]


def kernels_of_draws(model, x, draws):
    """The kernels of independently drawn networks, [draws, 2, n, n]: NNGP and NTK.

    The NNGP is the mean product over the output's units, which share no weights; the NTK that of
    the first unit, by the weights in units of their standard deviation.
    """
    layers, variables, draw = zip(*_weights(model))
    x = tf.constant(x, tf.float32)

    def values():
        for layer, variable, initializer in zip(layers, variables, draw):
            shape = tuple(variable.shape)
            if hasattr(layer, "depth"):
                yield initializers.stack_initializer(initializer, layer.depth, shape[1:])
            else:
                yield initializer(shape)

    def one(_):
        weights = list(values())
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(weights)
            with keras.StatelessScope(list(zip(variables, weights))):
                y = model(x, training=False)
            outputs = tf.unstack(y[:, 0])
        nngp = tf.matmul(y, y, transpose_b=True) / y.shape[1]
        rows = []
        for output in outputs:
            gradients = tape.gradient(output, weights)
            parts = [
                tf.reshape(g * tf.constant(_deviations(layer, v), tf.float32), [-1])
                for g, layer, v in zip(gradients, layers, variables)
            ]
            rows.append(tf.concat(parts, 0))
        rows = tf.stack(rows)
        return tf.stack([nngp, tf.matmul(rows, rows, transpose_b=True)])

    run = tf.function(
        lambda: tf.map_fn(one, tf.range(draws), fn_output_signature=tf.float32), autograph=False
    )
    return run().numpy().astype(np.float64)


def significance(estimates, expected):
    """The probability that a sum of means is this far from what is expected, by chance.

    One test for all entries together, correlated as they are: the squared deviation in the metric
    of its own covariance is chi-squared distributed, whatever the number of entries.

    Args:
        estimates: list of (factor, samples [draws, entries]) whose means are summed, many draws.
        expected: [entries].

    Returns:
        (probability, standard errors [entries]).
    """
    deviation, covariance = -expected, 0.0
    for factor, samples in estimates:
        deviation = deviation + factor * samples.mean(axis=0)
        covariance = covariance + factor**2 * np.cov(samples.T) / len(samples)
    statistic = deviation @ np.linalg.solve(covariance, deviation)
    errors = np.sqrt(np.diag(covariance))
    return stats.chi2.sf(statistic, deviation.size), errors
