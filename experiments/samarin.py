"""What the linearization paper (Samarin, Roth, Belius) prints: set-ups and accuracies."""

from collections.abc import Mapping
from typing import Any

__all__ = ["accuracy", "set_up"]

_LENET_FACTORS = (1, 2, 5, 10, 25, 60)
_ALEXNET_FACTORS = (1, 2, 3, 4)

# Accuracy in percent by (network, data, model, rate, split), figures 3, 4 and 6.
_ACCURACIES: dict[tuple[str, str, str, float, str], tuple[float, ...]] = {
    ("lenet", "mnist", "linearization", 0.1, "test"): (93.2, 96.3, 97.9, 98.3, 98.8, 98.9),
    ("lenet", "mnist", "network", 0.1, "test"): (99.2, 99.3, 99.4, 99.4, 99.4, 99.4),
    ("lenet", "mnist", "linearization", 0.1, "train"): (92.9, 96.5, 98.1, 98.8, 99.5, 99.9),
    ("lenet", "mnist", "network", 0.1, "train"): (99.8, 99.9, 100, 100, 100, 100),
    ("lenet", "cifar10", "linearization", 0.1, "test"): (42.3, 46.3, 54.2, 57.7, 62.2, 65.6),
    ("lenet", "cifar10", "network", 0.1, "test"): (62.5, 69.6, 76.1, 77.4, 78.9, 78.8),
    ("lenet", "cifar10", "linearization", 0.1, "train"): (42.9, 48.1, 60.5, 68.0, 81.2, 94.1),
    ("lenet", "cifar10", "network", 0.1, "train"): (92.0, 98.4, 99.8, 99.9, 100, 100),
    ("alexnet", "imagenet_snakes", "linearization", 1.0, "test"): (35.2, 36.4, 34.2, 39.2),
    ("alexnet", "imagenet_snakes", "linearization", 0.1, "test"): (29.2, 33.8, 34.8, 36.4),
    ("alexnet", "imagenet_snakes", "network", 0.1, "test"): (53.8, 54.4, 54.2, 57.0),
    ("alexnet", "imagenet_snakes", "linearization", 1.0, "train"): (54.7, 69.6, 77.9, 84.9),
    ("alexnet", "imagenet_snakes", "linearization", 0.1, "train"): (37.5, 43.6, 47.5, 51.5),
    ("alexnet", "imagenet_snakes", "network", 0.1, "train"): (99.1, 99.2, 99.2, 99.2),
    # Section 3.2, "about"; the rate is not in the paper.
    ("lenet", "mnist", "logistic_regression", 0.01, "test"): (92.0,),
    ("lenet", "mnist", "logistic_regression", 0.01, "train"): (93.0,),
}


def accuracy(
    architecture: str, dataset: str, model: str, rate: float, split: str, factor: float
) -> float:
    """The accuracy between 0 and 1 that the paper prints, NaN where it prints none.

    Example:
        >>> accuracy("lenet", "mnist", "linearization", 0.1, "test", 25)
        0.988
    """
    values = _ACCURACIES.get((architecture, dataset, model, rate, split), ())
    factors = _LENET_FACTORS if architecture == "lenet" else _ALEXNET_FACTORS
    printed: dict[float, float] = dict(zip(factors, values))
    return printed.get(factor, float("nan")) / 100


def set_up(architecture: str, dataset: str | None) -> Mapping[str, Any]:
    """The settings of sections 3.1 to 3.3 for a network and a data set, by default its first.

    Example:
        >>> set_up("alexnet", None)["dataset"]
        'imagenet_snakes'
    """
    alexnet = architecture == "alexnet"
    dataset = dataset or ("imagenet_snakes" if alexnet else "mnist")
    settings = {
        "dataset": dataset,
        "width_factors": [str(f) for f in (_ALEXNET_FACTORS if alexnet else _LENET_FACTORS)],
        "epochs": 100,
        "linear_epochs": 100,
        "batch_size": 32,
        "momentum": 0.9,
        "learning_rate": 0.1,
        "linear_learning_rates": ["0.1"],
        "weight_decay": 5e-5,
        "linear_weight_decays": ["5e-5"],
        "schedule": "constant" if dataset == "mnist" else "step",
        "loss": "mean_squared_error",
        "trajectory_steps": 200,
        "trajectory_factors": ["1", "3", "5"],
    }
    if alexnet:
        settings |= {
            "weight_decay": 5e-6,
            "linear_learning_rates": ["0.1", "1"],
            "linear_weight_decays": ["5e-6", "5e-7"],
        }
    return settings
