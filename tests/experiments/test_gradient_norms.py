"""Figure S2: hand-written back-propagation against automatic differentiation and theory."""

import numpy as np
import tensorflow as tf

from experiments import gradient_norms
from mfcnn import meanfield
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table


def test_back_propagation_agrees_with_automatic_differentiation():
    depth, channels, size, seed = 4, 6, 5, 7
    scales = tf.constant([1.3, 0.4])
    factor = tf.constant(gradient_norms.input_factor(size, 0), tf.float32)
    sizes = tf.constant(depth), factor, channels, tf.constant(seed)
    norms = gradient_norms.squared_gradient_norms(
        tf.tanh, lambda x: 1 - tf.tanh(x) ** 2, scales, *sizes
    )
    # The same random numbers, an explicit network.
    normal = tf.random.stateless_normal
    weights = [
        normal([3 * channels, channels], [seed, 2 * layer]) * 1.3 / np.sqrt(3 * channels)
        for layer in range(depth)
    ]
    x = factor @ normal([size, channels], [seed, -1])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        for layer, w in enumerate(weights):
            kernel = tf.reshape(w, [3, channels, channels])
            h = sum(tf.roll(x, 1 - k, 0) @ kernel[k] for k in range(3))
            h += 0.4 * normal([channels], [seed, 2 * layer + 1])
            x = tf.tanh(h)
        loss = tf.reduce_sum(normal([size, channels], [seed, -2]) * h)
    expected = [np.log(tf.reduce_sum(g**2)) for g in tape.gradient(loss, weights)]
    np.testing.assert_allclose(norms, expected, atol=1e-4)


def test_measured_gradients_agree_with_theory():
    depth, channels, draws, size = 12, 150, 40, 4
    factor = gradient_norms.input_factor(size, 1)
    for weight_variance in (1.0, 3.0):
        arguments = ("tanh", weight_variance, 0.05, depth)
        theory = meanfield.log_gradient_norms(
            *arguments, np.sum(factor**2, axis=1), np.full(3, 1 / 3), size
        )
        measured = gradient_norms.log_norms(*arguments, factor, channels, draws, seed=0)
        mean, error, predicted = gradient_norms.compare(measured, theory)
        # 4 standard errors, and the finite-width correction of order depth / channels.
        assert np.all(np.abs(mean - predicted) <= 4 * error + 1.0 * depth / channels * predicted)


def test_the_binary_writes_its_files(tmp_path, pictures):
    sizes = "--depth=5 --channels=4 --draws=2 --size=3"
    run(gradient_norms, tmp_path, *sizes.split(), "--weight_variances=1,2")
    pictures["gradient_norms.png"].assert_readable()
    (panel,) = pictures["gradient_norms.png"].panels
    assert panel.scales == ("linear", "log")
    for i, variance in enumerate((1, 2)):
        rows = table(tmp_path / "metrics.csv", weight_variance=variance)
        layers = [row["layer"] for row in rows]
        drawn = panel.line(f"$\\sigma_w^2$ = {variance}")
        assert_drawn(drawn, layers, [row["measured"] for row in rows])
        assert_drawn(panel.lines[2 * i + 1][1:], layers, [row["predicted"] for row in rows])
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 1 + 2 * 5
