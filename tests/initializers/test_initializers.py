"""Initializers against dense linear algebra in NumPy and closed-form moments."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import profiles
from mfcnn.initializers import (
    ConvolutionDeltaOrthogonal,
    ConvolutionGaussian,
    ConvolutionOrthogonal,
    stack_initializer,
)
from tests.tolerances import float32

ORTHOGONAL = [ConvolutionOrthogonal, ConvolutionDeltaOrthogonal]
ALL = [*ORTHOGONAL, ConvolutionGaussian]
PROFILE = [[0.1, 0.0, 0.2], [0.0, 0.4, 0.1], [0.05, 0.05, 0.1]]
# A kernel's entries are at most 1 and rounded once: norms move by a few float32 roundings (6e-8)
# averaged over channels, those of float16 and bfloat16 by as many of theirs.
ROUNDING = {"float64": 1e-13, "float32": 5e-7, "float16": 5e-3, "bfloat16": 4e-2}


def circular_convolution(x, kernel):
    """[*n, c_in] with [*k, c_in, c_out] as y_a = sum_b x_(a + b - (k - 1) // 2) K_b."""
    window = kernel.shape[:-2]
    y = 0.0
    for tap in itertools.product(*map(range, window)):
        shift = [(size - 1) // 2 - index for size, index in zip(window, tap)]
        y = y + np.roll(x, shift, axis=tuple(range(len(window)))) @ kernel[tap]
    return y


def singular_values(kernel, n=6):
    """All singular values of the circular convolution of a signal of n pixels a side."""
    kernel = np.asarray(kernel, np.float64)
    axes = tuple(range(kernel.ndim - 2))
    symbol = 0.0
    frequencies = np.meshgrid(*[np.arange(n)] * len(axes), indexing="ij")
    for tap in itertools.product(*map(range, kernel.shape[:-2])):
        phase = sum(f * t for f, t in zip(frequencies, tap)) * 2j * np.pi / n
        symbol = symbol + np.exp(phase)[..., None, None] * kernel[tap]
    return np.linalg.svd(symbol, compute_uv=False)


def test_the_circular_convolution_keeps_every_norm(capsys):
    worst_norm = worst_singular_value = 0.0
    rng = np.random.default_rng(0)
    cases = itertools.product(ORTHOGONAL, (1, 2, 3), range(1, 6), [(4, 4), (3, 7), (1, 1)])
    for seed, (kind, dimensions, k, channels) in enumerate(cases):
        kernel = np.asarray(kind(seed=seed)((k,) * dimensions + channels))
        assert kernel.dtype == np.float32
        kernel = kernel.astype(np.float64)
        x = rng.standard_normal((5,) * dimensions + channels[:1])
        ratio = np.linalg.norm(circular_convolution(x, kernel)) / np.linalg.norm(x)
        worst_norm = max(worst_norm, abs(ratio - 1))
        deviation = np.abs(singular_values(kernel, n=4) - 1).max()
        worst_singular_value = max(worst_singular_value, deviation)
    with capsys.disabled():
        print(
            f"\nworst relative error of the norm over 1D/2D/3D, k = 1..5, {len(ORTHOGONAL)} "
            f"initializers, float32: {worst_norm:.1e} (a random input), "
            f"{worst_singular_value:.1e} (the worst input)"
        )
    assert worst_norm < 1e-5
    assert worst_singular_value < 1e-5


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_kernels_are_orthogonal_up_to_the_rounding_of_their_dtype(kind, dtype):
    kernel = kind(seed=3)((3, 3, 32, 48), dtype=dtype)
    assert kernel.dtype == dtype
    assert np.abs(singular_values(tf.cast(kernel, tf.float64)) - 1).max() < ROUNDING[dtype]


def test_a_narrower_dtype_rounds_the_same_kernel():
    for kind in ORTHOGONAL:
        exact = kind(seed=3)((3, 4, 5), dtype="float64")
        rounded = kind(seed=3)((3, 4, 5), dtype="float32")
        np.testing.assert_array_equal(tf.cast(exact, tf.float32), rounded)


def test_orthogonal_kernels_fill_every_tap():
    kernel = np.asarray(ConvolutionOrthogonal(seed=0)((3, 3, 16, 16)))
    assert (np.square(kernel).sum(axis=(2, 3)) > 0.1).all()


def test_orthogonal_taps_share_the_variance_binomially():
    # E |K_beta|^2 / c_in = prod_j binomial(2, beta_j) / 4: each step moves a fair half along.
    draws = 2000
    stack = np.asarray(ConvolutionOrthogonal(seed=1).stack(draws, (3, 3, 4, 4)), np.float64)
    share = np.square(stack).sum(axis=(3, 4)) / 4
    expected = np.outer([1, 2, 1], [1, 2, 1]) / 16
    standard_error = share.std(axis=0) / math.sqrt(draws)
    assert np.all(np.abs(share.mean(axis=0) - expected) < 5 * standard_error)


@pytest.mark.parametrize("window", [(5,), (4,), (3, 3), (2, 4), (1, 3, 5)])
def test_delta_kernels_are_one_tap_of_orthonormal_rows(window):
    kernel = np.asarray(ConvolutionDeltaOrthogonal(seed=0)((*window, 3, 5)), np.float64)
    tap = tuple((size - 1) // 2 for size in window)
    rows = kernel[tap].copy()
    kernel[tap] = 0
    assert not kernel.any()
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=float32.rounded)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_delta_kernels_keep_norms_under_the_same_padding_of_keras_too(size):
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)
    layer = keras.layers.Conv2D(
        7, size, padding="same", use_bias=False, kernel_initializer=ConvolutionDeltaOrthogonal()
    )
    ratio = np.linalg.norm(layer(x)) / np.linalg.norm(x)
    assert abs(ratio - 1) < 1e-6


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_kernels_of_one_tap_are_haar_uniform(kind):
    n, draws = 3, 20_000
    H = np.asarray(kind(seed=7).stack(draws, (1, n, n), "float64"))[:, 0]
    samples = {
        # Moments of the orthogonal group O(n). Without the signs of R, E tr H is not zero.
        "E tr H": (np.trace(H, axis1=1, axis2=2), 0),
        "E tr(H)^2": (np.trace(H, axis1=1, axis2=2) ** 2, 1),
        "E det H": (np.linalg.det(H), 0),
        "E H_11": (H[:, 0, 0], 0),
        "E H_33": (H[:, 2, 2], 0),
        "E H_12^2": (H[:, 0, 1] ** 2, 1 / n),
        "E H_11^4": (H[:, 0, 0] ** 4, 3 / (n * (n + 2))),
        "E H_23^4": (H[:, 1, 2] ** 4, 3 / (n * (n + 2))),
        "E H_11^2 H_12^2": (H[:, 0, 0] ** 2 * H[:, 0, 1] ** 2, 1 / (n * (n + 2))),
        "E H_11^2 H_22^2": (
            H[:, 0, 0] ** 2 * H[:, 1, 1] ** 2,
            (n + 1) / (n * (n - 1) * (n + 2)),
        ),
        "E H_11 H_22 H_12 H_21": (
            H[:, 0, 0] * H[:, 1, 1] * H[:, 0, 1] * H[:, 1, 0],
            -1 / (n * (n - 1) * (n + 2)),
        ),
    }
    for name, (values, expected) in samples.items():
        standard_error = values.std() / math.sqrt(draws)
        assert abs(values.mean() - expected) < 5 * standard_error, name


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_gain_multiplies_the_kernel(kind):
    shape = (3, 3, 4, 6)
    once, more = (np.asarray(kind(gain=gain, seed=1)(shape)) for gain in (1.0, 3.14))
    np.testing.assert_allclose(more, 3.14 * once, rtol=float32.rounded, atol=1e-7)
    np.testing.assert_allclose(singular_values(more), 3.14, rtol=float32.rounded)
    assert not np.any(kind(gain=0.0)(shape))


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (None, np.full((3, 3), 1 / 9)),
        ("delta", np.outer([0, 1, 0], [0, 1, 0])),
        (PROFILE, np.array(PROFILE)),
    ],
)
def test_gaussian_taps_have_the_variance_of_the_profile(profile, expected):
    c_in, c_out, depth = 5, 40, 200
    initializer = ConvolutionGaussian(profile, weight_variance=1.7, seed=0)
    stack = np.asarray(initializer.stack(depth, (3, 3, c_in, c_out)), np.float64)
    variance = 1.7 * expected / c_in
    count = depth * c_in * c_out
    mean, square = stack.mean(axis=(0, 3, 4)), np.square(stack).mean(axis=(0, 3, 4))
    fourth = (stack**4).mean(axis=(0, 3, 4))
    assert np.all(np.abs(mean) <= 5 * np.sqrt(variance / count))
    # Var z^2 = 2 and Var z^4 = 96 of a standard normal z
    assert np.all(np.abs(square - variance) <= 5 * variance * math.sqrt(2 / count))
    assert np.all(np.abs(fourth - 3 * variance**2) <= 5 * variance**2 * math.sqrt(96 / count))


def test_the_delta_profile_takes_the_tap_of_the_delta_kernel_for_even_sizes():
    shape = (4, 2, 3, 3)
    gaussian = np.asarray(ConvolutionGaussian("delta")(shape))
    orthogonal = np.asarray(ConvolutionDeltaOrthogonal()(shape))
    np.testing.assert_array_equal(gaussian != 0, orthogonal != 0)


@pytest.mark.parametrize("kind", ALL)
def test_values_depend_on_the_seed_alone(kind):
    shape = (3, 3, 4, 5)
    first = np.asarray(kind(seed=0)(shape))
    initializer = kind(seed=0)
    np.testing.assert_array_equal(initializer(shape), first)
    np.testing.assert_array_equal(initializer(shape), first)
    for other in (1, 2**31, 2**40):
        assert np.abs(np.asarray(kind(seed=other)(shape)) - first).max() > 0.01
    unseeded = kind()
    np.testing.assert_array_equal(unseeded(shape), unseeded(shape))
    assert np.abs(np.asarray(kind()(shape)) - np.asarray(unseeded(shape))).max() > 0.01
    keras.utils.set_random_seed(5)
    once = kind()(shape)
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(kind()(shape), once)


@pytest.mark.parametrize("kind", ALL)
def test_a_seed_generator_gives_a_new_kernel_at_each_call(kind):
    shape = (3, 3, 4, 5)
    initializer = kind(seed=keras.random.SeedGenerator(4))
    calls = [np.asarray(initializer(shape)) for _ in range(2)]
    calls += list(np.asarray(initializer.stack(2, shape)))
    for a, b in itertools.combinations(calls, 2):
        assert np.abs(a - b).max() > 0.01
    again = kind(seed=keras.random.SeedGenerator(4))
    np.testing.assert_array_equal(again(shape), calls[0])


@pytest.mark.parametrize("kind", ALL)
def test_a_graph_draws_what_eager_calls_draw(kind):
    shape, initializer = (2, 2, 3, 4), kind(seed=0)

    @tf.function
    def draw():
        return initializer(shape), initializer.stack(3, shape)

    kernel, stack = draw()
    np.testing.assert_array_equal(kernel, initializer(shape))
    np.testing.assert_array_equal(stack, initializer.stack(3, shape))


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_xla_draws_orthogonal_kernels_too(kind):
    stack = tf.function(lambda: kind(seed=0).stack(3, (2, 2, 3, 4)), jit_compile=True)()
    for kernel in stack:
        np.testing.assert_allclose(singular_values(kernel), 1, atol=ROUNDING["float32"])


CONFIGURED = [
    ConvolutionOrthogonal(gain=2.0, seed=5),
    ConvolutionDeltaOrthogonal(gain=0.5, seed=6),
    ConvolutionGaussian(PROFILE, weight_variance=1.5, seed=7),
    ConvolutionGaussian("delta", seed=0),
    ConvolutionGaussian(np.full((3, 3), 1 / 9), seed=0),
]


@pytest.mark.parametrize("initializer", CONFIGURED)
def test_a_configuration_gives_the_initializer_back(initializer):
    config = keras.saving.serialize_keras_object(initializer)
    assert config["registered_name"].startswith("mfcnn>")
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.get_config() == initializer.get_config()
    np.testing.assert_array_equal(restored((3, 3, 2, 4)), initializer((3, 3, 2, 4)))


@pytest.mark.parametrize("kind", ALL)
def test_a_seed_generator_survives_the_configuration(kind):
    initializer = kind(seed=keras.random.SeedGenerator(4))
    config = keras.saving.serialize_keras_object(initializer)
    restored = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(restored((3, 2, 4)), initializer((3, 2, 4)))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("kind", ALL)
def test_keras_convolutions_take_it_by_object_and_by_configuration(kind, dimensions):
    layer_class = getattr(keras.layers, f"Conv{dimensions}D")
    initializer = kind(seed=11)
    layer = layer_class(6, 3, kernel_initializer=initializer)
    by_configuration = layer_class(
        6, 3, kernel_initializer=keras.initializers.serialize(initializer)
    )
    rebuilt = layer_class.from_config(layer.get_config())
    expected = initializer((3,) * dimensions + (4, 6))
    for each in (layer, by_configuration, rebuilt):
        each.build((None,) + (8,) * dimensions + (4,))
        np.testing.assert_array_equal(each.kernel, expected)


def test_mixed_precision_policies_build():
    layer = keras.layers.Conv2D(
        4, 3, dtype="bfloat16", kernel_initializer=ConvolutionOrthogonal(seed=0)
    )
    layer.build((None, 8, 8, 4))
    assert layer.kernel.dtype == "bfloat16"


@pytest.mark.parametrize("kind", ALL)
def test_a_stack_holds_independent_kernels_whatever_its_depth(kind):
    shape = (3, 3, 4, 5)
    initializer = kind(seed=2)
    stack = np.asarray(initializer.stack(20, shape))
    assert stack.shape == (20, *shape)
    np.testing.assert_array_equal(initializer.stack(7, shape), stack[:7])
    for a, b in itertools.combinations([np.asarray(initializer(shape)), *stack], 2):
        assert np.abs(a - b).max() > 0.01
    if kind is not ConvolutionGaussian:
        for kernel in stack:
            np.testing.assert_allclose(singular_values(kernel), 1, atol=ROUNDING["float32"])


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_kernels_of_a_stack_are_uncorrelated(kind):
    # E <K_i, K_(i+1)> = 0 for independent kernels of a law that is symmetric about zero.
    stack = np.asarray(kind(seed=2).stack(4000, (2, 3, 3)), np.float64)
    product = (stack[:-1] * stack[1:]).sum(axis=(1, 2, 3))
    assert abs(product.mean()) < 5 * product.std() / math.sqrt(product.size)


def test_bfloat16_stacks_have_that_dtype():
    for kind in ALL:
        assert kind(seed=0).stack(2, (3, 2, 2), "bfloat16").dtype == tf.bfloat16


STOCK = {
    "glorot_uniform": "glorot_uniform",
    "he_normal": "he_normal",
    "untruncated, fan_out": keras.initializers.VarianceScaling(
        2.0, "fan_out", "untruncated_normal", seed=1
    ),
    "random_normal": keras.initializers.RandomNormal(0.5, 2.0, seed=0),
    "truncated_normal": keras.initializers.TruncatedNormal(stddev=0.3, seed=0),
    "random_uniform": keras.initializers.RandomUniform(0.0, 1.0, seed=0),
    "seed generator": keras.initializers.HeUniform(seed=keras.random.SeedGenerator(1)),
    "keras orthogonal": keras.initializers.Orthogonal(seed=3),
    "ours": ConvolutionDeltaOrthogonal(seed=3),
    "by configuration": keras.initializers.serialize(ConvolutionGaussian(seed=3)),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, (3, 3, 6, 8)) for name in STOCK] + [(name, (5, 7)) for name in list(STOCK)[:8]],
)
def test_any_initializer_stacks_with_the_law_of_one_layer(name, shape):
    initializer, depth = STOCK[name], 60
    stack = np.asarray(stack_initializer(initializer, depth, shape), np.float64)
    assert stack.shape == (depth, *shape)
    assert len(np.unique(stack.reshape(depth, -1), axis=0)) == depth
    # Sixty single draws from single seeds are the reference.
    config = keras.initializers.get(initializer)
    kind, config = type(config), config.get_config()
    single = np.stack([kind(**{**config, "seed": 100 + i})(shape) for i in range(depth)])
    for moment in (1, 2):
        layers = [
            np.mean(np.asarray(s, np.float64) ** moment, axis=tuple(range(1, s.ndim)))
            for s in (stack, single)
        ]
        standard_error = math.sqrt(sum(layer.var() for layer in layers) / depth)
        # The second moment of orthogonal kernels does not fluctuate: allow for rounding.
        difference = abs(layers[0].mean() - layers[1].mean())
        assert difference < 5 * standard_error + 1e-7


def test_constants_and_plain_functions_stack():
    np.testing.assert_array_equal(stack_initializer("zeros", 3, (2,)), np.zeros((3, 2)))
    constant = keras.initializers.Constant(0.5)
    np.testing.assert_array_equal(stack_initializer(constant, 3, (2, 2)), np.full((3, 2, 2), 0.5))
    calls = iter(range(3))
    stack = stack_initializer(lambda shape, dtype: tf.fill(shape, float(next(calls))), 3, (2,))
    np.testing.assert_array_equal(stack, [[0, 0], [1, 1], [2, 2]])


def test_stacks_of_seeded_initializers_repeat():
    for initializer in (keras.initializers.Orthogonal(seed=3), keras.initializers.HeNormal(seed=3)):
        a, b = (stack_initializer(initializer, 4, (3, 3, 2, 4)) for _ in range(2))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shape", [(3,), (4, 4), (2, 2, 2, 2, 4, 4), (3, 0, 4)])
def test_shapes_that_are_no_kernels_are_refused_by_name(kind, shape):
    with pytest.raises(ValueError, match=rf"rank 3, 4 or 5.*{shape}".replace("(3,)", ".*3,")):
        kind()(shape)


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_narrowing_is_refused_with_the_alternative(kind):
    with pytest.raises(ValueError, match=r"c_in <= c_out.*Widen.*ConvolutionGaussian.*8, 4"):
        kind()((3, 3, 8, 4))
    with pytest.raises(ValueError, match=r"c_in <= c_out"):
        kind().stack(2, (3, 3, 8, 4))


def test_oblong_windows_are_refused_by_the_orthogonal_kernel():
    with pytest.raises(ValueError, match=r"equal sides.*DeltaOrthogonal.*\(3, 2, 4, 4\)"):
        ConvolutionOrthogonal()((3, 2, 4, 4))


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ([0.5, -0.5, 1.0], "must not be negative"),
        ([0.5, float("nan"), 0.5], "must be finite"),
        ([0.5, 0.4], "sum to one.*0.9"),
        ("center", "one of.*delta.*'center'"),
        (1.0, "axes"),
        ([[0.5, 0.5], [0.0]], "array of real numbers"),
    ],
)
def test_bad_profiles_are_refused(profile, text):
    with pytest.raises(ValueError, match=f"variance_profile.*{text}"):
        ConvolutionGaussian(profile)


@pytest.mark.parametrize("name", [*profiles.NAMES, "DELTA", "Gs2", None])
def test_a_profile_may_be_any_name_in_any_case(name):
    initializer = ConvolutionGaussian(name, 1.7, seed=0)
    config = initializer.get_config()
    assert config["variance_profile"] == name
    kernels = np.asarray(initializer.stack(300, (3, 3, 8, 8)), np.float64)
    expected = 1.7 / 8 * profiles.parse(name, 3, 2)
    # 300 * 64 squares of normal numbers, relative variance 2 each.
    error = 5 * math.sqrt(2 / (300 * 64))
    np.testing.assert_allclose(np.mean(kernels**2, axis=(0, 3, 4)), expected, rtol=error)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 3, 3, 4, 4), (2, 3, 4, 4)])
def test_profiles_of_another_shape_than_the_window_are_refused(shape):
    with pytest.raises(ValueError, match=r"variance_profile must have.*\(3, 3\)"):
        ConvolutionGaussian(PROFILE)(shape)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "1", None])
def test_bad_scales_are_refused(value):
    for kind in ORTHOGONAL:
        with pytest.raises(ValueError, match="gain must be a finite number of at least 0"):
            kind(gain=value)
    with pytest.raises(ValueError, match="weight_variance must be a finite number of at least 0"):
        ConvolutionGaussian(weight_variance=value)


def test_bad_seeds_dtypes_and_depths_are_refused():
    with pytest.raises(ValueError, match="seed must be an integer.*1.5"):
        ConvolutionOrthogonal(seed=1.5)
    with pytest.raises(ValueError, match="dtype must be a floating dtype.*int32"):
        ConvolutionOrthogonal()((3, 4, 4), dtype="int32")
    for depth in (0, -1, 2.5, None, float("inf")):
        with pytest.raises(ValueError, match="depth must be an integer of at least 1"):
            ConvolutionOrthogonal().stack(depth, (3, 4, 4))
    with pytest.raises(ValueError, match="fully known shape"):
        ConvolutionOrthogonal()((3, None, 4))
    with pytest.raises(ValueError, match="shape of integers"):
        ConvolutionOrthogonal()((3, 2.5, 4))
