"""A learning rate from theory: a fraction of the largest stable one."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, numerics
from mfcnn.empirical import _inputs
from mfcnn.training.layer_rates import check_rates, factors_of

__all__ = ["LAW_SAFETY", "LAW_SPREAD", "extrapolated_learning_rate", "ntk_learning_rate"]

# Of lambda_max / depth: factor on the largest of the smaller networks, and the largest ratio
# between them that still counts as one law. Of 500, 1,000, 2,000 and 5,000 layers (4 filters, four
# seeds of stem and layers) it varied by 1.15 on average and 1.23 at most for one stem.
LAW_SAFETY = 1.25
LAW_SPREAD = 2.0


def ntk_learning_rate(
    model: keras.Model,
    images: Any,
    rho: float = 0.3,
    iterations: int = 12,
    seed: int = 0,
    jit_compile: bool = False,
    rates: Mapping[str, float] | None = None,
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
        jit_compile: whether XLA compiles the products, on one replica: for narrow deep stacks
            many times faster.
        rates: factors on the rate of some layers, as in `scaled_rates`: the kernel is then
            J R J^T, R the diagonal matrix of all parameters' factors.

    Returns:
        (learning rate, lambda_max) as floats; with `rates`, of the layers that are not named.

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
    jit_compile = arguments.boolean("jit_compile", jit_compile)
    _inputs.check_model(model)
    images = _inputs.convert(model, images, "images")
    if not _inputs.length(images):
        raise ValueError("images must hold at least one. Received: an empty batch")
    paths = [variable.path for variable in model.trainable_variables]
    factors = factors_of({} if rates is None else check_rates(rates), paths)
    product = _kernel_product(model, images, jit_compile, factors)
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


def extrapolated_learning_rate(
    make_model: Callable[[int], keras.Model],
    depth: int,
    images: Any,
    rho: float = 0.3,
    depths: Sequence[int] = (500, 1000, 2000),
    jit_compile: bool = False,
    rates: Mapping[str, float] | None = None,
) -> tuple[float, float]:
    """The learning rate of `ntk_learning_rate` for a network too deep to measure it on.

    With q_star = kappa / depth every layer adds the same to the NTK of a network on the critical
    line: lambda_max / depth has a limit for each kappa. It is measured on networks of smaller
    depths, and the largest of them times `LAW_SAFETY` is taken.

    Args:
        make_model: function from a depth to the built model, at the same kappa for every depth.
        depth: of the network to train.
        images: [n, ...].
        rho: fraction of the largest stable rate.
        depths: where lambda_max is measured.
        jit_compile: as in `ntk_learning_rate`.
        rates: likewise, of the network to train. In smaller ones they are less in proportion to
            the depth, so that the layers they name keep their rate.

    Returns:
        (learning rate, lambda_max) as floats.

    Raises:
        ValueError: as `ntk_learning_rate`; if lambda_max / depth differs by more than
            `LAW_SPREAD` between the smaller networks, so that there is no law to follow.

    Example:
        >>> rate, largest = mfcnn.training.extrapolated_learning_rate(
        ...     lambda depth: mfcnn.models.vanilla_cnn((8, 8, 1), depth, 4, classes=10, seed=0),
        ...     depth=1_000_000,
        ...     images=np.eye(8, dtype="float32")[None, :, :, None],
        ...     depths=(10,),
        ... )
        >>> 1e-10 < rate < 1e-5
        True
    """
    depth, depths = arguments.depth(depth), arguments.integers("depths", depths, 1)
    arguments.function("make_model", make_model)
    factors = {} if rates is None else check_rates(rates)

    def ratio(small: int) -> float:
        own = {name: factor * small / depth for name, factor in factors.items()}
        return ntk_learning_rate(
            make_model(small), images, rho, jit_compile=jit_compile, rates=own
        )[1]

    ratios = {small: ratio(small) / small for small in depths}
    if max(ratios.values()) > LAW_SPREAD * min(ratios.values()):
        found = ", ".join(f"{value:.4g} at {small} layers" for small, value in ratios.items())
        raise ValueError(
            "The learning rate of this depth cannot be had from smaller ones: lambda_max / depth "
            f"is {found}. Give the learning rate as a number."
        )
    lambda_max = LAW_SAFETY * depth * max(ratios.values())
    return 2 * rho / lambda_max, lambda_max


def _kernel_product(
    model: keras.Model, images: tf.Tensor, jit_compile: bool, factors: list[float]
) -> Any:
    """The function v -> J R J^T v / n of flat NumPy vectors, R of one factor by variable."""
    variables = [v.value for v in model.trainable_variables]
    strategy = tf.distribute.get_strategy()
    shape = model.compute_output_shape(images.shape)

    def product(vector: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            outputs = model(images, training=False)
        tangents = tape.gradient(
            outputs, variables, vector, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        tangents = [t if f == 1 else f * t for f, t in zip(factors, tangents)]
        with tf.autodiff.ForwardAccumulator(variables, tangents) as accumulator:
            outputs = model(images, training=False)
        return accumulator.jvp(outputs) / tf.cast(tf.shape(outputs)[0], outputs.dtype)

    if jit_compile and strategy.num_replicas_in_sync == 1:
        product = tf.function(product, autograph=False, jit_compile=True)
    # On a TPU a replica is the only place where a program runs as a whole.
    run = tf.function(lambda vector: strategy.run(product, args=(vector,)), autograph=False)

    def on_flat(vector: np.ndarray) -> np.ndarray:
        result = run(tf.constant(vector.reshape(shape), model.compute_dtype))
        return strategy.experimental_local_results(result)[0].numpy().ravel()

    return on_flat
