"""A Keras model as a function of its weights, with the two products of its Jacobian.

The Jacobian-vector product is the gradient of the vector-Jacobian product by its cotangent, in
which that product is linear. This needs reverse mode only, and so is right for every layer whose
gradient can be differentiated; a ForwardAccumulator in a graph gives a silent zero for some custom
gradients. In a tf.function the unused half of the work is pruned.
"""

import keras
import tensorflow as tf

__all__ = [
    "check_deterministic",
    "check_inputs",
    "check_model",
    "evaluate",
    "jvp",
    "operation_types",
    "output_and_jvp",
    "vjp",
]


def check_model(model):
    """Raises a clear error unless the model is a built Keras model with trainable weights."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: {type(model).__name__}")
    if not model.built:
        raise ValueError(
            f"model must be built, so that it has weights: call model.build(input_shape) or "
            f"model(x) first. Received: the unbuilt model {model.name!r}"
        )
    if not model.trainable_variables:
        raise ValueError(f"model must have trainable weights. Received: {model.name!r} with none")
    dtypes = sorted({v.dtype for v in model.trainable_variables})
    if len(dtypes) > 1:
        raise ValueError(f"model must have weights of one dtype. Received: {dtypes}")


def check_inputs(model, x, name):
    """The inputs as a tensor of the model's dtype; raises for other dtypes and shapes.

    Raises:
        TypeError: if x is not one floating array of the model's dtype.
        ValueError: if x is empty or does not fit the model's input.
    """
    if isinstance(x, (dict, list, tuple)):
        raise TypeError(f"{name} must be one array, [n, ...]. Received: a {type(x).__name__}")
    x = tf.convert_to_tensor(x)
    dtype = model.trainable_variables[0].dtype
    inputs = getattr(model, "inputs", None)
    if inputs and "int" in str(inputs[0].dtype):
        dtype = inputs[0].dtype
    if x.dtype.name != dtype:
        raise TypeError(
            f"{name} must have the dtype of the model, {dtype}: cast one of them. "
            f"Received: {name}.dtype={x.dtype.name}"
        )
    if x.shape.rank is None or x.shape.rank < 2 or 0 in x.shape:
        raise ValueError(f"{name} must be [n, ...] and not empty. Received: shape={x.shape}")
    expected = getattr(model, "input_shape", None)
    if isinstance(expected, tuple) and expected and not isinstance(expected[0], tuple):
        if not tf.TensorShape(expected[1:]).is_compatible_with(x.shape[1:]):
            raise ValueError(
                f"{name} must be of the model's input shape {expected}. Received: shape={x.shape}"
            )
    return x


def evaluate(model, values, x):
    """The outputs [n, k] of the model in inference mode, with `values` as trainable weights.

    Args:
        model: a built Keras model with one output.
        values: one tensor for each of `model.trainable_variables`.
        x: inputs [n, ...].

    Returns:
        The output with all axes after the first flattened.

    Raises:
        ValueError: if the model has several outputs.
    """
    mapping = list(zip(model.trainable_variables, values))
    with keras.StatelessScope(state_mapping=mapping):
        y = model(x, training=False)
    if not tf.is_tensor(y):
        raise ValueError(f"model must have one output. Received: {type(y).__name__} of outputs")
    return tf.reshape(y, [tf.shape(x)[0], -1]) if y.shape.rank != 2 else y


def vjp(function, values, cotangent):
    """J^T cotangent, a list of tensors like `values`, for function(values) -> outputs."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        y = function(values)
    gradients = tape.gradient(y, values, cotangent, unconnected_gradients="zero")
    return [tf.convert_to_tensor(g) for g in gradients]  # an embedding gives sparse ones


def output_and_jvp(function, values, tangents):
    """(function(values), J tangents), differentiable by `tangents`."""
    with tf.GradientTape(watch_accessed_variables=False) as outer:
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
        raise ValueError("the model's output does not depend on its trainable weights")
    product, tangents = zip(*connected)
    tangent = outer.gradient(product, cotangent, tangents)
    if tangent is None:
        raise NotImplementedError(
            "a layer of the model has a gradient that cannot be differentiated itself"
        )
    return y, tangent


def jvp(function, values, tangents):
    """J tangents, of the outputs' shape."""
    return output_and_jvp(function, values, tangents)[1]


def operation_types(graph):
    """The types of the operations of a graph and of the functions that it calls, a set."""
    types = {op.type for op in graph.get_operations()}
    return types | {n.op for f in graph.as_graph_def().library.function for n in f.node_def}


def check_deterministic(graph):
    """Raises ValueError if a traced graph, or a function that it calls, draws random numbers."""
    random = sorted(name for name in operation_types(graph) if "Random" in name)
    if random:
        raise ValueError(
            "the model must be deterministic: a stochastic layer (such as Dropout called with "
            f"training=True) runs in training mode. Found the operations {random}"
        )
