"""The private names of TensorFlow and Keras that the package leans on, all of them.

None has a public equivalent. Each has a test (tests/test_borrowed.py) that fails when it moves or
changes what it does, so that a new TensorFlow or Keras shows here first; no other module of the
package imports from `tensorflow.python`, `tensorflow.compiler` or `keras.src`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

# Keras's class of graphs, its operators (`a + b` between its tensors), two layers of its ConvNeXt.
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.backend.common import global_state

# The mask that Keras attaches to a tensor, where the layers that take it look for it.
from keras.src.backend.common.masking import get_keras_mask as get_mask
from keras.src.backend.common.masking import set_keras_mask as set_mask
from keras.src.models.functional import Functional
from keras.src.ops import numpy as keras_numpy_operations
from tensorflow.compiler.tf2xla.ops.gen_xla_ops import (
    xla_all_reduce,
    xla_dynamic_update_slice,
    xla_reduce_scatter,
    xla_replica_id,
)

# The executor of a function: a small graph's operations one after the other, without a queue.
from tensorflow.python.eager.context import function_executor_type

# The functions that pass forward-mode tangents around an operation and hide it from tapes. The
# public API can stop one tape, but not those of the callers.
from tensorflow.python.eager.forwardprop_util import pack_tangents
from tensorflow.python.eager.record import (
    could_possibly_record,
    record_operation_forwardprop_only,
    stop_recording,
)

# Which operations have a gradient; a second derivative needs some that TensorFlow lacks.
from tensorflow.python.framework.ops import _gradient_registry as gradient_registry
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

__all__ = [
    "Functional",
    "GraphOrParentsInXlaContext",
    "LayerScale",
    "StochasticDepth",
    "call_with_tensors",
    "compiled_by_xla",
    "could_possibly_record",
    "function_executor_type",
    "get_mask",
    "initializer_of",
    "inner_layers",
    "keras_numpy_operations",
    "layer_being_built",
    "gradient_registry",
    "graph_nodes",
    "pack_tangents",
    "record_operation_forwardprop_only",
    "set_mask",
    "stop_recording",
    "sublayers",
    "take_summed_gradients",
    "xla_all_reduce",
    "xla_dynamic_update_slice",
    "xla_reduce_scatter",
    "xla_replica_id",
]


def call_with_tensors(function: Callable[..., Any], tensors: Sequence[tf.Tensor]) -> Any:
    """function(*tensors) for a concrete function, half as long: nothing is bound by name.

    No tape records the call.
    """
    captured = function.captured_inputs  # type: ignore[attr-defined]
    return function.inference_fn.call_preflattened([*tensors, *captured])  # type: ignore


def compiled_by_xla() -> bool:
    """Whether XLA compiles the function being traced: Keras turns it on by itself, in `compile`."""
    return bool(GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def layer_being_built() -> keras.layers.Layer | None:
    """The Keras layer whose weights are being made: an initializer is told their shape alone."""
    scopes = global_state.get_global_attribute("name_scope_stack") or []
    callers = [scope.caller for scope in scopes if isinstance(scope.caller, keras.layers.Layer)]
    return callers[-1] if callers else None


def graph_nodes(model: keras.Model) -> list[Any]:
    """The calls of a functional or Sequential model's graph in the order in which Keras runs them.

    Raises:
        RuntimeError: if this Keras keeps its graph elsewhere.
    """
    graph = getattr(model, "_functional", None) or model
    by_depth = getattr(graph, "_nodes_by_depth", None)
    if by_depth is None:
        raise RuntimeError(
            f"Keras {keras.__version__} keeps no graph for {model.name!r} where it was. "
            "Keras 3.15 is known to work."
        )
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    return [node for node in nodes if node.operation and not node.is_input]


def initializer_of(variable: keras.Variable) -> Callable[..., Any]:
    """The initializer of a variable made in a `keras.StatelessScope`, which has drawn nothing.

    Raises:
        RuntimeError: for a variable that has its value already.
    """
    initializer = getattr(variable, "_initializer", None)
    if not callable(initializer):
        raise RuntimeError(
            f"Keras {keras.__version__} keeps no initializer for {variable.path!r}. "
            "Keras 3.15 is known to work."
        )
    return initializer


def inner_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds itself, not those inside of them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def sublayers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """A layer and all layers inside it, outer ones first."""
    return list(layer._flatten_layers(include_self=True, recursive=True))


def take_summed_gradients(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes a Keras optimizer take the gradients that it is given for those of all replicas.

    `optimizer.apply` sums over the replicas itself, after it has clipped each replica's part. With
    gradients that are sums already SGD's steps would be as many times too long as there are
    replicas; and Keras has no public way to turn it off.

    Raises:
        RuntimeError: if this Keras has no such sum where it was, and would so go unnoticed.
    """
    name = "_all_reduce_sum_gradients"
    if not hasattr(optimizer, name):
        raise RuntimeError(
            f"Keras {keras.__version__} sums gradients over the replicas elsewhere than in "
            f"{type(optimizer).__name__}.{name}. Keras 3.15 is known to work."
        )
    setattr(optimizer, name, list)  # from the pairs of gradient and variable to the same pairs
