"""Condition numbers of the NTK over depth in the three phases (NTK paper, Figures 1 and 4).

    python -m experiments.condition_numbers --output_dir=runs/condition_numbers

Chaotic phase: kappa -> 1. Ordered phase: chi_1^l kappa falls like 1 / l, and l chi_1^l kappa goes
to a constant. Critical line: kappa and the ratio of the first two eigenvalues go to (m + 2) / 2
for FCN and CNN-F, to (m d + 2) / 2 for CNN-P. A label "12-6" is 12 inputs of 6 x 6 x 3.
"""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes

from experiments import binary, common
from experiments.architectures import ARCHITECTURES, inputs, make_kernel
from mfcnn import kernels, meanfield

FLAGS = flags.FLAGS
_FACTORS = {"ordered": 0.8, "critical": 1.0, "chaotic": 1.3}


def variances(phase: str, activation: str, q_star: float) -> tuple[float, float]:
    """(weight_variance, bias_variance) of a phase, all with the bias of the critical point."""
    weight_variance, bias_variance = meanfield.critical_point(activation, q_star)
    return _FACTORS[phase] * weight_variance, bias_variance


def measure(
    activation: str,
    phase: str,
    architecture: str,
    m: int,
    size: int,
    depths: list[int],
    q_star: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Rows of one curve: depth, kappa, ratio of the first two eigenvalues, and kappa's limit."""
    weight_variance, bias_variance = variances(phase, activation, q_star)
    limit = kernels.limits(activation, weight_variance, bias_variance)
    x = inputs(np.random.default_rng(seed), m, size, limit, weight_variance, bias_variance)
    kernel = make_kernel(architecture, depths, activation, weight_variance, bias_variance)
    pool = architecture == "cnn_p"
    rows = []
    for depth, matrix in zip(depths, kernel(x, get="ntk", log_scale=True).ntk):
        spectrum = kernels.spectrum(matrix)
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
                "leading_order": float(law.condition_number),
            }
        )
    return rows


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Six panels: those of the paper's Figures 1 and 4, and l chi_1^l kappa."""
    figure, axes = common.subplots(2, 3, figsize=(12.5, 7))
    styles = {"fcn": "-", "cnn_f": "--", "cnn_p": ":"}
    configurations = sorted({(r["inputs"], r["size"]) for r in rows})

    def draw(
        axis: Axes,
        phase: str,
        architectures: Iterable[str],
        value: Callable[[dict[str, np.ndarray]], np.ndarray],
        style: str | None = None,
        label: bool = True,
        limit: bool = False,
    ) -> None:
        for color, configuration in enumerate(configurations):
            for name in architectures:
                chosen = [
                    r
                    for r in rows
                    if (r["phase"], r["architecture"]) == (phase, name)
                    and (r["inputs"], r["size"]) == configuration
                ]
                if not chosen:
                    continue
                curve = {
                    k: np.array([r[k] for r in chosen])
                    for k in (
                        "depth",
                        "condition_number",
                        "first_to_second",
                        "chi_1",
                        "leading_order",
                    )
                }
                text = f"{configuration[0]}-{configuration[1]} {name.upper().replace('_', '-')}"
                # Beyond, the smallest eigenvalue is the rounding of a deep kernel's entries.
                y = np.where(curve["condition_number"] < 1e14, value(curve), np.nan)
                line = style or styles[name]
                axis.plot(curve["depth"], y, line, color=f"C{color}", label=text if label else None)
                if limit:
                    axis.axhline(curve["leading_order"][-1], color=f"C{color}", lw=0.7, alpha=0.6)

    def kappa(curve: dict[str, np.ndarray]) -> np.ndarray:
        return curve["condition_number"]

    def scaled(curve: dict[str, np.ndarray]) -> np.ndarray:
        return curve["chi_1"] ** (curve["depth"] + 1) * kappa(curve)

    draw(axes[0, 0], "chaotic", ARCHITECTURES, kappa)
    draw(axes[0, 1], "ordered", ARCHITECTURES, scaled)
    draw(axes[0, 2], "ordered", ARCHITECTURES, lambda c: (c["depth"] + 1) * scaled(c))
    for axis, names in ((axes[1, 0], ("fcn", "cnn_f")), (axes[1, 1], ("cnn_p",))):
        draw(axis, "critical", names, kappa, "--", limit=True)
        draw(axis, "critical", names, lambda c: c["first_to_second"], "-", label=False)
    for name, style in (("cnn_p", "-"), ("cnn_f", "--")):
        draw(
            axes[1, 2],
            "critical",
            [name],
            lambda c: np.abs(kappa(c) - c["leading_order"]),
            style,
        )
    titles = (
        r"chaotic: $\kappa$",
        r"ordered: $\chi_1^l\,\kappa$",
        r"ordered: $l\,\chi_1^l\,\kappa$",
        r"critical, to $(m+2)/2$: $\kappa$ (dashed), $\lambda_1/\lambda_2$",
        r"critical, to $(md+2)/2$: $\kappa$ (dashed), $\lambda_1/\lambda_2$",
        r"critical: $|\kappa - \kappa_\infty|$",
    )
    for axis, title in zip(axes.flat, titles):
        if not axis.lines:  # log axes need something to show
            axis.set_visible(False)
            continue
        axis.set(title=title, xlabel="depth", xscale="log", yscale="log")
        axis.legend(fontsize=6)
    figure.suptitle("m-s: m inputs of s x s positions, d = s$^2$; CNN-F lies on FCN", fontsize=10)
    common.save_figure(figure, path)


def main(_: list[str]) -> None:
    """Measures all curves, writes metrics.csv and condition_numbers.png."""
    settings = common.settings(
        quick={
            "configurations": [(6, 4), (12, 6)],
            "max_depth": 512,
            "q_star": 0.5,
            "architectures": list(ARCHITECTURES),
        },
        paper={"configurations": [(12, 6), (12, 8), (24, 6)], "max_depth": 2048},
    )
    directory = common.prepare_output_dir(settings)
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 24)).astype(int)).tolist()
    rows = []
    for m, size in settings["configurations"]:
        for phase in _FACTORS:
            for architecture in settings["architectures"]:
                arguments = (phase, architecture, m, size, depths)
                rows += measure("erf", *arguments, settings["q_star"], settings["seed"])
    common.write_csv(directory / "metrics.csv", rows)
    plot(rows, directory / "condition_numbers.png")
    for row in rows:
        if row["phase"] == "critical" and row["depth"] == depths[-1]:
            print(
                f"critical {row['architecture']:6s} {row['inputs']}-{row['size']} depth "
                f"{row['depth']}: kappa {row['condition_number']:.4f}, lambda_1 / lambda_2 "
                f"{row['first_to_second']:.4f}, limit {row['leading_order']:.4f}"
            )


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("condition_numbers")
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=2)
    flags.DEFINE_multi_enum("architectures", None, ARCHITECTURES, "Those shown. Default: all.")


if __name__ == "__main__":
    binary.start(define_flags, main)
