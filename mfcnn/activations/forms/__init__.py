"""The activations known by name: each file registers one, and nothing else lists it.

To add an activation, add a file here with a function that makes it:

    @form("cube", functions=(...,))
    def build() -> Activation:
        return Activation(lambda x: x**3, lambda x: 3 * x**2)

Closed forms are optional: `moments` for the mean field theory (`_moments.ClosedForm`), `dual` for
the kernels (`_dual.Dual`); `_piecewise.piecewise` has both for any piecewise polynomial.
"""

import importlib
import pkgutil

from mfcnn.activations._registry import register_functions

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
register_functions()
