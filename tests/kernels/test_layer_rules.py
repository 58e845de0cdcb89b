"""Which rule reads a layer: its class decides, and what a subclass or a user changes counts."""

import keras
import numpy as np
import pytest

import mfcnn
from mfcnn import kernels
from mfcnn.kernels._models import registry
from tests.kernels.layer_networks import two_inputs
from tests.kernels.test_every_layer import deviation
from tests.kernels.test_wide_networks import SIGNIFICANT, convolution, dense, sequential, weights

L = keras.layers
X = np.random.default_rng(0).normal(size=(4, 6))


class Doubling(L.Dense):
    """Another call."""

    def call(self, x, training=None):
        return 2 * super().call(x)


class Labelled(L.Dense):
    """Another constructor, and a method of its own: a Dense layer all the same."""

    def __init__(self, units, label="", **kwargs):
        super().__init__(units, **kwargs)
        self.label = label

    def shout(self):
        return self.label.upper()


class Rebuilt(L.Dense):
    def build(self, shape):
        super().build(shape)
        self.bias = self.add_weight(shape=(1,), initializer="zeros")


class Mixin:
    def call(self, x, training=None):
        return super().call(x) + 1


class Mixed(Mixin, L.Dense):
    pass


class Dropout(L.Layer):
    """A user's own, which is not the identity."""

    def call(self, x):
        return 3 * x


class Halve(L.Layer):
    def call(self, x):
        return x / 2


class Blur(L.AveragePooling2D):
    def call(self, x):
        return super().call(x) / 2


class Shifted(keras.initializers.RandomNormal):
    def __call__(self, shape, dtype=None):
        return super().__call__(shape, dtype) + 1


class Renamed(keras.initializers.RandomNormal):
    def __init__(self, **kwargs):
        super().__init__(stddev=0.5)


@pytest.fixture
def rules():
    """Rules that a test registers are forgotten behind it."""
    known = dict(registry._RULES)
    yield
    registry._RULES.clear()
    registry._RULES.update(known)


def with_layer(layer):
    return sequential([6], dense(8), layer, L.ReLU(), dense(1))


@pytest.mark.parametrize(
    "layer, reason",
    [
        (lambda: Dropout(), "'dropout.*' .Dropout. .* its class is not known.*register_layer_rule"),
        (lambda: Doubling(8, **weights()), "changes call of Dense"),
        (lambda: Rebuilt(8, **weights()), "changes build of Dense"),
        (lambda: Mixed(8, **weights()), "changes call of Dense"),
        (lambda: L.Lambda(lambda x: 2 * x), "code of its own"),
        (lambda: dense(8, kernel_initializer=Shifted()), "Shifted has no known"),
        (lambda: dense(8, kernel_constraint="max_norm"), "kernel_constraint MaxNorm moves"),
    ],
)
def test_what_changes_a_layer_is_refused_by_name(layer, reason):
    with pytest.raises(ValueError, match=reason):
        kernels.from_keras(with_layer(layer()))


def test_a_subclass_that_changes_nothing_is_its_base():
    initializer = keras.initializers.RandomNormal(stddev=0.5)
    models = [
        with_layer(kind(8, **weights() | {"kernel_initializer": one}))
        for kind, one in ((L.Dense, initializer), (Labelled, Renamed()))
    ]
    for one, other in zip(*(kernels.from_keras(model)(X) for model in models)):
        np.testing.assert_array_equal(one, other)


def test_a_call_replaced_on_the_object_is_refused():
    model = with_layer(dense(8))
    model.layers[1].call = lambda x: 2 * x
    with pytest.raises(ValueError, match="changes call of Dense"):
        kernels.from_keras(model)


def test_an_averaging_subclass_with_another_call_is_refused():
    model = sequential([4, 4, 2], convolution(3), Blur(2), L.Flatten(), dense(1))
    with pytest.raises(ValueError, match="changes call of AveragePooling2D"):
        kernels.from_keras(model)


def test_a_model_with_a_call_of_its_own_is_refused():
    class Twice(keras.Model):
        def call(self, x):
            return 2 * super().call(x)

    inputs = keras.Input([6])
    with pytest.raises(ValueError, match="a call of its own"):
        kernels.from_keras(Twice(inputs, dense(1)(inputs)))


def test_registered_rules_count(rules):
    @kernels.register_layer_rule(Halve)
    def halve(call, signal):
        return signal.scaled(0.5)

    @kernels.register_layer_rule(Doubling)
    def double(call, signal):
        units = signal.affine(call, 1.7, 0.1)
        return units.scaled(2.0)

    expected = kernels.fully_connected(1, "relu", 1.7, 0.1)(X)
    model = sequential([6], Doubling(8, **weights()), Halve(), L.ReLU(), dense(1))
    for one, other in zip(kernels.from_keras(model)(X), expected):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_a_rule_is_part_of_the_identity_of_stored_blocks(rules, tmp_path):
    for factor in (0.5, 0.25):
        kernels.register_layer_rule(Halve)(
            (lambda call, signal: signal.scaled(0.5))
            if factor == 0.5
            else (lambda call, signal: signal.scaled(0.25))
        )
        kernel = kernels.from_keras(with_layer(Halve()))
        if factor == 0.5:
            kernel(X, output_dir=tmp_path)
        else:
            with pytest.raises(ValueError, match="rules"):
                kernel(X, output_dir=tmp_path)


def test_a_layer_linear_in_positions_says_itself_what_it_does(rules):
    kernels.register_layer_rule(Blur)(kernels.position_map)
    model = sequential([4, 4, 2], convolution(3), Blur(2), L.Flatten(), dense(1))
    blur = L.AveragePooling2D(2), L.Rescaling(0.5)
    plain = sequential([4, 4, 2], convolution(3), *blur, L.Flatten(), dense(1))
    x = two_inputs((4, 4, 2))
    for one, other in zip(*(kernels.from_keras(m)(x) for m in (model, plain))):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("wrong", [3, int, "Dense"])
def test_only_layer_classes_take_rules(wrong):
    with pytest.raises(TypeError, match="layer_class"):
        kernels.register_layer_rule(wrong)


def trained(n, change):
    model = sequential([6], dense(n, activation="relu"), dense(n, activation="relu"), dense())
    change(model)
    return model


def freeze_kernel(model):
    model.layers[1]._kernel.trainable = False


def freeze_bias(model):
    model.layers[0].bias.trainable = False


def freeze_layer(model):
    model.layers[1].trainable = False


@pytest.mark.parametrize("change", [freeze_kernel, freeze_bias, freeze_layer])
@pytest.mark.parametrize("standard", [False, True])
def test_only_weights_that_are_trained_count(change, standard):
    keras.utils.set_random_seed(0)
    x, kind = two_inputs((6,)), "standard" if standard else "ntk"
    expected = [kernels.from_keras(trained(n, change), kind)(x) for n in (32, 16)]
    for probability, _ in deviation(lambda n: trained(n, change), expected, x, standard):
        assert probability > SIGNIFICANT


def test_a_frozen_model_freezes_what_is_inside():
    def model(freeze):
        inner = sequential([6], dense(8, activation="relu"), dense(8))
        inner.trainable = not freeze
        return sequential([6], inner, L.ReLU(), dense(1))

    kernel = kernels.from_keras(model(True))(X)
    np.testing.assert_allclose(kernel.ntk, kernel.nngp, rtol=1e-12)  # of the readout alone
    assert np.all(np.diag(kernels.from_keras(model(False))(X).ntk) > 1.5 * np.diag(kernel.ntk))


def test_lora_and_quantized_layers_are_refused():
    model = with_layer(dense(8))
    model.layers[1].enable_lora(4)
    with pytest.raises(ValueError, match=r"dense.*LoRA, rank 4.*random"):
        kernels.from_keras(model)
    model = with_layer(dense(8))
    model.layers[1].quantize("int8")
    with pytest.raises(ValueError, match="quantized .int8"):
        kernels.from_keras(model)


def test_the_next_call_sees_a_model_that_changed():
    model = sequential([6], dense(8, activation="relu"), dense(8, activation="relu"), dense(1))
    kernel = kernels.from_keras(model)
    before = kernel(X)
    model.layers[0].trainable = False
    assert np.all(np.diag(kernel(X).ntk) < np.diag(before.ntk))
    model.layers[1].activation = keras.activations.tanh
    assert not np.allclose(kernel(X).nngp, before.nngp)


def test_types_are_looked_at_before_anything_is_computed():
    huge = 10**5  # a single image would not fit into memory
    inputs = keras.Input([huge, huge, 1])
    x = convolution(1, activation="relu")(inputs)
    model = keras.Model(inputs, dense(1)(L.GlobalAveragePooling2D()(L.Softmax()(x))))
    with pytest.raises(ValueError, match="softmax.*couples the channels"):
        kernels.from_keras(model)


def test_several_outputs_are_put_in_front():
    inputs = keras.Input([6])
    x = dense(8, activation="relu")(inputs)
    outputs = dense(1)(x), dense(1, use_bias=False)(dense(4, activation="tanh")(x))
    both = kernels.from_keras(keras.Model(inputs, outputs))(X)
    for index, output in enumerate(outputs):
        alone = kernels.from_keras(keras.Model(inputs, output))(X)
        for one, other in zip(both, alone):
            np.testing.assert_allclose(one[index], other, rtol=1e-14)


def test_several_inputs_are_lists_or_dictionaries():
    a, b = keras.Input([6], name="a"), keras.Input([3], name="b")
    model = keras.Model([a, b], dense(4)(a) + dense(4)(b))
    kernel = kernels.from_keras(model)
    y = X[:, :3] * 2
    expected = [1.7 * (X @ X.T / 6 + y @ y.T / 3) + 0.2] * 2
    for result in (kernel([X, y]), kernel({"b": y, "a": X})):
        for one, other in zip(result, expected):
            np.testing.assert_allclose(one, other, rtol=1e-12)
    for wrong in (X, [X], {"a": X}, [X, y[:2]], [y, X]):
        with pytest.raises(ValueError, match="x1"):
            kernel(wrong)


@pytest.mark.parametrize("convert", [np.ndarray.tolist, lambda x: x.astype(np.float32)])
def test_inputs_may_be_lists_and_of_any_dtype(convert):
    kernel = kernels.from_keras(with_layer(dense(8)))
    np.testing.assert_allclose(kernel(convert(X), get="ntk"), kernel(X, get="ntk"), rtol=1e-5)
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    np.testing.assert_array_equal(
        kernel(pixels, get="ntk"), kernel(pixels.astype(float), get="ntk")
    )


@pytest.mark.parametrize(
    "layer, message",
    [
        (lambda: dense(8, activation=lambda z: z - z + 1.0 * (z > 0)), "no derivative|dual maps"),
    ],
)
def test_other_refusals(layer, message):
    with pytest.raises(ValueError, match=message):
        kernels.from_keras(sequential([6, 2], layer(), L.Conv1D(3, 2), L.Flatten(), dense(1)))


def test_images_with_channels_first_are_refused():
    inputs = keras.Input([2, 4, 4])
    x = L.Conv2D(3, 2, data_format="channels_first")
    with pytest.raises(ValueError, match="channels_last"):
        kernels.from_keras(keras.Model(inputs, dense(1)(L.Flatten()(x(inputs)))))


def test_images_whose_pairs_of_pixels_do_not_fit_are_refused():
    layers = convolution(2, activation="relu"), L.GlobalAveragePooling2D(), dense(1)
    model = sequential([300, 300, 1], *layers)
    with pytest.raises(ValueError, match="300, 300.*smaller images"):
        kernels.from_keras(model)


def test_the_standard_kernel_is_the_empirical_one_of_wide_networks():
    """`empirical.ntk` of stock Keras models, averaged over draws, in standard errors."""
    keras.utils.set_random_seed(0)
    x = two_inputs((6,)).astype(np.float32)
    ratios = []
    for width, draws in ((64, 200), (32, 100)):
        model = keras.Sequential(
            [keras.Input([6]), L.Dense(width, "relu"), L.Dense(width, "tanh"), L.Dense(4)]
        )
        expected = kernels.from_keras(model, "standard")(x, get="ntk")
        samples = []
        for _ in range(draws):
            # New weights, one trace.
            model.set_weights(keras.models.clone_model(model).get_weights())
            samples.append(np.asarray(mfcnn.empirical.ntk(model, x)) / expected)
        ratios.append(np.array(samples)[:, [0, 0, 1], [0, 1, 1]])
    mean = 2 * ratios[0].mean(0) - ratios[1].mean(0)
    error = np.sqrt(4 * ratios[0].var(0) / 200 + ratios[1].var(0) / 100)
    assert np.all(error < 0.15)
    assert np.all(np.abs(mean - 1) < 3.5 * error)
