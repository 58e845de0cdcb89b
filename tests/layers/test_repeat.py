"""Repeated blocks against the same blocks one after another, as stock Keras has them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn.layers import Repeat
from tests.layers.blocks import BLOCKS, batch

L = keras.layers
DEPTH = 5
# Float64 rounding, 2.2e-16, times the some 1e3 additions and five layers that enter an entry.
TOLERANCE = 1e-12


def repeated(name, depth=DEPTH, dtype="float64", **options):
    """The layer, built, and its unrolled model with equal weights, statistics and seeds."""
    layer = Repeat(BLOCKS[name][0](dtype), depth, **options)
    layer(batch(name, dtype=dtype))
    return layer, layer.unroll()


def derivatives(function, variables, x):
    """Outputs, gradients and the gradient of their squares, in training mode."""
    values = [v.value for v in variables]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as tape:
            y = tf.nest.flatten(function(x, training=True))
            loss = tf.add_n([tf.reduce_sum(tf.sin(2 * a)) for a in y])
            loss += tf.cast(sum(function.losses), loss.dtype)
        gradients = tape.gradient(loss, values)
        square = tf.add_n([tf.reduce_sum(g * g) for g in gradients])
    return y, gradients, outer.gradient(square, values)


def stacked(tensors, count):
    """Tensors layer by layer as the stacks of `count` weights."""
    return [np.stack([np.asarray(t) for t in tensors[i::count]]) for i in range(count)]


def worst(found, expected):
    scale = max(np.max(np.abs(e)) for e in expected)
    return max(np.max(np.abs(np.asarray(f) - e)) for f, e in zip(found, expected)) / scale


def quick(*names):
    """All blocks, of which those that are not named take long to trace."""
    slow = pytest.mark.slow
    return [name if name in names else pytest.param(name, marks=slow) for name in BLOCKS]


LEVELS = [
    (1, {}),
    pytest.param(0, {"unroll": 2}, marks=pytest.mark.slow),
    pytest.param(2, {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("levels", "options"), LEVELS)
@pytest.mark.parametrize("name", quick("dense", "residual convolution", "gated"))
def test_outputs_derivatives_and_statistics_are_those_of_the_unrolled_model(name, levels, options):
    layer, unrolled = repeated(name, checkpoint_levels=levels, **options)
    x = batch(name)
    count = len(layer.trainable_variables)
    y, gradients, second = derivatives(layer, layer.trainable_variables, x)
    expected = derivatives(unrolled, unrolled.trainable_variables, x)
    errors = {
        "outputs": worst(y, [np.asarray(e) for e in expected[0]]),
        "gradients": worst(gradients, stacked(expected[1], count)),
        "second derivatives": worst(second, stacked(expected[2], count)),
    }
    kept = len(layer.non_trainable_variables)
    if kept:
        states = stacked(unrolled.non_trainable_variables, kept)
        found = [np.asarray(v, "float64") for v in layer.non_trainable_variables]
        errors["moving statistics and seeds"] = worst(found, [s.astype("float64") for s in states])
    print({"block": name, "levels": levels} | {k: f"{v:.1e}" for k, v in errors.items()})
    assert max(errors.values()) < TOLERANCE


@pytest.mark.parametrize("name", ["residual convolution", "dropout and mask"])
def test_inference_changes_nothing_and_equals_the_unrolled_model(name):
    layer, unrolled = repeated(name)
    before = [np.array(v) for v in layer.non_trainable_variables]
    x = batch(name)
    np.testing.assert_allclose(layer(x), unrolled(x), rtol=1e-12, atol=1e-12)
    for variable, value in zip(layer.non_trainable_variables, before):
        np.testing.assert_array_equal(variable, value)


def test_dropout_draws_anew_by_layer_and_call_and_by_the_seed():
    def draws(seed, layer=None):
        layer = layer or Repeat(L.Dropout(0.5, seed=seed), 2)
        return layer, [np.asarray(layer(np.ones((1, 64)), training=True)) != 0 for _ in range(2)]

    layer, (first, second) = draws(1)
    assert not np.array_equal(first, second)
    # Kept twice where both layers kept: a quarter, not a half as with one mask for both.
    kept = np.mean([draws(1, layer)[1] for _ in range(20)])
    assert abs(kept - 0.25) < 5 * np.sqrt(0.25 * 0.75 / (20 * 2 * 64))
    np.testing.assert_array_equal(draws(1)[1], [first, second])
    assert not np.array_equal(draws(2)[1][0], first)


def test_weights_are_drawn_independently_by_the_blocks_own_initializers():
    block = L.Dense(
        40,
        kernel_initializer=keras.initializers.HeNormal(seed=1),
        bias_initializer=keras.initializers.RandomUniform(2.0, 3.0),
    )
    layer = Repeat(block, 30)
    layer.build((None, 40))
    kernels, biases = (np.asarray(w) for w in layer.weights)
    assert len(np.unique(kernels.reshape(30, -1), axis=0)) == 30
    # 48,000 draws of variance 2 / 40, four times whose square is the variance of the square.
    assert kernels.var() == pytest.approx(2 / 40, rel=5 * np.sqrt(2 / kernels.size))
    assert biases.min() >= 2 and biases.max() <= 3
    again = Repeat(L.Dense(40, kernel_initializer=keras.initializers.HeNormal(seed=1)), 30)
    again.build((None, 40))
    np.testing.assert_array_equal(again.weights[0], kernels)
    keras.utils.set_random_seed(3)
    first, second = (Repeat(L.Dense(4), 2) for _ in range(2))
    keras.utils.set_random_seed(3)
    third = Repeat(L.Dense(4), 2)
    for layer in (first, third, second):
        layer.build((None, 4))
    assert not np.array_equal(first.weights[0], second.weights[0])
    np.testing.assert_array_equal(first.weights[0], third.weights[0])


def test_frozen_weights_have_no_gradient_and_stay():
    block = keras.Sequential([keras.Input((4,)), L.Dense(4, name="a"), L.Dense(4, name="b")])
    block.get_layer("a").trainable = False
    model = keras.Sequential([keras.Input((4,)), Repeat(block, 3)])
    assert len(model.trainable_variables) == len(model.non_trainable_variables) == 2
    frozen = [np.array(v) for v in model.non_trainable_variables]
    trained = [np.array(v) for v in model.trainable_variables]
    model.compile("sgd", "mse")
    model.fit(np.ones((8, 4)), np.zeros((8, 4)), verbose=0)
    for variable, value in zip(model.non_trainable_variables, frozen):
        np.testing.assert_array_equal(variable, value)
    assert not np.array_equal(model.trainable_variables[0], trained[0])


def test_a_frozen_layer_normalizes_by_its_moving_statistics_as_keras_does():
    layer, unrolled = repeated("residual convolution")
    layer.trainable = unrolled.trainable = False
    x = batch("residual convolution")
    before = [np.array(v) for v in layer.variables]
    np.testing.assert_allclose(layer(x, training=True), unrolled(x, training=True), rtol=1e-12)
    for variable, value in zip(layer.variables, before):
        np.testing.assert_array_equal(variable, value)
    layer.trainable = unrolled.trainable = True
    np.testing.assert_allclose(layer(x, training=True), unrolled(x, training=True), rtol=1e-12)


def test_regularizers_and_constraints_act_on_each_layer():
    block = L.Dense(
        4,
        kernel_regularizer=keras.regularizers.OrthogonalRegularizer(),
        bias_regularizer="l1",
        kernel_constraint=keras.constraints.MaxNorm(0.5),
        bias_initializer="ones",
    )
    layer = Repeat(block, 3)
    layer.build((None, 4))
    unrolled = layer.unroll()
    np.testing.assert_allclose(sum(layer.losses), sum(unrolled.losses), rtol=1e-6)
    for model in (keras.Sequential([keras.Input((4,)), layer]), unrolled):
        model.compile(keras.optimizers.SGD(0.1), "mse")
        model.fit(np.ones((8, 4)), np.zeros((8, 4)), batch_size=4, shuffle=False, verbose=0)
    for index in range(3):
        for mine, stock in zip(layer.get_layer_weights(index), unrolled.layers[-3 + index].weights):
            np.testing.assert_allclose(mine, stock, atol=1e-6)
    assert np.all(np.linalg.norm(layer.weights[0], axis=1) <= 0.5 + 1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_in_half_and_keeps_float32(policy):
    layer = Repeat(L.Dense(6, "tanh", dtype=policy), 4)
    x = batch("dense", dtype="float32")
    with tf.GradientTape() as tape:
        y = layer(x)
        loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
    assert y.dtype == keras.dtype_policies.get(policy).compute_dtype
    for gradient in tape.gradient(loss, [w.value for w in layer.weights]):
        assert gradient.dtype == tf.float32
    # Values below one; graphs fuse operations and round less often: four layers, a few roundings.
    unit = 2**-8 if "bfloat16" in policy else 2**-11
    expected = tf.cast(layer.unroll()(x), tf.float32)
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=4 * 4 * unit)


def test_a_mask_is_passed_on_and_one_that_is_lost_is_refused():
    layer, unrolled = repeated("dropout and mask")
    x = batch("dropout and mask")
    mask = x._keras_mask
    assert np.array_equal(layer(x)._keras_mask, mask)
    assert not np.allclose(layer(np.asarray(x)), layer(x))
    np.testing.assert_array_equal(layer(np.asarray(x), mask=mask), layer(x))

    class Own(L.Layer):
        def call(self, x):
            return 2 * x

    with pytest.raises(ValueError, match="drops one.*supports_masking = True"):
        Repeat(Own(), 2)(batch("dropout and mask"))


@pytest.mark.parametrize("name", quick("residual convolution"))
def test_a_repeated_block_trains_is_saved_and_goes_on(name, tmp_path, monkeypatch):
    from mfcnn.layers import _stack

    shape = BLOCKS[name][1]
    make = (lambda s: keras.Input(s)) if not isinstance(shape, list) else None
    inputs = make(shape) if make else [keras.Input(s) for s in shape]
    outputs = Repeat(BLOCKS[name][0]("float32"), 4)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(1e-2), "mse", jit_compile=False)
    x = tf.nest.map_structure(np.asarray, batch(name, 8, "float32"))
    y = tf.nest.map_structure(np.zeros_like, x)
    history = model.fit(x, y, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
    monkeypatch.setattr(_stack, "_PIECE", 40)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for mine, saved in zip(model.variables, again.variables):
        np.testing.assert_array_equal(mine, saved)
    found = [m.fit(x, y, batch_size=4, shuffle=False, verbose=0).history for m in (model, again)]
    assert found[0] == found[1]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_xla_compiles_a_repeated_block(jit_compile):
    layer = Repeat(BLOCKS["residual convolution"][0]("float32"), 4, jit_compile=not jit_compile)
    x = batch("residual convolution", dtype="float32")
    expected = layer(x, training=False)
    function = tf.function(lambda: layer(x, training=False), jit_compile=jit_compile or None)
    np.testing.assert_allclose(function(), expected, atol=1e-5)


def test_the_program_does_not_grow_with_depth():
    def nodes(depth):
        layer = Repeat(BLOCKS["residual convolution"][0]("float32"), depth)
        x = tf.constant(batch("residual convolution", dtype="float32"))
        layer(x)

        def step():
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x, training=True))
            return tape.gradient(loss, [v.value for v in layer.trainable_variables])

        graph = tf.function(step, autograph=False).get_concrete_function().graph.as_graph_def()
        return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)

    assert nodes(200) == nodes(20)


def test_jacobian_vector_products_pass_forward_mode():
    layer, unrolled = repeated("residual convolution")
    x = tf.constant(batch("residual convolution"))
    tangent = tf.ones_like(x)
    found = []
    for function in (layer, unrolled):
        with tf.autodiff.ForwardAccumulator(x, tangent) as accumulator:
            y = function(x)
        found.append(accumulator.jvp(y))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10, atol=1e-12)


def test_low_rank_updates_are_repeated():
    block = L.Dense(6, lora_rank=2)
    layer = Repeat(block, 3)
    layer.build((None, 6))
    assert sorted(tuple(w.shape) for w in layer.trainable_weights) == [(3, 2, 6), (3, 6), (3, 6, 2)]
    assert [tuple(w.shape) for w in layer.non_trainable_weights] == [(3, 6, 6)]


@keras.saving.register_keras_serializable("test_repeat")
class Swap(L.Layer):
    """(a, b) to (b, a + D b), as a tuple: what Keras passes on as a list comes back as one."""

    def build(self, shapes):
        self.dense = L.Dense(shapes[0][-1], dtype=self.dtype_policy)
        self.dense.build(shapes[1])

    def call(self, tensors):
        a, b = tensors
        return b, a + self.dense(b)


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_block_of_several_tensors_takes_tuples_and_lists(kind):
    layer = Repeat(Swap(dtype="float64"), 3)
    a, b = np.random.default_rng(0).standard_normal([2, 4, 5])
    found = layer(kind([tf.constant(a), tf.constant(b)]))
    kernels, biases = (np.asarray(v) for v in layer.trainable_variables)
    for kernel, bias in zip(kernels, biases):
        a, b = b, a + b @ kernel + bias
    assert type(found) is kind
    assert worst(found, [a, b]) < TOLERANCE


def test_the_mode_of_a_compiled_call_is_a_python_boolean():
    layer = Repeat(L.Dropout(0.5), 2)
    x = tf.ones([4, 5])
    layer(x)
    assert np.all(layer(x, training=tf.constant(False)) == x)
    with pytest.raises(ValueError, match="training must be a Python boolean.*tf.cond"):
        tf.function(lambda mode: layer(x, training=mode))(tf.constant(True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Repeat(L.Dense(3), 0), "depth must be.*depth=0"),
        (lambda: Repeat(L.Dense(3), True), "depth must be.*True"),
        (lambda: Repeat("dense", 2), "block must be a keras.layers.Layer.*'dense'"),
        (lambda: Repeat(L.Dense(3), 2, checkpoint_levels=3), "checkpoint_levels must be.*3"),
        (lambda: Repeat(L.Dense(3), 2, unroll=0), "unroll must be"),
        (lambda: Repeat(L.Dense(3), 2, memory_budget=-1), "memory_budget must be"),
        (lambda: Repeat(L.Dense(3), 2, jit_compile=1), "jit_compile must be"),
        (lambda: Repeat(L.Dense(3), 2)(np.ones((1, 4))), "output has its input's structure and sh"),
        (lambda: Repeat(L.Dense(3), 2).unroll(), "call the layer on an input first"),
        (lambda: Repeat(L.Dense(3), 2).memory(np.ones((2, 3)), slots=-1), "slots must be"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_memory_is_predicted_from_one_trace_of_the_block():
    layer = Repeat(L.Dense(8, "tanh"), 100, checkpoint_levels=1)
    memory = layer.memory(np.zeros([32, 8], "float32"), slots=1)
    parameters = 100 * (64 + 8) * 4
    assert (memory.parameters, memory.slots, memory.gradients) == (
        parameters,
        parameters,
        2 * parameters,
    )
    # Twenty states of 1 KiB, and one block's input, product, sum and output, twice.
    assert 20 * 1024 < memory.activations < 60 * 1024
