"""The vanilla CNN of the CNN paper: stem, deep block, global pooling, dense readout."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from mfcnn import activations, arguments, initializers, layers, meanfield, profiles
from mfcnn.activations import Activation
from mfcnn.layers._convolution import padding_name

__all__ = ["INITIALIZATIONS", "READOUTS", "check_image_shape", "initial_variances", "vanilla_cnn"]

INITIALIZATIONS = ("delta_orthogonal", "orthogonal", "gaussian")
READOUTS = ("pool", "flatten")


def initial_variances(
    activation: str | Activation,
    depth: int,
    q_star: float | None = None,
    weight_variance: float | None = None,
    bias_variance: float | None = None,
) -> tuple[float, float, float | None]:
    """The variances that a network starts from, and the fixed point they lead to.

    Args:
        activation: a name or an `mfcnn.activations.Activation`.
        depth: number of layers of the deep block.
        q_star: fixed-point variance on the critical line; 1 / depth if nothing is given.
        weight_variance: sigma_w^2, together with bias_variance instead of q_star.
        bias_variance: sigma_b^2.

    Returns:
        (weight_variance, bias_variance, q_star).

    Raises:
        ValueError: for a depth below 1, a q_star that is not positive, a negative variance, only
            one of the variances, or q_star beside them.

    Example:
        >>> weight_variance, bias_variance, q_star = mfcnn.models.initial_variances("tanh", 100)
        >>> q_star, round(float(weight_variance), 4)
        (0.01, 1.0197)
    """
    depth = arguments.depth(depth)
    given = (weight_variance is not None, bias_variance is not None)
    if any(given) and (not all(given) or q_star is not None):
        raise ValueError(
            "Give either q_star, for a start on the critical line, or both weight_variance and "
            f"bias_variance. Received: q_star={q_star}, weight_variance={weight_variance}, "
            f"bias_variance={bias_variance}"
        )
    if all(given):
        weight_variance = arguments.variance("weight_variance", weight_variance)
        bias_variance = arguments.variance("bias_variance", bias_variance)
        fixed_point = meanfield.fixed_point(activation, weight_variance, bias_variance)
        return weight_variance, bias_variance, fixed_point.q_star
    q_star = 1 / depth if q_star is None else arguments.variance("q_star", q_star, positive=True)
    critical = meanfield.critical_point(activation, q_star)
    return float(critical[0]), float(critical[1]), q_star


def vanilla_cnn(
    input_shape: Sequence[int | None],
    depth: int,
    filters: int,
    classes: int,
    activation: str | Activation = "tanh",
    initialization: str = "delta_orthogonal",
    q_star: float | None = None,
    weight_variance: float | None = None,
    bias_variance: float | None = None,
    variance_profile: Any = None,
    padding: str = "circular",
    strides: Sequence[int] = (1, 2, 2),
    kernel_size: int | Sequence[int] = 3,
    readout: str = "pool",
    readout_scale: float | None = None,
    bias_scale: float | None = None,
    seed: int | None = None,
    name: str = "vanilla_cnn",
    stem_padding: str | None = None,
    critical_readout: bool = False,
    kernel_initializer: Any = None,
    input_scale: float | None = None,
    **deep_options: Any,
) -> keras.Model:
    """A plain CNN: no residual connections, no normalization.

    Three 3x3 convolutions of strides 1, 2, 2 bring the image to `filters` channels and a quarter
    of its sides; then come `depth` convolutions of equal shape, pooling and a dense readout.

    The deep block's output has variance q_star in each channel and pooling lowers it further, so
    the readout gets it multiplied by the constant `readout_scale`: without it the gradients
    are smaller by that factor and training hardly starts at large depth.

    Args:
        input_shape: (height, width, channels); height and width may be None where pooling reads
            the image out and the stem has zero padding or no strides.
        depth: convolutions of the deep block, at least 1.
        filters: channels of stem and deep block.
        classes: number of logits.
        activation: a name known to `mfcnn.activations` or an `Activation`.
        initialization: of the deep block: "delta_orthogonal", "orthogonal" or "gaussian". The
            stem is Gaussian in every case: its first kernels widen the image.
        q_star: start on the critical line with this fixed-point variance; by default 1 / depth.
        weight_variance: sigma_w^2, with bias_variance instead of q_star: any point of the phase
            diagram.
        bias_variance: sigma_b^2.
        variance_profile: spatial profile of the Gaussian kernels of the deep block, see
            `mfcnn.initializers.ConvolutionGaussian`.
        padding: "circular" or "same" (zeros). Under circular padding and pooling a linear network
            sees only the sum over positions; zero padding breaks that symmetry.
        strides: of the stem's convolutions; () for no stem, where input_shape has `filters`
            channels.
        kernel_size: side or sides of all windows.
        readout: "pool" (global average) or "flatten".
        readout_scale: factor on the deep block's output; by default 1 / sqrt(q_star), and 1 for
            an activation that keeps the input's scale (relu, linear) or if q_star is 0.
        bias_scale: the deep block's trained bias variables are the biases divided by it, so that
            one learning rate suits kernels and biases; by default sqrt(q_star), or 1 where
            readout_scale is 1 by default.
        seed: integer of at least 0; the same seed gives the same network. None draws a new one,
            which follows `keras.utils.set_random_seed`.
        name: the model's name.
        stem_padding: "circular" or "same" for the stem alone; by default as `padding`. The CNN
            paper's authors have a SAME stem before a circular deep block.
        critical_readout: whether the readout has the variances of all other layers, weights
            weight_variance / fan_in and biases bias_variance, as the authors' has, instead of
            1 / fan_in and zero.
        kernel_initializer: any Keras initializer for the deep block's kernels, instead of
            `initialization`; the variances then set the stem and the biases only.
        input_scale: factor on the deep block's input; None is 1. The stem's signals are of order
            one: sqrt(q_star) brings them to the fixed point, so that every layer bends them alike.
            Else the first layers, which bend them most, are ever fewer of all as depth grows.
        **deep_options: for `mfcnn.layers.DeepConvolution`: form, checkpoint_levels, jit_compile,
            regularizers, constraints.

    Returns:
        A `keras.Model` from images [b, *input_shape] to logits [b, classes].

    Raises:
        ValueError: for sizes below 1, variances as said by `initial_variances`, or an unknown
            initialization, padding or readout.

    Example:
        >>> model = mfcnn.models.vanilla_cnn((28, 28, 1), depth=1000, filters=8, classes=10)
        >>> model(tf.zeros([2, 28, 28, 1])).shape
        TensorShape([2, 10])

    Source: CNN paper, section 3.
    """
    shape = check_image_shape(input_shape)
    depth, filters = arguments.depth(depth), arguments.integer("filters", filters, 1)
    classes = arguments.integer("classes", classes, 1)
    arguments.choice("initialization", initialization, INITIALIZATIONS)
    arguments.choice("readout", readout, READOUTS)
    strides = () if np.size(strides) == 0 else arguments.integers("strides", strides, 1)
    if kernel_initializer is not None:
        kernel_initializer = arguments.initializer("kernel_initializer", kernel_initializer)
    _check_profile(variance_profile, initialization, kernel_initializer, kernel_size)
    phi: Activation = activations.get(activation)
    weight_variance, bias_variance, q_star = initial_variances(
        phi, depth, q_star, weight_variance, bias_variance
    )
    readout_scale, bias_scale = _scales(phi, q_star, readout_scale, bias_scale)
    sequence = np.random.SeedSequence(arguments.seed_or_drawn(seed))
    seeds = iter(sequence.generate_state(2 * len(strides) + 5).tolist())
    deviation = math.sqrt(bias_variance)

    def biases() -> keras.initializers.Initializer:
        return keras.initializers.RandomNormal(stddev=deviation, seed=next(seeds))

    images = keras.Input(shape, name="images")
    options = {
        "filters": filters,
        "kernel_size": kernel_size,
        "activation": activations.keras_identifier(phi),
    }
    stem_padding = padding if stem_padding is None else padding_name(stem_padding, "stem_padding")
    critical_readout = arguments.boolean("critical_readout", critical_readout)
    x = _stem(images, strides, stem_padding, options, weight_variance, seeds, biases)
    if input_scale is not None:
        input_scale = arguments.number("input_scale", input_scale, above=0)
        x = keras.layers.Rescaling(input_scale, name="input_scale")(x)
    own = next(seeds)
    if kernel_initializer is None:
        kernel_initializer = _kernel(initialization, weight_variance, variance_profile, own)
    x = layers.DeepConvolution(
        depth,
        **options,
        padding=padding,
        kernel_initializer=kernel_initializer,
        bias_initializer=biases(),
        bias_scale=bias_scale,
        name="deep",
        **deep_options,
    )(x)
    drawn = {
        "variance": weight_variance if critical_readout else 1.0,
        "seed": next(seeds),
        "bias": biases() if critical_readout else "zeros",
    }
    return keras.Model(images, _readout(x, readout, readout_scale, classes, **drawn), name=name)


def check_image_shape(input_shape: Any, least: int = 1, known: bool = False) -> tuple[Any, ...]:
    """(height, width, channels), of which height and width may be unknown.

    Raises:
        ValueError: for anything else, a side below `least`, or with `known` an unknown one.
    """
    accepted = "(height, width, channels)" + ("" if known else ", height and width known or None")
    rule = f"input_shape must be {accepted}. Received: input_shape={input_shape!r}"
    if isinstance(input_shape, str) or not np.shape(input_shape) == (3,):
        raise ValueError(rule)
    if input_shape[2] is None or (known and None in tuple(input_shape)):
        raise ValueError(rule)
    sizes = arguments.integers("input_shape", [1 if n is None else n for n in input_shape], 1)
    if any(size < least for n, size in zip(input_shape[:2], sizes) if n is not None):
        raise ValueError(
            f"input_shape must be at least {least} x {least}. Received: input_shape={input_shape}"
        )
    return tuple(None if n is None else size for n, size in zip(input_shape, sizes))


def _check_profile(profile: Any, initialization: str, initializer: Any, kernel_size: Any) -> None:
    if profile is None:
        return
    if initialization != "gaussian" or initializer is not None:
        raise ValueError(
            "variance_profile needs initialization='gaussian' and no kernel_initializer. "
            f"Received: initialization={initialization!r}, kernel_initializer={initializer!r}"
        )
    profiles.parse(profile, kernel_size, 2)


def _scales(
    activation: Activation,
    q_star: float | None,
    readout_scale: float | None,
    bias_scale: float | None,
) -> tuple[float, float]:
    """The factors of the readout and of the biases; by default they undo the variance q_star."""
    keeps_scale = q_star is None or not q_star > 0 or activation.homogeneity is not None
    root = 1.0 if keeps_scale or q_star is None else math.sqrt(q_star)
    readout_scale = 1 / root if readout_scale is None else readout_scale
    bias_scale = root if bias_scale is None else bias_scale
    return (
        arguments.number("readout_scale", readout_scale, above=0),
        arguments.number("bias_scale", bias_scale, above=0),
    )


def _stem(
    x: Any,
    strides: Sequence[int],
    padding: str,
    options: dict[str, Any],
    weight_variance: float,
    seeds: Iterator[int],
    biases: Callable[[], Any],
) -> Any:
    """Gaussian convolutions that bring the image to its channels and size."""
    for index, stride in enumerate(strides, 1):
        own = {
            **options,
            "strides": stride,
            "kernel_initializer": initializers.ConvolutionGaussian(
                None, weight_variance, seed=next(seeds)
            ),
            "bias_initializer": biases(),
            "name": f"stem_{index}",
        }
        if padding_name(padding) == "circular":
            x = layers.PeriodicConvolution(**own)(x)
        else:
            x = keras.layers.Conv2D(padding="same", data_format="channels_last", **own)(x)
    return x


def _readout(
    x: Any, readout: str, scale: float, classes: int, variance: float, seed: int, bias: Any
) -> Any:
    pooling = keras.layers.GlobalAveragePooling2D if readout == "pool" else keras.layers.Flatten
    x = pooling(name=readout, data_format="channels_last")(x)
    if x.shape[-1] is None:
        raise ValueError(
            "readout='flatten' needs a known height and width. Received: readout='flatten'"
        )
    x = keras.layers.Rescaling(scale, name="readout_scale")(x)
    return keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=math.sqrt(variance / x.shape[-1]), seed=seed
        ),
        bias_initializer=bias,
        # Losses are computed in the variables' precision also where the stack computes in less.
        dtype=keras.config.dtype_policy().variable_dtype,
        name="logits",
    )(x)


def _kernel(initialization: str, weight_variance: float, variance_profile: Any, seed: int) -> Any:
    if initialization == "gaussian":
        return initializers.ConvolutionGaussian(variance_profile, weight_variance, seed=seed)
    orthogonal = {
        "delta_orthogonal": initializers.ConvolutionDeltaOrthogonal,
        "orthogonal": initializers.ConvolutionOrthogonal,
    }[initialization]
    return orthogonal(gain=math.sqrt(weight_variance), seed=seed)
