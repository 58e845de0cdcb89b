"""kappa_1 and kappa_2 against the gradients of a finite network."""

import numpy as np

from experiments import kappa
from tests.experiments.pictures import assert_drawn
from tests.experiments.running import run, table


def test_kappa_is_the_weights_part_of_the_ntk_over_alpha_m():
    # M = 400, depth 3, relu: one draw deviates by O(sqrt(depth / M)); ten average it to 5 %.
    rng = np.random.default_rng(0)
    width, depth, weight_variance, bias_variance, c = 400, 3, 1.8, 0.1, 0.4
    basis, _ = np.linalg.qr(rng.normal(size=(width, 2)))
    # Input of dimension M and |x|^2 = M, so that x . x' / M is 1 and c.
    x = np.sqrt(width) * np.stack([basis[:, 0], c * basis[:, 0] + np.sqrt(1 - c * c) * basis[:, 1]])
    totals = []
    for _ in range(10):
        signals, masks, weights = [x], [], []
        for layer in range(depth + 1):
            outputs = width if layer < depth else 1
            scale = np.sqrt(weight_variance / width)
            weights.append(rng.normal(size=(width, outputs)) * scale)
            z = signals[-1] @ weights[-1] + rng.normal(size=outputs) * np.sqrt(bias_variance)
            masks.append((z > 0).astype(float))
            signals.append(np.maximum(z, 0))
        backward, total = np.ones((2, 1)), 0.0
        for layer in range(depth, -1, -1):
            total = total + (signals[layer] @ signals[layer].T) * (backward @ backward.T)
            if layer:
                backward = (backward @ weights[layer].T) * masks[layer - 1]
        totals.append(total / (depth * width))
    kappa_1, kappa_2 = kappa.kappas(
        "relu", (weight_variance, bias_variance), [depth], np.array([c])
    )
    mean = np.mean(totals, axis=0)
    np.testing.assert_allclose(mean[0, 0], kappa_1[-1], rtol=0.1)
    np.testing.assert_allclose(mean[0, 1], kappa_2[-1, 0], rtol=0.1)


def test_the_binary_shows_the_three_phases(tmp_path, pictures):
    run(kappa, tmp_path, "--max_depth=24")
    last = {
        (row["activation"], row["phase"]): row["kappa_1"] / row["kappa_2"]
        for row in table(tmp_path / "metrics.csv", depth=24, correlation=0)
    }
    # Orthogonal inputs: in the ordered phase all entries become equal, on the border the ratio goes
    # to 3 (erf) and 4 (relu), and in erf's chaotic phase only the diagonal grows.
    for activation in ("erf", "relu"):
        assert last[activation, "ordered"] < 0.5 * last[activation, "border"] < 2.5
    assert last["erf", "chaotic"] > 10
    picture = pictures["kappa.png"]
    picture.assert_readable()
    for activation, phase in last:
        rows = table(tmp_path / "metrics.csv", activation=activation, phase=phase, correlation=0)
        depth, kappa_1, kappa_2 = (
            np.array([row[name] for row in rows]) for name in ("depth", "kappa_1", "kappa_2")
        )
        panels = [
            picture.panel(f"{activation}, {phase}: ${what}$")
            for what in (r"\kappa_2", r"\kappa_1/\kappa_2")
        ]
        assert_drawn(panels[0].lines[0][1:], depth, kappa_2)
        assert_drawn(panels[1].lines[0][1:], depth, kappa_1 / kappa_2)
