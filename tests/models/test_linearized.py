"""Linearized models against finite differences, the model itself, and kernel regression."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import empirical, layers, models
from tests.tolerances import float32, float64


def _smooth(dtype="float64"):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2), dtype=dtype),
            keras.layers.Conv2D(4, 3, activation="tanh", dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.AveragePooling2D(2, dtype=dtype),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(5, activation="gelu", dtype=dtype),
            keras.layers.Dense(3, dtype=dtype),
        ]
    )


def _deep():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((4, 4, 4)),
            layers.DeepConvolution(6, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )


def _images(model, n=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, *model.input_shape[1:])).astype(model.weights[0].dtype)


def _displace(linear, scale=1.0):
    rng = np.random.default_rng(1)
    for u in linear.displacement:
        u.assign(scale * rng.normal(size=u.shape))


def test_at_zero_it_is_the_model_and_it_holds_u_alone_for_training():
    model = _smooth()
    linear = models.linearize(model)
    x = _images(model)
    np.testing.assert_array_equal(linear(x), model(x, training=False))
    assert [u.shape for u in linear.trainable_variables] == [
        w.shape for w in model.trainable_variables
    ]
    assert all(np.all(u.numpy() == 0) for u in linear.trainable_variables)


def test_the_directional_derivative_is_that_of_finite_differences():
    """Central differences in float64 at h = 1e-5: error h^2 + 1e-16 / h, about 1e-10."""
    model = _smooth()
    linear, x = models.linearize(model), _images(model)
    _displace(linear)
    start, h = [w.numpy() for w in model.trainable_variables], 1e-5

    def at(t):
        for w, s, u in zip(model.trainable_variables, start, linear.displacement):
            w.assign(s + t * u.numpy())
        return model(x, training=False).numpy()

    expected = (at(h) - at(-h)) / (2 * h)
    np.testing.assert_allclose(linear(x) - at(0.0), expected, rtol=1e-7, atol=1e-8)


def test_the_remainder_is_of_second_order_in_u():
    model = _smooth()
    linear, x = models.linearize(model), _images(model)
    _displace(linear)
    direction = [u.numpy() for u in linear.displacement]
    start = [w.numpy() for w in model.trainable_variables]
    remainders = []
    for t in (1e-2, 1e-3):
        for u, d, w, s in zip(linear.displacement, direction, model.trainable_variables, start):
            u.assign(t * d)
            w.assign(s + t * d)
        remainders.append(np.abs(linear(x) - model(x, training=False)).max())
    assert remainders[0] / remainders[1] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_deep_loop_is_linearized_with_the_right_tangent(compiled):
    """float32 central differences at h = 1e-2: relative error about h^2 + 1e-7 / h."""
    model = _deep()
    linear, x = models.linearize(model), _images(model)
    _displace(linear, 0.3)
    call = tf.function(linear) if compiled else linear
    start, h = [w.numpy() for w in model.trainable_variables], 1e-2

    def at(t):
        for w, s, u in zip(model.trainable_variables, start, linear.displacement):
            w.assign(s + t * u.numpy())
        return model(x).numpy()

    expected = (at(h) - at(-h)) / (2 * h)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(call(x) - at(0.0), expected, atol=2e-3 * np.abs(expected).max())


def test_the_gradient_by_u_is_the_gradient_of_the_model_at_w0():
    model = _smooth()
    linear, x = models.linearize(model), _images(model)
    _displace(linear)
    weights = np.random.default_rng(2).normal(size=(5, 3))
    with tf.GradientTape() as tape:
        product = tf.reduce_sum(weights * linear(x))
    found = tape.gradient(product, [u.value for u in linear.trainable_variables])
    with tf.GradientTape() as tape:
        product = tf.reduce_sum(weights * model(x, training=False))
    expected = tape.gradient(product, [w.value for w in model.trainable_variables])
    for a, b in zip(found, expected):
        np.testing.assert_allclose(a, b, rtol=float64.deep, atol=float64.summed)


def test_gradient_descent_follows_the_empirical_kernel():
    """Steps u <- u - eta J^T (f - y): f_t = y + (1 - eta Theta)^t (f_0 - y), exactly."""
    model = _smooth()
    linear, x = models.linearize(model), _images(model)
    y = np.random.default_rng(3).normal(size=(5, 3))
    theta = empirical.ntk(model, x, outputs="full").numpy().transpose(0, 2, 1, 3).reshape(15, 15)
    rate = 1 / np.linalg.eigvalsh(theta)[-1]
    f0 = linear(x).numpy().ravel()
    linear.compile(keras.optimizers.SGD(15 * rate / 2), "mse")  # the mean of 15 squares
    linear.fit(x, y, batch_size=5, epochs=30, verbose=0)
    step = np.eye(15) - rate * theta
    expected = y.ravel() + np.linalg.matrix_power(step, 30) @ (f0 - y.ravel())
    # Keras holds the learning rate in float32.
    np.testing.assert_allclose(
        linear(x).numpy().ravel(), expected, rtol=float32.deep, atol=float32.summed
    )


def test_it_trains_with_adam_and_cross_entropy_and_survives_a_file(tmp_path):
    model = _smooth("float32")
    linear, x = models.linearize(model), _images(model, 16)
    linear.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    labels = np.arange(16) % 3
    losses = linear.fit(x, labels, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    linear.save(tmp_path / "linear.keras")
    again = keras.models.load_model(tmp_path / "linear.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), linear.predict(x, verbose=0))
    assert len(again.trainable_variables) == len(linear.trainable_variables)
    # Training goes on where it was: the optimizer's state came along.
    first = linear.fit(x, labels, epochs=1, shuffle=False, verbose=0).history["loss"]
    second = again.fit(x, labels, epochs=1, shuffle=False, verbose=0).history["loss"]
    assert first == second


def test_training_the_model_further_changes_nothing_and_frozen_weights_have_no_u():
    model = _smooth()
    model.layers[0].trainable = False
    linear, x = models.linearize(model), _images(model)
    assert len(linear.trainable_variables) == len(model.trainable_variables)
    before = linear(x).numpy()
    model.set_weights([2 * w for w in model.get_weights()])
    np.testing.assert_array_equal(linear(x), before)
    config = keras.saving.serialize_keras_object(linear)
    again = keras.saving.deserialize_keras_object(config)
    assert len(again.trainable_variables) == len(linear.trainable_variables)


def test_bad_models_are_refused():
    with pytest.raises(ValueError, match="must be built"):
        models.linearize(keras.Sequential([keras.layers.Dense(2)]))
    with pytest.raises(TypeError, match="keras.Model"):
        models.linearize("lenet")


def _small(**options):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "tanh", **options), keras.layers.Dense(2)]
    )


_X = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")


def test_the_second_order_leaves_a_remainder_of_third_order():
    """float64; the ratio of the remainders at t = 1e-2 and 1e-3 is 1,000 up to a fourth order."""
    model = _smooth()
    quadratic, x = models.linearize(model, order=2), _images(model)
    _displace(quadratic)
    direction = [u.numpy() for u in quadratic.displacement]
    start, remainders = [w.numpy() for w in model.trainable_variables], []
    for t in (1e-2, 1e-3):
        for u, d, w, s in zip(quadratic.displacement, direction, model.trainable_variables, start):
            u.assign(t * d)
            w.assign(s + t * d)
        remainders.append(np.abs(quadratic(x) - model(x, training=False)).max())
    assert remainders[0] / remainders[1] == pytest.approx(1000, rel=0.15)


def test_the_second_order_trains_and_survives_a_file(tmp_path):
    quadratic = models.linearize(_small(), order=2)
    quadratic.compile("adam", "mse")
    losses = quadratic.fit(_X, np.ones([5, 2]), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    quadratic.save(tmp_path / "quadratic.keras")
    again = keras.models.load_model(tmp_path / "quadratic.keras")
    assert again.order == 2
    np.testing.assert_array_equal(again(_X), quadratic(_X))
    with pytest.raises(ValueError, match="order must be an integer from 1 to 2"):
        models.linearize(_small(), order=3)


def test_the_mask_of_the_output_counts_in_the_loss():
    inputs = keras.Input((4, 1))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Masking()(inputs)))
    x = np.random.default_rng(0).normal(size=(3, 4, 1)).astype("float32")
    x[:, 2:] = 0
    linear, y = models.linearize(model), np.ones([3, 4, 1])
    for m in (model, linear):
        m.compile("sgd", "mse")
    assert linear.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))
    pooled = keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(model(inputs)))
    np.testing.assert_array_equal(models.linearize(pooled)(x), pooled(x))


def test_regularizers_apply_to_the_weights_that_u_moves():
    model = _small(kernel_regularizer="l2")
    linear = models.linearize(model)
    assert float(linear.losses[0]) == pytest.approx(float(model.losses[0]))
    _displace(linear)
    model.layers[0].kernel.assign_add(linear.displacement[0].value)
    assert float(linear.losses[0]) == pytest.approx(float(model.losses[0]))
    with pytest.raises(ValueError, match="activity regularization"):
        models.linearize(_small(activity_regularizer="l2"))


def test_it_has_the_model_s_shapes_and_is_exported(tmp_path):
    model = _small()
    linear = models.linearize(model)
    assert linear.input_shape == (None, 4) and linear.output_shape == (None, 2)
    _displace(linear, 0.1)
    linear.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(_X), linear(_X), rtol=1e-5)


@pytest.mark.parametrize("layer", [keras.layers.Dropout(0.5), keras.layers.BatchNormalization()])
def test_a_layer_in_training_mode_is_refused_by_name(layer):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs, training=True)))
    with pytest.raises(ValueError, match="training mode.*with training=True"):
        models.linearize(model)


def test_lora_is_linearized_in_memory_and_not_saved(tmp_path):
    model = _small()
    model.layers[0].enable_lora(2)
    linear = models.linearize(model)
    np.testing.assert_allclose(linear(_X), model(_X), rtol=1e-6)
    with pytest.raises(ValueError, match="LoRA cannot be saved.*dense"):
        linear.save(tmp_path / "linear.keras")


class Unregistered(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_a_model_that_cannot_be_copied_is_refused_with_the_way_out():
    model = Unregistered()
    model(_X)
    with pytest.raises(ValueError, match="register_keras_serializable"):
        models.linearize(model)


@tf.custom_gradient
def _hidden(x):
    return tf.sin(x), lambda g: tf.stop_gradient(g) * tf.cos(x)


@keras.saving.register_keras_serializable(package="tests")
class Hidden(keras.layers.Layer):
    """Has a right gradient; of the gradient's own a part is silently zero."""

    def call(self, x):
        return x + _hidden(x)


def test_a_wrong_product_is_refused_and_not_returned():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Hidden()])
    with pytest.raises(NotImplementedError, match="not the transpose"):
        models.linearize(model)
    with pytest.raises(NotImplementedError, match="not the transpose"):
        empirical.lambda_max(model, _X)
    exact = empirical.ntk(model, _X, method="jacobian")
    np.testing.assert_allclose(empirical.ntk(model, _X), exact, rtol=1e-4)
    np.testing.assert_allclose(models.linearize(model, verify=False)(_X), model(_X))


@keras.saving.register_keras_serializable(package="tests")
class _BatchStatistics(keras.layers.BatchNormalization):
    """In training mode whatever its caller says."""

    def call(self, x, training=None, mask=None):
        return super().call(x, training=True, mask=mask)


def test_a_layer_that_puts_itself_into_training_mode_is_refused():
    model = keras.Sequential([keras.Input((3,)), _BatchStatistics(), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="runs in training mode.*moving_mean"):
        models.linearize(model)
