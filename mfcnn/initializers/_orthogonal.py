"""Kernels whose convolution keeps norms: orthogonal and delta-orthogonal."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, profiles
from mfcnn.initializers._base import ConvolutionInitializer, Shape, map_layers
from mfcnn.initializers._layouts import Layout

__all__ = ["ConvolutionDeltaOrthogonal", "ConvolutionOrthogonal"]

_fold_in = tf.random.experimental.stateless_fold_in


class _OrthogonalInitializer(ConvolutionInitializer):
    """What the two norm-preserving initializers share; a subclass draws one group's kernel.

    With strides s every s x s patch of pixels goes to one output, [s^d c_in] to c_out channels, by
    one matrix with orthonormal rows, the block. A transposed convolution is the transpose of a
    convolution from its outputs to its inputs, and keeps norms where that one's block has
    orthonormal columns.
    """

    def __init__(
        self,
        gain: float = 1.0,
        seed: Any = None,
        *,
        layout: str | None = None,
        strides: int | tuple[int, ...] | None = None,
        groups: int | None = None,
        contraction: bool = False,
    ) -> None:
        super().__init__(seed, layout, strides, groups)
        self.gain = arguments.number("gain", gain, 0)
        self.contraction = arguments.boolean("contraction", contraction)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, serializable."""
        return {"gain": self.gain, **super().get_config(), "contraction": self.contraction}

    def _check_shape(self, shape: Any, layout: Layout) -> Shape:
        shape = super()._check_shape(shape, layout)
        group, strides = layout.group_shape(shape), layout.strides_of(shape[:-2])
        rows = math.prod(_block(group, layout)) * group[-2]
        seen = all(k >= s for k, s in zip(shape, strides))
        if layout.kind == "transposed":
            keeps, rule = group[-1] <= rows, "c_in <= c_out times the strides"
        else:
            keeps, rule = seen and rows <= group[-1], "c_in <= c_out"
            if max(strides) > 1:
                rule = "c_in times the strides <= c_out and a window of at least the strides"
        if not keeps and not self.contraction:
            within = " (in each group)" if layout.kernels(shape) > 1 else ""
            c_in, c_out = group[-2:] if layout.kind != "transposed" else group[:-3:-1]
            raise ValueError(
                f"{type(self).__name__} needs {rule}{within}, since no linear map into fewer "
                "dimensions keeps every norm. Widen the channels in an earlier layer, use "
                "ConvolutionGaussian, or accept with contraction=True a map that increases no "
                f"norm. Received: shape={shape}, c_in={c_in}, c_out={c_out}, "
                f"strides={strides}, groups={layout.kernels(shape)}, layout={layout.kind!r}"
            )
        return shape

    def _draw(self, seed: tf.Tensor, shape: Shape, dtype: tf.DType, layout: Layout) -> tf.Tensor:
        if layout.kernels(shape) == 1:
            group = layout.group_shape(shape)
            kernel = self._draw_group(seed, group, _block(group, layout), dtype)
            return tf.reshape(kernel, shape)
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
        count, group = layout.kernels(shape), layout.group_shape(shape)
        block = _block(group, layout)

        def draw(i: tf.Tensor) -> tf.Tensor:
            return self._draw_group(_fold_in(seed, i), group, block, dtype)

        stack = map_layers(draw, depth * count, group, dtype, in_place)
        if count == 1:
            return tf.reshape(stack, [depth, *shape])
        # From [depth, group, ..., c_in, c_out] to the groups side by side in the output channels,
        # or, depthwise, in the input channels.
        stack = tf.reshape(stack, [depth, count, *group])
        axis = len(shape) - 1
        order = [0, *range(2, axis + 1), 1, axis + 1, axis + 2]
        if layout.kind != "depthwise":
            order[axis], order[axis + 1] = order[axis + 1], order[axis]
        return tf.reshape(tf.transpose(stack, order), [depth, *shape])

    def _draw_group(
        self, seed: tf.Tensor, shape: Shape, block: Shape, dtype: tf.DType
    ) -> tf.Tensor:
        """One group's kernel from an int32 [2] seed."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="mfcnn")
class ConvolutionOrthogonal(_OrthogonalInitializer):
    """Random kernel whose circular convolution keeps the norm of every input, times `gain`.

    Each of the k - 1 steps convolves the kernel, along each window dimension, with the two taps
    [P, I - P] of a random orthogonal projection P = U diag(m) U^T: U is Haar-uniform and the
    entries of m are fair coins, which the paper leaves open. The first factor is H, the first c_in
    rows of a Haar-uniform orthogonal matrix. So tap beta holds on average the share
    prod_j binomial(k - 1, beta_j) / 2^(k - 1) of the weight variance: the middle taps hold more.
    Norms are kept under circular padding only, for images whose sides the strides divide.

    With strides s the first factor has a window of s, and k - s steps act on the input channels.

    Args:
        gain: the norm of the output over that of the input; finite, not negative.
        seed: int, None or `keras.random.SeedGenerator`.
        layout: "convolution", "transposed" or "depthwise"; None is that of the layer being built,
            and "convolution" where there is none.
        strides: of the convolution; None likewise, and one.
        groups: of the convolution; None likewise, and one.
        contraction: accepts also shapes for which no linear map keeps every norm (c_in > c_out,
            strides into too few channels): as many directions as there can be keep theirs, the
            others go to zero.

    Raises:
        ValueError: for a bad argument; at a call for a shape of rank other than 3, 4, 5, with
            c_in > c_out, or with a window that is not square.

    Example:
        >>> layer = mfcnn.layers.PeriodicConvolution(
        ...     4, 3, kernel_initializer=mfcnn.initializers.ConvolutionOrthogonal(seed=0)
        ... )
        >>> x = np.random.default_rng(0).normal(size=(1, 8, 8, 4))
        >>> round(float(np.linalg.norm(layer(x)) / np.linalg.norm(x)), 5)
        1.0

    Source: CNN paper, Algorithm 1 and eq. 2.17, here in one, two or three dimensions.
    """

    def _check_shape(self, shape: Any, layout: Layout) -> Shape:
        shape = super()._check_shape(shape, layout)
        if len(set(shape[:-2])) > 1:
            raise ValueError(
                "ConvolutionOrthogonal needs a window of equal sides; "
                f"ConvolutionDeltaOrthogonal takes any. Received: shape={shape}"
            )
        return shape

    def _variances(self, shape: Shape, layout: Layout) -> np.ndarray:
        group = layout.group_shape(shape)
        result = np.full([1] * len(group[:-2]), _block_variance(self.gain, group, layout))
        for axis, (size, inner) in enumerate(zip(group, _block(group, layout))):
            steps = profiles.parse("orthogonal", size - inner + 1, 1)
            share = np.convolve(np.ones(inner), steps)
            result = result * share.reshape([-1 if a == axis else 1 for a in range(result.ndim)])
        return result

    def _draw_group(
        self, seed: tf.Tensor, shape: Shape, block: Shape, dtype: tf.DType
    ) -> tf.Tensor:
        window, (c_in, c_out) = shape[:-2], shape[-2:]
        strided = max(block) > 1
        # Alternating, so that no axis comes last.
        steps = [size - inner for size, inner in zip(window, block)]
        turns = range(max(steps, default=0))
        axes = [axis for turn in turns for axis, count in enumerate(steps) if turn < count]
        size = c_in if strided else c_out
        # One draw for all factors; the extra row's signs are the coins.
        normals = tf.random.stateless_normal(
            [1 + len(axes), size + 1, size], seed, dtype=tf.float64
        )
        bases = _haar(normals[:, :-1])
        coins = tf.cast(normals[:, -1:] > 0, tf.float64)
        if strided or c_in > c_out:
            first = _partial_isometry(_fold_in(seed, 1), math.prod(block) * c_in, c_out)
        else:
            first = bases[0, :c_in]
        kernel = tf.reshape(self.gain * first, [*block, c_in, c_out])
        for factor, axis in enumerate(axes, 1):
            paddings = np.zeros((len(shape), 2), int)
            paddings[axis] = 0, 1
            here = tf.pad(kernel, paddings)
            paddings[axis] = 1, 0
            shifted = tf.pad(kernel, paddings)
            # K [] [P, I - P] = K P + shift(K) (I - P) = shift(K) + (K - shift(K)) P, or P from the
            # left.
            part = _project(here - shifted, bases[factor], coins[factor], left=strided)
            kernel = shifted + part
        return tf.cast(kernel, dtype)


@keras.saving.register_keras_serializable(package="mfcnn")
class ConvolutionDeltaOrthogonal(_OrthogonalInitializer):
    """Zero but for one tap, which holds c_in orthonormal rows: keeps norms and every Fourier mode.

    K[(k - 1) // 2, ...] = gain * H, where H is the first c_in rows of a Haar-uniform orthogonal
    matrix of size c_out. The tap is that of the pixel itself under Keras's "same" padding, so that
    norms are kept there too. With strides s the s taps from (k - s) // 2 on hold the rows of one
    such matrix, and every pixel is seen by one output.

    Args:
        gain, seed, layout, strides, groups, contraction: as of `ConvolutionOrthogonal`.

    Raises:
        ValueError: for a bad argument; at a call for a shape of rank other than 3, 4, 5 or with
            c_in > c_out.

    Example:
        >>> kernel = mfcnn.initializers.ConvolutionDeltaOrthogonal(seed=0)((3, 3, 4, 8))
        >>> np.allclose(kernel[1, 1] @ tf.transpose(kernel[1, 1]), np.eye(4), atol=1e-6)
        True

    Source: CNN paper, Algorithm 2, here in one, two or three dimensions and for any window.
    """

    def _variances(self, shape: Shape, layout: Layout) -> np.ndarray:
        group = layout.group_shape(shape)
        block = _block(group, layout)
        taps = np.full(block, _block_variance(self.gain, group, layout))
        return np.pad(taps, [_around(*sizes) for sizes in zip(group, block)])

    def _draw_group(
        self, seed: tf.Tensor, shape: Shape, block: Shape, dtype: tf.DType
    ) -> tf.Tensor:
        c_in, c_out = shape[-2:]
        rows = _partial_isometry(seed, math.prod(block) * c_in, c_out)
        taps = tf.reshape(tf.cast(self.gain * rows, dtype), [*block, c_in, c_out])
        around = [_around(*sizes) for sizes in zip(shape, block)]
        return tf.pad(taps, [*around, (0, 0), (0, 0)])


def _block(group: Shape, layout: Layout) -> Shape:
    """The window of the pixels that belong to one output alone: the strides."""
    return tuple(min(k, s) for k, s in zip(group, layout.strides_of(group[:-2])))


def _around(size: int, inner: int) -> tuple[int, int]:
    """Taps before and after the block, as "same" padding lies around the patch."""
    return (size - inner) // 2, size - inner - (size - inner) // 2


def _block_variance(gain: float, group: Shape, layout: Layout) -> float:
    rows = math.prod(_block(group, layout)) * group[-2]
    return gain**2 / max(rows, group[-1])


def _partial_isometry(seed: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    """Haar-uniform [rows, columns] in float64 with orthonormal rows, or columns if these are fewer.

    In the wide case the first rows of an orthogonal matrix of size columns.
    """
    shape = [max(rows, columns), min(rows, columns)]
    q = _haar(tf.random.stateless_normal(shape, seed, dtype=tf.float64))
    return q if rows > columns else tf.transpose(q)


def _project(kernel: tf.Tensor, basis: tf.Tensor, coin: tf.Tensor, left: bool) -> tf.Tensor:
    """The kernel times U diag(m) U^T, from the right or from the left."""
    rows = kernel if not left else tf.linalg.matrix_transpose(kernel)
    part = tf.matmul(tf.reshape(rows, [-1, basis.shape[0]]), basis)
    part = tf.matmul(part * coin, basis, transpose_b=True)
    part = tf.reshape(part, tf.shape(rows))
    return part if not left else tf.linalg.matrix_transpose(part)


def _haar(normals: tf.Tensor) -> tf.Tensor:
    """The QR factor of [..., n, m] normal matrices with positive diagonal of R: Haar-uniform.

    In float64: for 128 x 128 matrices a quarter slower than float32 and, after the cast, 25 times
    nearer to orthogonal.
    """
    q, r = tf.linalg.qr(normals)
    signs = tf.where(tf.linalg.diag_part(r) < 0, -1.0, 1.0)
    return q * tf.cast(signs, q.dtype)[..., None, :]
