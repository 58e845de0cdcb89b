"""The vanilla CNN of the CNN paper: stem, deep block, global pooling, dense readout."""

import math
import numbers

import keras
import numpy as np

from mfcnn import activations, arguments, initializers, layers, meanfield

__all__ = ["INITIALIZATIONS", "READOUTS", "initial_variances", "vanilla_cnn"]

INITIALIZATIONS = ("delta_orthogonal", "orthogonal", "gaussian")
READOUTS = ("pool", "flatten")


def initial_variances(activation, depth, q_star=None, weight_variance=None, bias_variance=None):
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
        ValueError: if depth < 1, q_star <= 0, a variance is negative, only one of the variances
            is given, or q_star beside them.
    """
    if not _is_positive_integer(depth):
        raise ValueError(f"depth must be an integer of at least 1. Received: depth={depth!r}")
    given = (weight_variance is not None, bias_variance is not None)
    if any(given) and (not all(given) or q_star is not None):
        raise ValueError(
            "Give either q_star, for a start on the critical line, or both weight_variance and "
            f"bias_variance. Received: q_star={q_star}, weight_variance={weight_variance}, "
            f"bias_variance={bias_variance}"
        )
    if all(given):
        fixed_point = meanfield.fixed_point(activation, weight_variance, bias_variance)
        return weight_variance, bias_variance, fixed_point.q_star
    if q_star is None:
        q_star = 1 / depth
    if np.ndim(q_star):
        raise ValueError(f"q_star must be a number. Received: q_star={q_star!r}")
    weight_variance, bias_variance = meanfield.critical_point(activation, q_star)
    return weight_variance, bias_variance, q_star


def vanilla_cnn(
    input_shape,
    depth,
    filters,
    classes,
    activation="tanh",
    initialization="delta_orthogonal",
    q_star=None,
    weight_variance=None,
    bias_variance=None,
    variance_profile=None,
    padding="circular",
    strides=(1, 2, 2),
    kernel_size=3,
    readout="pool",
    readout_scale=None,
    bias_scale=None,
    seed=None,
    name="vanilla_cnn",
    stem_padding=None,
    critical_readout=False,
    **deep_options,
):
    """A plain CNN: no residual connections, no normalization (CNN paper, section 3).

    Three 3x3 convolutions of strides 1, 2, 2 bring the image to `filters` channels and a quarter
    of its sides; then come `depth` convolutions of equal shape, pooling and a dense readout.

    The deep block's output has variance q_star in each channel and pooling lowers it further, so
    the readout gets it multiplied by the constant `readout_scale`: without it the gradients
    are smaller by that factor and training hardly starts at large depth.

    Args:
        input_shape: (height, width, channels).
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
        kernel_size: side of all windows.
        readout: "pool" (global average) or "flatten".
        readout_scale: factor on the deep block's output; by default 1 / sqrt(q_star), and 1 for
            an activation that keeps the input's scale (relu, linear) or if q_star is 0.
        bias_scale: the deep block's trained bias variables are the biases divided by it, so that
            one learning rate suits kernels and biases; by default sqrt(q_star), or 1 where
            readout_scale is 1 by default.
        seed: integer; the same seed gives the same network. None draws a new one.
        name: the model's name.
        stem_padding: "circular" or "same" for the stem alone; by default as `padding`. The CNN
            paper's authors have a SAME stem before a circular deep block.
        critical_readout: whether the readout has the variances of all other layers, weights
            weight_variance / fan_in and biases bias_variance, as the authors' has, instead of
            1 / fan_in and zero.
        **deep_options: for `mfcnn.layers.DeepConvolution`: form, checkpoint_levels, jit_compile.

    Returns:
        A `keras.Model` from images [b, *input_shape] to logits [b, classes].

    Raises:
        ValueError: for sizes below 1, variances as said by `initial_variances`, or an unknown
            initialization, padding or readout.
    """
    for argument, value, accepted in (
        ("initialization", initialization, INITIALIZATIONS),
        ("readout", readout, READOUTS),
    ):
        if value not in accepted:
            raise ValueError(f"{argument} must be one of {accepted}. Received: {value!r}")
    for argument, value in (("filters", filters), ("classes", classes)):
        if not _is_positive_integer(value):
            raise ValueError(f"{argument} must be an integer of at least 1. Received: {value!r}")
    if not isinstance(strides, tuple | list):
        raise ValueError(
            "strides must be a tuple of integers, one for each convolution of the stem. "
            f"Received: strides={strides!r}"
        )
    if seed is not None and not (isinstance(seed, numbers.Integral) and seed >= 0):
        raise ValueError(f"seed must be an integer of at least 0 or None. Received: {seed!r}")
    if variance_profile is not None and initialization != "gaussian":
        raise ValueError(
            "variance_profile needs initialization='gaussian'. "
            f"Received: initialization={initialization!r}"
        )
    activation = activations.get(activation)
    weight_variance, bias_variance, q_star = initial_variances(
        activation, depth, q_star, weight_variance, bias_variance
    )
    seeds = iter(np.random.SeedSequence(seed).generate_state(2 * len(strides) + 5).tolist())
    phi = activations.keras_identifier(activation)

    def biases():
        return keras.initializers.RandomNormal(stddev=math.sqrt(bias_variance), seed=next(seeds))

    def stem_kernel():
        return initializers.ConvolutionGaussian(None, weight_variance, seed=next(seeds))

    stem_padding = padding if stem_padding is None else stem_padding
    stem_padding = arguments.choice("stem_padding", stem_padding, layers.PADDINGS)
    critical_readout = arguments.boolean("critical_readout", critical_readout)
    images = x = keras.Input(input_shape, name="images")
    for index, stride in enumerate(strides):
        options = {
            "filters": filters,
            "kernel_size": kernel_size,
            "strides": stride,
            "activation": phi,
            "kernel_initializer": stem_kernel(),
            "bias_initializer": biases(),
            "name": f"stem_{index + 1}",
        }
        if stem_padding == "circular":
            x = layers.PeriodicConvolution(**options)(x)
        else:
            x = keras.layers.Conv2D(padding="same", **options)(x)
    keeps_scale = q_star is None or not q_star > 0 or activation.homogeneity is not None
    if readout_scale is None:
        readout_scale = 1.0 if keeps_scale else 1 / math.sqrt(q_star)
    if bias_scale is None:
        bias_scale = 1.0 if keeps_scale else math.sqrt(q_star)
    x = layers.DeepConvolution(
        depth,
        filters,
        kernel_size,
        activation=phi,
        padding=padding,
        kernel_initializer=_kernel(initialization, weight_variance, variance_profile, next(seeds)),
        bias_initializer=biases(),
        bias_scale=bias_scale,
        name="deep",
        **deep_options,
    )(x)
    pooling = keras.layers.GlobalAveragePooling2D if readout == "pool" else keras.layers.Flatten
    x = pooling(name=readout)(x)
    x = keras.layers.Rescaling(readout_scale, name="readout_scale")(x)
    logits = keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=math.sqrt((weight_variance if critical_readout else 1) / x.shape[-1]),
            seed=next(seeds),
        ),
        bias_initializer=biases() if critical_readout else "zeros",
        # Losses are computed in the variables' precision also where the stack computes in less.
        dtype=keras.config.dtype_policy().variable_dtype,
        name="logits",
    )(x)
    return keras.Model(images, logits, name=name)


def _is_positive_integer(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1


def _kernel(initialization, weight_variance, variance_profile, seed):
    if initialization == "gaussian":
        return initializers.ConvolutionGaussian(variance_profile, weight_variance, seed=seed)
    orthogonal = {
        "delta_orthogonal": initializers.ConvolutionDeltaOrthogonal,
        "orthogonal": initializers.ConvolutionOrthogonal,
    }[initialization]
    return orthogonal(gain=math.sqrt(weight_variance), seed=seed)
