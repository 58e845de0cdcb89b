"""Condition numbers of the NTK over depth in the three phases (NTK paper, Figures 1 and 4).

python -m experiments.condition_numbers --output_dir=runs/condition_numbers

Panels: (a) chaotic phase, kappa -> 1; (b) ordered phase, chi_1^l kappa; (c) critical line, FCN and
CNN-F, kappa and the ratio of the first two eigenvalues -> (m + 2) / 2; (d) critical line, CNN-P ->
(m d + 2) / 2. A label "12-6" is 12 inputs of 6 x 6 x 3.
"""

import numpy as np
from absl import app, flags

from experiments import common
from mfcnn import kernels, meanfield

FLAGS = flags.FLAGS
ARCHITECTURES = ("fcn", "cnn_f", "cnn_p")


def variances(phase, activation, q_star):
    """(weight_variance, bias_variance) of a phase, all with nearly the same bias."""
    weight_variance, bias_variance = meanfield.critical_point(activation, q_star)
    factor = {"ordered": 0.8, "critical": 1.0, "chaotic": 1.3}[phase]
    return weight_variance * factor, bias_variance


def inputs(rng, m, size, limit, weight_variance, bias_variance):
    """Images [m, size, size, 3] whose pixels all have pre-activations of variance q*."""
    x = rng.normal(size=(m, size, size, 3))
    power = (limit.q_star - bias_variance) / weight_variance
    return x * np.sqrt(power / np.mean(x**2, axis=-1, keepdims=True))


def measure(activation, phase, architecture, m, size, depths, q_star, rng):
    """Rows of one curve: depth, kappa, ratio of the first two eigenvalues, and the law."""
    weight_variance, bias_variance = variances(phase, activation, q_star)
    limit = kernels.limits(activation, weight_variance, bias_variance)
    x = inputs(rng, m, size, limit, weight_variance, bias_variance)
    rows = []
    for depth in depths:
        arguments = (depth, activation, weight_variance, bias_variance)
        if architecture == "fcn":
            kernel, data = kernels.fully_connected(*arguments), x.reshape(m, -1)
        else:
            readout = "flatten" if architecture == "cnn_f" else "pool"
            kernel, data = kernels.convolutional(*arguments, readout=readout), x
        spectrum = kernels.spectrum(kernel(data, get=("ntk",), log_scale=True).ntk)
        pool = architecture == "cnn_p"
        law = kernels.spectrum_law(limit, depth + 1, m, positions=size**2, pool=pool)
        rows.append(
            {
                "phase": phase,
                "architecture": architecture,
                "inputs": m,
                "size": size,
                "depth": depth,
                "chi_1": limit.chi_1,
                "condition_number": spectrum.condition_number,
                "first_to_second": spectrum.eigenvalues[0] / spectrum.eigenvalues[1],
                "law": float(law.condition_number),
            }
        )
    return rows


def plot(rows, path):
    """Four panels as in the paper's Figure 4."""
    figure, axes = common.subplots(2, 2, figsize=(9, 7))
    panels = (
        ("chaotic", ARCHITECTURES, "(a) chaotic: condition number"),
        ("ordered", ARCHITECTURES, r"(b) ordered: $\chi_1^l\,\kappa$"),
        ("critical", ("fcn", "cnn_f"), r"(c) critical, FCN and CNN-F, to $(m+2)/2$"),
        ("critical", ("cnn_p",), r"(d) critical, CNN-P, to $(md+2)/2$"),
    )
    styles = {"fcn": "-", "cnn_f": "--", "cnn_p": ":"}
    configurations = sorted({(r["inputs"], r["size"]) for r in rows})
    for axis, (phase, architectures, title) in zip(axes.flat, panels):
        for color, (m, size) in enumerate(configurations):
            for architecture in architectures:
                curve = [
                    r
                    for r in rows
                    if (r["phase"], r["architecture"]) == (phase, architecture)
                    and (r["inputs"], r["size"]) == (m, size)
                ]
                depth = np.array([r["depth"] for r in curve])
                kappa = np.array([r["condition_number"] for r in curve])
                if phase == "ordered":
                    kappa = kappa * curve[0]["chi_1"] ** depth
                label = f"{m}-{size} {architecture.upper().replace('_', '-')}"
                axis.plot(depth, kappa, styles[architecture], color=f"C{color}", label=label)
                if phase == "critical":
                    axis.axhline(curve[-1]["law"], color=f"C{color}", lw=0.6, alpha=0.6)
        axis.set(title=title, xlabel="depth", xscale="log", yscale="log")
    axes[0, 0].legend(fontsize=7)
    axes[1, 1].legend(fontsize=7)
    common.save_figure(figure, path)


def main(_):
    """Measures all curves, writes metrics.csv and condition_numbers.png."""
    settings = common.settings(
        quick={"configurations": [(4, 2), (6, 3)], "max_depth": 256, "q_star": 0.5},
        paper={"configurations": [(12, 6), (12, 8), (24, 6)], "max_depth": 1024},
    )
    directory = common.prepare_output_dir(settings)
    depths = [int(d) for d in 2 ** np.arange(1, np.log2(settings["max_depth"]) + 1)]
    rows = []
    for m, size in settings["configurations"]:
        for phase in ("ordered", "critical", "chaotic"):
            for architecture in ARCHITECTURES:
                rng = np.random.default_rng(settings["seed"])
                arguments = (phase, architecture, m, size, depths, settings["q_star"], rng)
                rows += measure("erf", *arguments)
    common.write_csv(directory / "metrics.csv", rows)
    plot(rows, directory / "condition_numbers.png")
    for row in rows:
        if row["phase"] == "critical" and row["depth"] == depths[-1]:
            print(
                f"critical {row['architecture']:6s} {row['inputs']}-{row['size']} depth "
                f"{row['depth']}: kappa {row['condition_number']:.4f}, law {row['law']:.4f}"
            )


if __name__ == "__main__":
    common.define_flags("condition_numbers")
    common.define_override("max_depth", "Largest depth, a power of two.", lower_bound=2)
    app.run(main)
