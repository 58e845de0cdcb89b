"""The NTK's spectrum measured against the laws of large depth (NTK paper, table of appendix C.1).

python -m experiments.ntk_spectrum --output_dir=runs/ntk_spectrum

For the ordered, critical and chaotic phase: lambda_max, lambda_rest and kappa of a fully connected
network over depth, the law beside each, and the rate fitted from the last layers beside theory.
"""

import numpy as np
from absl import app, flags

from experiments import common
from mfcnn import kernels, meanfield

FLAGS = flags.FLAGS


def measure(variances, depths, m, features, seed, activation="erf"):
    """Rows of measured and predicted spectra, and the fitted and theoretical rate of the gap.

    The rate is that of p_ab - p_ab* per layer, fitted with its factor l; chi_c in theory.
    """
    limit = kernels.limits(activation, *variances)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(m, features))
    power = (limit.q_star - variances[1]) / variances[0]
    x *= np.sqrt(features * power) / np.linalg.norm(x, axis=1, keepdims=True)
    distinct = ~np.eye(m, dtype=bool)
    results = [kernels.fully_connected(int(d), activation, *variances)(x) for d in depths]
    off = np.array([[np.mean(k.numpy()[distinct]) for k in r] for r in results])
    amplitudes = (0.0, 0.0)
    rate = (np.nan, np.nan)
    layers = np.asarray(depths) + 1
    if limit.phase != "critical":
        middle = len(depths) // 2
        amplitudes = kernels.offdiagonal_decay(limit, *off[middle], layers[middle])
        gap = np.abs(off[:, 0] - limit.q_ab)
        usable = np.flatnonzero(gap > 1e-11 * limit.q_star)[-4:]
        rate = (float(np.exp(np.polyfit(layers[usable], np.log(gap[usable]), 1)[0])), limit.chi_c)
    rows = []
    for depth, result in zip(depths, results):
        for name, matrix in zip(("nngp", "ntk"), result):
            measured = kernels.spectrum(matrix)
            law = kernels.spectrum_law(limit, depth + 1, m, *amplitudes, kernel=name)
            rows.append({"phase": limit.phase, "kernel": name, "depth": int(depth)})
            for field in ("lambda_max", "lambda_rest", "condition_number"):
                rows[-1][field] = float(getattr(measured, field))
                rows[-1][f"{field}_law"] = float(getattr(law, field))
    return rows, rate


def main(_):
    """Measures the three phases, writes metrics.csv and ntk_spectrum.png, prints the rates."""
    settings = common.settings(quick={"inputs": 12, "q_star": 0.5}, paper={"inputs": 128})
    directory = common.prepare_output_dir(settings)
    critical, bias_variance = meanfield.critical_point("erf", settings["q_star"])
    phases = {
        "ordered": ((0.8 * critical, bias_variance), np.arange(4, 41, 4)),
        "critical": ((critical, bias_variance), 2 ** np.arange(2, 11)),
        "chaotic": ((1.5 * critical, bias_variance), np.arange(4, 41, 4)),
    }
    rows = []
    figure, axes = common.subplots(3, 3, figsize=(10, 8))
    for line, (phase, (variances, depths)) in enumerate(phases.items()):
        found, rate = measure(variances, depths, settings["inputs"], 64, settings["seed"])
        rows += found
        if phase != "critical":
            print(f"{phase}: decay per layer {rate[0]:.5f} fitted, {rate[1]:.5f} theory (chi_c)")
        ntk = [r for r in found if r["kernel"] == "ntk"]
        for column, field in enumerate(("lambda_max", "lambda_rest", "condition_number")):
            axis = axes[line, column]
            axis.loglog(depths, [r[field] for r in ntk], "o", label="measured")
            axis.loglog(depths, [r[f"{field}_law"] for r in ntk], "-", label="law")
            axis.set(title=f"{phase}: {field}", xlabel="depth")
        last = ntk[-1]
        print(
            f"{phase}: depth {last['depth']}: kappa {last['condition_number']:.5g}, "
            f"law {last['condition_number_law']:.5g}"
        )
    axes[0, 0].legend()
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(figure, directory / "ntk_spectrum.png")


if __name__ == "__main__":
    common.define_flags("ntk_spectrum")
    common.define_override("inputs", "Number of inputs m.", lower_bound=2)
    app.run(main)
