"""The empirical NTK against Jacobians of reverse mode, in all methods, layers and options."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import empirical, kernels, layers
from tests.tolerances import float32

# Float32 sums of a few thousand terms of both signs: 30 units in the last place of the largest.
_TOLERANCE = 30 * np.finfo(np.float32).eps


def _shared():
    dense = keras.layers.Dense(5, activation="tanh", bias_initializer="normal")
    inputs = keras.Input((5,))
    return keras.Model(inputs, keras.layers.Dense(2)(dense(dense(inputs))))


def _zoo():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.PeriodicConvolution(4, 3, activation="tanh"),
            keras.layers.Conv2D(4, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.LayerNormalization(),
            keras.layers.MaxPooling2D(2),
            keras.layers.Reshape((2, 8)),
            keras.layers.Dense(5),
            keras.layers.Conv1D(4, 2),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )


def _ntk_layers():
    return keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.NTKConvolution(3, 3, "relu", 2.0, 0.1),
            keras.layers.Flatten(),
            layers.NTKDense(2, None, 1.5, 0.2),
        ]
    )


def _deep():
    return keras.Sequential(
        [
            keras.Input((4, 4, 4)),
            layers.DeepConvolution(5, 4),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )


def _grouped():
    return keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            keras.layers.Conv2D(4, 3, groups=2, activation="tanh"),
            keras.layers.DepthwiseConv2D(3),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def _recurrent():
    return keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(5, 3),
            keras.layers.LSTM(3),
            keras.layers.Dense(2),
        ]
    )


_MODELS = {
    "recurrent": _recurrent,
    "shared": _shared,
    "zoo": _zoo,
    "ntk": _ntk_layers,
    "deep": _deep,
    "grouped": _grouped,
}


def _inputs(model, n, seed):
    rng, shape = np.random.default_rng(seed), (n, *model.input_shape[1:])
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 5, shape, "int32")
    return rng.normal(size=shape).astype("float32")


def _jacobian(model, x):
    with tf.GradientTape(persistent=True) as tape:
        y = model(x, training=False)
    weights = [v.value for v in model.trainable_variables]
    jacobians = tape.jacobian(y, weights, unconnected_gradients="zero", experimental_use_pfor=False)
    return np.concatenate([np.reshape(j, [*y.shape, -1]) for j in jacobians], -1)


@pytest.mark.parametrize("method", empirical.METHODS)
@pytest.mark.parametrize("name", _MODELS)
def test_every_method_gives_the_product_of_the_jacobians(name, method):
    keras.utils.set_random_seed(1)
    model = _MODELS[name]()
    x1, x2 = _inputs(model, 5, 0), _inputs(model, 3, 1)
    j1, j2 = _jacobian(model, x1), _jacobian(model, x2)
    full = np.einsum("iap,jbp->ijab", j1, j2)
    scale = np.abs(full).max()
    result = empirical.ntk(model, x1, x2, outputs="full", method=method, batch_size=3)
    np.testing.assert_allclose(result, full, rtol=0, atol=_TOLERANCE * scale)
    symmetric = np.einsum("iap,jap->ij", j1, j1) / j1.shape[1]
    result = empirical.ntk(model, x1, method=method)
    np.testing.assert_allclose(result, symmetric, rtol=0, atol=_TOLERANCE * symmetric.max())


def _lora():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "tanh")])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones([2, 4]))
    return model


def _einsum():
    layer = keras.layers.EinsumDense("abc,cd->abd", (5, 6), bias_axes="d")
    return keras.Sequential([keras.Input((5, 4)), layer, keras.layers.Flatten()])


class _TimeMajor(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        y = tf.matmul(tf.transpose(x, [1, 0, 2]), tf.convert_to_tensor(self.kernel))
        return tf.transpose(tf.cumsum(y, axis=0), [1, 0, 2])


def _time_major():
    return keras.Sequential([keras.Input((5, 4)), _TimeMajor(), keras.layers.Flatten()])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, "tanh")

    def call(self, x):
        return tf.reduce_sum(self.dense(x), -1)


def _subclassed():
    model = Subclassed()
    model(np.zeros([1, 4], "float32"))
    return model


@pytest.mark.parametrize(
    ("make", "shape"),
    [(_lora, (5,)), (_einsum, (5, 4)), (_time_major, (5, 4)), (_subclassed, (4,))],
)
def test_an_axis_that_has_the_batch_s_length_by_chance_is_not_taken_for_it(make, shape):
    """Five inputs: of five numbers whose kernel is a product of weights, at five positions."""
    keras.utils.set_random_seed(1)
    model, x = make(), np.random.default_rng(0).normal(size=(5, *shape)).astype("float32")
    jacobian = _jacobian(model, x).reshape(5, -1, sum(map(np.size, model.trainable_variables)))
    expected = np.einsum("iap,jap->ij", jacobian, jacobian) / jacobian.shape[1]
    for method in ("structured", "products"):
        theta = empirical.ntk(model, x, method=method)
        np.testing.assert_allclose(theta, expected, rtol=0, atol=_TOLERANCE * expected.max())


def test_blocks_of_any_size_put_the_same_full_kernel_together():
    keras.utils.set_random_seed(1)
    model = _shared()
    x = _inputs(model, 7, 0)
    whole = empirical.ntk(model, x, outputs="full", batch_size=7)
    np.testing.assert_allclose(
        empirical.ntk(model, x, outputs="full", batch_size=3),
        whole,
        rtol=float32.summed,
        atol=float32.summed,
    )
    np.testing.assert_allclose(
        empirical.ntk(model, x, x, outputs="full", batch_size=2),
        whole,
        rtol=float32.summed,
        atol=float32.summed,
    )


def test_xla_and_float64_give_the_same_kernel():
    keras.utils.set_random_seed(1)
    model = _ntk_layers()
    x = _inputs(model, 3, 0)
    plain = empirical.ntk(model, x)
    np.testing.assert_allclose(
        empirical.ntk(model, x, jit_compile=True), plain, rtol=float32.summed
    )
    behind = keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Conv2D(4, 1), *_deep().layers])
    plain = empirical.ntk(behind, x, method="structured")
    compiled = empirical.ntk(behind, x, method="structured", jit_compile=True)
    np.testing.assert_allclose(compiled, plain, rtol=float32.summed, atol=1e-5 * np.max(plain))
    double = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="float64")])
    theta = empirical.ntk(double, np.eye(3))
    assert theta.dtype == tf.float64
    # A dense layer's kernel is <x, x'> + 1, by hand.
    np.testing.assert_allclose(theta, np.eye(3) + 1)


def test_the_kernel_follows_the_weights_and_the_choice_is_readable():
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
    )
    x = _inputs(model, 4, 0)
    before = empirical.ntk(model, x).numpy()
    model.set_weights([2 * w for w in model.get_weights()])
    after = empirical.ntk(model, x).numpy()
    assert np.abs(after - before).max() > 0.1 * np.abs(before).max()
    choice = empirical.choose_method(model, x)
    assert choice.method == "structured" and choice.explicit_weights == ()
    assert set(choice.multiplications) == set(empirical.METHODS)
    deep = _deep()
    assert empirical.choose_method(deep, _inputs(deep, 2, 0)).explicit_weights == (
        deep.layers[0].kernel.path,
        deep.layers[0].bias.path,
    )


@pytest.mark.parametrize("readout", ["dense", "flatten"])
def test_squared_error_against_the_analytic_kernel_falls_as_one_over_width(readout):
    """Theta is a mean over channels: its variance is c / width (1 + O(1 / width)).

    With 24 networks the logarithm of a variance has a standard error of about sqrt(2 / 24) = 0.29
    (Gaussian; the 6 kernel entries are not independent), so the slope over log(8) has
    0.29 sqrt(2) / 2.08 = 0.2; three of these are allowed.
    """
    sizes, networks = (16, 128), 24
    rng = np.random.default_rng(0)
    if readout == "dense":
        x = rng.normal(size=(3, 10)).astype("float32")
        exact = kernels.fully_connected(2, "erf", 1.5, 0.1)(x, get="ntk").numpy()
    else:
        x = rng.normal(size=(3, 4, 4, 2)).astype("float32")
        exact = kernels.convolutional(2, "erf", 1.5, 0.1, 3, "flatten")(x, get="ntk").numpy()
    errors, means = [], []
    for width in sizes:
        parts = [keras.Input(x.shape[1:])]
        for _ in range(2):
            if readout == "dense":
                parts.append(layers.NTKDense(width, "erf", 1.5, 0.1))
            else:
                parts.append(layers.NTKConvolution(width, 3, "erf", 1.5, 0.1))
        if readout == "flatten":
            parts.append(keras.layers.Flatten())
        model = keras.Sequential([*parts, layers.NTKDense(1, None, 1.5, 0.1)])
        samples = []
        for _ in range(networks):
            model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
            samples.append(empirical.ntk(model, x).numpy())
        upper = np.triu_indices(3)
        relative = (np.array(samples) - exact)[:, upper[0], upper[1]] / exact.max()
        errors.append(np.mean(relative**2))
        means.append(relative)
    slope = np.log(errors[1] / errors[0]) / np.log(sizes[1] / sizes[0])
    assert abs(slope + 1) < 0.6
    # Unbiased up to O(1 / width): four standard errors and 1 / width.
    error = means[1].std(0) / np.sqrt(networks)
    assert np.all(np.abs(means[1].mean(0)) < 4 * error + 1 / sizes[1])


class _AlwaysDropping(keras.layers.Dropout):
    def call(self, inputs, training=False):
        return super().call(inputs, training=True)


class _DroppingInAFunction(_AlwaysDropping):
    @tf.function
    def call(self, inputs):
        return super().call(inputs)


@pytest.mark.parametrize("method", empirical.METHODS)
@pytest.mark.parametrize("layer", [_AlwaysDropping, _DroppingInAFunction])
def test_a_stochastic_layer_in_training_mode_is_refused(layer, method):
    model = keras.Sequential([keras.Input((3,)), layer(0.5), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="stochastic layer"):
        empirical.ntk(model, np.ones([2, 3], "float32"), method=method)


def test_bad_input_is_refused_by_name():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = np.ones([2, 3], "float32")
    with pytest.raises(ValueError, match="must be built"):
        empirical.ntk(keras.Sequential([keras.layers.Dense(2)]), x)
    with pytest.raises(TypeError, match="keras.Model"):
        empirical.ntk(lambda x: x, x)
    with pytest.raises(ValueError, match="trainable weights"):
        empirical.ntk(keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]), x)
    with pytest.raises(TypeError, match="x1 must be an array of real numbers"):
        empirical.ntk(model, x.astype("complex64"))
    with pytest.raises(ValueError, match="x2 must be finite"):
        empirical.ntk(model, x, x * np.nan)
    with pytest.raises(ValueError, match="x2 must be of the model's input shape"):
        empirical.ntk(model, x, np.ones([2, 4], "float32"))
    with pytest.raises(ValueError, match="outputs must be one of"):
        empirical.ntk(model, x, outputs="diagonal")
    with pytest.raises(ValueError, match="method must be"):
        empirical.ntk(model, x, method="fast")
    with pytest.raises(ValueError, match="batch_size"):
        empirical.ntk(model, x, batch_size=0)
    mixed = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(2, dtype="float64"),
            keras.layers.Dense(2, dtype="float32"),
        ]
    )
    with pytest.raises(ValueError, match="one dtype"):
        empirical.ntk(mixed, x)
    free = keras.Sequential([keras.Input((None, None, 1)), keras.layers.Conv2D(2, 3)])
    free.add(keras.layers.GlobalAveragePooling2D())
    images = np.ones([2, 5, 5, 1], "float32")
    with pytest.raises(ValueError, match="one shape"):
        empirical.ntk(free, images, np.ones([2, 6, 6, 1], "float32"))
    inputs = keras.Input((3,))
    two = keras.Model(inputs, [keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)])
    with pytest.raises(ValueError, match="one output"):
        empirical.ntk(two, x)
