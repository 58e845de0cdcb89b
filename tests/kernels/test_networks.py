"""Kernels of whole networks against dense recursions, scalar recursions and finite networks."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import activations, kernels
from tests.kernels import reference

UNIFORM = np.full((3, 3), 1 / 9)
ROWS = np.outer([0.2, 0.5, 0.3], [0.1, 0.6, 0.3])
CROSS = np.array([[0.0, 0.1, 0.0], [0.2, 0.4, 0.1], [0.0, 0.2, 0.0]])


def inputs(*shape, seed=0):
    """Inputs whose norms differ by a factor of about ten."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) * np.exp(rng.normal(size=[shape[0]] + [1] * (len(shape) - 1)))


def assert_close(values, expected, tolerance):
    for value, wanted in zip(values, expected):
        assert np.max(np.abs(value - wanted)) < tolerance * np.max(np.abs(wanted))


@pytest.mark.parametrize("activation", ["erf", "relu"])
@pytest.mark.parametrize("depth, weight_variance", [(1, 1.0), (2, 3.0), (100, 1.9)])
def test_fully_connected_equals_the_dense_recursion(activation, depth, weight_variance):
    x = inputs(24, 17)
    values = kernels.fully_connected(depth, activation, weight_variance, 0.05)(x)
    expected = reference.fully_connected(x, depth, activation, weight_variance, 0.05)
    off_diagonal = ~np.eye(24, dtype=bool)
    assert_close(
        [v.numpy()[off_diagonal] for v in values], [e[off_diagonal] for e in expected], 1e-11
    )


@pytest.mark.parametrize("activation", ["erf", "relu"])
@pytest.mark.parametrize("readout", ["flatten", "pool"])
@pytest.mark.parametrize(
    "padding, profile",
    [
        ("circular", UNIFORM),
        ("same", UNIFORM),
        ("valid", UNIFORM),
        ("same", ROWS),
        ("circular", CROSS),
    ],
)
def test_convolutional_equals_the_dense_recursion(activation, readout, padding, profile):
    x = inputs(3, 6, 5, 2)
    x[1, :3] = 0.0  # a dark patch: pixels of different images that are equal
    kernel = kernels.convolutional(
        2, activation, 1.7, 0.1, readout=readout, padding=padding, variance_profile=profile
    )
    expected = reference.convolutional(x, 2, activation, 1.7, 0.1, profile, padding, readout)
    # The reference's relu loses half of the digits where pixels are equal: arccos(1 - 1e-16).
    assert_close(kernel(x), expected, 1e-12 if activation == "erf" else 1e-8)
    assert_close(kernel(x[:2], x[1:]), [e[:2, 1:] for e in expected], 1e-8)


def test_sequences_are_images_of_width_one():
    x = inputs(3, 6, 2)
    for readout in ("flatten", "pool"):
        line = kernels.convolutional(2, "erf", 1.7, 0.1, readout=readout)(x)
        image = kernels.convolutional(2, "erf", 1.7, 0.1, kernel_size=(3, 1), readout=readout)
        assert_close(line, image(x[:, :, None]), 1e-13)


def test_images_of_one_pixel_are_fully_connected():
    x = inputs(5, 1, 1, 7)
    dense = kernels.fully_connected(3, "erf", 1.7, 0.1)(x[:, 0, 0])
    for readout in ("flatten", "pool"):
        assert_close(kernels.convolutional(3, "erf", 1.7, 0.1, readout=readout)(x), dense, 1e-12)


@pytest.mark.parametrize("activation", ["erf", "tanh"])
@pytest.mark.parametrize("padding", [None, "circular", "valid"])
def test_several_depths_in_one_pass_are_the_single_ones(activation, padding):
    depths = (3, 0, 1, 2) if activation == "erf" else (2, 1)
    x = inputs(4, 8, 8, 2) / 2
    if padding is None:
        x = x.reshape(4, -1)

    def kernel(depth):
        if padding is None:
            return kernels.fully_connected(depth, activation, 1.7, 0.1)
        return kernels.convolutional(depth, activation, 1.7, 0.1, padding=padding)

    together = kernel(depths)(x)
    scaled = kernel(depths)(x, log_scale=True)
    assert together.ntk.shape == (len(depths), 4, 4) and scaled.log_scale.shape == (len(depths),)
    assert_close([scaled.ntk * tf.exp(scaled.log_scale)[:, None, None]], [together.ntk], 1e-13)
    for k, depth in enumerate(depths):
        assert_close([v[k] for v in together], kernel(depth)(x), 1e-10 if k else 1e-13)


def test_several_depths_of_a_tabulated_activation_compile():
    x = inputs(4, 6) / 2
    together = kernels.fully_connected((1, 8, 90, 500), "tanh", 1.7, 0.1)(x)  # XLA at any size
    for k, depth in ((1, 8), (2, 90)):
        single = kernels.fully_connected(depth, "tanh", 1.7, 0.1)(x)
        assert_close([v[k] for v in together], single, 1e-9)  # their tables differ


def test_depth_zero_is_the_linear_model():
    x = inputs(4, 3, 3, 2)
    expected = 2 * np.einsum("ahwc,bhwc->ab", x, x) / 18 + 0.3
    assert_close(kernels.convolutional(0, "erf", 2.0, 0.3)(x), [expected] * 2, 1e-14)
    flat = x.reshape(4, -1)
    assert_close(kernels.fully_connected(0, "erf", 2.0, 0.3)(flat), [expected] * 2, 1e-14)


@pytest.mark.parametrize(
    "activation, weight_variance, bias_variance, depth, dtype, tolerance",
    [
        ("erf", 6.25, 0.25, 50, "float64", 1e-12),
        ("erf", 2.25, 0.09, 1000, "float64", 1e-12),
        ("relu", 2.0, 0.0, 1000, "float64", 1e-12),
        ("relu", 2.0, 0.0, 100, "float32", 1e-5),
        ("erf", 6.25, 0.25, 50, "float32", 1e-4),  # chi_1^L amplifies the rounding of chi_1 itself
    ],
)
def test_diagonal_follows_the_scalar_recursion(
    activation, weight_variance, bias_variance, depth, dtype, tolerance
):
    x = inputs(6, 9)
    kernel = kernels.fully_connected(depth, activation, weight_variance, bias_variance, dtype)
    q = weight_variance * np.sum(x * x, 1) / 9 + bias_variance
    expected = reference.diagonal(q, depth, activation, weight_variance, bias_variance)
    for values in (kernel(x), kernel(x, x.copy())):
        for value, wanted in zip(values, expected):
            np.testing.assert_allclose(np.diag(value), wanted, rtol=tolerance)


def test_inputs_of_any_norm_are_finite_and_right():
    x = inputs(10, 8) / np.linalg.norm(inputs(10, 8), axis=1, keepdims=True)
    x *= np.logspace(-8, 10, 10)[:, None]
    q = 1.5 * np.sum(x * x, 1) / 8 + 0.1
    nngp, ntk = kernels.fully_connected(1, "erf", 1.5, 0.1)(x)
    expected_q, expected_p = reference.diagonal(q, 1, "erf", 1.5, 0.1)
    np.testing.assert_allclose(np.diag(nngp), expected_q, rtol=1e-12)
    np.testing.assert_allclose(np.diag(ntk), expected_p, rtol=1e-12)
    expected = reference.fully_connected(x, 1, "erf", 1.5, 0.1)
    off_diagonal = ~np.eye(10, dtype=bool)
    np.testing.assert_allclose(nngp.numpy()[off_diagonal], expected[0][off_diagonal], rtol=1e-10)


@pytest.mark.parametrize(
    "activation",
    ["erf", "relu", "tanh", "gelu", "leaky_relu"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "swish",
            "sigmoid",
            "softplus",
            "linear",
            "abs",
            "sin",
            "cos",
            "gaussian",
            "hard_tanh",
        )
    ],
)
def test_float32_agrees_with_float64(activation):
    # Halved: variances up to 10, the range that is promised for tables.
    x, image = inputs(12, 9) / 2, inputs(3, 4, 4, 2) / 2
    image[1] = image[0] + 1e-4  # two images that nearly coincide
    for make, data in (
        (lambda dtype: kernels.fully_connected(20, activation, 1.6, 0.1, dtype), x),
        (lambda dtype: kernels.convolutional(5, activation, 1.6, 0.1, dtype=dtype), image),
    ):
        single, double = make("float32")(data), make("float64")(data)
        assert single.ntk.dtype == tf.float32
        assert_close([v.numpy().astype(float) for v in single], double, 1e-5)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_float32_agrees_with_float64_deep_in_the_chaotic_phase(readout):
    # chi_1 = 1.4: an error of chi_1 that is the same in each of 100 layers would add up.
    x = inputs(3, 4, 4, 2) / 2
    single, double = (
        kernels.convolutional(100, "erf", 2.25, 0.09, readout=readout, dtype=dtype)(x)
        for dtype in ("float32", "float64")
    )
    assert_close([v.numpy().astype(float) for v in single], double, 1e-5)


@pytest.mark.parametrize("weight_variance", [0.01, 1.5, 10.0])
def test_tanh_equals_one_layer_quadrature(weight_variance):
    x = inputs(4, 6)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt([[3.0], [6.0], [4.0], [5.0]])
    nngp, ntk = kernels.fully_connected(1, "tanh", weight_variance, 0.05)(x)
    k = weight_variance * x @ x.T / 6 + 0.05
    z = np.arange(-12, 12, 0.06)
    w = np.exp(-z * z / 2) * 0.06 / np.sqrt(2 * np.pi)
    for i in range(4):
        for j in range(4):
            c = min(1.0, k[i, j] / np.sqrt(k[i, i] * k[j, j]))
            u = np.sqrt(k[i, i]) * z[:, None]
            v = np.sqrt(k[j, j]) * (c * z[:, None] + np.sqrt(1 - c * c) * z)
            value = w @ (np.tanh(u) * np.tanh(v)) @ w
            slope = w @ (1 / (np.cosh(u) * np.cosh(v)) ** 2) @ w
            expected = weight_variance * value + 0.05
            assert abs(nngp[i, j] - expected) < 1e-9 * max(abs(expected), 1e-2)
            expected += weight_variance * slope * k[i, j]
            assert abs(ntk[i, j] - expected) < 2e-9 * max(abs(expected), 1e-2)


def test_tanh_and_a_fine_piecewise_table_agree_with_the_scalar_recursion_at_depth():
    x = inputs(6, 9)
    nngp, ntk = kernels.fully_connected(200, "tanh", 1.5, 0.1)(x)
    tanh = activations.get("tanh")
    q = 1.5 * np.sum(x * x, 1) / 9 + 0.1
    p = q
    for _ in range(200):
        slope = tanh.derivative_second_moment(q)
        q = 1.5 * tanh.second_moment(q) + 0.1
        p = q + 1.5 * slope * p
    np.testing.assert_allclose(np.diag(nngp), q, rtol=1e-9)
    np.testing.assert_allclose(np.diag(ntk), p, rtol=1e-8)


@pytest.mark.parametrize("weight_variance", [0.9, 2.5])
def test_tanh_at_depth_follows_the_moments_of_the_activation(weight_variance):
    # Past the layer from which all variances are taken as one; the moments are code of their own.
    tanh, depth = activations.get("tanh"), 80
    x = inputs(2, 7)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(7)
    nngp, ntk = kernels.fully_connected(depth, "tanh", weight_variance, 0.1)(x)
    q, k = weight_variance + 0.1, weight_variance * x[0] @ x[1] / 7 + 0.1
    theta = k
    for _ in range(depth):
        slope = tanh.derivative_covariance(q, k / q)
        k = weight_variance * tanh.covariance(q, k / q) + 0.1
        q = weight_variance * tanh.second_moment(q) + 0.1
        theta = k + weight_variance * slope * theta
    # 1e-11 a layer, times 80 layers, times what T' adds to a deviation of c.
    np.testing.assert_allclose([nngp[0, 1], ntk[0, 1]], [k, theta], rtol=1e-8)


def test_log_scale_keeps_the_chaotic_phase_finite():
    x = inputs(5, 9)
    scaled = kernels.fully_connected(3000, "erf", 6.25, 0.25)(x, log_scale=True)
    assert np.all(np.isfinite(scaled.ntk)) and scaled.log_scale > 1000
    with pytest.raises(OverflowError, match="log_scale"):
        kernels.fully_connected(3000, "erf", 6.25, 0.25)(x)
    with pytest.raises(OverflowError, match="no fixed point"):
        kernels.fully_connected(3000, "relu", 6.25, 0.25)(x, get="nngp", log_scale=True)
    shallow = kernels.fully_connected(30, "erf", 6.25, 0.25)
    scaled = shallow(x, get="ntk", log_scale=True)
    assert_close([scaled.ntk * tf.exp(scaled.log_scale)], [shallow(x, get="ntk")], 1e-13)
