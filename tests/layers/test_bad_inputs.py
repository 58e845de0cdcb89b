"""Every argument of every public name of these rooms refuses what is wrong, by name and value."""

import pytest

from tests import bad_inputs

ROOMS = ("layers", "initializers", "models")
# Another room's, whose test has them.
OTHERS = ("mfcnn.models.linearize", "mfcnn.models.LinearizedModel")
FUNCTIONS = {n: f for n, f in bad_inputs.functions(ROOMS) if n not in OTHERS}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_value_is_refused_by_name_and_value(name):
    calls = list(bad_inputs.sweep(name, FUNCTIONS[name]))
    faults = [c for c in calls if c.outcome != "refused"]
    assert len(calls) > 3 and not faults, "\n".join(map(str, faults))
