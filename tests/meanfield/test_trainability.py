"""The verdict before training."""

import numpy as np

from mfcnn import meanfield


def test_ordered_networks_are_refused_beyond_six_depth_scales():
    verdict = meanfield.trainability("tanh", 1.0, 0.05, 100)
    point = meanfield.fixed_point("tanh", 1.0, 0.05)
    assert not verdict.trainable and verdict.phase == "ordered"
    assert verdict.xi_c == point.xi_c and verdict.max_depth == 6 * point.xi_c
    np.testing.assert_allclose(verdict.gradient_ratio, point.chi_1**99, rtol=1e-10)
    assert "will not train" in str(verdict) and "vanish" in str(verdict)
    assert meanfield.trainability("tanh", 1.0, 0.05, 20).trainable


def test_critical_delta_orthogonal_networks_train_at_any_depth():
    point = meanfield.critical_point("tanh", 1e-4)
    verdict = meanfield.trainability("tanh", *point, 10_000, "delta", orthogonal=True, size=8)
    assert verdict.trainable and verdict.gradient_ratio == 1.0
    assert (verdict.surviving_modes, verdict.modes) == (64, 64)
    # 4-th moments of sech^2: relative variance 8 q^2 per layer, so 10^4 * 8e-8.
    np.testing.assert_allclose(verdict.log_spread, 0.5 * np.sqrt(np.log1p(8e-4)), rtol=1e-3)
    uniform = meanfield.trainability("tanh", *point, 10_000, size=8)
    assert uniform.surviving_modes == 1 and uniform.log_spread > 1


def test_chaos_is_told_in_logarithms():
    verdict = meanfield.trainability("tanh", 30.0, 0.05, 10_000)
    assert verdict.gradient_ratio == np.inf and np.isfinite(verdict.log10_gradient_ratio)
    assert "explode" in str(verdict) and "Chaotic" in str(verdict)


def test_unbounded_networks_have_a_verdict():
    verdict = meanfield.trainability("relu", 3.0, 0.0, 100)
    assert verdict.phase == "unbounded" and not verdict.trainable
    assert "without bound" in str(verdict)
    assert meanfield.trainability("relu", 2.0, 0.0, 100).trainable
