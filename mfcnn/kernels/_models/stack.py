"""Many equal layers as one node: a loop over them, compiled once where it is long."""

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from mfcnn.activations import Activation, Dual, ranges
from mfcnn.kernels import _blocks, _geometry
from mfcnn.kernels._models import covariance
from mfcnn.kernels._models.covariance import Covariance
from mfcnn.kernels._models.nodes import Affine, Law

if TYPE_CHECKING:
    from mfcnn.kernels._models.pairs import Evaluation

__all__ = ["Stack"]

_TRACE_FROM = 100  # layers from which a graph, seconds to trace, pays for itself


class Stack(Affine):
    """depth - 1 times (affine, activation), then the last affine map: Gaussian."""

    function: Activation | None = None

    def __init__(self, sizes: tuple, parts: tuple, law: Law, depth: int) -> None:
        super().__init__(sizes, parts, law)
        self.depth = depth

    def _dual(
        self, function: Activation, first: Covariance, layout: covariance.Layout
    ) -> tuple[Dual | None, Any]:
        """(closed form or None, table): one table for the variances of all layers."""
        q1, q2 = (covariance.variances(k, layout) for k in (first.self1, first.self2))
        if function.closed_form is not None:
            return function.closed_form, ()
        share = 1.0
        if self.law.convolution is not None:
            ones = tf.ones([*self.sizes, 1], tf.float64)
            mixed = _geometry.mix(ones, self.law.convolution, layout.rank, pairs=False)
            share = float(tf.reduce_min(mixed))
        low, high = _blocks.extremes(q1, q2)
        variances = self.law.weight_variance, self.law.bias_variance
        lows, highs = zip(
            *ranges.variance_ranges(function, low, high, self.depth, *variances, share)
        )
        return None, function.table(min(lows), max(highs))

    def combine(self, evaluation: "Evaluation", values: list) -> Covariance:
        """The loop, with its compiled form kept for the next block."""
        first = super().combine(evaluation, values)
        if self.function is None:  # linear: the same map again and again
            layout = evaluation.layout(self)
            for _ in range(self.depth - 1):
                first = self.law.apply(first, layout)
            return first
        layout = evaluation.layout(self)
        closed_form, table = self._dual(self.function, first, layout)
        count = self.depth - 1

        def run(kernels: Covariance, same: tf.Tensor, table: Any) -> Covariance:
            dual = table.dual(tf.float64) if closed_form is None else closed_form

            def body(index: tf.Tensor, *kernels: tf.Tensor) -> tuple:
                value = Covariance(*kernels)
                q1, q2 = (covariance.variances(k, layout) for k in value[:2])
                value = covariance.activate(value, (q1, q1), (q2, q2), layout, dual, same)
                return (index + 1, *self.law.apply(value, layout))

            return tf.while_loop(lambda i, *_: i < count, body, (tf.constant(0), *kernels))[1:]

        if count > _TRACE_FROM:
            run = evaluation.loops.setdefault(self, tf.function(run, autograph=False))
        return Covariance(*run(first, evaluation.same, table))
