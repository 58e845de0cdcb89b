"""A learning rate from theory: a fraction of the largest stable one."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, numerics
from mfcnn.empirical import _inputs

__all__ = ["ntk_learning_rate"]


def ntk_learning_rate(
    model: keras.Model,
    images: Any,
    rho: float = 0.3,
    iterations: int = 12,
    seed: int = 0,
) -> tuple[float, float]:
    """The learning rate rho * 2 / lambda_max of the network's own NTK on a batch.

    For the mean over n examples of a loss whose second derivative by the logits is at most one
    (1/2 |f - y|^2; softmax cross entropy: at most 1/2), full-batch gradient descent follows
    df/dt = -(J J^T / n) df, so that steps up to 2 / lambda_max(J J^T / n) are stable near the
    start (NTK paper, section 3.1, where rho = 0.3 trains well). J J^T is never formed: each Lanczos
    step is one vector-Jacobian and one Jacobian-vector product. In a strategy's scope every replica
    does the same on the whole batch.

    Args:
        model: built `keras.Model` from images to outputs [n, k].
        images: [n, ...].
        rho: fraction of the largest stable rate.
        iterations: the largest number of Lanczos steps; they end where the relative error bound of
            lambda_max is below 1e-3. The value comes from below.
        seed: of the starting vector.

    Returns:
        (learning rate, lambda_max) as floats.

    Raises:
        ValueError: if rho is not positive, or lambda_max is zero or not finite: the outputs do not
            depend on the parameters to machine precision, or overflow.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> rate, largest = mfcnn.training.ntk_learning_rate(model, np.eye(3, dtype="float32"))
        >>> round(largest, 3)  # of (1 + the all-ones matrix) / 3
        1.333

    Source: NTK paper, section 3.1.
    """
    rho = arguments.number("rho", rho, above=0)
    iterations = arguments.integer("iterations", iterations, 1)
    rng = np.random.default_rng(arguments.integer("seed", seed, 0))
    _inputs.check_model(model)
    images = _inputs.convert(model, images, "images")
    if not _inputs.length(images):
        raise ValueError("images must hold at least one. Received: an empty batch")
    product = _kernel_product(model, images)
    size = int(np.prod(model.compute_output_shape(images.shape)))
    lambda_max, _ = numerics.largest_eigenvalue(
        product, rng.standard_normal(size), iterations, 1e-3
    )
    if not 0 < lambda_max < math.inf:
        raise ValueError(
            f"The NTK's largest eigenvalue is {lambda_max}: the network is too deep in the ordered "
            "or the chaotic phase for a learning rate to exist."
        )
    return 2 * rho / lambda_max, lambda_max


def _kernel_product(model: keras.Model, images: tf.Tensor) -> Any:
    """The function v -> J J^T v / n of flat NumPy vectors."""
    variables = [v.value for v in model.trainable_variables]
    strategy = tf.distribute.get_strategy()
    shape = model.compute_output_shape(images.shape)

    def product(vector: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = model(images, training=False)
        tangents = tape.gradient(
            outputs, variables, vector, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        with tf.autodiff.ForwardAccumulator(variables, tangents) as accumulator:
            outputs = model(images, training=False)
        return accumulator.jvp(outputs) / tf.cast(tf.shape(outputs)[0], outputs.dtype)

    # On a TPU a replica is the only place where a program runs as a whole.
    run = tf.function(lambda vector: strategy.run(product, args=(vector,)), autograph=False)

    def on_flat(vector: np.ndarray) -> np.ndarray:
        result = run(tf.constant(vector.reshape(shape), model.compute_dtype))
        return strategy.experimental_local_results(result)[0].numpy().ravel()

    return on_flat
