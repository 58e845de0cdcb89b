"""Any polynomials between any kinks."""

from mfcnn.activations._activation import Activation
from mfcnn.activations._piecewise import piecewise
from mfcnn.activations._registry import form


@form("piecewise_polynomial")
def build(
    kinks: tuple[float, ...] = (0.0,),
    polynomials: tuple[tuple[float, ...], ...] = ((0.0,), (0.0, 1.0)),
) -> Activation:
    """Kinks ascend; polynomials are one more, by coefficients of 1, x, x^2, ..."""
    return piecewise(kinks, polynomials)
