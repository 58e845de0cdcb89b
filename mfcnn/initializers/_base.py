"""Seed, dtype, batching and configuration of the convolution initializers."""

import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.initializers import _layouts
from mfcnn.initializers._layouts import Layout

__all__ = ["ConvolutionInitializer", "float_dtype", "map_layers"]

Shape = tuple[int, ...]


class ConvolutionInitializer(keras.initializers.Initializer):
    """Seed, dtype, batching and configuration; a subclass says how kernels are drawn."""

    def __init__(
        self,
        seed: Any = None,
        layout: str | None = None,
        strides: int | tuple[int, ...] | None = None,
        groups: int | None = None,
    ) -> None:
        self._init_seed = seed
        if isinstance(seed, dict):
            seed = keras.saving.deserialize_keras_object(seed)
        self.seed = _checked_seed(seed)
        self.layout = arguments.choice("layout", layout, (None, *_layouts.LAYOUTS))
        self.strides = _checked_strides(strides)
        self.groups = None if groups is None else arguments.integer("groups", groups, 1)

    def __call__(self, shape: Any, dtype: Any = None) -> tf.Tensor:
        """Draws one kernel.

        Args:
            shape: [*window, c_in, c_out], one to three window dimensions; or as the layout says.
            dtype: a floating dtype; the Keras default if None.

        Returns:
            A tensor of that shape and dtype.

        Raises:
            ValueError: for a shape, layer or dtype that this initializer cannot fill.
        """
        layout = self._layout(shape)
        shape, dtype = self._check_shape(shape, layout), float_dtype(dtype)
        return self._draw(self._next_seed(), shape, dtype, layout)

    def stack(self, depth: int, shape: Any, dtype: Any = None) -> tf.Tensor:
        """Draws `depth` independent kernels as one tensor, in one tf loop.

        Kernel i depends on (seed, i, shape, dtype) and not on depth: a deeper stack begins with
        the shallower one. The kernels have the law of those of `__call__`, not the values. Memory
        peaks at the result (Gaussian), the result and its non-zero taps twice (delta), or twice
        the result (orthogonal).

        Args:
            depth: number of kernels, at least 1.
            shape: [*window, c_in, c_out] of one kernel.
            dtype: a floating dtype; the Keras default if None.

        Returns:
            A tensor of shape [depth, *window, c_in, c_out].

        Raises:
            ValueError: as for `__call__`, or depth below 1.

        Example:
            >>> start = mfcnn.initializers.ConvolutionDeltaOrthogonal(seed=0)
            >>> start.stack(100, (3, 3, 4, 4)).shape
            TensorShape([100, 3, 3, 4, 4])
        """
        depth, layout = arguments.depth(depth), self._layout(shape)
        shape, dtype = self._check_shape(shape, layout), float_dtype(dtype)
        in_place = tf.executing_eagerly()

        def draw(seed: tf.Tensor) -> tf.Tensor:
            return self._draw_stack(seed, depth, shape, dtype, layout, in_place)

        # As a graph also when called eagerly: there loops are quick and buffers are reused.
        # Folded, so that no kernel of the stack shares its random numbers with `__call__`.
        seed = tf.random.experimental.stateless_fold_in(self._next_seed(), 0)
        return tf.function(draw, autograph=False).get_concrete_function(seed)(seed)

    def entry_variances(self, shape: Any, layer: keras.layers.Layer | None = None) -> np.ndarray:
        """The variance of a kernel's entries at each tap of the window.

        Args:
            shape: as in `__call__`.
            layer: the Keras layer whose kernel it is; None is a plain convolution of stride 1.

        Returns:
            float64 [*window].

        Raises:
            ValueError: as for `__call__`.

        Example:
            >>> gaussian = mfcnn.initializers.ConvolutionGaussian("delta", weight_variance=2.0)
            >>> gaussian.entry_variances((3, 4, 8))
            array([0. , 0.5, 0. ])
        """
        layout = self._layout(shape, layer)
        return self._variances(self._check_shape(shape, layout), layout)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serializable."""
        return {
            "seed": keras.saving.serialize_keras_object(self._init_seed),
            "layout": self.layout,
            "strides": self.strides,
            "groups": self.groups,
        }

    def _layout(self, shape: Any, layer: keras.layers.Layer | None = None) -> Layout:
        given = {"layout": self.layout, "strides": self.strides, "groups": self.groups}
        return _layouts.find(given, type(self).__name__, tuple(shape), layer)

    def _next_seed(self) -> tf.Tensor:
        if isinstance(self.seed, int):
            low, high = self.seed & 0x7FFFFFFF, (self.seed >> 31) & 0x7FFFFFFF
            return tf.constant([low, high], tf.int32)
        # XLA takes int32 only; the generator's state is int64.
        return tf.cast(tf.math.floormod(self.seed.next(), 2**31 - 1), tf.int32)

    def _check_shape(self, shape: Any, layout: Layout) -> Shape:
        try:
            checked = tuple(operator.index(size) for size in shape)
        except TypeError as error:
            raise ValueError(
                f"{type(self).__name__} needs a fully known shape of integers. "
                f"Received: shape={shape}"
            ) from error
        if len(checked) not in (3, 4, 5) or min(checked) < 1:
            raise ValueError(
                f"{type(self).__name__} fills kernels of shape [*window, c_in, c_out] with one, "
                "two or three window dimensions (rank 3, 4 or 5), all positive. "
                f"Received: shape={checked} of rank {len(checked)}"
            )
        layout.kernels(checked)
        layout.strides_of(checked[:-2])
        return checked

    def _variances(self, shape: Shape, layout: Layout) -> np.ndarray:
        raise NotImplementedError

    def _draw(self, seed: tf.Tensor, shape: Shape, dtype: tf.DType, layout: Layout) -> tf.Tensor:
        """One kernel from an int32 [2] seed."""
        return self._draw_stack(seed, 1, shape, dtype, layout, in_place=False)[0]

    def _draw_stack(
        self,
        seed: tf.Tensor,
        depth: int,
        shape: Shape,
        dtype: tf.DType,
        layout: Layout,
        in_place: bool,
    ) -> tf.Tensor:
        """[depth, *shape] from an int32 [2] seed, inside a graph."""
        raise NotImplementedError


def map_layers(
    draw: Callable[[tf.Tensor], tf.Tensor],
    depth: int,
    shape: Shape,
    dtype: tf.DType,
    in_place: bool,
) -> tf.Tensor:
    """[depth, *shape]: draw(i) for i < depth in one loop; in place it is not for XLA.

    `tf.map_fn` would hold the layers twice and leave the heap in pieces: for 10,000 kernels of
    3x3x128x128 a third more memory than the result.
    """
    if not in_place:
        return tf.map_fn(draw, tf.range(depth), fn_output_signature=dtype)
    # Not `tf.zeros`: a constant of the graph must not be written to.
    stack = tf.raw_ops.Empty(shape=[depth, *shape], dtype=dtype, init=True)
    stack.set_shape([depth, *shape])

    def write(i: tf.Tensor, stack: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, tf.raw_ops.InplaceUpdate(x=stack, i=i[None], v=draw(i)[None])

    return tf.while_loop(lambda i, _: i < depth, write, (tf.constant(0), stack))[1]


def float_dtype(dtype: Any) -> tf.DType:
    """A floating dtype; the Keras default for None."""
    standard = keras.backend.standardize_dtype
    chosen = keras.config.floatx() if dtype is None else dtype
    name = arguments.interpreted("dtype", chosen, standard, "a floating dtype or None")
    dtype = tf.as_dtype(name)
    if not dtype.is_floating:
        raise ValueError(f"dtype must be a floating dtype. Received: dtype={dtype.name}")
    return dtype


def _checked_seed(seed: Any) -> Any:
    if isinstance(seed, keras.random.SeedGenerator):
        return seed
    if seed is None:
        return arguments.seed_or_drawn(None)
    try:
        return arguments.integer("seed", seed, 0)
    except ValueError as error:
        raise type(error)(
            "seed must be an integer of at least 0, None or a keras.random.SeedGenerator. "
            f"Received: seed={seed!r}"
        ) from None


def _checked_strides(strides: Any) -> int | tuple[int, ...] | None:
    if strides is None:
        return None
    if np.ndim(strides) and not isinstance(strides, str):
        return arguments.integers("strides", strides, 1)
    return arguments.integer("strides", strides, 1)
