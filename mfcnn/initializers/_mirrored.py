"""Kernels whose units come in pairs of opposite sign."""

from typing import Any

import keras
import tensorflow as tf

from mfcnn import arguments

__all__ = ["Mirrored"]


@keras.saving.register_keras_serializable(package="mfcnn")
class Mirrored(keras.initializers.Initializer):
    """Weights of twins: unit i + n / 2 of a layer of n is minus unit i.

    With V drawn by another initializer, half as large, a kernel [*window, c_in, c_out] is

        [V, -V]  (outputs),    [V; -V]  (inputs),    [V, -V; -V, V]  (both),

    so that layers one behind the other see V (phi(h) - phi(-h)): at first the network is one of
    half the units whose activation is the odd part of phi. For relu, gelu, swish and softplus that
    is linear, and with orthogonal V every singular value of the Jacobian is one at any depth; for
    sigmoid it is tanh(h / 2). Training tells the twins apart. A bias [c_out] takes outputs alone.

    Args:
        initializer: of V, or its Keras name.
        mirror_inputs: whether the inputs are twins.
        mirror_outputs: whether the units are to be.

    Raises:
        ValueError: for an unknown initializer; at a call for an odd number of twins.

    Example:
        >>> twins = mfcnn.initializers.Mirrored("ones", mirror_inputs=False)
        >>> twins((1, 4)).numpy()
        array([[ 1.,  1., -1., -1.]], dtype=float32)

    Source: Balduzzi et al. 2017, "The shattered gradients problem", section 4.1 ("looks linear").
    """

    def __init__(
        self, initializer: Any, mirror_inputs: bool = True, mirror_outputs: bool = True
    ) -> None:
        self.initializer = arguments.initializer("initializer", initializer)
        self.mirror_inputs = arguments.boolean("mirror_inputs", mirror_inputs)
        self.mirror_outputs = arguments.boolean("mirror_outputs", mirror_outputs)

    def __call__(self, shape: Any, dtype: Any = None, **options: Any) -> tf.Tensor:
        """Draws V and puts it together with its twins.

        Args:
            shape: [*window, c_in, c_out] of a kernel, or [c_out] of a bias.
            dtype: as of the other initializer.
            **options: handed on to it.

        Returns:
            A tensor of that shape.

        Raises:
            ValueError: for an odd number of twins.
        """
        half = [int(size) for size in shape]
        axes = [-1] * self.mirror_outputs + [-2] * (self.mirror_inputs and len(half) > 1)
        for axis in axes:
            if half[axis] % 2:
                raise ValueError(
                    f"shape must have an even size along axis {axis}, where twins are. "
                    f"Received: shape={tuple(shape)}"
                )
            half[axis] //= 2
        kernel = self.initializer(tuple(half), dtype=dtype, **options)
        for axis in axes:
            kernel = tf.concat([kernel, -kernel], axis)
        return kernel

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serializable."""
        return {
            "initializer": keras.saving.serialize_keras_object(self.initializer),
            "mirror_inputs": self.mirror_inputs,
            "mirror_outputs": self.mirror_outputs,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Mirrored":
        """The initializer that `get_config` described."""
        inner = keras.saving.deserialize_keras_object(config["initializer"])
        return cls(inner, config["mirror_inputs"], config["mirror_outputs"])
