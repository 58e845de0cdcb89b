"""The learning rate from theory against the NTK written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import layers, models
from mfcnn.training import extrapolated_learning_rate, ntk_learning_rate


def dense_ntk(model, images, rates=()):
    with tf.GradientTape(persistent=True) as tape:
        outputs = model(images)
    variables = [v.value for v in model.trainable_variables]
    rows = outputs.shape.num_elements()
    jacobian = tape.jacobian(outputs, variables, experimental_use_pfor=False)
    scales = [np.sqrt(dict(rates).get(v.path.split("/")[-2], 1)) for v in model.trainable_variables]
    jacobian = [s * np.reshape(j, [rows, -1]) for s, j in zip(scales, jacobian)]
    jacobian = np.concatenate(jacobian, axis=1)
    return jacobian.astype("float64") @ jacobian.T.astype("float64")


def images(count=6):
    return np.random.default_rng(0).normal(size=(count, 8, 8, 1)).astype("float32")


def test_lambda_max_is_the_largest_eigenvalue_of_the_ntk():
    model = models.vanilla_cnn((8, 8, 1), 5, 4, 3, seed=1)
    rate, lambda_max = ntk_learning_rate(model, images(), rho=0.5, iterations=40)
    eigenvalues = np.linalg.eigvalsh(dense_ntk(model, images()) / 6)
    # 40 power steps leave (lambda_2 / lambda_1)^80 of the error, then float32 rounding.
    tolerance = (eigenvalues[-2] / eigenvalues[-1]) ** 80 + 1e-4
    assert lambda_max == pytest.approx(eigenvalues[-1], rel=tolerance)
    assert rate == pytest.approx(1 / lambda_max)


def test_with_rates_by_layer_it_is_that_of_the_weighted_kernel():
    model = models.vanilla_cnn((8, 8, 1), 5, 4, 3, seed=1)
    rates = {"logits": 50.0, "stem_2": 7.0}
    _, lambda_max = ntk_learning_rate(model, images(), iterations=40, rates=rates)
    eigenvalues = np.linalg.eigvalsh(dense_ntk(model, images(), rates) / 6)
    tolerance = (eigenvalues[-2] / eigenvalues[-1]) ** 80 + 1e-4
    assert lambda_max == pytest.approx(eigenvalues[-1], rel=tolerance)
    # The law's smaller networks have factors in proportion to their depth.
    larger = {name: factor * 80 for name, factor in rates.items()}
    _, extrapolated = extrapolated_learning_rate(
        lambda depth: model, 400, images(), depths=(5,), rates=larger
    )
    assert extrapolated == pytest.approx(1.25 * 80 * lambda_max, rel=2e-3)


def test_the_stable_rate_falls_like_one_over_depth():
    # Each layer adds its part to the NTK. With biases as they are (bias_scale 1) the sum would grow
    # like depth^2 at q_star = 1 / depth, and 4 times the depth would give 16 times lambda_max.
    def lambda_max(depth, **options):
        model = models.vanilla_cnn((8, 8, 1), depth, 16, 3, seed=2, padding="same", **options)
        return ntk_learning_rate(model, images(16), iterations=6)[1]

    scaled = lambda_max(120) / lambda_max(30)
    assert 3 < scaled < 6
    assert lambda_max(120, bias_scale=1.0) / lambda_max(30, bias_scale=1.0) > 2 * scaled


def network(depth):
    return models.vanilla_cnn(
        (8, 8, 1), depth, 4, 3, seed=2, padding="same", strides=(1, 1, 3), readout="flatten"
    )


def test_xla_finds_the_same_lambda_max():
    plain, compiled = (
        ntk_learning_rate(network(20), images(), jit_compile=jit)[1] for jit in (False, True)
    )
    # Both end where Lanczos's bound is 1e-3; float32 sums differ by less.
    assert compiled == pytest.approx(plain, rel=2e-3)


def test_a_deeper_networks_rate_follows_from_smaller_ones_on_the_safe_side():
    rate, lambda_max = extrapolated_learning_rate(
        network, 400, images(), rho=0.5, depths=(100, 200), jit_compile=True
    )
    measured = ntk_learning_rate(network(400), images(), jit_compile=True)[1]
    assert measured < lambda_max < 3 * measured
    assert rate == pytest.approx(1 / lambda_max)


def test_networks_without_a_common_law_give_no_rate():
    # Biases as they are have gradients 1 / q_star times the kernels': lambda_max ~ depth^2.
    def other(depth):
        return models.vanilla_cnn((8, 8, 1), depth, 16, 3, seed=2, padding="same", bias_scale=1.0)

    with pytest.raises(ValueError, match=r"lambda_max / depth is .* at 10 layers.*as a number"):
        extrapolated_learning_rate(other, 1000, images(), depths=(10, 160), jit_compile=True)


def test_a_network_with_no_gradient_left_has_no_learning_rate():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(2, 1, kernel_initializer="zeros"),
            layers.DeepConvolution(2, 2, kernel_initializer="zeros", use_bias=False),
            keras.layers.Flatten(),
            keras.layers.Dense(1, kernel_initializer="zeros", use_bias=False),
        ]
    )
    with pytest.raises(ValueError, match="largest eigenvalue is 0.0"):
        ntk_learning_rate(model, images())


@pytest.mark.parametrize("rho", [0.0, -1.0])
def test_rho_must_be_positive(rho):
    with pytest.raises(ValueError, match=f"rho must be a finite number above 0.*{rho}"):
        ntk_learning_rate(models.vanilla_cnn((8, 8, 1), 2, 2, 2), images(), rho=rho)
