"""The loop's derivatives against automatic differentiation of the unrolled network."""

import numpy as np
import pytest
import tensorflow as tf

from mfcnn.layers._convolution import FORMS, PADDINGS, convolve
from mfcnn.layers._loop import DeepLoop
from mfcnn.layers._memory import checkpoint_strides

# Float64 rounding, 2.2e-16, times the about 1e3 additions that enter an entry; far below the
# 1e-10 that a user of the layer may rely on.
TOLERANCE = 1e-12
CHANNELS = 3


def library_convolution(x, kernel, padding):
    """An independent convolution: roll for circular padding, TensorFlow's own for SAME."""
    if padding == "same":
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    size = kernel.shape[0]
    before = (size - 1) // 2
    return tf.add_n(
        [
            tf.roll(x, [before - u, before - v], axis=[1, 2]) @ kernel[u, v]
            for u in range(size)
            for v in range(size)
        ]
    )


def unrolled(x, kernels, biases, padding):
    for layer in range(kernels.shape[0]):
        x = tf.tanh(library_convolution(x, kernels[layer], padding) + biases[layer])
    return x


def looped(loop, x, kernels, biases):
    return loop((x,), (kernels, biases))[0]


def make_loop(padding, form, levels, **options):
    def affine(state, parameters):
        return (convolve(state[0], parameters[0], padding, form) + parameters[1],)

    return DeepLoop(affine, lambda z: (tf.tanh(z[0]),), 1, levels, **options)


def draw(depth, kernel_size, seed=0):
    random = np.random.default_rng(seed)
    shapes = (
        (2, 6, 6, CHANNELS),
        (depth, kernel_size, kernel_size, CHANNELS, CHANNELS),
        (depth, CHANNELS),
    )
    scales = (1.0, 1.2 / (kernel_size * CHANNELS**0.5), 0.1)
    return [tf.constant(scale * random.normal(size=shape)) for scale, shape in zip(scales, shapes)]


def scalar(y):
    """A function whose first and second derivatives vary from entry to entry."""
    weights = tf.reshape(tf.linspace(0.5, 1.5, y.shape.num_elements()), y.shape)
    return tf.reduce_sum(tf.cast(weights, y.dtype) * tf.sin(2 * y))


def value_and_gradients(function, arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        y = function(*arguments)
        value = scalar(y)
    return [y, *tape.gradient(value, arguments)]


def hessian_vector_product(function, arguments, vectors):
    with tf.GradientTape() as outer:
        outer.watch(arguments)
        with tf.GradientTape() as inner:
            inner.watch(arguments)
            value = scalar(function(*arguments))
        gradients = inner.gradient(value, arguments)
        product = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, vectors)])
    return outer.gradient(product, arguments)


def forward_over_reverse_product(function, arguments, vectors):
    with tf.autodiff.ForwardAccumulator(arguments, vectors) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            value = scalar(function(*arguments))
        gradients = tape.gradient(value, arguments)
    return [accumulator.jvp(g) for g in gradients]


def jacobian_vector_product(function, arguments, vectors):
    with tf.autodiff.ForwardAccumulator(arguments, vectors) as accumulator:
        y = function(*arguments)
    return [accumulator.jvp(y)]


def worst(found, expected):
    return max(
        float(tf.reduce_max(tf.abs(f - e)) / tf.reduce_max(tf.abs(e)))
        for f, e in zip(found, expected)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 5])
@pytest.mark.parametrize(("depth", "levels"), [(7, 1), (50, 2)])
def test_gradients_equal_those_of_the_unrolled_network(depth, levels, kernel_size, padding, form):
    arguments = draw(depth, kernel_size)
    loop = make_loop(padding, form, levels)
    found = value_and_gradients(lambda *a: looped(loop, *a), arguments)
    expected = value_and_gradients(lambda *a: unrolled(*a, padding), arguments)
    assert worst(found, expected) < TOLERANCE


@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 10])
def test_every_depth_and_level_of_checkpoints_gives_the_same_gradients(depth, levels):
    arguments = draw(depth, 3)
    loop = make_loop("circular", "matmul", levels)
    found = value_and_gradients(lambda *a: looped(loop, *a), arguments)
    expected = value_and_gradients(lambda *a: unrolled(*a, "circular"), arguments)
    assert worst(found, expected) < TOLERANCE


@pytest.mark.parametrize("unroll", [2, 3])
@pytest.mark.parametrize("levels", [0, 1, 2])
@pytest.mark.parametrize("depth", [2, 9])
def test_unrolled_turns_and_those_left_over_give_the_same_gradients(depth, levels, unroll):
    arguments = draw(depth, 3)
    loop = make_loop("same", "library", levels, unroll=unroll)
    found = value_and_gradients(lambda *a: looped(loop, *a), arguments)
    expected = value_and_gradients(lambda *a: unrolled(*a, "same"), arguments)
    assert worst(found, expected) < TOLERANCE


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("product", [hessian_vector_product, jacobian_vector_product])
def test_second_order_and_forward_mode_products_are_exact(product, form, mode):
    arguments, vectors = draw(7, 3), draw(7, 3, seed=1)
    loop = make_loop("circular", form, 1)

    def run():
        return product(lambda *a: looped(loop, *a), arguments, vectors)

    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "jit" or None)
    expected = product(lambda *a: unrolled(*a, "circular"), arguments, vectors)
    assert worst(run(), expected) < TOLERANCE


@pytest.mark.parametrize("compiled", [False, True])
def test_forward_mode_around_reverse_mode_is_refused(compiled):
    arguments, vectors = draw(3, 3), draw(3, 3, seed=1)
    loop = make_loop("circular", "matmul", 1)

    def run():
        return forward_over_reverse_product(lambda *a: looped(loop, *a), arguments, vectors)

    with pytest.raises(NotImplementedError, match="two GradientTapes"):
        (tf.function(run) if compiled else run)()


def test_the_loop_compiled_by_xla_gives_the_same_gradients():
    arguments = draw(9, 3)
    loop = make_loop("same", "matmul", 1, jit_compile=True)
    found = value_and_gradients(lambda *a: looped(loop, *a), arguments)
    expected = value_and_gradients(lambda *a: unrolled(*a, "same"), arguments)
    assert worst(found, expected) < TOLERANCE


def test_the_program_does_not_grow_with_depth():
    def nodes(depth):
        arguments = draw(depth, 3)
        loop = make_loop("circular", "matmul", 1)
        graph = tf.function(
            lambda *a: value_and_gradients(lambda *b: looped(loop, *b), a)
        ).get_concrete_function(*arguments)
        definition = graph.graph.as_graph_def()
        return len(definition.node) + sum(len(f.node_def) for f in definition.library.function)

    assert nodes(200) == nodes(20)


@pytest.mark.parametrize(
    ("depth", "levels", "strides"),
    [(1, 1, (1, 1)), (101, 0, (1,)), (101, 1, (10, 1)), (1001, 2, (100, 10, 1)), (3, 2, (2, 2, 1))],
)
def test_checkpoints_are_the_root_of_the_depth_apart(depth, levels, strides):
    assert checkpoint_strides(depth, levels) == strides
