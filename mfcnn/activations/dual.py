"""The former names of what `mfcnn.activations` has now; to be removed."""

from mfcnn.activations import dual_maps, get

__all__ = ["closed_form_dual", "dual_maps", "leaky_relu_dual"]


def closed_form_dual(activation):
    """`Activation.closed_form`."""
    return get(activation).closed_form


def leaky_relu_dual(negative_slope):
    """The closed form of leaky_relu."""
    return get("leaky_relu", negative_slope=float(negative_slope)).closed_form
