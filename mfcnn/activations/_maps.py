"""The plain dual maps T(q1, q2, q12) of any activation, on top of `Activation.dual`."""

from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.activations import _registry

__all__ = ["dual_maps"]


def dual_maps(activation: Any, q1: Any, q2: Any, q12: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """E[phi(u) phi(v)] and E[phi'(u) phi'(v)] for (u, v) ~ N(0, [[q1, q12], [q12, q2]]).

    Args:
        activation: what `get` takes.
        q1: variances of u, non-negative, float64 or float32.
        q2: variances of v, of the same dtype; the three arguments broadcast.
        q12: covariances; values beyond sqrt(q1 q2) by rounding count as correlation one.

    Returns:
        (T, T'), tensors of the broadcast shape. An activation without a closed form is tabulated
        for the range of the given variances, which must therefore be eager tensors.

    Raises:
        ValueError: for what is no finite number, or a negative variance (eager arguments), and
            see `Activation.table`.

    Example:
        >>> value, slope = mfcnn.activations.dual_maps("erf", 0.5, 0.5, 0.25)
        >>> print(f"{value:.6f} {slope:.6f}")
        0.160861 0.657498
    """
    activation = _registry.get(activation)
    if tf.executing_eagerly():
        for name, q in (("q1", q1), ("q2", q2)):
            arguments.variances(name, q)
        arguments.array("q12", q12)
    q1 = tf.convert_to_tensor(q1, None if hasattr(q1, "dtype") else tf.float64)
    q2, q12 = tf.convert_to_tensor(q2, q1.dtype), tf.convert_to_tensor(q12, q1.dtype)
    dual = activation.closed_form
    if dual is None:
        variances = np.concatenate([np.ravel(q1.numpy()), np.ravel(q2.numpy())])
        table = activation.table(np.min(variances), np.max(variances))
        dual = table.dual(q1.dtype)
    return dual.maps(q1, q2, q12)
