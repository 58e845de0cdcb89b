"""What the numbers of flags may be: a range for each kind of quantity, wider than any use.

A value beyond it (`--q_star=1e9`) is a slip, and is refused before anything is computed.
"""

__all__ = [
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

# sigma_w^2 and sigma_b^2: at 1e4 tanh is a step to four digits, and relu gains 1e3 a layer.
VARIANCE: dict[str, float] = {"lower_bound": 0.0, "upper_bound": 1e4}
POSITIVE_VARIANCE = {"above": 0.0, "upper_bound": 1e4}
STANDARD_DEVIATION = {"lower_bound": 0.0, "upper_bound": 1e2}
POSITIVE_STANDARD_DEVIATION = {"above": 0.0, "upper_bound": 1e2}
# Of pre-activations on the critical line; below it float32 has no signal beside a gradient.
Q_STAR = {"lower_bound": 1e-12, "upper_bound": 1e2}
# Factors of a readout or of biases: 1 / sqrt(q*) and sqrt(q*), with room.
SCALE = {"lower_bound": 1e-9, "upper_bound": 1e9}
LEARNING_RATE = {"lower_bound": 0.0, "upper_bound": 1e6}
POSITIVE_LEARNING_RATE = {"above": 0.0, "upper_bound": 1e6}
RELATIVE_RATE = {"lower_bound": 1e-6, "upper_bound": 1e2}  # in units of the largest stable one
FRACTION = {"lower_bound": 0.0, "upper_bound": 1.0}
LOSS = {"lower_bound": 0.0, "upper_bound": 1e3}
WIDTH_FACTOR = {"above": 0.0, "upper_bound": 1e3}
SECONDS = {"lower_bound": 0.0, "upper_bound": 1e6}  # eleven days
MOST = 1e12  # of lists of integers: sizes, depths, steps
