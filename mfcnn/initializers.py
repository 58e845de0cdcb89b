"""Initializers of convolution kernels: orthogonal, delta-orthogonal, Gaussian with a profile.

A kernel has the shape [*window, c_in, c_out] with a window of one, two or three dimensions, as in
`keras.layers.Conv1D`, `Conv2D` and `Conv3D`. Each initializer is stateless: its values depend only
on (seed, shape, dtype). An int seed (0 is a seed like any other) or None (drawn once, at
construction) gives the same kernel at every call; a `keras.random.SeedGenerator` gives a new one
at each. Eager calls and graphs draw the same values; XLA draws others of the same law. Layers that
are to differ need seeds that differ, or one `stack`:

    ConvolutionDeltaOrthogonal(seed=0)((3, 3, 64, 64))                # [3, 3, 64, 64]
    ConvolutionDeltaOrthogonal(seed=0).stack(10_000, (3, 3, 64, 64))  # [10000, 3, 3, 64, 64]

An initializer sees the kernel's shape, not its layer. The orthogonal ones keep norms in layers of
stride 1 without groups; Keras's transposed convolutions store [*window, c_out, c_in], so that there
both channel numbers must be equal.

References: Xiao et al. 2018, "Dynamical isometry and a mean field theory of CNNs", section 2.3,
2.4 and 2.1.6, Algorithms 1 and 2; Mezzadri 2007, "How to generate random matrices from the
classical compact groups" for the signs of the QR factor.
"""

import math
import operator
import random

import keras
import numpy as np
import tensorflow as tf

__all__ = [
    "ConvolutionDeltaOrthogonal",
    "ConvolutionGaussian",
    "ConvolutionOrthogonal",
    "stack_initializer",
]

_TRUNCATED_STDDEV = 0.87962566103423978  # of a standard normal cut at two standard deviations


class _ConvolutionInitializer(keras.initializers.Initializer):
    """Seed, dtype, batching and configuration; a subclass says how one kernel is drawn."""

    def __init__(self, seed=None):
        self._init_seed = seed
        if isinstance(seed, dict):
            seed = keras.saving.deserialize_keras_object(seed)
        elif seed is None:
            seed = random.randint(1, 10**9)  # as Keras: follows keras.utils.set_random_seed
        is_int = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
        if not is_int and not isinstance(seed, keras.random.SeedGenerator):
            raise ValueError(
                "`seed` must be an int, None or a keras.random.SeedGenerator. "
                f"Received: seed={seed!r}"
            )
        self.seed = int(seed) if is_int else seed

    def __call__(self, shape, dtype=None):
        """Draws one kernel.

        Args:
            shape: [*window, c_in, c_out], one to three window dimensions.
            dtype: A floating dtype; the Keras default if None.

        Returns:
            A tensor of that shape and dtype.

        Raises:
            ValueError: The shape or dtype is not one that this initializer can fill.
        """
        shape, dtype = self._check_shape(shape), _float_dtype(dtype)
        return self._draw(self._next_seed(), shape, dtype)

    def stack(self, depth, shape, dtype=None):
        """Draws `depth` independent kernels as one tensor, in one tf loop.

        Kernel i depends on (seed, i, shape, dtype) and not on depth: a deeper stack begins with
        the shallower one. The kernels have the law of those of `__call__`, not the values. Memory
        peaks at the result (Gaussian), the result and its non-zero taps twice (delta), or twice
        the result (orthogonal).

        Args:
            depth: Number of kernels, at least 1.
            shape: [*window, c_in, c_out] of one kernel.
            dtype: A floating dtype; the Keras default if None.

        Returns:
            A tensor of shape [depth, *window, c_in, c_out].

        Raises:
            ValueError: As for `__call__`, or depth below 1.
        """
        depth = _check_depth(depth)
        shape, dtype = self._check_shape(shape), _float_dtype(dtype)

        in_place = tf.executing_eagerly()

        def draw(seed):
            return self._draw_stack(seed, depth, shape, dtype, in_place)

        # As a graph also when called eagerly: there loops are quick and buffers are reused.
        # Folded, so that no kernel of the stack shares its random numbers with `__call__`.
        seed = tf.random.experimental.stateless_fold_in(self._next_seed(), 0)
        return tf.function(draw, autograph=False).get_concrete_function(seed)(seed)

    def get_config(self):
        """Returns the constructor's arguments, serializable."""
        return {"seed": keras.saving.serialize_keras_object(self._init_seed)}

    def _next_seed(self):
        if isinstance(self.seed, int):
            low, high = self.seed & 0x7FFFFFFF, (self.seed >> 31) & 0x7FFFFFFF
            return tf.constant([low, high], tf.int32)
        # XLA takes int32 only; the generator's state is int64.
        return tf.cast(tf.math.floormod(self.seed.next(), 2**31 - 1), tf.int32)

    def _check_shape(self, shape):
        try:
            checked = tuple(operator.index(size) for size in shape)
        except TypeError as error:
            raise ValueError(
                f"{type(self).__name__} needs a fully known shape of integers. "
                f"Received: shape={shape}"
            ) from error
        if len(checked) not in (3, 4, 5) or min(checked) < 1:
            raise ValueError(
                f"{type(self).__name__} fills kernels of shape [*window, c_in, c_out] with one, "
                "two or three window dimensions (rank 3, 4 or 5), all positive. "
                f"Received: shape={checked} of rank {len(checked)}"
            )
        return checked

    def _draw(self, seed, shape, dtype):
        """One kernel from an int32 [2] seed."""
        raise NotImplementedError

    def _draw_stack(self, seed, depth, shape, dtype, in_place):
        """[depth, *shape] from an int32 [2] seed, inside a graph."""
        layer_seed = tf.random.experimental.stateless_fold_in

        def draw(i):
            return self._draw(layer_seed(seed, i), shape, dtype)

        if in_place:
            return _map_in_place(draw, depth, shape, dtype)
        return tf.map_fn(draw, tf.range(depth), fn_output_signature=dtype)


class _OrthogonalInitializer(_ConvolutionInitializer):
    """What the two norm-preserving initializers share: the gain and the condition on channels."""

    def __init__(self, gain=1.0, seed=None):
        super().__init__(seed)
        self.gain = _check_scale("gain", gain)

    def get_config(self):
        """Returns the constructor's arguments, serializable."""
        return {"gain": self.gain, **super().get_config()}

    def _check_shape(self, shape):
        shape = super()._check_shape(shape)
        if shape[-2] > shape[-1]:
            raise ValueError(
                f"{type(self).__name__} needs c_in <= c_out, since no linear map into fewer "
                "dimensions keeps every norm. Widen the channels in an earlier layer, or use "
                f"ConvolutionGaussian. Received: shape={shape}, c_in={shape[-2]}, "
                f"c_out={shape[-1]}"
            )
        return shape


@keras.saving.register_keras_serializable(package="mfcnn")
class ConvolutionOrthogonal(_OrthogonalInitializer):
    """Random kernel whose circular convolution keeps the norm of every input, times `gain`.

    Each of the k - 1 steps convolves the kernel, along each window dimension, with the two taps
    [P, I - P] of a random orthogonal projection P = U diag(m) U^T: U is Haar-uniform and the
    entries of m are fair coins, which the paper leaves open. The first factor is H, the first c_in
    rows of a Haar-uniform orthogonal matrix. So tap beta holds on average the share
    prod_j binomial(k - 1, beta_j) / 2^(k - 1) of the weight variance: the middle taps hold more.
    Norms are kept under circular padding only, whatever the stride-1 input's size.

    Args:
        gain: The norm of the output over that of the input; finite, not negative.
        seed: int, None or `keras.random.SeedGenerator`.

    Raises:
        ValueError: A shape of rank other than 3, 4, 5, with c_in > c_out, or with a window that is
            not square; a bad gain or seed.

    Reference:
        CNN paper, Algorithm 1 and eq. 2.17, here in one, two or three dimensions.
    """

    def _check_shape(self, shape):
        shape = super()._check_shape(shape)
        if len(set(shape[:-2])) > 1:
            raise ValueError(
                "ConvolutionOrthogonal needs a window of equal sides; "
                f"ConvolutionDeltaOrthogonal takes any. Received: shape={shape}"
            )
        return shape

    def _draw(self, seed, shape, dtype):
        steps, dimensions = shape[0] - 1, len(shape) - 2
        c_in, c_out = shape[-2:]
        # One draw for all factors; the extra row's signs are the coins.
        normals = tf.random.stateless_normal(
            [1 + steps * dimensions, c_out + 1, c_out], seed, dtype=tf.float64
        )
        bases = _haar(normals[:, :-1])
        coins = tf.cast(normals[:, -1:] > 0, tf.float64)
        kernel = tf.reshape(self.gain * bases[0, :c_in], [1] * dimensions + [c_in, c_out])
        for factor in range(1, 1 + steps * dimensions):
            axis = (factor - 1) % dimensions
            paddings = np.zeros((dimensions + 2, 2), int)
            paddings[axis] = 0, 1
            here = tf.pad(kernel, paddings)
            paddings[axis] = 1, 0
            shifted = tf.pad(kernel, paddings)
            # K [] [P, I - P] = K P + shift(K) (I - P) = shift(K) + (K - shift(K)) P
            basis, coin = bases[factor], coins[factor]
            part = tf.matmul(tf.reshape(here - shifted, [-1, c_out]), basis)
            part = tf.matmul(part * coin, basis, transpose_b=True)
            kernel = shifted + tf.reshape(part, tf.shape(shifted))
        return tf.cast(kernel, dtype)


@keras.saving.register_keras_serializable(package="mfcnn")
class ConvolutionDeltaOrthogonal(_OrthogonalInitializer):
    """Zero but for one tap, which holds c_in orthonormal rows: keeps norms and every Fourier mode.

    K[(k - 1) // 2, ...] = gain * H, where H is the first c_in rows of a Haar-uniform orthogonal
    matrix of size c_out. The tap is that of the pixel itself under Keras's "same" padding, so that
    norms are kept there too.

    Args:
        gain: The norm of the output over that of the input; finite, not negative.
        seed: int, None or `keras.random.SeedGenerator`.

    Raises:
        ValueError: A shape of rank other than 3, 4, 5 or with c_in > c_out; a bad gain or seed.

    Reference:
        CNN paper, Algorithm 2, here in one, two or three dimensions and for any window.
    """

    def _draw(self, seed, shape, dtype):
        window, (c_in, c_out) = shape[:-2], shape[-2:]
        rows = _haar(tf.random.stateless_normal([c_out, c_in], seed, dtype=tf.float64))
        tap = tf.cast(self.gain * tf.transpose(rows), dtype)
        around = [[(size - 1) // 2, size // 2] for size in window]
        return tf.pad(tf.reshape(tap, [1] * len(window) + [c_in, c_out]), around + [[0, 0]] * 2)


@keras.saving.register_keras_serializable(package="mfcnn")
class ConvolutionGaussian(_ConvolutionInitializer):
    """Independent normal entries with Var K[beta, i, j] = weight_variance * v_beta / c_in.

    Args:
        variance_profile: v, an array of the window's shape, not negative, of sum 1. None is
            uniform (1 / number of taps); "delta" puts all at the tap (k - 1) // 2 of each side.
        weight_variance: sigma_w^2; finite, not negative.
        seed: int, None or `keras.random.SeedGenerator`.

    Raises:
        ValueError: A shape of rank other than 3, 4, 5; a profile that is negative, not of the
            window's shape or of another sum than 1; a bad weight_variance or seed.

    Reference:
        CNN paper, section 2.1.6.
    """

    def __init__(self, variance_profile=None, weight_variance=1.0, seed=None):  # noqa: D107
        super().__init__(seed)
        self.variance_profile = _check_profile(variance_profile)
        self.weight_variance = _check_scale("weight_variance", weight_variance)

    def get_config(self):
        """Returns the constructor's arguments, serializable."""
        profile = self.variance_profile
        return {
            "variance_profile": profile.tolist() if isinstance(profile, np.ndarray) else profile,
            "weight_variance": self.weight_variance,
            **super().get_config(),
        }

    def _check_shape(self, shape):
        shape = super()._check_shape(shape)
        profile = self.variance_profile
        if isinstance(profile, np.ndarray) and profile.shape != shape[:-2]:
            raise ValueError(
                f"`variance_profile` must have the window's shape {shape[:-2]}. "
                f"Received: a profile of shape {profile.shape} for a kernel of shape {shape}"
            )
        return shape

    def _draw(self, seed, shape, dtype):
        return self._draw_stack(seed, 1, shape, dtype, in_place=False)[0]

    def _draw_stack(self, seed, depth, shape, dtype, in_place):
        window, c_in = shape[:-2], shape[-2]
        profile = self.variance_profile
        if profile is None:
            profile = np.full(window, 1 / math.prod(window))
        elif isinstance(profile, str):
            profile = np.zeros(window)
            profile[tuple((size - 1) // 2 for size in window)] = 1
        stddev = np.sqrt(self.weight_variance * profile / c_in)[..., None, None]
        # One call for all layers: the generator fills in order, so that depth does not matter.
        compute_dtype = tf.float64 if dtype == tf.float64 else tf.float32
        normals = tf.random.stateless_normal((depth, *shape), seed, dtype=compute_dtype)
        return tf.cast(normals * tf.constant(stddev, compute_dtype), dtype)


def stack_initializer(initializer, depth, shape, dtype=None):
    """Draws `depth` independent weights from any Keras initializer as one tensor.

    The law of each layer is that of `initializer(shape)`: fans are those of one layer. mfcnn's
    initializers and Keras's random normal, truncated normal, uniform, variance scaling (Glorot,
    He, LeCun) and constant ones take one batched draw. Any other is called once a layer: from its
    configuration with a seed of the layer's own if it has an int seed, else as it is.

    Args:
        initializer: A Keras initializer, its name or configuration, or a callable
            (shape, dtype) -> tensor.
        depth: Number of layers, at least 1.
        shape: Shape of one layer's weight.
        dtype: A floating dtype; the Keras default if None.

    Returns:
        A tensor of shape [depth, *shape].

    Raises:
        ValueError: depth below 1, or what the initializer itself refuses.
    """
    depth, shape, dtype = _check_depth(depth), tuple(shape), _float_dtype(dtype)
    initializer = keras.initializers.get(initializer)
    stock = keras.initializers
    call = type(initializer).__call__
    if hasattr(initializer, "stack"):
        return initializer.stack(depth, shape, dtype)
    if call in (stock.Zeros.__call__, stock.Ones.__call__, stock.Constant.__call__):
        value = initializer(shape, dtype=dtype.name)
        return tf.tile(value[None], [depth] + [1] * len(shape))
    if call is stock.VarianceScaling.__call__:
        initializer = _variance_scaling_of_layer(initializer, shape)
        call = type(initializer).__call__
    elementwise = (stock.RandomNormal, stock.TruncatedNormal, stock.RandomUniform)
    if call in [kind.__call__ for kind in elementwise]:
        return initializer((depth, *shape), dtype=dtype.name)
    if isinstance(getattr(initializer, "seed", None), int):
        # Consecutive seeds from a scrambled start: distinct for sure, and apart from seed + 1's.
        start = int(np.random.SeedSequence(initializer.seed % 2**64).generate_state(1)[0])
        config = initializer.get_config()
        layers = [
            type(initializer).from_config({**config, "seed": (start + layer) % 2**31})
            for layer in range(depth)
        ]
    else:
        layers = [initializer] * depth
    return tf.stack([tf.cast(layer(shape, dtype=dtype.name), dtype) for layer in layers])


def _variance_scaling_of_layer(initializer, shape):
    """The elementwise Keras initializer with the variance that VarianceScaling gives `shape`."""
    window = math.prod(shape[:-2])
    fan_in = window * shape[-2] if len(shape) > 1 else math.prod(shape)
    fan_out = window * shape[-1] if len(shape) > 1 else math.prod(shape)
    axes = getattr(initializer, "input_axes", None), getattr(initializer, "output_axes", None)
    if None not in axes:
        fan_in, fan_out = (math.prod(shape[axis] for axis in group) for group in axes)
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
    stddev = math.sqrt(initializer.scale / max(1.0, fan[initializer.mode]))
    seed = initializer.seed
    if initializer.distribution == "uniform":
        limit = math.sqrt(3) * stddev
        return keras.initializers.RandomUniform(-limit, limit, seed=seed)
    if initializer.distribution == "truncated_normal":
        return keras.initializers.TruncatedNormal(stddev=stddev / _TRUNCATED_STDDEV, seed=seed)
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)


def _map_in_place(draw, depth, shape, dtype):
    """`tf.map_fn` over i < depth that writes each result where it belongs; not for XLA.

    map_fn would hold the layers twice and leave the heap in pieces: for 10,000 kernels of
    3x3x128x128 a third more memory than the result.
    """
    # Not `tf.zeros`: a constant of the graph must not be written to.
    stack = tf.raw_ops.Empty(shape=[depth, *shape], dtype=dtype, init=True)
    stack.set_shape([depth, *shape])

    def write(i, stack):
        return i + 1, tf.raw_ops.InplaceUpdate(x=stack, i=i[None], v=draw(i)[None])

    return tf.while_loop(lambda i, _: i < depth, write, (tf.constant(0), stack))[1]


def _haar(normals):
    """The QR factor of [..., n, m] normal matrices with positive diagonal of R: Haar-uniform.

    In float64: for 128 x 128 matrices a quarter slower than float32 and, after the cast, 25 times
    nearer to orthogonal.
    """
    q, r = tf.linalg.qr(normals)
    signs = tf.where(tf.linalg.diag_part(r) < 0, -1.0, 1.0)
    return q * tf.cast(signs, q.dtype)[..., None, :]


def _float_dtype(dtype):
    dtype = tf.as_dtype(keras.backend.standardize_dtype(dtype or keras.config.floatx()))
    if not dtype.is_floating:
        raise ValueError(f"`dtype` must be a floating dtype. Received: dtype={dtype.name}")
    return dtype


def _check_depth(depth):
    if isinstance(depth, bool) or not isinstance(depth, (int, np.integer)) or depth < 1:
        raise ValueError(f"`depth` must be an int of at least 1. Received: depth={depth!r}")
    return int(depth)


def _check_scale(name, value):
    if not isinstance(value, (int, float, np.number)) or not math.isfinite(value) or value < 0:
        raise ValueError(
            f"`{name}` must be a number, finite and not negative. Received: {name}={value!r}"
        )
    return float(value)


def _check_profile(profile):
    if profile is None or (isinstance(profile, str) and profile == "delta"):
        return profile
    rule = "`variance_profile` must be None, 'delta' or an array of the window's shape"
    try:
        profile = np.array(profile, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{rule}. Received: variance_profile={profile!r}") from error
    if profile.ndim not in (1, 2, 3):
        raise ValueError(f"{rule}, of 1 to 3 dimensions. Received: shape {profile.shape}")
    if not np.all(profile >= 0):
        raise ValueError(f"{rule} without negative entries or NaN. Received: {profile.tolist()}")
    if not abs(profile.sum() - 1) <= 1e-6:
        raise ValueError(f"{rule} and sum to one. Received: sum {profile.sum()}")
    return profile
