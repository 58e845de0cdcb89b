"""Kernels of whole networks against dense recursions, scalar recursions and finite networks."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn import activations, kernels
from mfcnn.kernels import _programs
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


def test_several_depths_of_a_tabulated_activation_compile(monkeypatch):
    monkeypatch.setattr(_programs, "_COMPILE_FROM", 0)  # XLA at any size
    x = inputs(4, 6) / 2
    together = kernels.fully_connected((1, 8, 90, 100), "tanh", 1.7, 0.1)(x)
    monkeypatch.undo()
    for k, depth in ((1, 8), (3, 100)):
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


@pytest.mark.parametrize("activation", ["erf", "relu", "tanh"])
def test_gradients_exist_also_at_coincident_points(activation):
    x = tf.Variable(inputs(4, 5))
    x[1].assign(x[0])
    variances = tf.Variable(1.5, dtype=tf.float64), tf.Variable(0.1, dtype=tf.float64)
    with tf.GradientTape() as tape:
        result = kernels.fully_connected(3, activation, *variances)(x)
        total = tf.reduce_sum(result.nngp * 0.7 + result.ntk)
    gradients = tape.gradient(total, [x, *variances])
    assert all(np.all(np.isfinite(g)) for g in gradients)
    step = 1e-5

    def value(weight_variance):
        result = kernels.fully_connected(3, activation, weight_variance, 0.1)(x)
        return float(tf.reduce_sum(result.nngp * 0.7 + result.ntk))

    slope = (value(1.5 + step) - value(1.5 - step)) / (2 * step)
    np.testing.assert_allclose(gradients[1], slope, rtol=1e-6)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_gradients_of_convolutional_kernels_are_finite_at_coincident_points(readout):
    x = tf.Variable(inputs(3, 3, 3, 2))
    x[1].assign(x[0])
    variances = tf.Variable(1.5, dtype=tf.float64), tf.Variable(0.1, dtype=tf.float64)
    with tf.GradientTape() as tape:
        result = kernels.convolutional(2, "erf", *variances, readout=readout)(x)
        total = tf.reduce_sum(result.nngp * 0.7 + result.ntk)
    gradients = tape.gradient(total, [x, *variances])
    assert all(np.all(np.isfinite(tf.convert_to_tensor(g))) for g in gradients)


@pytest.mark.parametrize("architecture", ["fcn", "flatten", "pool"])
def test_all_depths_and_variances_share_one_program(architecture):
    kernels.clear_cache()
    for depth, weight_variance in ((10, 1.5), (300, 1.9)):
        if architecture == "fcn":
            kernels.fully_connected(depth, "erf", weight_variance, 0.1)(inputs(4, 6))
        else:
            kernel = kernels.convolutional(depth, "erf", weight_variance, 0.1, readout=architecture)
            kernel(inputs(2, 3, 3, 2))
    assert len(_programs._CACHE) == 1


def test_the_cache_of_programs_is_bounded():
    kernels.clear_cache()
    kernel = kernels.fully_connected(1, "linear", 1.5, 0.1)
    for features in range(1, _programs._SIZE + 5):
        kernel(np.ones([1, features]))
    assert len(_programs._CACHE) == _programs._SIZE


def test_equal_norms_give_what_pairs_give():
    # Enough inputs for the interpolation over the correlation; two of them are equal.
    x = inputs(130, 40)
    x /= np.linalg.norm(x, axis=1, keepdims=True) / 6
    x[1] = x[0]
    kernel = kernels.fully_connected((3, 60), "erf", 1.9, 0.05)
    together, row = kernel(x), kernel(x[:1], x)  # one row is below the limit: pair by pair
    for both, one in zip(together, row):
        assert np.max(np.abs(both[:, :1] - one)) < 1e-11 * np.max(np.abs(one))


def test_gradient_by_inputs_is_the_difference_quotient():
    x = inputs(3, 5)
    direction = inputs(3, 5, seed=1)

    def value(t):
        return kernels.fully_connected(2, "erf", 1.5, 0.1)(x + t * direction).ntk[0, 1]

    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        entry = kernels.fully_connected(2, "erf", 1.5, 0.1)(variable).ntk[0, 1]
    slope = np.sum(tape.gradient(entry, variable) * direction)
    np.testing.assert_allclose(slope, (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-6)


def test_blocks_resume_and_refuse_another_problem(tmp_path):
    x = inputs(5, 4, 4, 1)
    kernel = kernels.convolutional(2, "erf", 1.5, 0.1, readout="pool")
    first = kernel(x, output_dir=tmp_path)
    again = kernel(x, output_dir=tmp_path)
    assert list(tmp_path.glob("block_*.npz"))
    assert_close(again, first, 1e-16)
    with pytest.raises(ValueError, match="another kernel"):
        kernels.convolutional(3, "erf", 1.5, 0.1, readout="pool")(x, output_dir=tmp_path)


def test_several_blocks_equal_one(monkeypatch):
    x, x2 = inputs(11, 4), inputs(7, 4, seed=3)
    kernel = kernels.fully_connected(2, "erf", 1.5, 0.1)
    whole = kernel(x), kernel(x, x2)
    monkeypatch.setattr(kernel, "_block", 4)
    for one, many in zip(whole, (kernel(x), kernel(x, x2))):
        assert_close(many, one, 1e-14)


def test_fields_and_errors():
    x = inputs(3, 4)
    kernel = kernels.fully_connected(2, "erf", 1.5, 0.1)
    assert kernel(x, get=("ntk",))._fields == ("ntk",)
    assert tf.is_tensor(kernel(x, get="nngp")) and kernel(x, get="nngp").shape == (3, 3)
    for call, message in (
        (lambda: kernel(x, get="spectrum"), "get must be"),
        (lambda: kernel(x[0]), "x1 must be"),
        (lambda: kernel(x, x[:, :2]), "one shape"),
        (lambda: kernel(x * np.nan), "x1 must be finite"),
        (lambda: kernel(x, get=("ntk", "ntk")), "get must be"),
        (lambda: kernels.fully_connected(1, "erf", 1.0, 0.0, dtype=None), "dtype must be"),
        (
            lambda: kernels.convolutional(1, "erf", 1, 0, 2.5)(inputs(2, 5, 5, 1)),
            "kernel_size must",
        ),
        (lambda: kernels.fully_connected(-1, "erf", 1.0, 0.0), "depth must be"),
        (lambda: kernels.fully_connected(1, "erf", -1.0, 0.0), "weight_variance must be"),
        (lambda: kernels.fully_connected(1, "erf", 1.0, 0.0, dtype="int32"), "dtype must be"),
        (lambda: kernels.convolutional(1, "erf", 1.0, 0.0, padding="full"), "padding must be"),
        (lambda: kernels.convolutional(1, "erf", 1.0, 0.0, readout="sum"), "readout must be"),
        (
            lambda: kernels.convolutional(3, "erf", 1.0, 0.0, padding="valid")(inputs(2, 5, 5, 1)),
            "leaves nothing",
        ),
        (
            lambda: kernels.convolutional(1, "erf", 1.0, 0.0, variance_profile=[0.5, 0.2, 0.2])(
                inputs(2, 5, 5, 1)
            ),
            "variance_profile must sum to one",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    for call, message in (
        (lambda: kernel(x + 1j), "x1 must be an array of real numbers"),
        (lambda: kernel(None), "x1 must be an array"),
        (
            lambda: kernels.fully_connected(1, "erf", None, 0.0),
            "weight_variance must be a finite number",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_tab_completion_shows_the_public_names_alone():
    assert {name for name in dir(kernels) if not name.startswith("_")} == set(kernels.__all__)
