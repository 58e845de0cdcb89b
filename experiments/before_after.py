"""Ten well-known architectures before and after `mfcnn.repair`: gradients and variances by layer.

    python -m experiments.before_after

Models of keras.applications with weights=None at 32x32, and plain tanh, relu and sigmoid nets of
20 to 500 layers, as Keras starts them and repaired. Draws the squared gradient and the variance of
the pre-activations of each layer with weights against its place in the graph, and writes a row for
each model and start: how far both move from the first layer to the last, and the verdict.
"""

from typing import Any

import keras
import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import mfcnn
from experiments import applications, binary, common, zoo
from mfcnn import data

FLAGS = flags.FLAGS
PLAIN = {"tanh 20": 20, "sigmoid 50": 50, "relu 100": 100, "tanh 500": 500}
MODELS = (
    "VGG16",
    "ResNet50",
    "MobileNetV2",
    "DenseNet121",
    "EfficientNetB0",
    "ConvNeXtTiny",
    *PLAIN,
)
_QUICK = {"names": list(MODELS), "inputs": 8}
_PAPER = {"inputs": 32}
Curves = dict[str, dict[str, np.ndarray]]


def make(name: str, count: int, seed: int) -> tuple[keras.Model, np.ndarray]:
    """A model by its name, and a batch for it: random images, or digits for the plain nets."""
    if name not in PLAIN:
        return applications.make(name, count, seed)
    model = zoo.plain(name.split()[0], PLAIN[name], width=64)
    return model, data.load_arrays("digits", "train", subset=max(count, 10))[0][:count]


def curves(report: mfcnn.diagnosis.Report) -> dict[str, np.ndarray]:
    """log10 of the squared gradient and the variance of the layers with weights, in their order."""
    layers = [layer for layer in report.layers if layer.parameters]
    with np.errstate(all="ignore"):
        variances = np.log10([max(layer.variance.value, 0.0) for layer in layers])
    return {"gradient": np.array([layer.gradient.log10 for layer in layers]), "variance": variances}


def measure(name: str, count: int, seed: int) -> tuple[list[dict[str, Any]], Curves]:
    """The rows of a model, before and after, and their curves."""
    keras.utils.set_random_seed(seed)
    model, x = make(name, count, seed)
    rows, found = [], {}
    for start in ("before", "after"):
        one = model if start == "before" else mfcnn.repair(model, x, seed=seed)
        report = mfcnn.diagnose(one, x, draws=0, tangent_kernel=False)
        found[start] = curves(report)
        row: dict[str, Any] = {"model": name, "start": start}
        row |= {"layers": len(found[start]["gradient"])}
        for quantity, logs in found[start].items():
            row[f"log10_{quantity}_ratio"] = float(logs[0] - logs[-1])
            row[f"log10_{quantity}_span"] = float(np.ptp(logs))
        rows.append(row | {"trainable": report.trainable})
        print(rows[-1], flush=True)
    return rows, found


def draw(found: dict[str, Curves]) -> Figure:
    """A panel for each model: gradients solid, variances dashed, a colour for each start."""
    columns = min(5, len(found))
    lines = -(-len(found) // columns)
    figure, axes = common.subplots(
        lines, columns, figsize=(2.9 * columns + 1, 2.7 * lines), squeeze=False
    )
    for axis, (name, starts) in zip(axes.flat, found.items()):
        for start, color in (("before", "tab:blue"), ("after", "tab:orange")):
            _draw_start(axis, starts[start], start, color)
        axis.set(title=name, ylim=(-20, 10))
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("log10")
    for axis in axes[-1]:
        axis.set_xlabel("layer with weights")
    axes[0, 0].legend(fontsize=6)
    return figure


def _draw_start(axis: Axes, logs: dict[str, np.ndarray], start: str, color: str) -> None:
    for quantity, style in (("gradient", "-"), ("variance", "--")):
        words = f"{start}, " + {"gradient": "squared gradient"}.get(quantity, quantity)
        x = np.arange(1, len(logs[quantity]) + 1)
        axis.plot(x, logs[quantity], style, color=color, lw=1.2, label=words)


def define_flags() -> None:
    """Defines the flags of this binary."""
    common.define_flags("before_after")
    common.define_override("names", "Models.", common.define_names, accepted=MODELS)
    common.define_override("inputs", "Images in the batch.", lower_bound=2)


def main(_: list[str]) -> None:
    """Measures all, writes the table and the picture."""
    settings = common.settings(_QUICK, _PAPER)
    directory = common.prepare_output_dir(settings)
    rows: list[dict[str, Any]] = []
    found: dict[str, Curves] = {}
    for name in settings["names"]:
        mine, found[name] = measure(name, settings["inputs"], settings["seed"])
        rows += mine
        keras.backend.clear_session()
    common.write_csv(directory / "metrics.csv", rows)
    common.save_figure(draw(found), directory / "before_after.png")


if __name__ == "__main__":
    binary.start(define_flags, main)
