"""The private names of TensorFlow and Keras that the package leans on, all of them.

None has a public equivalent. Each has a test (tests/test_borrowed.py) that fails when it moves or
changes what it does, so that a new TensorFlow or Keras shows here first.
"""

# Whether XLA compiles the function being traced: Keras turns XLA on by itself, in `compile`.
# The functions that pass forward-mode tangents around an operation and hide it from tapes.
from tensorflow.python.eager.forwardprop_util import pack_tangents
from tensorflow.python.eager.record import (
    could_possibly_record,
    record_operation_forwardprop_only,
    stop_recording,
)
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

__all__ = [
    "GraphOrParentsInXlaContext",
    "could_possibly_record",
    "pack_tangents",
    "record_operation_forwardprop_only",
    "stop_recording",
]
