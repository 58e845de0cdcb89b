"""The NTK's spectrum measured against the laws of large depth (NTK paper, table of appendix C.1).

    python -m experiments.ntk_spectrum --output_dir=runs/ntk_spectrum

For FCN, CNN-F and CNN-P in the ordered, critical and chaotic phase: lambda_max, lambda_rest and
kappa over depth, the law beside each, and the rates fitted to the measured curves beside theory.
The law's amplitudes are read at one depth, the dotted vertical line: deeper is prediction, and
before it the law may not hold yet. FCN and CNN-F have one law; their circles lie in each other.
Thin horizontal lines are the limits of kappa: 1 in chaos, (m + 2) / 2 or (m d + 2) / 2 else.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common
from experiments.architectures import ARCHITECTURES, inputs, make_kernel
from experiments.curves import Rows, column, curves_of
from mfcnn import kernels, meanfield

FLAGS = flags.FLAGS
FIELDS = ("lambda_max", "lambda_rest", "condition_number")
_SYMBOLS = dict(zip(FIELDS, (r"$\lambda_{max}$", r"$\lambda_{rest}$", r"$\kappa$")))
_FACTORS = {"ordered": 0.8, "critical": 1.0, "chaotic": 1.5}

# The settings of the presets: the paper's table has no numbers, all but erf are choices.
_QUICK = {
    "inputs": 6,
    "size": 4,
    "q_star": 0.5,
    "max_depth": 1024,
    "architectures": list(ARCHITECTURES),
}
_PAPER = {"inputs": 24, "size": 6, "max_depth": 2048}


def measure_curve(
    architecture: str,
    variances: tuple[float, float],
    depths: list[int],
    m: int,
    size: int,
    seed: int,
    activation: str = "erf",
) -> tuple[kernels.Limits, Rows]:
    """Rows of measured and predicted spectra at all depths.

    The law's amplitudes are read off the kernels at the depth in the middle of the list: the
    deeper rows are predictions.
    """
    limit = kernels.limits(activation, *variances)
    x = inputs(np.random.default_rng(seed), m, size, limit, *variances)
    result = make_kernel(architecture, depths, activation, *variances)(x)
    pool = architecture == "cnn_p"
    positions = size**2 if pool else 1
    middle = len(depths) // 2
    amplitudes = kernels.offdiagonal_decay(
        limit, result.nngp[middle], result.ntk[middle], depths[middle] + 1, positions
    )
    layers = np.asarray(depths) + 1
    laws = {
        name: kernels.spectrum_law(
            limit, layers, m, *amplitudes, positions=positions, kernel=name, pool=pool
        )
        for name in ("nngp", "ntk")
    }
    kappa = {"ordered": np.inf, "chaotic": 1.0}.get(limit.phase)
    if kappa is None:
        kappa = float(kernels.spectrum_law(limit, 1, m, positions=positions, pool=pool)[-1])
    rows = []
    for index, depth in enumerate(depths):
        for name, matrices in (("nngp", result.nngp), ("ntk", result.ntk)):
            measured = kernels.spectrum(matrices[index])
            law = kernels.SpectrumLaw(*(field[index] for field in laws[name]))
            rows.append(
                {
                    "phase": limit.phase,
                    "architecture": architecture,
                    "kernel": name,
                    "depth": int(depth),
                    "fit_depth": int(depths[middle]),
                    "kappa_limit": kappa,
                }
            )
            for field in FIELDS:
                rows[-1][field] = float(getattr(measured, field))
                rows[-1][f"{field}_law"] = float(getattr(law, field))
    return limit, rows


def _base(layers: np.ndarray, values: np.ndarray, power: int = 0) -> float:
    """The base of values = base^l l^power (1 + O(1 / l)), fitted to the logarithms."""
    columns = [layers, np.ones_like(layers)] + ([1 / layers] if power else [])
    target = np.log(values) - power * np.log(layers)
    return float(np.exp(np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)[0][0]))


def _slope(layers: np.ndarray, values: np.ndarray) -> float:
    """The factor of l in values = s l + t log(l) + c."""
    design = np.stack([layers, np.log(layers), np.ones_like(layers)], axis=1)
    return float(np.linalg.lstsq(design, values, rcond=None)[0][0])


def rates(
    limit: kernels.Limits, rows: Rows, m: int, positions: int
) -> list[tuple[str, float, float]]:
    """The table of appendix C.1: (quantity, fitted, theory) for one architecture and phase.

    The paper's slope of the NNGP's kappa on the critical line, m chi_2 / 2, lacks a factor q*.

    Args:
        limit: `kernels.Limits`.
        rows: those of `measure_curve`.
        m: number of inputs.
        positions: d for CNN-P, 1 for the others.
    """
    deep = len(rows) // 4  # two kernels a depth: the deeper half of the depths
    ntk, nngp = (
        {
            k: np.array([r[k] for r in rows if r["kernel"] == kernel][deep:])
            for k in ("depth", *FIELDS)
        }
        for kernel in ("ntk", "nngp")
    )
    layers = ntk["depth"] + 1.0
    if limit.phase == "critical":
        q, d = limit.q_star, positions
        law = kernels.spectrum_law(limit, 1.0, m, positions=d, pool=True)
        return [
            ("lambda_max / l", _slope(layers, ntk["lambda_max"]), q * (m * d + 2) / (3 * d)),
            ("lambda_rest / l", _slope(layers, ntk["lambda_rest"]), 2 * q / (3 * d)),
            ("kappa", ntk["condition_number"][-1], float(law.condition_number)),
            (
                "NNGP kappa / l",
                _slope(layers, nngp["condition_number"]),
                m * d * q * limit.chi_2 / 2,
            ),
        ]
    if limit.phase == "ordered":
        # From where rounding of the matrix is below the smallest eigenvalue by four digits.
        keep = ntk["condition_number"] < 1e11
        base = _base(layers[keep], ntk["lambda_rest"][keep], power=1)
        kappa = _base(layers[keep], 1 / ntk["condition_number"][keep], power=1)
        plain = _base(layers[keep], nngp["lambda_rest"][keep])
        return [
            ("lambda_max", ntk["lambda_max"][-1], m * limit.p),
            ("lambda_rest per layer (with l)", base, limit.chi_1),
            ("1 / kappa per layer (with l)", kappa, limit.chi_1),
            ("NNGP lambda_rest per layer", plain, limit.chi_1),
        ]
    rest = _base(layers, ntk["lambda_rest"])
    largest = _base(layers, ntk["lambda_max"])
    kappa = _base(layers, ntk["condition_number"] - 1)
    return [
        ("lambda_max per layer", largest, limit.chi_1),
        ("lambda_rest per layer", rest, limit.chi_1),
        ("kappa - 1 per layer", kappa, 1 / limit.chi_1),
        ("kappa", ntk["condition_number"][-1], 1.0),
    ]


def measure(settings: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """The rows of the spectra at all depths, and those of the fitted rates, which it prints."""
    critical, bias_variance = map(float, meanfield.critical_point("erf", settings["q_star"]))
    m, size = settings["inputs"], settings["size"]
    rows, table = [], []
    for phase, factor in _FACTORS.items():
        variances = factor * critical, bias_variance
        depths = _depths(phase, variances, settings["max_depth"])
        for architecture in settings["architectures"]:
            limit, found = measure_curve(architecture, variances, depths, m, size, settings["seed"])
            rows += found
            positions = size**2 if architecture == "cnn_p" else 1
            for quantity, fitted, theory in rates(limit, found, m, positions):
                table.append({"phase": phase, "architecture": architecture, "quantity": quantity})
                table[-1] |= {"fitted": fitted, "theory": theory}
                print(
                    f"{phase:8s} {architecture:5s} {quantity:31s} {fitted:12.6g}  "
                    f"theory {theory:12.6g}"
                )
    return rows, table


def _depths(phase: str, variances: tuple[float, float], max_depth: int) -> list[int]:
    """From where the laws begin to hold, in depth scales off the critical line."""
    if phase == "critical":
        depths = np.geomspace(4, max_depth, 16)
    else:
        xi = kernels.limits("erf", *variances).xi_1
        depths = np.linspace(0.5 * xi, (24 if phase == "ordered" else 12) * xi, 24)
    return np.unique(np.round(depths).astype(int)).tolist()


def draw(rows: Rows) -> Figure:
    """Phases down, quantities across: circles measured, lines law."""
    figure, axes = common.subplots(3, 3, figsize=(10.5, 8.5))
    for line, phase in zip(axes, _FACTORS):
        mine = [row for row in rows if (row["phase"], row["kernel"]) == (phase, "ntk")]
        for axis, field in zip(line, FIELDS):
            _draw_field(axis, mine, field)
            scale = "log" if phase == "critical" else "linear"
            title = f"{phase}: {_SYMBOLS[field]}"
            axis.set(title=title, xlabel="depth", yscale="log", xscale=scale)
            axis.set_ylabel(f"{_SYMBOLS[field]} of the NTK")
    axes[0, 0].legend(title="circles measured, lines law", fontsize=7, title_fontsize=7)
    return figure


def _draw_field(axis: Axes, rows: Rows, field: str) -> None:
    for i, ((architecture,), curve) in enumerate(curves_of(rows, "architecture").items()):
        depth, found, law = (column(curve, name) for name in ("depth", field, f"{field}_law"))
        label = architecture.upper().replace("_", "-")
        # FCN and CNN-F agree: the circles lie inside each other.
        look: dict[str, Any] = {"ms": 7 - 2 * i, "mfc": "none", "color": f"C{i}"}
        axis.plot(depth, found, "o", label=label, **look)
        good = (law > 0) & np.isfinite(law) & np.isfinite(found)
        axis.plot(depth[good], law[good], "-", color=f"C{i}")
        if field == "condition_number" and np.isfinite(curve[0]["kappa_limit"]):
            axis.axhline(curve[0]["kappa_limit"], color=f"C{i}", lw=0.7)
    axis.axvline(rows[0]["fit_depth"], color="k", lw=0.7, ls=":")


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("ntk_spectrum")
    common.define_override("inputs", "Number of inputs m.", lower_bound=2)
    flags.DEFINE_multi_enum("architectures", None, ARCHITECTURES, "Those shown. Default: all.")
    common.define_override("size", "Height and width of the images.", lower_bound=3)
    common.define_override("max_depth", "Largest depth on the critical line.", lower_bound=64)


def main(_: list[str]) -> None:
    """Measures the three phases, writes metrics.csv, rates.csv and ntk_spectrum.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows, table = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.write_csv(directory / "rates.csv", table)
    common.save_figure(draw(rows), directory / "ntk_spectrum.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
