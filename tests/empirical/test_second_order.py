"""Jacobian-vector products through operations whose gradient TensorFlow cannot differentiate."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import borrowed, empirical, models
from mfcnn.empirical import _functional, _second_order

_IMAGE = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
_BOXES = [[0.0, 0.0, 0.8, 0.9], [0.1, 0.1, 1.0, 1.0]]


def _resize(method, antialias=False):
    return lambda x: tf.image.resize(x, [4, 7], method, antialias=antialias)


# Operation whose gradient has no derivative in TensorFlow -> (function, its inputs).
_RIGHT = {
    "ResizeBilinearGrad": (_resize("bilinear"), [_IMAGE]),
    "ResizeBicubicGrad": (_resize("bicubic"), [_IMAGE]),
    "ResizeNearestNeighborGrad": (_resize("nearest"), [_IMAGE]),
    "ScaleAndTranslateGrad": (_resize("lanczos3", True), [_IMAGE]),
    "CropAndResizeGradImage": (
        lambda x: tf.image.crop_and_resize(x, _BOXES, [0, 1], [4, 4]),
        [_IMAGE],
    ),
    "LRNGrad": (lambda x: tf.nn.local_response_normalization(x, 2, 1.0, 0.5, 0.7), [_IMAGE]),
    "SoftsignGrad": (tf.nn.softsign, [_IMAGE]),
    "FakeQuantWithMinMaxArgsGradient": (
        lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1, 1),
        [_IMAGE],
    ),
    "FakeQuantWithMinMaxVarsGradient": (
        tf.quantization.fake_quant_with_min_max_vars,
        [_IMAGE, np.float32(-1), np.float32(1)],
    ),
    "FakeQuantWithMinMaxVarsPerChannelGradient": (
        tf.quantization.fake_quant_with_min_max_vars_per_channel,
        [_IMAGE, -np.ones(3, "float32"), np.ones(3, "float32")],
    ),
    "SparseSegmentSumGrad": (lambda x: tf.sparse.segment_sum(x, [0, 1, 1], [0, 0, 1]), [_IMAGE]),
    "SparseSegmentMeanGrad": (lambda x: tf.sparse.segment_mean(x, [0, 1, 1], [0, 0, 1]), [_IMAGE]),
    "SparseSegmentSqrtNGrad": (
        lambda x: tf.sparse.segment_sqrt_n(x, [0, 1, 1], [0, 0, 1]),
        [_IMAGE],
    ),
}
_REFUSED = {
    "CropAndResizeGradBoxes": (
        lambda x, boxes: tf.image.crop_and_resize(x, boxes, [0, 1], [4, 4]),
        [_IMAGE, np.array(_BOXES, "float32")],
    ),
    "Dilation2DBackpropInput": (
        lambda x: tf.nn.dilation2d(
            x, np.zeros([2, 2, 3], "float32"), [1, 1, 1, 1], "SAME", "NHWC", [1, 1, 1, 1]
        ),
        [_IMAGE],
    ),
    "MaxPoolGradWithArgmax": (
        lambda x: tf.nn.max_pool_with_argmax(x, 2, 1, "SAME")[0],
        [_IMAGE],
    ),
    "FractionalAvgPoolGrad": (
        lambda x: tf.nn.fractional_avg_pool(x, [1, 1.4, 1.4, 1], seed=1)[0],
        [_IMAGE],
    ),
}


def _products(function, inputs, compiled):
    """<u, J v> and <J^T u, v> for random u and v."""
    rng = np.random.default_rng(1)
    inputs = [tf.constant(x) for x in inputs]
    tangents = [tf.constant(rng.normal(size=x.shape), tf.float32) for x in inputs]

    def call(inputs, tangents):
        return _functional.output_and_jvp(lambda v: function(*v), inputs, tangents)

    y, product = (tf.function(call, autograph=False) if compiled else call)(inputs, tangents)
    u = tf.constant(rng.normal(size=y.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
    gradients = tape.gradient(y, inputs, u, unconnected_gradients="zero")
    other = sum(float(tf.reduce_sum(g * t)) for g, t in zip(gradients, tangents))
    return float(tf.reduce_sum(u * product)), other


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("operation", _RIGHT)
def test_the_product_is_the_transpose_of_the_vector_jacobian_product(operation, compiled):
    """150 float32 products of both signs: 1e-5 of their root mean square sum of about 12."""
    found, expected = _products(*_RIGHT[operation], compiled)
    assert abs(expected) > 1e-2
    assert found == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("operation", _REFUSED)
def test_what_has_no_derivative_is_refused_by_name(operation):
    with pytest.raises(NotImplementedError, match=operation.split("Backprop")[0]):
        _products(*_REFUSED[operation], True)


def test_every_gradient_operation_of_tensorflow_has_a_derivative_or_raises():
    """Those declared not differentiable have an entry within, and so none is silent."""
    registry = borrowed.gradient_registry
    silent = _second_order.not_differentiable()
    assert "ResizeBilinearGrad" in silent
    before = {name: registry.lookup(name) for name in registry.list()}
    with _second_order.differentiable():
        assert all(callable(registry.lookup(name)) for name in silent)
        for name in _second_order.TRANSPOSES | _second_order.FORMULAS | _second_order.GRADIENTS:
            assert callable(registry.lookup(name))
    # Outside TensorFlow is as it was.
    assert {name: registry.lookup(name) for name in registry.list()} == before
    # Each of the formulas is used: its operation, or the gradient in whose place it stands.
    replaced = {f"{name}Gradient" for name in _second_order.GRADIENTS} | {"ResizeBilinearGrad"}
    covered = {*_second_order.TRANSPOSES, *_second_order.FORMULAS, *replaced}
    assert covered - set(_RIGHT) <= {"XlaDynamicUpdateSlice", "ResizeBilinearGradient"}


def test_a_function_traced_before_is_right_or_refused():
    """Its gradient was traced by a tape, with the operation that has no derivative."""
    function = tf.function(_resize("bilinear"))
    x = tf.constant(_IMAGE)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    tape.gradient(y, x)
    try:
        found, expected = _products(function, [_IMAGE], False)
        assert found == pytest.approx(expected, abs=2e-4)
    except NotImplementedError as error:
        assert "ResizeBilinearGrad" in str(error)


def test_resized_features_count_in_every_analysis():
    """The path through the resizing was lost once, 18 to 100 percent of the result."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    h = keras.layers.Conv2D(3, 3, padding="same", activation="tanh")(inputs)
    h = keras.layers.UpSampling2D(2, interpolation="bilinear")(keras.layers.MaxPooling2D()(h))
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(1, 3, strides=3)(h)))
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 1)).astype("float32")
    exact = empirical.ntk(model, x, outputs="full", method="structured").numpy()
    found = empirical.ntk(model, x, outputs="full", method="products")
    np.testing.assert_allclose(found, exact, atol=1e-5 * exact.max())
    size = exact.shape[0] * exact.shape[2]
    matrix = exact.transpose(0, 2, 1, 3).reshape(size, size)
    assert empirical.lambda_max(model, x) == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-3)
    linear = models.linearize(model)
    y = np.random.default_rng(1).normal(size=(2, exact.shape[2])).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(x) * y)
    for u, g in zip(
        linear.displacement, tape.gradient(loss, [w.value for w in model.trainable_variables])
    ):
        u.assign(g)
    # J J^T y, by the kernel.
    expected = np.einsum("ijab,jb->ia", exact, y)
    np.testing.assert_allclose(linear(x) - model(x), expected, atol=1e-4 * np.abs(expected).max())


def test_xla_compiles_products_through_sliced_features():
    """Under XLA the gradient of a slice is XlaDynamicUpdateSlice, without a derivative before."""
    model = models.vanilla_cnn((8, 8, 1), 2, 4, 3, seed=0)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
    exact = empirical.ntk(model, x, method="jacobian").numpy()
    found = empirical.ntk(model, x, method="products", jit_compile=True)
    np.testing.assert_allclose(found, exact, atol=1e-5 * exact.max())
