"""Condition numbers of the NTK over depth in the three phases (NTK paper, Figures 1 and 4).

    python -m experiments.condition_numbers --output_dir=runs/condition_numbers

Chaotic phase: kappa -> 1. Ordered phase: chi_1^l kappa falls like 1 / l, and l chi_1^l kappa goes
to a constant. Critical line: kappa and the ratio of the first two eigenvalues go to (m + 2) / 2
for FCN and CNN-F, to (m d + 2) / 2 for CNN-P. Thin horizontal lines are these limits. A label
"12-6" is 12 inputs of 6 x 6 x 3. FCN (lines) and CNN-F (circles) have one curve: after a few layers
CNN-F's readout sees the mean over positions alone, and that obeys the FCN's recursion.

The last panel, |kappa - kappa_limit|, dips for CNN-P where kappa crosses its limit: it comes from
above (crosses), undershoots (dots) and comes back as log(l) / l. No cusp of kappa itself.
"""

import functools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common, phases
from experiments.architectures import ARCHITECTURES, inputs, make_kernel
from experiments.curves import Rows, column, curves_of
from mfcnn import kernels

_STYLES = {"fcn": "-", "cnn_f": "o", "cnn_p": ":"}
_TITLES = {
    r"chaotic: $\kappa$": r"$\kappa$",
    r"ordered: $\chi_1^l\,\kappa$": r"$\chi_1^l\,\kappa$",
    r"ordered: $l\,\chi_1^l\,\kappa$": r"$l\,\chi_1^l\,\kappa$",
    r"critical, to $(m+2)/2$: $\kappa$ (dashed), $\lambda_1/\lambda_2$": "ratio of eigenvalues",
    r"critical, to $(md+2)/2$: $\kappa$ (dashed), $\lambda_1/\lambda_2$": "ratio of eigenvalues",
    r"critical: $|\kappa - \kappa_\infty|$ ($\times$ above, $\cdot$ below)": (
        r"$|\kappa - \kappa_\infty|$"
    ),
}

# The settings of the presets. The paper prints erf and the label 12-6; variances (q*, and
# `phases.FACTORS` of the critical weight variance), the other sizes and the depths are choices.
_QUICK = {
    "configurations": [(6, 4), (12, 6)],
    "max_depth": 512,
    "q_star": 0.5,
    "architectures": list(ARCHITECTURES),
}
_PAPER = {"configurations": [(12, 6), (12, 8), (24, 6)], "max_depth": 2048}


def measure_curve(
    phase: str,
    architecture: str,
    m: int,
    size: int,
    depths: list[int],
    q_star: float,
    seed: int,
    activation: str = "erf",
) -> Rows:
    """Rows of one curve: depth, kappa, ratio of the first two eigenvalues, and kappa's limit."""
    weight_variance, bias_variance = phases.variances(phase, activation, q_star)
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


def measure(settings: Mapping[str, Any]) -> Rows:
    """The rows of all curves, at up to 24 depths."""
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 24)).astype(int)).tolist()
    return [
        row
        for m, size in settings["configurations"]
        for phase in phases.FACTORS
        for architecture in settings["architectures"]
        for row in measure_curve(
            phase, architecture, m, size, depths, settings["q_star"], settings["seed"]
        )
    ]


def _kappa(curve: Rows) -> np.ndarray:
    return column(curve, "condition_number")


def _layers(curve: Rows) -> np.ndarray:
    """The l of the laws, which counts the readout too."""
    return column(curve, "depth") + 1


def _scaled_kappa(curve: Rows) -> np.ndarray:
    return column(curve, "chi_1") ** _layers(curve) * _kappa(curve)


def _curves(
    rows: Rows, architectures: Container[str]
) -> Iterator[tuple[str, dict[str, str], Rows]]:
    """(architecture, colour and label, rows) of each curve; a colour is a set of inputs."""
    inputs_ = sorted(curves_of(rows, "inputs", "size"))
    for (m, size, name), curve in curves_of(rows, "inputs", "size", "architecture").items():
        if name in architectures:
            color = f"C{inputs_.index((m, size))}"
            label = f"{m}-{size} {name.upper().replace('_', '-')}"
            yield name, {"color": color, "label": label}, curve


def _plot(
    axis: Axes,
    rows: Rows,
    value: Callable[[Rows], np.ndarray],
    styles: Mapping[str, str] = _STYLES,
    **options: Any,
) -> None:
    """Draws a value over depth for the architectures that have a style."""
    for name, look, curve in _curves(rows, styles):
        # Beyond, the smallest eigenvalue is the rounding of a deep kernel's entries.
        y = np.where(_kappa(curve) < 1e14, value(curve), np.nan)
        axis.plot(column(curve, "depth"), y, styles[name], mfc="none", ms=4, **look | options)


def _beyond(curve: Rows) -> np.ndarray:
    return _kappa(curve) - column(curve, "leading_order")


def _on_one_side(above: bool, curve: Rows) -> np.ndarray:
    """The distance of kappa from its limit where kappa is above (below) it, else NaN."""
    beyond = _beyond(curve) if above else -_beyond(curve)
    return np.where(beyond > 0, beyond, np.nan)


def _plot_critical(axis: Axes, rows: Rows, architectures: Sequence[str]) -> None:
    """Kappa (dashed) and the ratio of the first two eigenvalues, with their common limit."""
    circles = {"cnn_f": "o"} if "cnn_f" in architectures else {}
    _plot(axis, rows, _kappa, dict.fromkeys(architectures, "--") | circles)
    for _, look, curve in _curves(rows, architectures):
        axis.axhline(curve[-1]["leading_order"], color=look["color"], lw=0.7, alpha=0.6)
    solid = dict.fromkeys(architectures, "-") | circles
    _plot(axis, rows, lambda curve: column(curve, "first_to_second"), solid, label=None)


def draw(rows: Rows) -> Figure:
    """Six panels: those of the paper's Figures 1 and 4, and l chi_1^l kappa."""
    figure, axes = common.subplots(2, 3, figsize=(12.5, 7))
    ordered, critical, chaotic = (
        [row for row in rows if row["phase"] == phase] for phase in phases.FACTORS
    )
    _plot(axes[0, 0], chaotic, _kappa)
    axes[0, 0].axhline(1, color="k", lw=0.7, label="limit 1")
    _plot(axes[0, 1], ordered, _scaled_kappa)
    _plot(axes[0, 2], ordered, lambda curve: _layers(curve) * _scaled_kappa(curve))
    _plot_critical(axes[1, 0], critical, ("fcn", "cnn_f"))
    _plot_critical(axes[1, 1], critical, ("cnn_p",))
    _plot(axes[1, 2], critical, lambda curve: np.abs(_beyond(curve)), {"cnn_p": "-", "cnn_f": "--"})
    for mark, above in (("x", True), (".", False)):
        marked = functools.partial(_on_one_side, above)
        _plot(axes[1, 2], critical, marked, {"cnn_p": mark, "cnn_f": mark}, label=None)
    for axis, (title, words) in zip(axes.flat, _TITLES.items()):
        if not axis.lines:  # log axes need something to show
            axis.set_visible(False)
            continue
        axis.set(title=title, xlabel="depth", ylabel=words, xscale="log", yscale="log")
        axis.legend(fontsize=6)
    figure.suptitle(
        "m-s: m inputs of s x s positions, d = s$^2$; CNN-F (circles) lies on FCN (lines)",
        fontsize=10,
    )
    return figure


def report(rows: Rows) -> None:
    """Prints how near the deepest networks on the critical line are to the limit."""
    deepest = max(row["depth"] for row in rows)
    for row in rows:
        if row["phase"] == "critical" and row["depth"] == deepest:
            print(
                f"critical {row['architecture']:6s} {row['inputs']}-{row['size']} depth "
                f"{row['depth']}: kappa {row['condition_number']:.4f}, lambda_1 / lambda_2 "
                f"{row['first_to_second']:.4f}, limit {row['leading_order']:.4f}"
            )


def main(_: list[str]) -> None:
    """Measures all curves, writes metrics.csv and condition_numbers.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows), directory / "condition_numbers.png")
    report(rows)


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("condition_numbers")
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=2)
    flags.DEFINE_multi_enum("architectures", None, ARCHITECTURES, "Those shown. Default: all.")


if __name__ == "__main__":
    binary.start(define_flags, main)
