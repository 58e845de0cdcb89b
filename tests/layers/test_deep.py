"""The deep layers as Keras layers: fit, files, configurations, precision, errors."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn.activations import Activation
from mfcnn.initializers import ConvolutionDeltaOrthogonal
from mfcnn.layers import DeepConvolution, DeepDense, _deep, _stack, xla_is_faster
from tests.tolerances import float32, float64


@keras.saving.register_keras_serializable(package="mfcnn_tests")
def cubic(x):
    return x - x**3 / 6


def small_model(**options):
    return keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            DeepConvolution(5, 3, kernel_initializer=ConvolutionDeltaOrthogonal(seed=1), **options),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def images(count=8):
    return np.random.default_rng(0).normal(size=(count, 4, 4, 3)).astype("float32")


def test_the_dense_stack_equals_stock_dense_layers():
    deep = DeepDense(6, 5, activation="erf", dtype="float64", bias_initializer="random_normal")
    x = np.random.default_rng(0).normal(size=(3, 5))
    found, expected = deep(x), x
    for layer in range(6):
        kernel, bias = deep.get_layer_weights(layer)
        expected = tf.math.erf(expected @ kernel + bias)
    np.testing.assert_allclose(found, expected, rtol=float64.rounded)


@pytest.mark.parametrize("activation", ["tanh", "relu", "silu", cubic, tf.sin])
def test_any_activation_is_applied_after_each_convolution(activation):
    deep = DeepConvolution(2, 3, kernel_size=1, activation=activation, dtype="float64")
    x = images().astype("float64")
    function = keras.activations.get(activation)
    expected = x
    for layer in range(2):
        kernel, bias = deep(x) is not None and deep.get_layer_weights(layer)
        expected = function(expected @ kernel[0, 0] + bias)
    np.testing.assert_allclose(deep(x), expected, atol=float64.summed)


def test_an_activation_of_the_package_is_taken_as_it_is():
    identity = Activation(lambda x: x, tf.ones_like)
    deep = DeepConvolution(3, 3, activation=identity, kernel_initializer="zeros")
    np.testing.assert_array_equal(deep(images()), np.zeros((8, 4, 4, 3)))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_lowers_the_loss(jit_compile):
    model = small_model()
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=jit_compile)
    x = images(32)
    y = x[:, 0, 0, :2]
    history = model.fit(x, y, batch_size=8, epochs=6, verbose=0).history["loss"]
    assert history[-1] < history[0] / 2


def test_the_form_follows_the_program_that_is_traced():
    # Under XLA on a CPU the library's convolution in a loop is many times slower.
    deep = DeepConvolution(3, 64)
    x = tf.zeros([1, 4, 4, 64])
    deep.build(x.shape)

    def convolutions(jit_compile):
        function = tf.function(lambda: deep(x), autograph=False, jit_compile=jit_compile)
        function()  # a call traces in XLA's context, get_concrete_function alone does not
        definition = function.get_concrete_function().graph.as_graph_def()
        return sum(n.op == "Conv2D" for f in definition.library.function for n in f.node_def)

    assert convolutions(None) > 0 and convolutions(True) == 0 and convolutions(None) > 0


def test_a_model_loads_in_a_process_that_only_imported_the_package(tmp_path):
    model = small_model()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", images())
    program = (
        "import sys, mfcnn, keras, numpy as np; d = sys.argv[1];"
        "m = keras.models.load_model(d + '/model.keras');"
        "np.save(d + '/y.npy', m(np.load(d + '/x.npy')))"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model(images()), atol=float32.rounded)


@pytest.mark.parametrize(
    "layer",
    [
        DeepConvolution(3, 4, 2, activation="relu", padding="same", checkpoint_levels=2),
        DeepConvolution(3, 4, activation=cubic, use_bias=False, form="matmul"),
        DeepDense(7, 4, kernel_initializer="orthogonal", bias_scale=0.5, unroll=2),
    ],
    ids=["convolution", "custom activation", "dense"],
)
def test_a_layer_survives_its_configuration(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again._phi is layer._phi


def test_layers_of_a_stack_start_from_different_kernels():
    deep = DeepConvolution(4, 3, kernel_initializer=keras.initializers.GlorotUniform(seed=0))
    deep.build((None, 4, 4, 3))
    kernels = [deep.get_layer_weights(layer)[0] for layer in range(4)]
    assert len({kernel.tobytes() for kernel in kernels}) == 4


def test_weights_are_set_layer_by_layer():
    deep = DeepConvolution(4, 3)
    deep.build((None, 4, 4, 3))
    before = deep.get_layer_weights(1)
    deep.set_layer_weights(2, [np.ones((3, 3, 3, 3)), np.full(3, 2.0)])
    np.testing.assert_array_equal(deep.get_layer_weights(2)[1], np.full(3, 2.0))
    np.testing.assert_array_equal(deep.get_layer_weights(1)[0], before[0])


def test_the_bias_scale_changes_the_gradient_of_the_biases_and_nothing_else():
    def layer(bias_scale):
        deep = DeepConvolution(
            4,
            3,
            kernel_initializer=keras.initializers.GlorotUniform(seed=0),
            bias_initializer=keras.initializers.RandomNormal(seed=1),
            bias_scale=bias_scale,
            dtype="float64",
        )
        with tf.GradientTape() as tape:
            y = deep(images().astype("float64"))
        return deep, y, tape.gradient(y, [w.value for w in deep.weights])

    (plain, y, (kernel, bias)), (scaled, y_scaled, (kernel_scaled, bias_scaled)) = (
        layer(1.0),
        layer(0.01),
    )
    # float64, a few hundred terms in each sum.
    np.testing.assert_allclose(y_scaled, y, rtol=float64.summed)
    np.testing.assert_allclose(kernel_scaled, kernel, rtol=float64.deep, atol=float64.summed)
    np.testing.assert_allclose(bias_scaled, 0.01 * bias, rtol=float64.deep, atol=float64.summed)
    np.testing.assert_allclose(
        scaled.get_layer_weights(2)[1], plain.get_layer_weights(2)[1], rtol=float64.rounded
    )
    assert np.std(plain.get_layer_weights(2)[1]) > 0
    scaled.set_layer_weights(2, plain.get_layer_weights(3))
    np.testing.assert_allclose(
        scaled.get_layer_weights(2)[1], plain.get_layer_weights(3)[1], rtol=float64.rounded
    )


def test_mixed_precision_computes_in_bfloat16_and_keeps_float32_weights_and_gradients():
    deep = DeepConvolution(5, 3, dtype="mixed_bfloat16")
    x = tf.cast(images(), tf.bfloat16)
    with tf.GradientTape() as tape:
        y = deep(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    assert y.dtype == tf.bfloat16
    for weight, gradient in zip(deep.weights, tape.gradient(loss, [w.value for w in deep.weights])):
        assert weight.dtype == "float32" and gradient.dtype == tf.float32
    full = DeepConvolution(5, 3)
    full.build(x.shape)
    full.set_weights(deep.get_weights())
    # Five layers, each rounding to the 2^-8 of bfloat16 a few times, values below one.
    np.testing.assert_allclose(tf.cast(y, tf.float32), full(images()), atol=5 * 4 * 2**-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeepConvolution(0, 3), "depth must be.*depth=0"),
        (lambda: DeepConvolution(2, 0), "filters must be.*0"),
        (lambda: DeepConvolution(2, 3, padding="valid"), "padding must be one of.*'valid'"),
        (lambda: DeepConvolution(2, 3, form="fft"), "form must be one of.*'fft'"),
        (lambda: DeepConvolution(2, 3, checkpoint_levels=3), "checkpoint_levels must be.*3"),
        (lambda: DeepConvolution(2, 3, activation="thanh"), "thanh"),
        (lambda: DeepConvolution(2, 3, bias_scale=0.0), "bias_scale must be.* above 0.*0.0"),
        (lambda: DeepConvolution(2, 3, unroll=0), "unroll must be.*0"),
        (lambda: DeepDense(2, 0), "units must be.*0"),
        (lambda: DeepConvolution(2, 3).build((None, 4, 4, 2)), "filters=3"),
        (lambda: DeepDense(2, 3).build((None, 2)), "units=3"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(("budget", "levels"), [(10_000, 0), (300, 1), (10, 2)])
def test_checkpoints_are_as_few_recomputations_as_the_budget_allows(budget, levels):
    activation = 2 * 4 * 4 * 3 * 4
    deep = DeepConvolution(5_000, 3, memory_budget=budget * activation)
    assert deep.build((2, 4, 4, 3)) is None
    assert deep.loop_for(tf.zeros([2, 4, 4, 3])).checkpoint_levels == levels


@pytest.mark.parametrize("padding", ["circular", "same"])
def test_the_unrolled_network_of_stock_layers_gives_the_same_output(padding):
    deep = DeepConvolution(4, 3, padding=padding, activation="erf")
    expected = deep(images())
    unrolled = deep.unroll()
    assert len(unrolled.layers) == 4
    np.testing.assert_allclose(unrolled(images()), expected, atol=float32.rounded)
    dense = DeepDense(3, 4)
    x = images()[:, 0, 0, :1] * np.ones(4)
    np.testing.assert_allclose(dense(x), dense.unroll()(x), atol=float32.rounded)


def test_a_stack_saved_in_pieces_is_the_same_stack(tmp_path, monkeypatch):
    model = small_model()
    monkeypatch.setattr(_stack, "_PIECE", 200)  # two layers of kernels in a piece
    model.save(tmp_path / "pieces.keras")
    again = keras.models.load_model(tmp_path / "pieces.keras")
    for mine, saved in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_array_equal(mine, saved)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="the table of CPUs")
@pytest.mark.parametrize(
    ("filters", "positions", "faster"),
    [(8, 64, True), (16, 512, True), (16, 2048, False), (32, 512, False), (128, 64, True)],
)
def test_xla_is_taken_where_it_was_measured_to_be_faster(filters, positions, faster):
    assert xla_is_faster(filters, positions) == faster


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        # Of the table in BUILD_NOTES.md: which form takes less time under XLA.
        ((16, 2, 2, 8), "dense"),
        ((16, 3, 3, 4), "dense"),
        ((8, 3, 3, 4), "matmul"),
        ((16, 4, 4, 4), "matmul"),
        ((16, 2, 2, 16), "matmul"),
        ((64, 2, 2, 16), "dense"),
        ((64, 2, 2, 128), "dense"),
        ((32, 3, 3, 16), "matmul"),
        ((128, 3, 3, 64), "matmul"),
        ((None, 2, 2, 16), "matmul"),
    ],
)
def test_the_form_under_xla_is_the_faster_one_of_the_table(shape, form, monkeypatch):
    monkeypatch.setattr(_deep.borrowed, "compiled_by_xla", lambda: True)
    assert _deep._fastest_form(tf.TensorShape(shape)) == form
    monkeypatch.setattr(_deep.borrowed, "compiled_by_xla", lambda: False)
    assert _deep._fastest_form(tf.TensorShape(shape)) == "library"
