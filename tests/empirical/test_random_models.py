"""A few random models of the generator, and that it would see a fault."""

import numpy as np
import pytest

from mfcnn.empirical import _verification
from tests.empirical import random_models

_QUICK = tuple(range(12))


def _faults(seed):
    names, result = random_models.outcomes(seed)
    return [f"{route} of {names}: {o}" for route, o in result.items() if o.startswith("wrong")]


@pytest.mark.parametrize("seed", _QUICK)
def test_every_route_is_right_or_refused(seed):
    assert not _faults(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12, 100))
def test_every_route_is_right_or_refused_in_many_models(seed):
    assert not _faults(seed)


def test_the_generator_draws_from_over_thirty_kinds():
    kinds = set().union(*random_models.KINDS.values())
    assert len(kinds) > 90
    shapes = [random_models.random_model(seed)[0].input_shape for seed in range(12)]
    assert {len(shape) for shape in shapes} >= {2, 3, 4}


def test_a_route_that_fails_its_check_is_not_taken(monkeypatch):
    """Every weight is found wrong, whatever the route: then no number comes back."""
    monkeypatch.setattr(_verification, "wrong_weights", lambda *_: [0])
    model, x, _ = random_models.random_model(3)
    from mfcnn import empirical

    with pytest.raises(NotImplementedError, match="weights whose gradients differ"):
        empirical.ntk(model, x, method="structured")
    assert np.all(np.isfinite(empirical.ntk(model, x, method="structured", verify=False)))
