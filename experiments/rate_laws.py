"""How the best learning rate falls with depth, by SGD, momentum and Adam: theory and grids.

    python -m experiments.rate_laws

Theory gives each network a rate: rho * 2 / lambda_max of its own NTK (SGD, momentum) or 0.01 /
depth (Adam). It is the deep block's: stem and readout keep that of a network of --outer_depth
layers (0: all have one rate). Every network trains at several multiples of it. The best multiple
of the first depth is carried to the others: by theory, as 1 / depth and as depth^-3/2, two rules in
use. Draws the last training loss against the multiple, and the rates against depth, to depths where
theory's is known but nothing is trained. Prints what each rule loses to the best; between the
grid's points the loss is a cubic spline in the logarithms.
"""

import functools
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy import interpolate

from experiments import binary, common, ranges, sweep, vanilla, vanilla_sweep
from experiments.curves import Rows, column, curves_of

FLAGS = flags.FLAGS
OPTIMIZERS = ("sgd", "momentum", "adam")
# What each rule makes of a rate when the depth is multiplied by a factor.
RULES = {"1 / depth": -1.0, "depth^-3/2": -1.5}

_QUICK = vanilla_sweep.network_settings(
    dataset="digits",
    depths=["32", "320", "3200", "10000"],
    untrained_depths=["10", "100", "1000", "100000", "1000000"],
    optimizers=list(OPTIMIZERS),
    multiples=["0.125", "0.25", "0.5", "1", "2", "4", "8", "16", "32"],
    outer_depth=32,
    filters=4,
    padding="same",
    strides=["2", "2"],
    readout="flatten",
    batch_size=16,
    steps=200,
    eval_every=50,
    checkpoint_every=200,
    test_subset=300,
)
_PAPER = {
    "dataset": "mnist",
    "filters": 16,
    "strides": ["2", "2", "2"],
    "batch_size": 32,
    "steps": 1000,
    "eval_every": 100,
    "checkpoint_every": 100,
    "test_subset": 1000,
}


class Rates:
    """Theory's learning rate by optimizer and depth.

    Args:
        networks: of the sweep.
    """

    def __init__(self, networks: vanilla_sweep.Networks) -> None:
        self._networks = networks

    def __call__(self, optimizer: str, depth: int) -> float:
        """The rate that `--learning_rate=auto` takes; momentum and SGD share it."""
        return self._rate("adam" if optimizer == "adam" else "sgd", depth)

    @functools.cache  # noqa: B019 - one object, as long as the binary runs
    def _rate(self, optimizer: str, depth: int) -> float:
        auto = {"optimizer": optimizer, "depth": depth, "learning_rate": "auto"}
        auto["outer_rate"] = outer_rate(self._networks.settings, depth)
        config, dataset = self._networks.settings | auto, self._networks.dataset
        # Adam's is a law, and beyond the measured depths the others' is one of smaller networks.
        needed = optimizer == "sgd" and depth <= vanilla.MEASURED_DEPTH
        model = vanilla.make_model(config, dataset.image_shape, dataset.classes) if needed else None
        return vanilla.learning_rate(config, model, dataset)[0]


def outer_rate(settings: Mapping[str, Any], depth: int) -> float:
    """The rate of stem and readout as a multiple of the deep block's."""
    return depth / settings["outer_depth"] if settings["outer_depth"] else 1.0


def measure(
    networks: vanilla_sweep.Networks, rates: Rates, point: sweep.Point, folder: pathlib.Path
) -> Rows:
    """Trains the network of a point (multiple 0: none) and returns its rate and its last row."""
    rate = rates(point["optimizer"], point["depth"])
    row = {"learning_rate": rate, "train_loss": math.nan, "test_accuracy": math.nan}
    if not point["multiple"]:
        return [row]
    row["learning_rate"] = rate * point["multiple"]
    network = {name: point[name] for name in ("optimizer", "depth")}
    own = {"outer_rate": outer_rate(networks.settings, point["depth"])}
    curve = networks.curve(network, folder, learning_rate=str(row["learning_rate"]), **own)
    if curve and curve[-1]["step"] == networks.settings["steps"]:
        row |= {name: float(curve[-1][name]) for name in ("train_loss", "test_accuracy")}
    return [row]


def converged(rows: Rows) -> Rows:
    """The rows whose training did not diverge, by rate."""
    found = [row for row in rows if not math.isnan(row["train_loss"])]
    return sorted(found, key=lambda row: row["learning_rate"])


def curve_of(rows: Rows) -> interpolate.BSpline:
    """The loss's logarithm over that of the rate: the cubic spline of two and more rows."""
    rates, losses = (np.log(column(rows, name)) for name in ("learning_rate", "train_loss"))
    return interpolate.make_interp_spline(rates, losses, k=min(3, len(rows) - 1))


def best(rows: Rows) -> dict[str, Any]:
    """The row of the least training loss, between the points of the grid too.

    A grid in factors of two misses the best rate by up to a factor 1.4; the minimum of `curve_of`
    does not, where it is no end of the grid. Networks that diverged have no part in it.
    """
    found = converged(rows)
    if len(found) < 2:
        return (found or rows)[0]
    curve = curve_of(found)
    rates = np.linspace(curve.t[0], curve.t[-1], 2001)
    at = rates[np.argmin(curve(rates))]
    rate, row = math.exp(at), found[0]
    multiple = row["multiple"] * rate / row["learning_rate"]
    loss = math.exp(curve(at))
    return {**row, "multiple": multiple, "learning_rate": rate, "train_loss": loss}


def loss_at(rows: Rows, rate: float) -> float:
    """The training loss at a rate, by `curve_of`; NaN beyond the rates that converged."""
    found = converged(rows)
    if len(found) < 2:
        return math.nan
    curve, at = curve_of(found), math.log(rate)
    ends = curve.t[[0, -1]]
    if min(abs(at - ends)) < 1e-9:  # an end, but for rounding
        at = np.clip(at, *ends)
    return float(np.exp(curve(at, extrapolate=False)))


def carried(first: dict[str, Any], theory: dict[float, float], depth: float) -> dict[str, float]:
    """The rate of each rule at a depth, from the best row of the first depth.

    Args:
        first: that row.
        theory: theory's rate by depth.
        depth: where to.

    Returns:
        dict from the rule, "theory" among them, to the rate.
    """
    rate, factor = first["learning_rate"], depth / first["depth"]
    rules = {name: rate * factor**power for name, power in RULES.items()}
    return {"theory": rate * theory[depth] / theory[first["depth"]], **rules}


def theory_of(rows: Rows) -> dict[float, float]:
    """Theory's rate by depth, from the rows of one optimizer."""
    return {row["depth"]: row["learning_rate"] / (row["multiple"] or 1) for row in rows}


def report(rows: Rows) -> None:
    """Prints, for each optimizer and depth, the best rate and what the rules lose to it."""
    for (optimizer,), mine in curves_of(rows, "optimizer").items():
        trained = curves_of([row for row in mine if row["multiple"]], "depth")
        first = best(next(iter(trained.values())))
        for (depth,), grid in trained.items():
            top = best(grid)
            print(
                f"{optimizer}, {depth:.0f} layers: loss {top['train_loss']:.3g} at "
                f"{top['learning_rate']:.3g}, {top['multiple']:.3g} of theory's"
                + "".join(
                    f"; {name} {loss_at(grid, rate) / top['train_loss'] - 1:+.1%}"
                    for name, rate in carried(first, theory_of(mine), depth).items()
                )
            )


def draw(rows: Rows) -> Figure:
    """A panel of losses for each optimizer, and one of rates against depth."""
    optimizers = curves_of(rows, "optimizer")
    figure, axes = common.subplots(
        1, len(optimizers) + 1, figsize=(1 + 3.6 * (len(optimizers) + 1), 3.6), squeeze=False
    )
    depths = sorted({row["depth"] for row in rows if row["multiple"]})
    for index, ((optimizer,), mine) in enumerate(optimizers.items()):
        trained = curves_of([row for row in mine if row["multiple"]], "depth")
        for (depth,), grid in trained.items():
            color = colormaps["viridis"](0.9 * depths.index(depth) / max(len(depths) - 1, 1))
            x, y = column(grid, "multiple"), column(grid, "train_loss")
            axes[0, index].plot(x, y, "o-", color=color, label=f"{depth:.0f} layers")
        axes[0, index].set(xscale="log", title=optimizer, xlabel="rate / theory's rate")
        multiples = sorted({row["multiple"] for row in mine if row["multiple"]})
        axes[0, index].set_xticks(multiples, [f"{m:g}" for m in multiples], minor=False)
        axes[0, index].minorticks_off()
        _draw_rates(axes[0, -1], optimizer, mine, f"C{index}")
    axes[0, 0].set(ylabel="last training loss")
    axes[0, 0].legend()
    axes[0, -1].set(xscale="log", yscale="log", xlabel="depth", ylabel="learning rate")
    axes[0, -1].set_title("best rates (points), carried (lines)")
    axes[0, -1].legend(fontsize=7)
    return figure


def _draw_rates(axis: Any, optimizer: str, rows: Rows, color: str) -> None:
    trained = curves_of([row for row in rows if row["multiple"]], "depth").values()
    tops, theory = [best(grid) for grid in trained], theory_of(rows)
    axis.plot(column(tops, "depth"), column(tops, "learning_rate"), "o", color=color)
    depths = sorted(theory)
    lines = [carried(tops[0], theory, depth) for depth in depths]
    axis.plot(depths, [line["theory"] for line in lines], "-", color=color, label=optimizer)
    for name, style in zip(RULES, (":", "--")):
        axis.plot(depths, [line[name] for line in lines], style, color=color, lw=0.8)


def define_flags() -> None:
    """Defines the flags of this binary."""
    vanilla_sweep.define_flags("rate_laws", "depths")
    common.define_numbers(
        "untrained_depths",
        None,
        "Depths of which theory's rate alone is asked. Default: the preset's.",
        integers=True,
        lower_bound=1,
    )
    common.define_names(
        "optimizers", None, f"Some of {', '.join(OPTIMIZERS)}. Default: the preset's.", OPTIMIZERS
    )
    common.define_override(
        "outer_depth",
        "Stem and readout have the rate of a network of so many layers; 0: the deep block's.",
        lower_bound=0,
    )
    common.define_numbers(
        "multiples", None, "Of theory's rate. Default: the preset's.", **ranges.RELATIVE_RATE
    )


def main(_: list[str]) -> None:
    """Trains all networks, writes the table, draws the figure, prints the laws."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    networks = vanilla_sweep.Networks(settings)
    multiples = {int(depth): [0.0] for depth in settings["untrained_depths"]}
    multiples |= {
        int(depth): [float(m) for m in settings["multiples"]] for depth in settings["depths"]
    }
    points = [
        {"optimizer": optimizer, "depth": depth, "multiple": multiple}
        for depth in multiples
        for optimizer in settings["optimizers"]
        for multiple in multiples[depth]
    ]
    rows = sweep.run(
        points,
        functools.partial(measure, networks, Rates(networks)),
        directory,
        cost=lambda point: (point["depth"] + 20) if point["multiple"] else 20_000,
    )
    if rows is not None:
        report(rows)
        common.save_figure(draw(rows), directory / "rate_laws.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
