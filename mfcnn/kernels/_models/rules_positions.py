"""Rules for layers that move positions: pooling, padding, cropping, resizing, reshaping."""

import functools
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn.kernels._models import sampled
from mfcnn.kernels._models.mixing import MaskedMean
from mfcnn.kernels._models.nodes import Node
from mfcnn.kernels._models.operations import Moved, Reordered
from mfcnn.kernels._models.registry import newer_layers, refuse, rule
from mfcnn.kernels._models.signals import Part, Signal

if TYPE_CHECKING:
    from mfcnn.kernels._models.reading import Call

__all__ = ["position_map"]

L = keras.layers


def _matrices(layer: Any, sizes: tuple[int, ...]) -> list[np.ndarray | None]:
    """The matrix [out, in] of each axis of a layer that is a product of maps of single axes.

    The layer itself says them: it is called, in float64, on images that are a unit vector along
    one axis and constant along the others. With L(1) the image of ones and p a position where it
    is not zero, the product over the axes of the images at p is L times L(1)(p)^(rank - 1).
    """
    double = _in_float64(layer)
    rank = len(sizes)
    with tf.init_scope():  # numbers, also while a graph is traced
        image = np.asarray(double(np.ones([1, *sizes, 1])), np.float64)
        ones, outputs = image.ravel(), image.shape[1:-1]
        flat = int(np.argmax(np.abs(ones)))
        if len(outputs) < rank:
            outputs = (1,) * rank  # a global pooling
        place = np.unravel_index(flat, outputs)
        result: list[Any] = []
        for axis, size in enumerate(sizes):
            shape = [size if other == axis else 1 for other in range(rank)]
            images = np.eye(size).reshape([size, *shape]) * np.ones([size, *sizes])
            moved = np.asarray(double(images[..., None]), np.float64).reshape([size, *outputs])
            index = tuple(slice(None) if other == axis else place[other] for other in range(rank))
            result.append(moved[(slice(None), *index)].T)
    result[0] = result[0] / ones[flat] ** (rank - 1)
    return result


def _in_float64(layer: Any) -> Any:
    """A layer without weights as a function in float64."""
    copy = type(layer).from_config(layer.get_config() | {"dtype": "float64"})

    def call(x: np.ndarray) -> tf.Tensor:
        try:
            return copy(x)
        except tf.errors.NotFoundError:  # an operation that TensorFlow has in float32 alone
            return tf.function(copy, jit_compile=True, autograph=False)(tf.constant(x))

    return call


def _moved(layer: Any, node: Node, sizes: tuple[int, ...], averages: bool) -> Node:
    """A node moved by a layer; where positions are only picked, pairs are not needed."""

    @functools.cache
    def matrices() -> list[np.ndarray | None]:
        return _matrices(layer, node.sizes)

    keeps = len(sizes) == len(node.sizes)
    moved = Moved(sizes if keeps else (1,) * len(node.sizes), node, matrices, averages)
    return moved if keeps else Reordered(sizes, moved, tuple(range(len(node.sizes))))


def position_map(call: "Call", signal: Signal) -> Signal:
    """The rule of any layer that is linear in positions, one axis after the other, in each channel.

    It is called on unit vectors to see what it does.

    Args:
        call: the call of the layer, as `register_layer_rule` describes it.
        signal: what the layer is given.

    Returns:
        The signal behind the layer.

    Raises:
        ValueError: behind Flatten, where positions count as channels.

    Example:
        >>> import keras, mfcnn
        >>> class Mirror(keras.layers.Layer):
        ...     def call(self, x):
        ...         return x[:, ::-1]
        >>> _ = mfcnn.kernels.register_layer_rule(Mirror)(mfcnn.kernels.position_map)
        >>> model = keras.Sequential([
        ...     keras.Input([3, 1]), keras.layers.Conv1D(8, 1), Mirror(), keras.layers.Flatten(),
        ...     keras.layers.Dense(1)])
        >>> kernel = mfcnn.kernels.from_keras(model)
        >>> kernel(np.eye(3)[..., None], get="nngp").shape
        TensorShape([3, 3])
    """
    return _by_positions(call, signal, averages=True)


def _by_positions(call: "Call", signal: Signal, averages: bool) -> Signal:
    if signal.flat:
        call.refuse("it acts on a flat signal")
    return signal.each(lambda node: _moved(call.layer, node, call.sizes, averages))


@rule(
    L.AveragePooling1D,
    L.AveragePooling2D,
    L.AveragePooling3D,
    L.GlobalAveragePooling1D,
    L.GlobalAveragePooling2D,
    L.GlobalAveragePooling3D,
    L.Resizing,
    *newer_layers("AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D"),
)
def average(call: "Call", signal: Signal) -> Signal:
    """Sums over positions."""
    options = ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")
    if any(getattr(call.layer, name, False) for name in options):
        call.refuse("it keeps the aspect ratio or antialiases")
    mask = call.masks.get("mask")
    if mask is not None:  # of GlobalAveragePooling1D alone
        if signal.flat:
            call.refuse("it acts on a flat signal")
        pooled = signal.each(lambda node: MaskedMean(node, mask))
        return pooled if call.sizes else pooled.each(lambda node: Reordered((), node, (0,)))
    return _by_positions(call, signal, averages=True)


@rule(
    L.ZeroPadding1D,
    L.ZeroPadding2D,
    L.ZeroPadding3D,
    L.Cropping1D,
    L.Cropping2D,
    L.Cropping3D,
    L.CenterCrop,
    L.UpSampling1D,
    L.UpSampling3D,
)
def pick(call: "Call", signal: Signal) -> Signal:
    """Picks positions: each output reads one at most."""
    return _by_positions(call, signal, averages=False)


@rule(L.UpSampling2D)
def upsample(call: "Call", signal: Signal) -> Signal:
    """Repeats positions, or interpolates between them."""
    nearest = call.layer.interpolation == "nearest"
    return _by_positions(call, signal, averages=not nearest)


@rule(L.Flatten)
def flatten(call: "Call", signal: Signal) -> Signal:
    """Positions count as channels."""
    return signal.flattened()


@rule(L.Reshape)
def reshape(call: "Call", signal: Signal) -> Signal:
    """The positions as another image; or all of it as one vector."""
    if signal.flat or not call.sizes:
        if not call.sizes:
            return signal.flattened()
        call.refuse("it makes an image of a flat signal")
    if call.channels != signal.channels:
        call.refuse("it moves numbers between channels and positions")
    axes = tuple(range(len(signal.sizes)))
    return signal.each(lambda node: Reordered(call.sizes, node, axes))


@rule(L.Permute)
def permute(call: "Call", signal: Signal) -> Signal:
    """The spatial axes in another order."""
    *axes, last = call.layer.dims
    if signal.flat or last != len(call.layer.dims):
        call.refuse("it moves the channels")
    order = tuple(axis - 1 for axis in axes)
    return signal.each(lambda node: Reordered(call.sizes, node, order))


@rule(L.RepeatVector)
def repeat(call: "Call", signal: Signal) -> Signal:
    """One position becomes many, all equal."""
    if signal.flat:
        call.refuse("it repeats a flat signal")
    ones: list[np.ndarray | None] = [np.ones([call.layer.n, 1])]

    def repeated(node: Node) -> Node:
        line = Reordered((1,), node, ())
        return Moved(call.sizes, line, lambda: ones, averages=False)

    return signal.each(repeated)


@rule(L.MaxPooling1D, L.MaxPooling2D, L.GlobalMaxPooling1D, L.GlobalMaxPooling2D)
def maximum(call: "Call", signal: Signal) -> Signal:
    """The maximum over windows, by Monte Carlo."""
    if not call.sampled:
        call.refuse(
            "the maximum of Gaussian signals is not Gaussian in the next layer; "
            "from_keras(model, sampled=True) takes a Monte Carlo estimate with its error bar"
        )
    layer = call.layer
    window = strides = None
    padding = "valid"
    if isinstance(layer, (L.MaxPooling1D, L.MaxPooling2D)):
        window, strides, padding = tuple(layer.pool_size), tuple(layer.strides), layer.padding

    def pooled(part: Part) -> Part:
        sizes = part.node.sizes
        outputs = call.sizes if len(call.sizes) == len(sizes) else (1,) * len(sizes)
        node: Node = sampled.Maximum(outputs, part.node, window or sizes, strides or sizes, padding)
        if outputs != call.sizes:
            node = Reordered(call.sizes, node, tuple(range(len(sizes))))
        return part._replace(node=node)

    return Signal([pooled(part) for part in signal.parts])


refuse("its mask would be that of a random signal: put it before the first weights", L.Masking)
refuse(
    "its maximum over unequal windows or volumes is not known here",
    L.MaxPooling3D,
    L.GlobalMaxPooling3D,
    *newer_layers("AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D"),
)
refuse(
    "Keras's own layer fails in float64 where a size is divided into one: take AveragePooling3D",
    *newer_layers("AdaptiveAveragePooling3D"),
)
