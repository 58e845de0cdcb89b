"""Where correlations and kernels go, and how fast (slides; NTK paper, sections 3.1 to 3.3).

    python -m experiments.kernel_limits --output_dir=runs/kernel_limits

A column for each phase. First row: the map c -> f(c) of one layer, with the path of two
inputs. Second: |c - c*| of pairs of inputs of equal norm over layers, which falls as chi_1^l
(ordered), 2 / (q* chi_2 l) (critical) and chi_c^l (chaotic). Third: the NTK's entries and their
limits; ordered and chaotic |Theta_ab - Theta_ab*| with l chi_c^l, critical Theta / (l q*), which
goes to 1 and 1/3. Amplitudes are those of one depth, the vertical line: deeper is prediction.

Fourth row: the slides doubt that q_aa = q* may be assumed from the start. For images as they are,
unnormalised: the largest and the median |q_aa / q* - 1| over layers, with its rate chi_q^l, and
how far Theta_aa is from the value that the assumption gives it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common, phases, samples
from experiments.curves import Rows, column, curves_of
from mfcnn import activations, data, kernels, meanfield

# The settings of the presets. The activation is the paper's; q*, the variances and the starts are
# choices: neither document prints any.
_QUICK = {
    "activation": "erf",
    "q_star": 0.5,
    "correlations": [0.0, 0.5, 0.9, 0.99],
    "max_depth": 1000,
    "dataset": "digits",
    "examples": 100,
}
_PAPER = {"dataset": "cifar10", "examples": 1000}
# sigma_w^2 over its critical value, further apart than elsewhere: f(c) is to be told from c.
_FACTORS = {"ordered": 0.6, "critical": 1.0, "chaotic": 2.0}
_NOISE = 1e-13  # of q_ab / q* and Theta_ab in units of their size: below is rounding


def correlation_map(
    activation: str, variances: tuple[float, float], q_star: float, c: np.ndarray
) -> np.ndarray:
    """f(c), the correlation after one more layer of two inputs of variance q* and correlation c."""
    dual = activations.get(activation).dual(q_star, q_star)
    q = tf.fill(c.shape, tf.constant(q_star, tf.float64))
    value, _ = dual.maps(q, q, c * q)
    return (variances[0] * value.numpy() + variances[1]) / q_star


def pairs(correlations: np.ndarray) -> np.ndarray:
    """Inputs [1 + n, 2] of norm 1: the first has these correlations with the others."""
    angles = np.concatenate([[0.0], np.arccos(correlations)])
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def depths_up_to(largest: int) -> list[int]:
    """Up to 40 depths, geometric."""
    return np.unique(np.round(np.geomspace(1, largest, 40)).astype(int)).tolist()


def measure_pairs(phase: str, settings: Mapping[str, Any]) -> Rows:
    """Rows of one phase: entries of NNGP and NTK for each pair and depth, and their laws."""
    variances = phases.variances(phase, settings["activation"], settings["q_star"], _FACTORS)
    limit = kernels.limits(settings["activation"], *variances)
    starts, depths = np.array(settings["correlations"]), depths_up_to(settings["max_depth"])
    x = samples.at_fixed_point(pairs(starts), limit, *variances)
    found = kernels.fully_connected(depths, settings["activation"], *variances)(x)
    nngp, ntk = (np.asarray(matrices)[:, 0] for matrices in found)
    layers = np.array(depths) + 1
    # Deep enough for the law, and before a correction of 1e-13 is rounding.
    correction = np.abs(nngp[:, 1:] / limit.q_star - limit.c_star)
    fit = min(2 * len(depths) // 3, int(np.sum(np.all(correction > 1e-8, axis=1))) - 1)
    amplitudes = kernels.offdiagonal_decay(limit, nngp[fit, 1:], ntk[fit, 1:], int(layers[fit]))
    laws = kernels.offdiagonal_law(limit, layers[:, None], *amplitudes)
    return [
        {
            "phase": phase,
            "correlation": float(start),
            "layer": int(layers[i]),
            "fit_layer": int(layers[fit]),
            "nngp": nngp[i, 1 + j],
            "nngp_law": laws[0][i, j],
            "ntk": ntk[i, 1 + j],
            "ntk_law": laws[1][i, j],
            "ntk_diagonal": ntk[i, 0],
            "ntk_diagonal_law": diagonal_law(limit, float(layers[i])),
        }
        for j, start in enumerate(starts)
        for i in range(len(depths))
    ]


def diagonal_law(limit: kernels.Limits, layer: float) -> float:
    """q* (chi_1^l - 1) / (chi_1 - 1): Theta_aa where q_aa is q* from the first layer on."""
    if limit.phase == "critical":
        return limit.q_star * layer
    return float(limit.q_star * np.expm1(layer * np.log(limit.chi_1)) / (limit.chi_1 - 1))


def measure_images(phase: str, settings: Mapping[str, Any], images: np.ndarray) -> Rows:
    """Rows of one phase: |q_aa / q* - 1| and |Theta_aa / law - 1| of images as they are."""
    variances = phases.variances(phase, settings["activation"], settings["q_star"], _FACTORS)
    limit = kernels.limits(settings["activation"], *variances)
    point = meanfield.fixed_point(settings["activation"], *variances)
    depths = depths_up_to(settings["max_depth"])
    kernel = kernels.fully_connected(depths, settings["activation"], *variances)
    found = kernel(images.reshape(len(images), -1))
    nngp, ntk = (np.einsum("lii->il", np.asarray(matrices)) for matrices in found)
    rows = []
    for i, depth in enumerate(depths):
        off = np.abs(nngp[:, i] / limit.q_star - 1)
        ntk_off = np.abs(ntk[:, i] / diagonal_law(limit, depth + 1.0) - 1)
        rows.append(
            {
                "phase": phase,
                "layer": depth + 1,
                "chi_q": point.chi_q,
                "q_median": np.median(off),
                "q_largest": np.max(off),
                "ntk_median": np.median(ntk_off),
                "ntk_largest": np.max(ntk_off),
            }
        )
    return rows


def draw(rows: Rows, images: Rows, settings: Mapping[str, Any]) -> Figure:
    """Four rows of panels, a column for each phase."""
    figure, axes = common.subplots(4, 3, figsize=(11, 13))
    for column_, phase in zip(axes.T, phases.FACTORS):
        variances = phases.variances(phase, settings["activation"], settings["q_star"], _FACTORS)
        limit = kernels.limits(settings["activation"], *variances)
        mine = [row for row in rows if row["phase"] == phase]
        _draw_map(column_[0], phase, variances, limit, settings["activation"])
        _draw_correlations(column_[1], mine, limit)
        _draw_ntk(column_[2], mine, limit)
        _draw_images(column_[3], [row for row in images if row["phase"] == phase])
    return figure


def _draw_map(
    axis: Axes,
    phase: str,
    variances: tuple[float, float],
    limit: kernels.Limits,
    activation: str,
) -> None:
    c = np.linspace(0, 1, 101)
    axis.plot(c, correlation_map(activation, variances, limit.q_star, c), label="f(c)")
    axis.plot(c, c, "k", lw=0.8, label="c")
    path = [0.95 if phase == "chaotic" else 0.1]
    for _ in range(30):
        path += correlation_map(activation, variances, limit.q_star, np.array(path[-1:])).tolist()
    stairs = np.repeat(path, 2)
    axis.plot(stairs[:-2], np.append(path[0], stairs[2:-1]), "C1", lw=0.8, label="path of a pair")
    axis.plot(limit.c_star, limit.c_star, "ko", label=f"c* = {limit.c_star:.3f}")
    axis.set(
        title=f"{phases.TITLES[phase]}, " rf"$\chi_1$ = f'(1) = {limit.chi_1:.3f}",
        xlabel="c",
        ylabel="correlation after a layer",
    )
    axis.legend(fontsize=7)


def _curves(axis: Axes, rows: Rows, value: Any, law: Any) -> None:
    """Measured (circles) and law (lines) of each pair, and the depth of the amplitudes."""
    for i, ((start,), curve) in enumerate(curves_of(rows, "correlation").items()):
        layers = column(curve, "layer")
        axis.plot(layers, value(curve), "o", ms=3, mfc="none", color=f"C{i}", label=f"{start:g}")
        if np.any(np.isfinite(law(curve))):  # a pair that is still too far from its limit has none
            axis.plot(layers, law(curve), "-", lw=1, color=f"C{i}")
    axis.axvline(rows[0]["fit_layer"], color="k", lw=0.6, ls=":")


def _seen(values: np.ndarray, size: float) -> np.ndarray:
    return np.where(np.abs(values) > _NOISE * size, np.abs(values), np.nan)


def _draw_correlations(axis: Axes, rows: Rows, limit: kernels.Limits) -> None:
    def distance(name: str) -> Any:
        return lambda curve: _seen(column(curve, name) / limit.q_star - limit.c_star, 1.0)

    _curves(axis, rows, distance("nngp"), distance("nngp_law"))
    layers = np.unique(column(rows, "layer")).astype(float)
    if limit.phase == "critical":
        rate, words = 2 / (limit.q_star * limit.chi_2 * layers), r"$2 / (q^* \chi_2 l)$"
    else:
        rate = limit.chi_c**layers
        words = r"$\chi_1^l$" if limit.phase == "ordered" else r"$\chi_c^l$"
    axis.plot(layers, rate, "k--", lw=0.8, label=words)
    axis.set(title="circles measured, lines law", xlabel="layer l", ylabel="|c - c*|")
    axis.set(yscale="log", xscale="log" if limit.phase == "critical" else "linear")
    if limit.phase != "critical":
        axis.set(xlim=(0, min(layers[-1], -32 / np.log(limit.chi_c))), ylim=(1e-14, 3))
    axis.legend(title="input correlation", fontsize=7, title_fontsize=7)


def _draw_ntk(axis: Axes, rows: Rows, limit: kernels.Limits) -> None:
    one = next(iter(curves_of(rows, "correlation").values()))
    layers = column(one, "layer")
    diagonal = column(one, "ntk_diagonal")
    if limit.phase == "critical":
        scale = limit.q_star
        _curves(
            axis,
            rows,
            lambda curve: column(curve, "ntk") / (scale * column(curve, "layer")),
            lambda curve: column(curve, "ntk_law") / (scale * column(curve, "layer")),
        )
        axis.plot(layers, diagonal / (scale * layers), "ks", ms=3, label=r"$\Theta_{aa}$")
        for value in (1, 1 / 3):
            axis.axhline(value, color="k", lw=0.8, ls="--")
        axis.set(ylabel=r"$\Theta / (l\,q^*)$, limits 1 and 1/3", xscale="log", ylim=(0, 1.1))
    else:
        _curves(
            axis,
            rows,
            lambda curve: _seen(column(curve, "ntk") - limit.p_ab, limit.p_ab),
            lambda curve: _seen(column(curve, "ntk_law") - limit.p_ab, limit.p_ab),
        )
        ordered = limit.phase == "ordered"
        shown = _seen(limit.p - diagonal, limit.p) if ordered else diagonal
        words = r"$\Theta_{aa}^* - \Theta_{aa}$" if ordered else r"$\Theta_{aa}$"
        law = column(one, "ntk_diagonal_law")
        axis.plot(layers, shown, "ks", ms=3, label=words)
        axis.plot(layers, _seen(limit.p - law, limit.p) if ordered else law, "k", lw=0.8)
        axis.set(ylabel=rf"$|\Theta_{{ab}} - \Theta_{{ab}}^*|$, {words}", yscale="log")
        axis.set(xlim=(0, min(layers[-1], -32 / np.log(limit.chi_c))))
        axis.set_ylim(1e-13 * limit.p_ab, 1e13 * limit.p_ab if not ordered else None)
    axis.set(title="NTK: circles measured, lines law", xlabel="layer l")
    axis.legend(fontsize=7)


def _draw_images(axis: Axes, rows: Rows) -> None:
    layers = column(rows, "layer")
    for name, color, words in (("q", "C0", r"$q_{aa}/q^*$"), ("ntk", "C1", r"$\Theta_{aa}$ / law")):
        for which, style in (("largest", "-"), ("median", "--")):
            values = _seen(column(rows, f"{name}_{which}"), 1.0)
            axis.plot(layers, values, style, color=color, label=f"|{words} - 1|, {which}")
    rate = rows[0]["q_largest"] * rows[0]["chi_q"] ** (layers - layers[0])
    axis.plot(layers, _seen(rate, 1.0), "k:", label=r"$\chi_q^l$")
    axis.set(title="images as they are", xlabel="layer l", ylabel="relative difference")
    axis.set(xscale="log", yscale="log", ylim=(1e-6, 3))
    axis.legend(fontsize=7)


def report(rows: Rows, images: Rows) -> None:
    """Prints how far the deepest entries are from their laws, and what q* stands for."""
    for (phase, start), mine in curves_of(rows, "phase", "correlation").items():
        deeper = [row for row in mine if row["layer"] > row["fit_layer"]]
        off = max((abs(row["ntk_law"] / row["ntk"] - 1) for row in deeper), default=np.nan)
        print(
            f"{phase}, correlation {start:g}: Theta_ab within {off:.1e} of the law beyond layer "
            f"{mine[0]['fit_layer']}"
        )
    for (phase,), mine in curves_of(images, "phase").items():
        first, last = mine[0], mine[-1]
        print(
            f"{phase}: images, |q_aa / q* - 1| at most {first['q_largest']:.2g} at layer "
            f"{first['layer']}, {last['q_largest']:.1g} at {last['layer']} (chi_q "
            f"{first['chi_q']:.3f}); Theta_aa off by {last['ntk_median']:.2g} (median), "
            f"{last['ntk_largest']:.2g} (largest) at {last['layer']}"
        )


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("kernel_limits")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("examples", "Images of the last row.", lower_bound=1)
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=8)


def main(_: list[str]) -> None:
    """Measures the phases, writes metrics.csv, images.csv and kernel_limits.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    name, count, seed = settings["dataset"], settings["examples"], settings["seed"]
    shown = samples.draw(name, "train", count, seed)[0]
    rows = [row for phase in phases.FACTORS for row in measure_pairs(phase, settings)]
    images = [row for phase in phases.FACTORS for row in measure_images(phase, settings, shown)]
    common.write_csv(directory / "metrics.csv", rows)
    common.write_csv(directory / "images.csv", images)
    common.save_figure(draw(rows, images, settings), directory / "kernel_limits.png")
    report(rows, images)


if __name__ == "__main__":
    binary.start(define_flags, main)
