"""Test accuracy of the infinite-width mean predictor over depth and sigma_w^2 (NTK paper, Fig. 3).

python -m experiments.ntk_prediction --output_dir=runs/ntk_prediction

CNN-P, CNN-F and their difference, by the NTK predictor at infinite time (equation 5), with the
depth scales xi_1 (ordered phase) and xi_* (chaotic phase) drawn in.
"""

import warnings

import numpy as np
from absl import app, flags

from experiments import common
from mfcnn import data, kernels

FLAGS = flags.FLAGS


def accuracy(kernel, x_train, labels, x_test, test_labels, classes):
    """Test accuracy of the mean predictor; NaN where the kernel has no digits left to invert."""
    train = kernel(x_train, get="ntk").numpy()
    test = kernel(x_test, x_train, get="ntk").numpy()
    scale = np.max(train)
    targets = np.eye(classes)[labels] - 1 / classes
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few digits suffice for the largest of ten outputs
            prediction = kernels.predict(train / scale, test / scale, targets)
    except ValueError:
        return np.nan
    return float(np.mean(np.argmax(prediction, axis=1) == test_labels))


def main(_):
    """Evaluates the grid, writes metrics.csv (row by row) and ntk_prediction.png."""
    settings = common.settings(
        quick={
            "dataset": "digits", "train_size": 60, "test_size": 100, "grid": 4, "max_depth": 24,
            "activation": "erf", "bias_variance": 0.18,
        },
        paper={
            "dataset": "cifar10", "train_size": 1000, "test_size": 1000, "grid": 20,
            "max_depth": 100,
        },
    )  # fmt: skip
    directory = common.prepare_output_dir(settings)
    pair = [
        data.load_arrays(settings["dataset"], split, subset=settings[size], seed=settings["seed"])
        for split, size in (("train", "train_size"), ("test", "test_size"))
    ]
    (x_train, y_train), (x_test, y_test) = pair
    classes = int(max(y_train.max(), y_test.max())) + 1
    depths = np.unique(np.round(np.geomspace(1, settings["max_depth"], settings["grid"]))).astype(
        int
    )
    weights = np.linspace(0.6, 4.0, settings["grid"])
    limits = [kernels.limits(settings["activation"], w, settings["bias_variance"]) for w in weights]
    maps = np.zeros([2, depths.size, weights.size])
    rows = []
    for i, depth in enumerate(depths):
        for j, weight_variance in enumerate(weights):
            row = {"depth": int(depth), "weight_variance": float(weight_variance)}
            row |= {"phase": limits[j].phase, "xi_1": limits[j].xi_1, "xi_star": limits[j].xi_star}
            for k, readout in enumerate(("pool", "flatten")):
                kernel = kernels.convolutional(
                    int(depth),
                    settings["activation"],
                    weight_variance,
                    settings["bias_variance"],
                    readout=readout,
                )
                maps[k, i, j] = accuracy(kernel, x_train, y_train, x_test, y_test, classes)
                row[f"accuracy_{readout}"] = maps[k, i, j]
            rows.append(row)
        common.write_csv(directory / "metrics.csv", rows)
    plot(maps, depths, weights, limits, directory / "ntk_prediction.png")


def plot(maps, depths, weights, limits, path):
    """Three maps with both depth scales."""
    figure, axes = common.subplots(1, 3, figsize=(12, 3.6), sharey=True)
    difference = maps[0] - maps[1]
    bound = max(float(np.nanmax(np.abs(difference))), 1e-3)
    for axis, values, title, limits_of_color, colors in (
        (axes[0], maps[0], "CNN-P", (0, 1), "viridis"),
        (axes[1], maps[1], "CNN-F", (0, 1), "viridis"),
        (axes[2], difference, "CNN-P minus CNN-F", (-bound, bound), "coolwarm_r"),
    ):
        low, high = limits_of_color
        image = axis.pcolormesh(weights, depths, values, cmap=colors, vmin=low, vmax=high)
        figure.colorbar(image, ax=axis)
        for name, label in (("xi_1", r"$\xi_1$"), ("xi_star", r"$\xi_*$")):
            phase = "ordered" if name == "xi_1" else "chaotic"
            curve = [(w, getattr(r, name)) for w, r in zip(weights, limits) if r.phase == phase]
            if curve:
                style = "w--" if name == "xi_1" else "r--"
                axis.plot(*np.array(curve).T, style, label=label)
        axis.set(title=title, xlabel=r"$\sigma_w^2$", yscale="log", ylim=(1, depths[-1]))
    axes[0].set_ylabel("depth")
    axes[0].legend()
    common.save_figure(figure, path)


if __name__ == "__main__":
    common.define_flags("ntk_prediction")
    common.define_override("dataset", "Name of the data set.", flags.DEFINE_string)
    common.define_override("train_size", "Number of training examples.", lower_bound=10)
    common.define_override("test_size", "Number of test examples.", lower_bound=10)
    common.define_override("grid", "Depths and variances on each axis.", lower_bound=2)
    common.define_override("max_depth", "Largest depth.", lower_bound=2)
    app.run(main)
