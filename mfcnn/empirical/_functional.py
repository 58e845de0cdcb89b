"""A Keras model as a function of its weights, with the two products of its Jacobian.

The Jacobian-vector product is the gradient of the vector-Jacobian product by its cotangent, in
which that product is linear (see `_second_order` for what this needs of an operation). In a
tf.function the unused half of the work is pruned.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from mfcnn.empirical import _second_order

__all__ = [
    "check_deterministic",
    "evaluate",
    "initial_values",
    "jvp",
    "operation_types",
    "output_and_jvp",
    "output_and_jvps",
    "run",
    "vjp",
]

Function = Callable[[Sequence[tf.Tensor]], tf.Tensor]


def initial_values(model: keras.Model) -> list[tf.Tensor]:
    """The trainable weights as tensors, each with uses of its own in the graph."""
    return [tf.identity(v.value) for v in model.trainable_variables]


def run(
    model: keras.Model,
    variables: Sequence[Any],
    values: Sequence[tf.Tensor],
    x: Any,
    losses: list | None = None,
) -> tf.Tensor:
    """The model's output in inference mode with other values for some variables.

    Args:
        model: a built Keras model.
        variables: some of its variables.
        values: a tensor for each.
        x: its inputs.
        losses: a list for the losses of activities that its layers add.

    Raises:
        ValueError: if a layer changes a variable: it is in training mode or keeps a state; or if
            the model has several outputs.
    """
    mapping = list(zip(variables, values))
    with keras.StatelessScope(state_mapping=mapping, collect_losses=True) as scope:
        y = model(x, training=False)
    if losses is not None:
        losses.extend(scope.losses)
    replaced = {id(v) for v in variables}
    changed = [v.path for v in model.variables if id(v) in set(scope.state_mapping) - replaced]
    if changed:
        raise ValueError(
            "the model must be deterministic and keep no state: a layer runs in training mode "
            "(such as a stochastic layer called with training=True) or is stateful. "
            f"Received: a model that changes {', '.join(changed)}"
        )
    if not tf.is_tensor(y):
        names = getattr(model, "output_names", None) or sorted(y) if hasattr(y, "keys") else len(y)
        raise ValueError(f"model must have one output. Received: {model.name!r} with {names}")
    return y


def evaluate(model: keras.Model, values: Sequence[tf.Tensor], x: Any) -> tf.Tensor:
    """The outputs [n, k] of the model in inference mode, with `values` as trainable weights.

    Args:
        model: a built Keras model with one output.
        values: one tensor for each of `model.trainable_variables`.
        x: inputs [n, ...], or a structure of them.

    Returns:
        The output with all axes after the first flattened.

    Raises:
        ValueError: as `run`.
    """
    y = run(model, model.trainable_variables, values, x)
    if not y.dtype.is_floating:
        raise ValueError(f"model must have a floating output. Received: dtype={y.dtype.name}")
    if y.shape.rank is None or y.shape.rank < 1:
        raise ValueError(f"model must have an output [n, ...]. Received: shape={y.shape}")
    if y.shape.rank == 2:
        return y
    n = keras.tree.flatten(x)[0].shape[0]
    size = y.shape[1:].num_elements()
    return tf.reshape(y, [-1 if n is None else n, -1 if size is None else size])


def vjp(function: Function, values: Sequence[tf.Tensor], cotangent: tf.Tensor) -> list[tf.Tensor]:
    """J^T cotangent, a list of tensors like `values`, for function(values) -> outputs."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        y = function(values)
    gradients = tape.gradient(y, values, cotangent, unconnected_gradients="zero")
    return [tf.convert_to_tensor(g) for g in gradients]  # an embedding gives sparse ones


def output_and_jvp(
    function: Function, values: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """(function(values), J tangents), differentiable by `tangents`.

    Raises:
        NotImplementedError: naming the operation whose gradient cannot be differentiated.
    """
    with _second_order.differentiable(), tf.GradientTape(watch_accessed_variables=False) as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(values)
            y = function(values)
        # Its value plays no role, and must be no constant that a graph optimizer could fold.
        cotangent = tf.zeros_like(y)
        outer.watch(cotangent)
        product = inner.gradient(y, values, cotangent)
        # On the tape: an embedding's gradient is sparse, and becomes dense by an operation.
        product = [p if p is None else tf.convert_to_tensor(p) for p in product]
        connected = [(p, t) for p, t in zip(product, tangents) if p is not None]
    if not connected:
        return y, tf.zeros_like(y)
    product, along = zip(*connected)
    with _second_order.differentiable():
        tangent = outer.gradient(product, cotangent, along)
    if tangent is None:
        raise NotImplementedError(
            "a layer of the model has a gradient that cannot be differentiated itself, so that no "
            'Jacobian-vector product goes through it: method="structured" and "jacobian" need none'
        )
    return y, tangent


def output_and_jvps(
    function: Function, values: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(function(values), its first and its second derivative along the tangents)."""
    y, _ = output_and_jvp(function, values, tangents)

    def first(values: Sequence[tf.Tensor]) -> tf.Tensor:
        return jvp(function, values, tangents)

    return y, *output_and_jvp(first, values, tangents)


def jvp(
    function: Function, values: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
) -> tf.Tensor:
    """J tangents, of the outputs' shape."""
    return output_and_jvp(function, values, tangents)[1]


def operation_types(graph: Any) -> set[str]:
    """The types of the operations of a graph and of the functions that it calls."""
    types = {op.type for op in graph.get_operations()}
    return types | {n.op for f in graph.as_graph_def().library.function for n in f.node_def}


def check_deterministic(graph: Any) -> None:
    """Raises ValueError if a traced graph, or a function that it calls, draws random numbers."""
    random = sorted(name for name in operation_types(graph) if "Random" in name)
    if random:
        raise ValueError(
            "the model must be deterministic: a stochastic layer (such as Dropout called with "
            f"training=True) runs in training mode. Found the operations {random}"
        )
