"""The kernel of a convolutional network, flattened or pooled, in blocks of images or of pairs."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from mfcnn import arguments, profiles
from mfcnn.kernels import _blocks, _first_layer, _geometry, _layered

__all__ = ["ConvolutionalKernel"]


class ConvolutionalKernel(_layered.LayeredKernel):
    """See `convolutional`."""

    _name = "convolutional"

    def __init__(
        self,
        depth: Any,
        activation: Any,
        weight_variance: Any,
        bias_variance: Any,
        kernel_size: Any,
        readout: Any,
        padding: Any,
        variance_profile: Any,
        dtype: Any,
    ):
        super().__init__(depth, activation, weight_variance, bias_variance, dtype)
        self.readout = arguments.choice("readout", readout, ("flatten", "pool"))
        self.padding = arguments.choice("padding", padding, ("circular", "same", "valid"))
        # Copies: what the caller changes later does not change this kernel.
        self.kernel_size, self.variance_profile = _own(kernel_size), _own(variance_profile)
        try:
            self._profile(1)  # of sequences
        except ValueError:
            self._profile(2)  # of images: one of the two must be right

    def _profile(self, rank: int) -> np.ndarray:
        return profiles.parse(self.variance_profile, self.kernel_size, rank)

    def _check(self, name: str, x: tf.Tensor) -> None:
        if x.shape.rank not in (3, 4) or not all(x.shape[1:]):
            raise ValueError(
                f"{name} must be [batch, height, width, channels] or [batch, length, channels] of "
                f"known sizes, none of them 0. Received: {name}.shape={x.shape}"
            )
        profile = self._profile(x.shape.rank - 2)
        if self.padding == "valid":
            for size, taps in zip(x.shape[1:-1], profile.shape):
                if size - self._depths[-1] * (taps - 1) < 1:
                    raise ValueError(
                        f"padding='valid' leaves nothing of {size} positions after "
                        f"{self._depths[-1]} layers with {taps} taps. Received: depth={self.depth}"
                    )

    def _linear(self, x1: tf.Tensor, x2: tf.Tensor | None) -> tf.Tensor:
        weight_variance, bias_variance = self._parameters
        axes = list(range(1, x1.shape.rank - 1))

        def features(x: tf.Tensor) -> tf.Tensor:
            x = tf.reduce_mean(x, axes) if self.readout == "pool" else x
            return tf.reshape(x, [-1, math.prod(x.shape[1:])])

        one = features(x1)
        products = _layered.inner_products(one, one if x2 is None else features(x2))
        return weight_variance * products / one.shape[1] + bias_variance

    def _architecture(self, rank: int) -> Any:
        convolution = _geometry.Convolution(self._profile(rank), self.padding, (1,) * rank)
        kind = _geometry.Flatten if self.readout == "flatten" else _geometry.Pool
        return kind(convolution)

    def _deep(self, x1: tf.Tensor, x2: tf.Tensor | None, scaled: bool, run: _blocks.Run) -> tuple:
        shape = x1.shape[1:-1]
        layout = self._architecture(len(shape))
        second = x1 if x2 is None else x2
        layers = self._layers(
            lambda: _blocks.extremes(*(self._variance(x, layout) for x in (x1, second))),
            layout.shrinks,
            self._share(layout, shape),
        )
        flat, positions = self.readout == "flatten", math.prod(shape)

        def body(
            accurate: bool, x1: tf.Tensor, x2: tf.Tensor | None, parameters: tuple, layers: list
        ) -> tuple:
            same = _first_layer.same_inputs(x1, x2, pairwise=flat)
            order = [len(shape) + 1, *range(1, len(shape) + 1), 0]
            one = tf.transpose(x1, order)
            two = one if x2 is None else tf.transpose(x2, order)
            first, close = _first_layer.convolutional(one, two, same, layout, parameters, accurate)
            values = self._propagate(first, parameters, layers, layout, scaled, accurate)
            return (*(values if x2 is not None else _layered.symmetric(values)), close)

        def program(x1: tf.Tensor, x2: tf.Tensor | None, pairs: int) -> tuple:
            accurate = not tf.executing_eagerly()
            *values, close = self._run((scaled,), body, (accurate, x1, x2), layers, pairs)
            if not accurate and close:  # as for dense layers
                *values, _ = self._run((scaled,), body, (True, x1, x2), layers, pairs)
            return tuple(values)

        if not tf.executing_eagerly():
            return program(x1, x2, 0) if flat else _all_pairs(program, x1, second)
        n1, n2 = x1.shape[0], None if x2 is None else x2.shape[0]
        work = n1 * (n2 or n1) * positions ** (1 if flat else 2)

        def block(rows: np.ndarray, columns: np.ndarray) -> tuple:
            if flat and len(rows) == n1 and len(columns) == (n2 or n1):
                return program(x1, x2, work)
            return program(tf.gather(x1, rows), tf.gather(second, columns), work)

        if flat:
            return run.grid(block, n1, n2, max(1, math.isqrt(65536 // positions)))
        return run.pairs(block, n1, n2, max(1, 65536 // positions**2))

    def _variance(self, x: tf.Tensor, layout: Any) -> tf.Tensor:
        """Variances after the first convolution, [*spatial, n]."""
        weight_variance, bias_variance = self._parameters
        order = [*range(1, x.shape.rank - 1), 0]
        squares = tf.transpose(tf.reduce_mean(x * x, -1), order)
        return weight_variance * layout.mix_signal(squares) + bias_variance

    def _share(self, layout: Any, shape: Any) -> float:
        """The smallest sum of taps at a position: below one at the edge of zero padding."""
        if self.padding != "same" or self._closed_form is not None:
            return 1.0
        return float(tf.reduce_min(layout.mix_signal(tf.ones([*shape, 1], tf.float64))))


def _all_pairs(program: Any, x1: tf.Tensor, x2: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Pooled kernels of all pairs in one program, for batches of any size."""
    n1, n2 = _geometry.sizes(x1)[0], _geometry.sizes(x2)[0]
    copies = [n1] + [1] * (x2.shape.rank - 1)
    nngp, ntk, log_scale = program(tf.repeat(x1, n2, axis=0), tf.tile(x2, copies), 0)
    shape = [*log_scale.shape, n1, n2]
    return tf.reshape(nngp, shape), tf.reshape(ntk, shape), log_scale


def _own(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else np.array(value).tolist()
