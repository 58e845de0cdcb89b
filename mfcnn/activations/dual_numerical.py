"""The former names of what `mfcnn.activations` has now; to be removed."""

from mfcnn.activations.ranges import settled_variance, variance_ranges

__all__ = ["TabulatedDual", "build_table", "settled_variance", "variance_ranges"]


def build_table(activation, q_low, q_high, dtype="float64"):
    """`Activation.table`."""
    return activation.table(q_low, q_high, dtype)


def TabulatedDual(table, dtype, variance=None):  # noqa: N802
    """A table's `dual`."""
    return table.dual(dtype, variance)
