"""How fast each eigenmode of the NTK is learnt (NTK paper, eq. 4; slides, "Trainability").

    python -m experiments.learning_curves --output_dir=runs/learning_curves

At the learning rate eta the share of the targets learnt along eigenvector i after t steps is
1 - e^(-eta lambda_i t); at the largest stable rate, eta = 2 / lambda_max, it is
1 - e^(-2 t lambda_i / lambda_max), and 1 - e^(-2 t / kappa) for the hardest mode. Lines: theory, of
the analytic kernel of infinite width. Circles: networks of finite width, trained by full-batch
gradient descent, their mean over seeds and its standard error.

They are trained at rho = 1/4 of the largest rate and drawn against t = rho * steps: the law is that
of continuous time, and a step at rho = 1 takes the largest mode from 0 to 2 and back. Dotted: the
same in steps, 1 - (1 - 2 rho lambda_i / lambda_max)^steps, which differs for large modes. A column
for each phase: kappa decides how long the hardest mode takes.
"""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

from experiments import binary, common, phases, ranges, samples, sweep
from experiments.curves import Rows, column, curves_of
from mfcnn import data, kernels, layers

FLAGS = flags.FLAGS

# The settings of the presets; the documents draw no such figure: all but erf are choices.
_QUICK = {
    "activation": "erf",
    "q_star": 0.5,
    "dataset": "digits",
    "resize": None,
    "examples": 6,
    "depth": 6,
    "width": 512,
    "seeds": 4,
    "rho": 0.25,
    "steps": 2000,
}
_PAPER = {"dataset": "cifar10", "width": 2048, "depth": 10}
# sigma_w^2 over its critical value, further apart than elsewhere: a network of few layers.
_FACTORS = {"ordered": 0.6, "critical": 1.0, "chaotic": 2.0}


class Problem:
    """One phase: the images and targets, and the analytic kernel's eigenmodes.

    Attributes:
        x: images [m, d], scaled to the fixed point's variance.
        y: targets [m, classes].
        spectrum: of the analytic NTK on x, `kernels.Spectrum`.
        vectors: its eigenvectors [m, m], in the order of the eigenvalues.
        variances: (sigma_w^2, sigma_b^2).
    """

    def __init__(
        self, phase: str, settings: Mapping[str, Any], images: np.ndarray, labels: np.ndarray
    ) -> None:
        activation = settings["activation"]
        self.variances = phases.variances(phase, activation, settings["q_star"], _FACTORS)
        limit = kernels.limits(activation, *self.variances)
        self.x = samples.at_fixed_point(images.reshape(len(images), -1), limit, *self.variances)
        self.y = samples.targets(labels, int(labels.max()) + 1)
        kernel = kernels.fully_connected(settings["depth"], activation, *self.variances)
        matrix = np.asarray(kernel(self.x, get="ntk"))
        self.spectrum = kernels.spectrum(matrix)
        self.vectors = np.linalg.eigh(matrix)[1][:, ::-1]

    def learnt(self, change: np.ndarray, missing: np.ndarray) -> np.ndarray:
        """The share learnt along each mode [m], of f - f0 and y - f0, both [m, classes]."""
        a, b = self.vectors.T @ change, self.vectors.T @ missing
        return np.sum(a * b, axis=1) / np.sum(b * b, axis=1)


def law(spectrum: kernels.Spectrum, t: np.ndarray) -> np.ndarray:
    """1 - e^(-2 t lambda_i / lambda_max), [times, m], of times in steps at 2 / lambda_max."""
    return -np.expm1(-2 * t[:, None] * spectrum.eigenvalues / spectrum.lambda_max)


def network(problem: Problem, settings: Mapping[str, Any], seed: int) -> keras.Model:
    """A network in the NTK parameterization, of the problem's variances."""
    weight_variance, bias_variance = problem.variances
    options = {"weight_variance": weight_variance, "bias_variance": bias_variance}
    depth, first = settings["depth"], seed * 1000  # a seed for each layer
    hidden = [
        layers.NTKDense(settings["width"], settings["activation"], seed=first + i, **options)
        for i in range(depth)
    ]
    readout = layers.NTKDense(problem.y.shape[1], None, seed=first + depth, **options)
    return keras.Sequential([keras.Input((problem.x.shape[1],)), *hidden, readout])


def train(problem: Problem, settings: Mapping[str, Any], seed: int) -> tuple[np.ndarray, Any]:
    """(numbers of steps, shares learnt [numbers, m]) of one network, by gradient descent."""
    model = network(problem, settings, seed)
    x, y = (tf.constant(array, tf.float32) for array in (problem.x, problem.y))
    rate = tf.constant(settings["rho"] * 2 / problem.spectrum.lambda_max, tf.float32)
    weights = [v.value for v in model.trainable_variables]

    @tf.function(autograph=False, jit_compile=False)
    def advance(count: tf.Tensor) -> tf.Tensor:
        def body(i: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(model(x) - y)) / 2
            for weight, gradient in zip(weights, tape.gradient(loss, weights)):
                weight.assign_sub(rate * gradient)
            return i + 1

        tf.while_loop(lambda i: i < count, body, [tf.constant(0)])
        return model(x)

    marks = np.unique(np.round(np.geomspace(1, settings["steps"], 24)).astype(int))
    start = model(x).numpy()
    shares = []
    for count in np.diff(marks, prepend=0):
        change = advance(tf.constant(count, tf.int32)).numpy() - start
        shares.append(problem.learnt(change, problem.y - start))
    return marks, np.array(shares)


def measure(
    settings: Mapping[str, Any],
    examples: tuple[np.ndarray, np.ndarray],
    point: sweep.Point,
    _: pathlib.Path,
) -> Rows:
    """Rows of step and mode of one phase: theory, mean over the networks and standard error."""
    problem = Problem(point["phase"], settings, *examples)
    first = settings["seed"] * settings["seeds"]
    runs = [train(problem, settings, first + i) for i in range(settings["seeds"])]
    marks, shares = runs[0][0], np.stack([run[1] for run in runs])
    t = settings["rho"] * marks
    theory = law(problem.spectrum, t)
    ratios = problem.spectrum.eigenvalues / problem.spectrum.lambda_max
    in_steps = 1 - (1 - 2 * settings["rho"] * ratios) ** marks[:, None]
    means = shares.mean(axis=0)
    errors = shares.std(axis=0, ddof=1) / np.sqrt(len(runs))
    return [
        {
            "mode": mode + 1,
            "eigenvalue": float(problem.spectrum.eigenvalues[mode]),
            "kappa": float(problem.spectrum.condition_number),
            "t": float(t[i]),
            "learnt": float(means[i, mode]),
            "error": float(errors[i, mode]),
            "law": float(theory[i, mode]),
            "law_in_steps": float(in_steps[i, mode]),
        }
        for mode in range(len(problem.x))
        for i in range(len(marks))
    ]


def draw(rows: Rows) -> Figure:
    """A column for each phase; a colour for each mode, the hardest dashed in black."""
    figure, axes = common.subplots(1, 3, figsize=(13, 4), sharey=True)
    for axis, phase in zip(axes, phases.FACTORS):
        curves = curves_of([row for row in rows if row["phase"] == phase], "mode")
        for (mode,), curve in curves.items():
            t, color = column(curve, "t"), colormaps["viridis"]((mode - 1) / len(curves))
            axis.plot(t, column(curve, "law"), "-", lw=1, color=color)
            axis.plot(t, column(curve, "law_in_steps"), ":", lw=1, color=color)
            axis.errorbar(
                t,
                column(curve, "learnt"),
                column(curve, "error"),
                fmt="o",
                ms=3,
                color=color,
                mfc="none",
                label=rf"$\lambda_{mode:.0f}$ = {curve[0]['eigenvalue']:.3g}",
            )
        kappa = next(iter(curves.values()))[0]["kappa"]
        axis.plot(t, -np.expm1(-2 * t / kappa), "k--", lw=1, label=r"$1 - e^{-2t/\kappa}$")
        axis.set(
            title=rf"{phases.TITLES[phase]}, $\kappa$ = {kappa:.3g}",
            xlabel=r"t, steps at $\eta = 2 / \lambda_{max}$",
            xscale="log",
            ylim=(-0.1, 1.2),
        )
        axis.legend(fontsize=6)
    axes[0].set_ylabel("share of the targets learnt along the mode")
    return figure


def report(rows: Rows) -> None:
    """Prints the largest distance from the law, and when the hardest mode is half learnt."""
    for (phase,), mine in curves_of(rows, "phase").items():
        off = np.abs(column(mine, "learnt") - column(mine, "law_in_steps"))
        slow = [row for row in mine if row["mode"] > 1]
        slow_off = np.abs(column(slow, "learnt") - column(slow, "law"))
        within = off <= 3 * column(mine, "error") + 0.02
        half = np.log(2) * mine[0]["kappa"] / 2
        last = max(row["mode"] for row in mine)
        hardest = [row for row in mine if row["mode"] == last]
        seen = next((row["t"] for row in hardest if row["learnt"] >= 0.5), np.nan)
        print(
            f"{phase}: kappa {mine[0]['kappa']:.4g}; distance from the law in steps at most "
            f"{off.max():.3f}, mean {off.mean():.3f}, within 3 standard errors and 0.02 at "
            f"{within.mean():.0%}; from that of continuous time, all but the first mode, at most "
            f"{slow_off.max():.3f}; hardest mode half learnt by t = {seen:.3g}, law {half:.3g}"
        )


def define_flags() -> None:
    """Defines the flags; only the binary itself does, so that tests can import many."""
    sweep.define_flags("learning_curves")
    common.define_override("dataset", "Data set.", flags.DEFINE_enum, enum_values=data.NAMES)
    common.define_override("resize", "Side of the images in pixels.", lower_bound=1)
    common.define_override("examples", "Training images m.", lower_bound=2)
    common.define_override("depth", "Hidden layers.", lower_bound=1)
    common.define_override("width", "Units of each hidden layer.", lower_bound=1)
    common.define_override("seeds", "Networks of each phase.", lower_bound=2)
    common.define_override(
        "rho", "Learning rate in units of 2 / lambda_max.", flags.DEFINE_float, **ranges.FRACTION
    )
    common.define_override("steps", "Steps of each network.", lower_bound=2)


def main(_: list[str]) -> None:
    """Trains the networks of each phase, writes metrics.csv and learning_curves.png."""
    settings = common.settings(_QUICK, _PAPER)
    directory = sweep.open_sweep(settings)
    names = ("examples", "seed", "resize")
    examples = samples.draw(settings["dataset"], "train", *(settings[name] for name in names))
    points = [{"phase": phase} for phase in phases.FACTORS]
    rows = sweep.run(points, functools.partial(measure, settings, examples), directory)
    if rows is not None:
        report(rows)
        common.save_figure(draw(rows), directory / "learning_curves.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
