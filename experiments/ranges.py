"""What the numbers of flags may be: a range for each kind of quantity, wider than any use.

A value beyond it (`--q_star=1e9`) is a slip, and is refused before anything is computed.
"""

from typing import Any

__all__ = [
    "CORRELATION",
    "CURVATURE",
    "FRACTION",
    "LEARNING_RATE",
    "LOSS",
    "MOST",
    "POSITIVE_LEARNING_RATE",
    "POSITIVE_STANDARD_DEVIATION",
    "POSITIVE_VARIANCE",
    "Q_STAR",
    "RELATIVE_RATE",
    "SCALE",
    "SECONDS",
    "STANDARD_DEVIATION",
    "VARIANCE",
    "WIDTH_FACTOR",
]

Range = dict[str, Any]  # keywords of a flag: lower_bound or above, and upper_bound

# sigma_w^2 and sigma_b^2: at 1e4 tanh is a step to four digits, and relu gains 1e3 a layer.
VARIANCE: Range = {"lower_bound": 0.0, "upper_bound": 1e4}
POSITIVE_VARIANCE: Range = {"above": 0.0, "upper_bound": 1e4}
STANDARD_DEVIATION: Range = {"lower_bound": 0.0, "upper_bound": 1e2}
POSITIVE_STANDARD_DEVIATION: Range = {"above": 0.0, "upper_bound": 1e2}
# Of pre-activations on the critical line; below it float32 has no signal beside a gradient.
Q_STAR: Range = {"lower_bound": 1e-12, "upper_bound": 1e2}
# Factors of a readout or of biases: 1 / sqrt(q*) and sqrt(q*), with room.
SCALE: Range = {"lower_bound": 1e-9, "upper_bound": 1e9}
LEARNING_RATE: Range = {"lower_bound": 0.0, "upper_bound": 1e6}
POSITIVE_LEARNING_RATE: Range = {"above": 0.0, "upper_bound": 1e6}
RELATIVE_RATE: Range = {
    "lower_bound": 1e-6,
    "upper_bound": 1e2,
}  # in units of the largest stable one
FRACTION: Range = {"lower_bound": 0.0, "upper_bound": 1.0}
# What `activations.tailored` is asked for, of all layers together.
CORRELATION: Range = {"lower_bound": 0.01, "upper_bound": 0.99}
CURVATURE: Range = {"lower_bound": 1e-3, "upper_bound": 1e2}
LOSS: Range = {"lower_bound": 0.0, "upper_bound": 1e3}
WIDTH_FACTOR: Range = {"above": 0.0, "upper_bound": 1e3}
SECONDS: Range = {"lower_bound": 0.0, "upper_bound": 1e6}  # eleven days
MOST = 1e12  # of lists of integers: sizes, depths, steps
