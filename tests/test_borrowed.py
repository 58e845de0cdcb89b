"""Each private name of TensorFlow and Keras does what the package takes it for."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import mfcnn
from mfcnn import borrowed

ROOT = pathlib.Path(mfcnn.__file__).parent.parent


def test_no_other_module_imports_private_names():
    pattern = re.compile(r"tensorflow\.(python|compiler)|keras\.src|tf\.__internal__|tf_keras")
    files = [
        p
        for room in ("mfcnn", "experiments", "tpu", "benchmarks")
        for p in (ROOT / room).rglob("*.py")
    ]
    found = {str(p.relative_to(ROOT)) for p in files if pattern.search(p.read_text())}
    assert found == {"mfcnn/borrowed.py"}


def test_every_name_has_a_test():
    text = pathlib.Path(__file__).read_text()
    assert not [name for name in borrowed.__all__ if f"borrowed.{name}" not in text]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_concrete_function_takes_a_list_of_tensors(jit_compile):
    outside = tf.constant([10.0])
    function = tf.function(
        lambda x, y: {"sum": x + y, "all": (outside, y)}, jit_compile=jit_compile
    )
    concrete = function.get_concrete_function(*[tf.TensorSpec([1], tf.float32)] * 2)
    found = borrowed.call_with_tensors(concrete, [tf.constant([1.0]), tf.constant([2.0])])
    assert float(found["sum"][0]) == 3 and [float(v[0]) for v in found["all"]] == [10, 2]


def test_a_function_runs_its_loop_without_a_queue():
    function = tf.function(lambda n: tf.while_loop(lambda i: i < n, lambda i: [i + 1], [n * 0])[0])
    with borrowed.function_executor_type("SINGLE_THREADED_EXECUTOR"):
        concrete = function.get_concrete_function(tf.TensorSpec([], tf.int32))
        assert int(borrowed.call_with_tensors(concrete, [tf.constant(7)])) == 7
    (loop,) = [op for op in concrete.graph.get_operations() if "While" in op.type]
    with pytest.raises(ValueError):  # TensorFlow takes loops apart for the other executor alone
        loop.get_attr("_lower_using_switch_merge")


@pytest.mark.parametrize("jit_compile", [None, True])
def test_a_function_sees_whether_xla_compiles_it(jit_compile):
    seen = []

    def body(i):
        seen.append(borrowed.compiled_by_xla())
        seen.append(borrowed.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))
        return i + 1

    def function():
        return tf.while_loop(lambda i: i < 2, body, [tf.constant(0)])

    tf.function(function, autograph=False, jit_compile=jit_compile)()
    assert set(seen) == {bool(jit_compile)}
    assert borrowed.compiled_by_xla() is False


def test_a_tape_may_record_while_it_is_open_and_not_while_it_is_stopped():
    assert not borrowed.could_possibly_record()
    with tf.GradientTape():
        assert borrowed.could_possibly_record()
        with borrowed.stop_recording():
            assert not borrowed.could_possibly_record()
    with tf.autodiff.ForwardAccumulator(tf.constant(1.0), tf.constant(1.0)):
        assert borrowed.could_possibly_record()


def test_what_is_stopped_has_no_derivative_in_any_tape():
    x = tf.constant(2.0)
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        outer.watch(x)
        inner.watch(x)
        with borrowed.stop_recording():
            y = x * x
    assert inner.gradient(y, x) is None and outer.gradient(y, x) is None


def test_tangents_are_packed_only_where_an_accumulator_watches():
    x, other = tf.constant(2.0), tf.constant(3.0)
    with tf.autodiff.ForwardAccumulator(x, tf.constant(5.0)):
        assert [float(t) for t in borrowed.pack_tangents([x]).tangents] == [5.0]
        assert not borrowed.pack_tangents([other]).tangents


def test_a_recorded_operation_passes_tangents_by_its_transposed_gradient():
    @tf.function
    def derivative(x):
        with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
            with borrowed.stop_recording():
                y = tf.stop_gradient(7.0 * x)
            borrowed.record_operation_forwardprop_only(
                "SevenTimes", [y], [x], lambda d: [7.0 * d], None
            )
        return accumulator.jvp(y)

    assert float(derivative(tf.constant(2.0))) == 7.0


def test_an_update_in_place_and_a_sum_over_replicas_compile():
    def update(x):
        return borrowed.xla_dynamic_update_slice(x, tf.ones([1, 2]), tf.constant([1, 0]))

    found = tf.function(update, jit_compile=True)(tf.zeros([3, 2]))
    np.testing.assert_array_equal(found, [[0, 0], [1, 1], [0, 0]])


@pytest.mark.parametrize("name", ["all_reduce", "reduce_scatter", "replica_id"])
def test_what_replicas_have_of_each_other_compiles(name):
    def function(x):
        if name == "replica_id":
            return borrowed.xla_replica_id()
        if name == "all_reduce":
            groups = tf.zeros([0, 0], tf.int32)
            return borrowed.xla_all_reduce(x, groups, "Add", "CrossReplica")
        return borrowed.xla_reduce_scatter(x, tf.constant([[0, 1]]), tf.constant(0), "Add")

    text = tf.function(function, jit_compile=True, autograph=False).experimental_get_compiler_ir(
        tf.TensorSpec([4], tf.float32)
    )(stage="stablehlo")
    assert f"stablehlo.{name}" in str(text)
    assert name != "reduce_scatter" or "tensor<2xf32>" in str(text)


class Spy(keras.initializers.Initializer):
    """Notes the layer that is being built at each call."""

    seen: list = []

    def __call__(self, shape, dtype=None):
        Spy.seen.append(borrowed.layer_being_built())
        return keras.ops.zeros(shape, dtype)


def test_an_initializer_learns_which_layer_is_being_built():
    assert borrowed.layer_being_built() is None
    layer = keras.layers.Conv2DTranspose(2, 3, kernel_initializer=Spy())
    outer = keras.Sequential([keras.Input((4, 4, 1)), layer])
    assert Spy.seen == [layer]
    inner = keras.layers.Dense(2, kernel_initializer=Spy())
    keras.layers.TimeDistributed(inner).build((None, 3, 4))
    assert Spy.seen[1:] == [inner] and borrowed.layer_being_built() is None and outer.built


def test_a_stateless_scope_keeps_the_initializers_of_the_variables_made_in_it():
    initializer = keras.initializers.GlorotUniform(seed=1)
    with keras.StatelessScope(initialize_variables=False):
        layer = keras.layers.Dense(3, kernel_initializer=initializer)
        layer.build((None, 2))
    assert borrowed.initializer_of(layer.kernel) is layer.kernel_initializer
    assert borrowed.initializer_of(layer.bias)([3]).shape == (3,)
    with pytest.raises(RuntimeError, match="keeps no initializer"):
        borrowed.initializer_of(keras.Variable(1.0))


def test_a_mask_is_found_where_keras_puts_it_and_taken_from_where_we_put_it():
    x = keras.ops.convert_to_tensor(np.array([[[1.0], [0.0]]]))
    masked = keras.layers.Masking()(x)
    np.testing.assert_array_equal(borrowed.get_mask(masked), [[True, False]])
    assert borrowed.get_mask(x) is None
    values = tf.constant([[[1.0], [3.0]]])
    borrowed.set_mask(values, tf.constant([[False, True]]))
    assert float(keras.layers.GlobalAveragePooling1D()(values)[0, 0]) == 3.0


def test_an_optimizer_asks_the_borrowed_method_for_the_sums_over_replicas():
    variable = keras.Variable([1.0, 2.0])
    optimizer = keras.optimizers.SGD(0.5)
    optimizer.build([variable])
    calls = []
    assert callable(optimizer._all_reduce_sum_gradients)
    optimizer._all_reduce_sum_gradients = lambda pairs: calls.append(pairs) or list(pairs)
    optimizer.apply([tf.constant([1.0, 1.0])], [variable])
    assert len(calls) == 1
    borrowed.take_summed_gradients(optimizer)
    optimizer.apply([tf.constant([1.0, 1.0])], [variable])
    assert len(calls) == 1
    np.testing.assert_allclose(variable, [0.0, 1.0])


def test_graphs_and_operators_of_keras_have_these_classes():
    a, b = keras.Input([3]), keras.Input([3])
    assert isinstance(keras.Model([a, b], a + b), borrowed.Functional)
    operators = borrowed.keras_numpy_operations
    for result, kind in (
        (a + b, operators.Add),
        (a - b, operators.Subtract),
        (a * b, operators.Multiply),
        (a / 2, operators.TrueDivide),
        (-a, operators.Negative),
    ):
        assert type(result._keras_history.operation) is kind


def test_layers_of_convnext_scale_and_drop():
    x = np.ones([2, 3], "float32")
    np.testing.assert_allclose(borrowed.LayerScale(0.5, 3)(x), 0.5 * x)
    np.testing.assert_array_equal(borrowed.StochasticDepth(0.9)(x), x)


def test_the_registry_of_gradients_decides_what_a_tape_finds():
    """An entry that is None gives no gradient without a word, a changed one its own."""
    registry = borrowed.gradient_registry
    assert "MatMul" in registry.list() and registry.lookup("ResizeBilinearGrad") is None
    entry = registry._registry["Tanh"]
    try:
        registry._registry["Tanh"] = {"type": lambda op, g: 3 * g, "location": None}
        x = tf.constant(0.5)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.tanh(x)
        assert float(tape.gradient(y, x)) == 3
    finally:
        registry._registry["Tanh"] = entry


def test_a_graph_lists_its_calls_in_the_order_in_which_keras_runs_them():
    dense, x = keras.layers.Dense(2), keras.Input((2,))
    model = keras.Model(x, keras.layers.ReLU()(dense(x)) + dense(x))
    sequential = keras.Sequential([keras.Input((2,)), dense, keras.layers.ReLU()])
    for graph, kinds in (
        (model, ["Dense", "ReLU", "Dense", "Add"]),
        (sequential, ["Dense", "ReLU"]),
    ):
        found = [type(node.operation).__name__ for node in borrowed.graph_nodes(graph)]
        assert sorted(found) == sorted(kinds) and found[-1] == kinds[-1]
    with pytest.raises(RuntimeError, match="keeps no graph"):
        borrowed.graph_nodes(dense)


def test_inner_layers_are_those_that_a_layer_holds_itself():
    inner = keras.Sequential([keras.layers.Dense(1)])
    wrapper = keras.layers.TimeDistributed(inner)
    assert borrowed.inner_layers(wrapper) == [inner]
    assert not borrowed.inner_layers(keras.layers.Dense(1))


def test_the_layers_inside_a_layer_are_found_outer_ones_first():
    inner = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.TimeDistributed(inner)][:1] + [inner])
    found = borrowed.sublayers(model)
    assert found[0] is model and inner in found
    model.trainable = False
    assert not any(layer.trainable for layer in found)
