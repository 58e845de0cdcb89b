"""The promise holds in every convolution of Keras, whatever its kernel's layout."""

import itertools
import math

import keras
import numpy as np
import pytest

from mfcnn.initializers import (
    ConvolutionDeltaOrthogonal,
    ConvolutionGaussian,
    ConvolutionOrthogonal,
)
from mfcnn.layers import PeriodicConvolution

L = keras.layers
ALL = [ConvolutionDeltaOrthogonal, ConvolutionOrthogonal, ConvolutionGaussian]
ORTHOGONAL = ALL[:2]
KERNELS = ("kernel_initializer", "depthwise_initializer", "pointwise_initializer")
# A float64 layer: rounding of a few hundred terms.
TOLERANCE = 1e-12


def linear(kind, *arguments, initializer, **options):
    """A convolution of Keras without bias, all its kernels by one initializer."""
    names = {L.SeparableConv1D: KERNELS[1:], L.SeparableConv2D: KERNELS[1:]}
    depthwise = kind in (L.DepthwiseConv1D, L.DepthwiseConv2D)
    names = KERNELS[1:2] if depthwise else names.get(kind, KERNELS[:1])
    drawn = {name: type(initializer).from_config(initializer.get_config()) for name in names}
    return kind(*arguments, use_bias=False, dtype="float64", **drawn, **options)


def singular_values(function, shape):
    """All singular values of a linear function of inputs [batch, *shape]."""
    basis = np.eye(math.prod(shape)).reshape(-1, *shape)
    return np.linalg.svd(np.reshape(function(basis), (len(basis), -1)), compute_uv=False)


def assert_keeps_norms(function, shape, gain=1):
    """Asserts that all singular values are the gain, and returns them."""
    found = singular_values(function, shape)
    np.testing.assert_allclose(found, gain, atol=TOLERANCE)
    return found


def on_the_whole_line(layer, dimensions, margin):
    """The layer on an image within zeros, of which every window that meets it is counted."""
    layer.padding = "valid"

    def function(x):
        return layer(np.pad(x, [(0, 0), *[(margin, margin)] * dimensions, (0, 0)]))

    return function


STRIDED = [
    (L.Conv1D, 1, 3, 2, 4, 1),
    (L.Conv1D, 1, 4, 3, 6, 1),
    (L.Conv1D, 1, 3, 3, 6, 1),
    (L.Conv2D, 2, 3, 1, 4, 1),
    (L.Conv2D, 2, 3, 2, 9, 1),
    (L.Conv2D, 2, 2, 2, 8, 1),
    (L.Conv3D, 3, 2, 2, 16, 1),
    (L.Conv1D, 1, 3, 1, 6, 2),
    (L.Conv2D, 2, 3, 2, 8, 2),
]


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize(("layer", "dimensions", "k", "stride", "filters", "groups"), STRIDED)
def test_strides_and_groups_keep_every_norm(kind, layer, dimensions, k, stride, filters, groups):
    initializer = kind(gain=1.5, seed=3)
    built = linear(layer, filters, k, strides=stride, groups=groups, initializer=initializer)
    sides = 2 if dimensions == 3 else 2 * stride if stride > 1 else 4
    # The margin is a multiple of the stride: the patches lie as they do without it.
    margin = stride * math.ceil((k - 1) / stride)
    function = on_the_whole_line(built, dimensions, margin)
    assert_keeps_norms(function, (sides,) * dimensions + (2,), gain=1.5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("k", [3, 4, 5])
@pytest.mark.parametrize("layer", [L.Conv1D, L.Conv1DTranspose, L.DepthwiseConv1D])
def test_delta_kernels_keep_norms_under_same_padding_too(layer, k, stride):
    initializer = ConvolutionDeltaOrthogonal(seed=1)
    options = {"strides": stride, "padding": "same", "initializer": initializer}
    if layer is L.DepthwiseConv1D:
        built = linear(layer, k, depth_multiplier=stride, **options)
    else:
        built = linear(layer, 3 if layer is L.Conv1DTranspose else 3 * stride, k, **options)
    assert len(assert_keeps_norms(built, (6, 3))) == 18


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize(
    ("layer", "dimensions", "k", "stride", "c_in", "c_out"),
    [
        (L.Conv1DTranspose, 1, 3, 1, 3, 3),
        (L.Conv1DTranspose, 1, 3, 2, 3, 2),
        (L.Conv1DTranspose, 1, 4, 2, 4, 2),
        (L.Conv1DTranspose, 1, 2, 3, 2, 1),
        (L.Conv2DTranspose, 2, 3, 1, 2, 5),
        (L.Conv2DTranspose, 2, 4, 2, 4, 1),
        (L.Conv3DTranspose, 3, 2, 2, 3, 1),
    ],
)
def test_transposed_convolutions_keep_every_norm(kind, layer, dimensions, k, stride, c_in, c_out):
    # "valid" gives all outputs that an input reaches: nothing is cut off.
    built = linear(layer, c_out, k, strides=stride, padding="valid", initializer=kind(seed=5))
    assert_keeps_norms(built, (2,) * dimensions + (c_in,))


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize(
    ("layer", "dimensions", "multiplier"), [(L.DepthwiseConv1D, 1, 1), (L.DepthwiseConv2D, 2, 3)]
)
def test_depthwise_convolutions_keep_every_norm_of_each_channel(
    kind, layer, dimensions, multiplier
):
    built = linear(layer, 3, depth_multiplier=multiplier, initializer=kind(seed=5))
    function = on_the_whole_line(built, dimensions, 2)
    assert_keeps_norms(function, (3,) * dimensions + (3,))
    kernel = np.asarray(built.kernel)
    assert len(np.unique(kernel.reshape(-1, 3, multiplier).sum((0, 2)).round(9))) > 1 or (
        kind is ConvolutionDeltaOrthogonal
    )


@pytest.mark.parametrize("kind", ORTHOGONAL)
def test_separable_convolutions_keep_every_norm_in_both_parts(kind):
    built = linear(L.SeparableConv2D, 8, 3, depth_multiplier=2, initializer=kind(seed=5))
    assert_keeps_norms(on_the_whole_line(built, 2, 2), (3, 3, 3))


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize("stride", [1, 2])
def test_periodic_convolutions_keep_every_norm(kind, stride):
    built = linear(
        PeriodicConvolution, 8 if stride == 2 else 3, 3, strides=stride, initializer=kind(seed=5)
    )
    assert_keeps_norms(built, (4, 4, 2))


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("c_in", [1, 2, 5])
def test_channels_are_widened_by_one(kind, dimensions, c_in):
    layer = (L.Conv1D, L.Conv2D, L.Conv3D)[dimensions - 1]
    built = linear(layer, c_in + 1, 3, initializer=kind(seed=5))
    function = on_the_whole_line(built, dimensions, 2)
    assert_keeps_norms(function, (2,) * dimensions + (c_in,))


@pytest.mark.parametrize("kind", ORTHOGONAL)
@pytest.mark.parametrize(("stride", "filters"), [(1, 2), (2, 3), (3, 4)])
def test_a_contraction_increases_no_norm_and_keeps_as_many_as_it_can(kind, stride, filters):
    with pytest.raises(ValueError, match="contraction=True"):
        linear(L.Conv1D, filters, 3, strides=stride, initializer=kind(seed=5)).build((None, 9, 4))
    built = linear(
        PeriodicConvolution, filters, 3, strides=stride, initializer=kind(seed=5, contraction=True)
    )
    values = singular_values(built, (6, 6, 4))
    outputs = (6 // stride) ** 2 * filters
    expected = np.r_[np.ones(min(outputs, 144)), np.zeros(max(144 - outputs, 0))]
    np.testing.assert_allclose(values, expected[: len(values)], atol=TOLERANCE)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (
            lambda i: L.EinsumDense("abc,cde->abde", (None, 4, 5), kernel_initializer=i),
            "EinsumDense",
        ),
        (lambda i: L.MultiHeadAttention(2, 3, kernel_initializer=i), "EinsumDense"),
        (lambda i: L.ConvLSTM1D(3, 2, kernel_initializer=i), "ConvLSTMCell"),
    ],
)
def test_layers_that_are_no_convolutions_are_refused_with_the_alternative(kind, make, name):
    x = np.zeros((1, 2, 4, 3) if "LSTM" in name else (1, 2, 3))
    with pytest.raises(ValueError, match=rf"Conv1D to Conv3D.*VarianceScaling.*{name}"):
        layer = make(kind())
        layer(x, x) if isinstance(layer, L.MultiHeadAttention) else layer(x)


@pytest.mark.parametrize("kind", ALL)
def test_a_users_own_layer_counts_as_a_convolution(kind):
    class Own(L.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(3, 4, 4), initializer=kind(seed=2))

    layer = Own()
    layer.build(None)
    np.testing.assert_array_equal(layer.kernel, kind(seed=2)((3, 4, 4)))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("layer", "shape", "layout"),
    [
        (L.Conv2DTranspose(2, 3, strides=2), (3, 3, 2, 3), {"layout": "transposed", "strides": 2}),
        (L.DepthwiseConv2D(3, depth_multiplier=2), (3, 3, 3, 2), {"layout": "depthwise"}),
        (L.Conv2D(8, 3, groups=2), (3, 3, 2, 8), {"groups": 2}),
    ],
)
def test_without_a_layer_the_layout_is_an_argument(kind, layer, shape, layout):
    name = "depthwise_initializer" if "depthwise" in layout.values() else "kernel_initializer"
    config = {**layer.get_config(), name: kind(seed=4)}
    built = type(layer)(**{k: v for k, v in config.items() if k != "name"})
    built.build((None, 8, 8, 4 if "groups" in layout else 3))
    initializer = kind(seed=4, **layout)
    np.testing.assert_array_equal(initializer(shape), built.kernel)
    again = kind.from_config(initializer.get_config())
    np.testing.assert_array_equal(again(shape), built.kernel)
    stack = np.asarray(initializer.stack(40, shape))
    assert stack.shape == (40, *shape) and len(np.unique(stack.reshape(40, -1), axis=0)) == 40


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"layout": "channels_first"}, None, "layout must be one of"),
        ({"strides": 0}, None, "strides must be"),
        ({"strides": (1, 2.0)}, None, "strides must be"),
        ({"groups": 0}, None, "groups must be"),
        ({"groups": 3}, (3, 4, 4), "groups must divide"),
        ({"strides": (1, 2)}, (3, 4, 4), "strides must be"),
        ({"strides": 2}, (3, 3, 4, 8), "c_in times the strides <= c_out"),
        ({"strides": 3}, (2, 1, 8), "a window of at least the strides"),
        ({"layout": "transposed"}, (3, 4, 8), "c_in <= c_out times the strides"),
        ({"layout": "depthwise", "strides": 2}, (3, 4, 1), "c_in times the strides"),
    ],
)
def test_what_cannot_keep_norms_is_refused(options, shape, message):
    for kind in ORTHOGONAL:
        with pytest.raises(ValueError, match=message):
            kind(**options)(shape)


VARIANCES = [
    (L.Conv1D, (300, 3), (40, 20), {}),
    (L.Conv1D, (300, 3), (40, 20), {"strides": 2}),
    (L.Conv1D, (300, 3), (40, 20), {"groups": 5}),
    (L.Conv1DTranspose, (300, 3), (40, 20), {}),
    (L.Conv1DTranspose, (300, 4), (40, 20), {"strides": 2}),
    (L.Conv2DTranspose, (200, 3), (8, 8, 10), {"strides": 2}),
    (L.DepthwiseConv1D, (3,), (40, 300), {"depth_multiplier": 2}),
    (L.DepthwiseConv2D, (3,), (6, 6, 300), {}),
]


@pytest.mark.parametrize(("layer", "arguments", "shape", "options"), VARIANCES)
def test_gaussian_kernels_give_the_promised_variance_in_every_layer(
    layer, arguments, shape, options
):
    built = linear(layer, *arguments, initializer=ConvolutionGaussian(None, 1.7, 0), **options)
    # Signs: every input has second moment one exactly.
    x = np.sign(np.random.default_rng(0).normal(size=(64, *shape)))
    y = np.square(built(x))
    if "Transpose" in layer.__name__:
        y = y[:, 3:-3, 3:-3] if y.ndim == 4 else y[:, 3:-3]  # fewer taps reach the border
    if options.get("strides") == 2 and "Transpose" in layer.__name__:
        # All residues alike: the sides of what is left are even or far larger than the stride.
        y = y[:, : y.shape[1] // 2 * 2]
        y = y[:, :, : y.shape[2] // 2 * 2] if y.ndim == 4 else y
    means = y.mean(axis=tuple(range(y.ndim - 1)))  # channels, nearly independent
    error = means.std() / math.sqrt(means.size)
    assert abs(means.mean() - 1.7) < 5 * error
    assert error < 0.1


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ({}, (3, 2, 4)),
        ({}, (3, 3, 2, 2)),
        ({"strides": 2}, (3, 2, 5)),
        ({"strides": (2, 1)}, (4, 4, 1, 4)),
        ({"groups": 2}, (4, 2, 6)),
        ({"layout": "transposed", "strides": 2}, (3, 2, 3)),
        ({"layout": "depthwise"}, (3, 4, 2)),
        ({"contraction": True}, (3, 4, 2)),
    ],
)
def test_the_variance_of_the_entries_is_that_of_many_draws(kind, layout, shape):
    if kind is ConvolutionGaussian and "contraction" in layout:
        layout = {}
    initializer = kind(**layout, seed=0)
    squares = np.square(np.asarray(initializer.stack(4000, shape), np.float64))
    samples = squares.mean(axis=(-2, -1)).reshape(4000, -1)
    expected = initializer.entry_variances(shape).ravel()
    error = samples.std(axis=0) / math.sqrt(len(samples))
    # Rounding where the sum of squares does not fluctuate.
    assert np.all(np.abs(samples.mean(axis=0) - expected) <= 5 * error + 1e-6)


def test_independent_groups_do_not_share_their_kernels():
    for kind, layout in itertools.product(ORTHOGONAL, [{"groups": 2}, {"layout": "depthwise"}]):
        kernel = np.asarray(kind(seed=0, **layout)((3, 2, 4)))
        halves = (kernel[:, 0], kernel[:, 1]) if layout.get("layout") else np.split(kernel, 2, -1)
        assert np.abs(np.abs(halves[0]) - np.abs(halves[1])).max() > 0.01
