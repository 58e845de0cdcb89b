"""Examples of a data set as the NTK paper's theory takes them: drawn at random, of variance q*."""

import numpy as np

from mfcnn import data, kernels

__all__ = ["at_fixed_point", "draw", "targets"]


def draw(
    name: str, split: str, count: int, seed: int, resize: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Images float64 [count, h, w, c] and labels [count] of a split, drawn at random.

    The classes are not balanced, as in a sample that somebody just takes. It matters in the chaotic
    phase: what a deep network predicts is then mostly the mean of the targets, which a balanced
    sample sets to zero.

    Raises:
        ValueError: for more examples than the split has.
    """
    images, labels = data.load_arrays(name, split, seed=seed, resize=resize)
    if count > len(labels):
        raise ValueError(
            f"subset must be at most {len(labels)}, the examples of {name}'s {split} split. "
            f"Received: subset={count}"
        )
    picked = np.random.default_rng(seed).permutation(len(labels))[:count]
    return images[picked].astype(np.float64), labels[picked]


def targets(labels: np.ndarray, classes: int) -> np.ndarray:
    """One-hot targets less their mean 1 / classes, float64 [n, classes].

    Example:
        >>> targets(np.array([0, 1]), 2)
        array([[ 0.5, -0.5],
               [-0.5,  0.5]])
    """
    return np.eye(classes)[labels] - 1 / classes


def at_fixed_point(
    x: np.ndarray,
    limit: kernels.Limits,
    weight_variance: float,
    bias_variance: float,
    pixels: bool = False,
) -> np.ndarray:
    """Inputs scaled so that the first pre-activations have the variance q*.

    Args:
        x: inputs [n, ...], none of them zero.
        limit: `kernels.limits` of the variances, with q* above 0.
        weight_variance: sigma_w^2.
        bias_variance: sigma_b^2.
        pixels: whether each pixel is scaled, over its channels, or each input as a whole: then the
            mean over its pixels is q*, and single pixels keep their contrast.
    """
    axes = -1 if pixels else tuple(range(1, x.ndim))
    power = (limit.q_star - bias_variance) / weight_variance
    return x * np.sqrt(power / np.mean(x**2, axis=axes, keepdims=True))
