"""What an affine map makes of the squared distances of pairs: the algebra of one layer.

For signals normalised by scales t1, t2 that are constant over positions,

    d = E|z1 / t1 - z2 / t2|^2 = mix((f1 - f2)^2 + 2 f1 f2 gap_T) + bias_variance (1/t1 - 1/t2)^2
    gap = (d - (r1 - r2)^2) / (2 r1 r2)

with f^2 the share of the weights in E|z / t|^2, and r = |z| / t. Every term is a square or a
product of positive numbers, so 1 - c keeps its relative accuracy as c -> 1, and inputs whose
norms differ by any factor share no cancellation.

f1 - f2 and its like have no digits left where two variances nearly coincide. Where some inputs do,
each pair carries q1 - q2 beside the gap (`close_between`), by the close duals of
`mfcnn.activations` and by the affine map, which is linear in it:

    f1^2 - f2^2 = bias_variance (q1 - q2) / (q1 q2)                own norms
                = weight_variance (A1 - A2) / t^2,  A = E[phi^2]   one scale.

So a dense network keeps all digits of any two inputs. Over positions, which share a scale,
d - (r1 - r2)^2 has an error of one rounding of (r1 - r2)^2: it counts where images are collinear
and large, for there 1 - c is smaller still.
"""

import math
from typing import Any, NamedTuple

import tensorflow as tf

from mfcnn.numerics import inverse, safe_sqrt

__all__ = [
    "Distances",
    "Normal",
    "bias_distance",
    "between",
    "close_between",
    "gap_of_distance",
    "normal",
]


class Normal(NamedTuple):
    """What the affine map needs of one side's variances q.

    Attributes:
        root: sqrt(q).
        inverse_norm: 1 / t, t the scale of a whole signal.
        bias: sqrt(bias_variance) / t.
        radius: r = sqrt(q) / t.
        half: sqrt(1/2) / r, so that the product of two sides is 1 / (2 r1 r2).
    """

    root: tf.Tensor
    inverse_norm: tf.Tensor
    bias: tf.Tensor
    radius: tf.Tensor
    half: tf.Tensor


class Distances(NamedTuple):
    """One affine map on pairs, all but what the activation before it adds.

    Attributes:
        weights: f1 f2.
        apart: (f1 - f2)^2.
        biases: what the biases add to the squared distance.
        edges: what positions outside the image add.
        radii: r1 - r2.
        scale: 1 / (2 r1 r2).
        variances: q1 - q2, or () where it is not carried.
    """

    weights: tf.Tensor
    apart: tf.Tensor
    biases: tf.Tensor
    edges: Any
    radii: tf.Tensor
    scale: tf.Tensor
    variances: Any

    def gap(self, output_gap: tf.Tensor, layout: Any) -> tf.Tensor:
        """The gap 1 - c behind the affine map, from that behind the activation."""
        distance = layout.mix_pair(self.apart + 2 * self.weights * output_gap)
        return _gap(distance + self.biases + self.edges, self.radii, self.scale)


def normal(q: tf.Tensor, layout: Any, bias_variance: tf.Tensor) -> Normal:
    """Scales of one side; see `Normal`."""
    root = safe_sqrt(q)
    inverse_norm = inverse(layout.norm(root))
    # A signal's own norm leaves exactly one: rounding is as large as the square of a small gap.
    radius = tf.cast(root > 0, root.dtype) if layout.own_norm else root * inverse_norm
    bias = safe_sqrt(bias_variance) * inverse_norm
    return Normal(root, inverse_norm, bias, radius, math.sqrt(0.5) * inverse(radius))


def gap_of_distance(distance: tf.Tensor, one: Normal, two: Normal, layout: Any) -> tf.Tensor:
    """The gap 1 - c from the normalised squared distance d."""
    radii = layout.first(one.radius) - layout.second(two.radius)
    return _gap(distance, radii, layout.first(one.half) * layout.second(two.half))


def _gap(distance: tf.Tensor, radii: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value((distance - radii * radii) * scale, 0, 2)


def bias_distance(one: Normal, two: Normal, layout: Any) -> tf.Tensor:
    """What the biases add to the normalised squared distance."""
    difference = layout.first(one.bias) - layout.second(two.bias)
    return difference * difference


def between(
    one: Normal, two: Normal, weights: tuple[tf.Tensor, tf.Tensor], layout: Any
) -> Distances:
    """By subtraction; `weights` are f1 and f2."""
    first, second = layout.first(weights[0]), layout.second(weights[1])
    difference = first - second
    return Distances(
        first * second,
        difference * difference,
        bias_distance(one, two, layout),
        layout.beyond_edge(weights[0] ** 2, weights[1] ** 2),
        layout.first(one.radius) - layout.second(two.radius),
        layout.first(one.half) * layout.second(two.half),
        (),
    )


def close_between(
    one: Normal,
    two: Normal,
    weights: tuple[tf.Tensor, tf.Tensor],
    layout: Any,
    parameters: tuple[tf.Tensor, tf.Tensor],
    difference: tf.Tensor,
) -> Distances:
    """From A1 - A2 = `difference` of the pairs, in float64."""
    first, second = layout.first(weights[0]), layout.second(weights[1])
    one = Normal._make(layout.first(a) for a in one)
    two = Normal._make(layout.second(a) for a in two)
    step = parameters[0] * difference
    if layout.own_norm:
        return _own_norms(one, two, first, second, parameters[1], step)
    zeros = [tf.zeros_like(f) for f in weights]
    edges = (
        layout.beyond_edge(weights[0] ** 2, zeros[1]),
        layout.beyond_edge(zeros[0], weights[1] ** 2),
    )
    return _shared_scale(one, two, first, second, layout, step, edges)


def _own_norms(
    one: Normal,
    two: Normal,
    first: tf.Tensor,
    second: tf.Tensor,
    bias_variance: tf.Tensor,
    step: tf.Tensor,
) -> Distances:
    """Where t^2 = q, so that r = 1 and f^2 = 1 - bias_variance / q; `step` is q1 - q2."""
    both = one.inverse_norm * two.inverse_norm
    difference = bias_variance * step * both * both * inverse(first + second)
    biases = step * inverse(one.root + two.root) * both
    return Distances(
        first * second,
        difference * difference,
        bias_variance * biases * biases,
        0.0,
        one.radius - two.radius,
        one.half * two.half,
        step,
    )


def _shared_scale(
    one: Normal,
    two: Normal,
    first: tf.Tensor,
    second: tf.Tensor,
    layout: Any,
    step: tf.Tensor,
    edges: tuple[Any, Any],
) -> Distances:
    """Where images of like size have one scale; `step` is what each tap adds to q1 - q2.

    Scales that are one step of 16 apart are those of images on either side of a boundary: the
    second image is brought to the scale of the first.
    """
    ratio = one.inverse_norm * inverse(two.inverse_norm)
    ratio = tf.where(tf.abs(tf.math.log(ratio)) < math.log(17), ratio, tf.ones_like(ratio))
    second, radius, scale = second * ratio, two.radius * ratio, two.inverse_norm * ratio
    variances = layout.mix_pair(step)
    variances += edges[0] / one.inverse_norm**2 - edges[1] / two.inverse_norm**2
    equal, unit = tf.equal(scale, one.inverse_norm), one.inverse_norm * scale
    difference = tf.where(equal, step * unit * inverse(first + second), first - second)
    radii = variances * unit * inverse(one.radius + radius)
    biases = one.bias - two.bias * ratio
    return Distances(
        first * second,
        difference * difference,
        biases * biases,
        edges[0] + ratio * ratio * edges[1],
        tf.where(equal, radii, one.radius - radius),
        one.half * two.half / ratio,
        variances,
    )
