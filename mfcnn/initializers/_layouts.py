"""What the axes of a convolution's kernel mean.

    layout         kernel                            Keras's layers
    "convolution"  [*window, c_in / groups, c_out]   Conv1D to 3D, pointwise part of SeparableConv
    "transposed"   [*window, c_out, c_in]            Conv1DTranspose to 3DTranspose
    "depthwise"    [*window, c_in, multiplier]       DepthwiseConv1D, 2D, that of SeparableConv

An initializer is told a shape and nothing else. Keras knows which layer it is building, though, and
so the layout is asked of that layer; where none is being built, it is "convolution" unless the
initializer was given another one.
"""

import math
from typing import Any, NamedTuple

import keras

from mfcnn import arguments, borrowed

__all__ = ["LAYOUTS", "Layout", "find", "layout_of"]

LAYOUTS = ("convolution", "transposed", "depthwise")

_Layers = keras.layers
_CONVOLUTIONS = (_Layers.Conv1D, _Layers.Conv2D, _Layers.Conv3D)
_TRANSPOSED = (_Layers.Conv1DTranspose, _Layers.Conv2DTranspose, _Layers.Conv3DTranspose)
_DEPTHWISE = (_Layers.DepthwiseConv1D, _Layers.DepthwiseConv2D)
_SEPARABLE = (_Layers.SeparableConv1D, _Layers.SeparableConv2D)


class Layout(NamedTuple):
    """The kind of a kernel's axes, the layer's strides (None: one) and its groups."""

    kind: str = "convolution"
    strides: int | tuple[int, ...] | None = None
    groups: int = 1

    def strides_of(self, window: tuple[int, ...]) -> tuple[int, ...]:
        """The stride along each axis of the window."""
        return arguments.sizes("strides", 1 if self.strides is None else self.strides, len(window))

    def channels(self, shape: tuple[int, ...]) -> int:
        """The channels that one output is a sum over, apart from the window."""
        return {"convolution": shape[-2], "transposed": shape[-1], "depthwise": 1}[self.kind]

    def kernels(self, shape: tuple[int, ...]) -> int:
        """How many separate kernels there are: one for each group."""
        count = shape[-2] if self.kind == "depthwise" else self.groups
        if self.kind != "depthwise" and shape[-1] % count:
            raise ValueError(
                f"groups must divide c_out={shape[-1]}. Received: groups={count} for a kernel of "
                f"shape {shape}"
            )
        return count

    def group_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one group's kernel."""
        if self.kind == "depthwise":
            return (*shape[:-2], 1, shape[-1])
        return (*shape[:-1], shape[-1] // self.kernels(shape))

    def spread(self, window: tuple[int, ...]) -> int:
        """Outputs for each input position: those that a transposed convolution makes anew."""
        return math.prod(self.strides_of(window)) if self.kind == "transposed" else 1


def layout_of(
    layer: keras.layers.Layer | None,
    name: str = "This initializer",
    shape: tuple[int, ...] | None = None,
) -> Layout:
    """The layout of the kernel that a layer is about to make; for no layer the plain one.

    Args:
        layer: a Keras layer or None. A user's own layer counts as a plain convolution.
        name: the initializer's, for the message.
        shape: the kernel's, which tells the two kernels of a separable convolution apart.

    Raises:
        ValueError: for one of Keras's layers that is no convolution.
    """
    if isinstance(layer, _TRANSPOSED):
        return Layout("transposed", layer.strides)
    if isinstance(layer, _DEPTHWISE):
        return Layout("depthwise", layer.strides)
    if isinstance(layer, _SEPARABLE):
        # Its depthwise kernel is made first.
        first = getattr(layer, "depthwise_kernel", None)
        is_first = first is None or tuple(first.shape) == shape
        if (
            first is not None
            and shape is not None
            and is_first
            and shape[-2:] == (shape[-2], layer.filters)
        ):
            is_first = math.prod(shape[:-2]) > 1 or layer.depth_multiplier > 1
        return Layout("depthwise", layer.strides) if is_first else Layout()
    if isinstance(layer, _CONVOLUTIONS):
        return Layout("convolution", layer.strides, layer.groups)
    kinds = [c for c in type(layer).__mro__ if c.__module__.split(".")[0] == "keras"]
    if layer is not None and kinds and kinds[0] not in (_Layers.Layer, keras.Model):
        raise ValueError(
            f"{name} fills the kernels of Keras's convolutions, whose channels it knows: "
            "Conv1D to Conv3D, their transposed, depthwise and separable forms, and layers derived "
            "from keras.layers.Layer whose kernels are [*window, c_in, c_out]. Use "
            f"keras.initializers.Orthogonal or VarianceScaling. Received: {layer.name!r} of type "
            f"{type(layer).__name__}"
        )
    return Layout()


def find(
    given: dict[str, Any],
    name: str,
    shape: tuple[int, ...],
    layer: keras.layers.Layer | None = None,
) -> Layout:
    """The layout: what an initializer was given, the rest from the layer being built."""
    if given["layout"] is not None:
        known = Layout(given["layout"])
        layer = layer or borrowed.layer_being_built()
        if isinstance(layer, _CONVOLUTIONS + _TRANSPOSED + _DEPTHWISE):
            known = known._replace(strides=layer.strides, groups=getattr(layer, "groups", 1))
    else:
        known = layout_of(layer or borrowed.layer_being_built(), name, shape)
    own = {key: given[key] for key in ("strides", "groups") if given[key] is not None}
    return known._replace(**own)
