"""The finite-depth part of the mean predictor, Delta^(l) Y, over depth (NTK paper, eqs. 7 and 10).

    python -m experiments.deep_predictor --output_dir=runs/deep_predictor

Fully connected networks on images scaled to the fixed point's variance. Root mean square over the
test images of Delta^(l) Y, the prediction less that of the data-independent limit of the kernel:

    chaotic    falls as l (chi_c / chi_1)^l                         (equation 10)
    ordered    with a ridge sigma, falls as l chi_1^l               (section 3.2)
    critical   falls as 1 / l                                       (section 3.3)

Fourth panel, the slides' limit: in the ordered phase and without a ridge the prediction goes to
`kernels.ordered_limit`, which is not zero; its distance from there falls as the kernel's
correction A itself. Laws are fitted at one depth, the vertical line; deeper is prediction.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import binary, common, phases, samples
from experiments.curves import Rows, column, curves_of
from mfcnn import data, kernels

# The settings of the presets; the documents draw no such figure: all but erf are choices.
_QUICK = {
    "activation": "erf",
    "q_star": 0.5,
    "dataset": "digits",
    "train_size": 20,
    "test_size": 300,
    "max_depth": 10_000,
    "ridges": [0.1, 1.0, 10.0],
}
_PAPER = {"dataset": "cifar10", "test_size": 1000}
# sigma_w^2 over its critical value, further apart than elsewhere: scales of a few layers.
_FACTORS = {"ordered": 0.6, "critical": 1.0, "chaotic": 2.0}
_LAWS = {
    "chaotic": r"$l\,(\chi_c/\chi_1)^l$",
    "ordered": r"$l\,\chi_1^l$",
    "critical": r"$1/l$",
    "ordered_limit": r"$l\,\chi_1^l$",
}


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def law(limit: kernels.Limits, layers: np.ndarray) -> np.ndarray:
    """The shape of Delta^(l) Y over layers, without its amplitude."""
    if limit.phase == "critical":
        return 1 / layers
    rate = limit.chi_c / limit.chi_1 if limit.phase == "chaotic" else limit.chi_1
    return layers * rate**layers


def sizes(
    limit: kernels.Limits,
    layer: int,
    train: np.ndarray,
    test: np.ndarray,
    y: np.ndarray,
    ridges: list[float],
) -> dict[tuple[str, float], float]:
    """Root mean squares at one layer by (what, ridge): of Delta^(l) Y, and of the distance."""
    if limit.phase == "chaotic":
        diagonal = limit.q_star * np.expm1(layer * np.log(limit.chi_1)) / (limit.chi_1 - 1)
        part = kernels.data_dependent_part(train, test, y, diagonal, limit.p_ab)
        return {("chaotic", 0.0): _rms(part)}
    if limit.phase == "critical":
        diagonal = limit.q_star * layer
        part = kernels.data_dependent_part(train, test, y, diagonal, diagonal / 3)
        return {("critical", 0.0): _rms(part)}
    found = {
        ("ordered", ridge): _rms(
            kernels.data_dependent_part(train, test, y, limit.p, limit.p, ridge=ridge)
        )
        for ridge in ridges
    }
    # The distance is of order 1 / kappa, the rounding of a solution eps kappa.
    if kernels.spectrum(train).condition_number < 1e7:
        prediction = kernels.predict(train, test, y)
        limit_value = kernels.ordered_limit(train - limit.p, test - limit.p, y)
        found["ordered_limit", 0.0] = _rms(prediction - limit_value)
        found["ordered_prediction", 0.0] = _rms(prediction)
    return found


def fitted(found: dict[tuple[str, float], list[tuple[int, float]]], limit: kernels.Limits) -> Rows:
    """The rows of a phase: each curve (layer, size) beside its law, fitted at two thirds of it."""
    rows: Rows = []
    for (what, ridge), curve in found.items():
        layers, values = np.array(curve).T
        fit = 2 * len(curve) // 3
        shape = law(limit, layers)
        rows += [
            {
                "what": what,
                "ridge": ridge,
                "layer": int(layer),
                "size": value,
                "law": float(values[fit] * form / shape[fit]),
                "fit_layer": int(layers[fit]),
            }
            for layer, value, form in zip(layers, values, shape)
        ]
    return rows


def measure(settings: Mapping[str, Any]) -> Rows:
    """Rows of what, ridge and layer: the size, the law and where it is fitted."""
    name, seed = settings["dataset"], settings["seed"]
    x_train, labels = samples.draw(name, "train", settings["train_size"], seed)
    x_test, _ = samples.draw(name, "test", settings["test_size"], seed)
    y = samples.targets(labels, int(labels.max()) + 1)
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], 48)).astype(int)).tolist()
    rows: Rows = []
    for phase in phases.FACTORS:
        variances = phases.variances(phase, settings["activation"], settings["q_star"], _FACTORS)
        limit = kernels.limits(settings["activation"], *variances)
        train, test = (
            samples.at_fixed_point(x.reshape(len(x), -1), limit, *variances)
            for x in (x_train, x_test)
        )
        # Beyond chi_1^l of 1e12 or 1e-12 the corrections are rounding.
        reach = 28 / abs(np.log(limit.chi_1)) if phase != "critical" else np.inf
        mine = [depth for depth in depths if depth < reach]
        kernel = kernels.fully_connected(mine, settings["activation"], *variances)
        pairs = (train, None), (test, train)
        matrices = [np.asarray(kernel(x1, x2, get="ntk")) for x1, x2 in pairs]
        found: dict[tuple[str, float], list[tuple[int, float]]] = {}
        for depth, a, b in zip(mine, *matrices):
            for key, size in sizes(limit, depth + 1, a, b, y, settings["ridges"]).items():
                found.setdefault(key, []).append((depth + 1, size))
        rows += fitted(found, limit)
    return rows


def draw(rows: Rows) -> Figure:
    """Three phases with their laws, and the way to the ordered limit."""
    figure, axes = common.subplots(2, 2, figsize=(10.5, 8))
    titles = {
        "chaotic": r"chaotic phase: $\Delta^{(l)} Y$",
        "ordered": r"ordered phase, with a ridge: $\Delta^{(l)} Y$",
        "critical": r"critical line: $\Delta^{(l)} Y$",
        "ordered_limit": "ordered phase, no ridge: distance from its limit",
    }
    for axis, (what, title) in zip(axes.flat, titles.items()):
        mine = [row for row in rows if row["what"] == what]
        _draw_sizes(axis, mine, what)
        axis.set(title=title, xlabel="layer l", ylabel="root mean square over test images")
        axis.set(yscale="log", xscale="log" if what == "critical" else "linear")
    whole = [row for row in rows if row["what"] == "ordered_prediction"]
    axes[1, 1].plot(column(whole, "layer"), column(whole, "size"), "k-", label="the prediction")
    for axis in axes.flat:
        axis.legend(fontsize=8)
    return figure


def _draw_sizes(axis: Axes, rows: Rows, what: str) -> None:
    for i, ((ridge,), curve) in enumerate(curves_of(rows, "ridge").items()):
        layers = column(curve, "layer")
        label = rf"measured, $\sigma$ = {ridge:g}" if ridge else "measured"
        axis.plot(layers, column(curve, "size"), "o", ms=3, color=f"C{i}", label=label)
        text = f"{_LAWS[what]}, fitted at the dotted line" if i == 0 else None
        axis.plot(layers, column(curve, "law"), "-", lw=1, color=f"C{i}", label=text)
    axis.axvline(rows[0]["fit_layer"], color="k", lw=0.6, ls=":")


def report(rows: Rows) -> None:
    """Prints, for each curve, how far the deepest measurement is from the law."""
    for (what, ridge), mine in curves_of(rows, "what", "ridge").items():
        last = mine[-1]
        words = f"size {last['size']:.3g} at layer {last['layer']}"
        if what != "ordered_prediction":
            words += f", {last['size'] / last['law']:.3f} of the law fitted at {last['fit_layer']}"
        print(f"{what}, ridge {ridge:g}: {words}")


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    common.define_flags("deep_predictor")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("train_size", "Training images m.", lower_bound=2)
    common.define_override("test_size", "Test images.", lower_bound=1)
    common.define_override("max_depth", "Largest number of hidden layers.", lower_bound=16)


def main(_: list[str]) -> None:
    """Measures the phases, writes metrics.csv and deep_predictor.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows = measure(settings)
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(rows), directory / "deep_predictor.png")
    report(rows)


if __name__ == "__main__":
    binary.start(define_flags, main)
