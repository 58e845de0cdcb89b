"""Networks that have many kinds of layers at once, their inputs, and what is frozen in them.

A network is a function of its width.
"""

import keras
import numpy as np

from mfcnn import layers as own
from tests.kernels.test_wide_networks import convolution, dense, line, sequential, weights

__all__ = [
    "ATTENTION",
    "MODELS",
    "SAMPLED",
    "frozen",
    "functional",
    "inputs_of",
    "operations",
    "two_inputs",
]

L = keras.layers
K = keras.initializers


def by_channel(taps, variance=1.5):
    """An initializer of filters of single channels, whose variance does not shrink with width."""
    return K.RandomNormal(stddev=float(np.sqrt(variance / taps)))


def volume(filters, kind=L.Conv3D, **kwargs):
    return kind(filters, 2, **{"padding": "same"} | weights() | kwargs)


def functional(shape, build):
    inputs = keras.Input(shape)
    return keras.Model(inputs, build(inputs))


def normalized(n):
    return sequential(
        [4, 3, 2],
        convolution(n, activation="relu"),
        L.LayerNormalization(),
        convolution(n, activation="relu"),
        L.GroupNormalization(2),
        L.SpatialDropout2D(0.1),
        convolution(n),
        L.BatchNormalization(),
        L.ReLU(),
        convolution(n),
        L.RMSNormalization(),
        L.Activation("relu"),
        L.LayerNormalization(axis=[1, 2, 3]),
        L.GlobalAveragePooling2D(),
        dense(),
    )


def joined(n):
    def build(inputs):
        a, b = convolution(n)(inputs), convolution(n // 2)(inputs)
        x = L.Activation("relu")(L.Concatenate()([a, b]))
        x = L.Concatenate()([L.LayerNormalization()(x), convolution(n)(x)])
        y = L.Average()([convolution(n, activation="relu")(x), convolution(n)(x)])
        z = L.Subtract()([L.Activation("relu")(convolution(n)(x)), y])
        z = -L.AlphaDropout(0.1)(z) * 0.7 - L.GaussianNoise(0.1)(convolution(n)(z)) / 2.0
        return dense()(L.Flatten()(L.GaussianDropout(0.1)(z)))

    return functional([4, 3, 2], build)


def correlated(n):
    def build(inputs):
        x = convolution(n)(inputs)
        x = L.Add()([x, L.ReLU()(x)])  # E[z phi(z')], by Stein's lemma
        x = convolution(n)(x)
        x = L.Add()([x, L.AveragePooling2D(2, 1, padding="same")(x)])
        return dense()(L.Flatten()(L.ReLU()(x)))

    return functional([4, 3, 2], build)


def shared(n):
    """One layer on two branches, which stay correlated."""

    def build(inputs):
        first, both = convolution(n), convolution(n)
        x = L.ReLU()(first(inputs))
        y = L.ReLU()(both(x))
        z = L.ReLU()(both(convolution(n)(x)))
        return dense()(L.GlobalAveragePooling2D()(L.Add()([y, z])))

    return functional([4, 3, 2], build)


def siamese(n):
    """One network on two inputs; the sum of its outputs."""
    a, b = keras.Input([5]), keras.Input([5])
    hidden, last = dense(n, activation="relu"), dense()
    return keras.Model([a, b], last(hidden(a)) + 0.5 * last(hidden(b)))


def depthwise(n):
    return sequential(
        [4, 3, 2],
        convolution(n, activation="relu"),
        L.DepthwiseConv2D(
            3,
            padding="same",
            depthwise_initializer=by_channel(9),
            bias_initializer=K.RandomNormal(stddev=0.3),
        ),
        L.LayerNormalization(),
        L.Dense(n, activation="relu", **weights()),
        L.SeparableConv2D(
            n,
            2,
            padding="same",
            depthwise_initializer=by_channel(4),
            activation="relu",
            pointwise_initializer=K.VarianceScaling(1.7, "fan_in", "untruncated_normal"),
        ),
        L.Flatten(),
        dense(),
    )


def gated(n):
    """Squeeze and excitation: each channel times a gate of its own."""

    def build(inputs):
        x = convolution(n, activation="relu")(inputs)
        s = L.Reshape((1, 1, n))(L.GlobalAveragePooling2D()(x))
        s = convolution(n, 1, activation="relu")(s)
        s = L.Conv2D(n, 1, activation="sigmoid", **weights())(s)
        x = L.Multiply()([x, s])
        return dense()(L.Flatten()(convolution(n, activation="relu")(x)))

    return functional([4, 3, 2], build)


def adaptive(name, size, window):
    """Adaptive pooling to a size; an older Keras, without it, pools by a window."""
    newer = getattr(L, f"Adaptive{name}", None)
    return newer(size) if newer else getattr(L, name)(window)


def resized(n):
    return sequential(
        [5, 4, 2],
        convolution(n, dilation_rate=2, activation="relu"),
        L.UpSampling2D(2, interpolation="bilinear"),
        L.Cropping2D(((1, 2), (0, 1))),
        convolution(n, activation="relu", groups=2),
        L.Resizing(4, 4),
        L.CenterCrop(3, 4),
        L.Conv2DTranspose(
            n,
            3,
            strides=(2, 1),
            padding="same",
            activation="relu",
            kernel_initializer=K.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        ),
        adaptive("AveragePooling2D", (3, 2), (2, 2)),
        L.UpSampling2D((1, 2)),
        convolution(n, activation="relu"),
        L.Permute((2, 1, 3)),
        L.Reshape((-1, n)),
        line(n, activation="relu"),
        L.Flatten(),
        dense(),
    )


def sequences(n):
    return sequential(
        [6, 2],
        line(n, padding="causal", dilation_rate=2, activation="relu"),
        L.Conv1DTranspose(
            n,
            3,
            strides=2,
            activation="relu",
            padding="same",
            kernel_initializer=K.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        ),
        L.UpSampling1D(2),
        L.Cropping1D((2, 1)),
        L.ZeroPadding1D(1),
        L.AveragePooling1D(2),
        L.EinsumDense("abc,cd->abd", (None, n), bias_axes="d", **weights()),
        L.PReLU(shared_axes=[1]),
        adaptive("AveragePooling1D", 2, 5),
        L.GlobalAveragePooling1D(),
        L.RepeatVector(2),
        line(n, padding="same", activation="relu"),
        L.Flatten(),
        dense(),
    )


def filters(n):
    return sequential(
        [6, 2],
        line(n, activation="relu"),
        L.SpatialDropout1D(0.1),
        L.DepthwiseConv1D(2, depthwise_initializer=by_channel(2)),
        L.Identity(),
        L.SeparableConv1D(
            n,
            2,
            depthwise_initializer=by_channel(2),
            activation="relu",
            pointwise_initializer=K.VarianceScaling(1.7, "fan_in", "untruncated_normal"),
        ),
        L.ActivityRegularization(),
        L.Flatten(),
        dense(),
    )


def volumes(n):
    return sequential(
        [3, 2, 3, 2],
        volume(n, activation="relu"),
        L.ZeroPadding3D((0, 1, 0)),
        L.AveragePooling3D((1, 2, 1)),
        volume(n, activation="relu"),
        L.UpSampling3D((1, 2, 1)),
        L.SpatialDropout3D(0.1),
        L.Cropping3D((0, 1, 0)),
        L.Dropout(0.1),
        volume(
            n,
            L.Conv3DTranspose,
            strides=(1, 1, 2),
            activation="relu",
            kernel_initializer=K.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
        ),
        L.GlobalAveragePooling3D(),
        dense(),
    )


def tokens(n):
    return sequential(
        [5],
        L.Embedding(4, n, embeddings_initializer=K.RandomNormal(stddev=1.2)),
        line(n, activation="relu"),
        L.Flatten(),
        dense(),
    )


def attention(n):
    """Keys whose mean products are not random, over a sequence and with another mechanism."""
    return sequential(
        [5, 3],
        L.Dense(n, "relu", **weights()),
        own.NTKSelfAttention(n, n // 2, n, "softmax", 0.8, 1.5, 0.1),
        L.LayerNormalization(),
        own.NTKSelfAttention(n, n // 2, n, "identity", 0.2, 1.5, 0.1),
        L.Flatten(),
        dense(),
    )


def masked(n):
    """Masked positions are no keys, and count in no mean."""
    inputs = keras.Input([5, 3])
    x = L.Dense(n, "relu", **weights())(L.Masking()(inputs))
    x = L.Add()([own.NTKSelfAttention(n, n // 2, n, "softmax", 0.8, 1.5, 0.1)(x), x])
    return keras.Model(inputs, dense()(L.GlobalAveragePooling1D()(L.LayerNormalization()(x))))


def projections(n):
    """Weights of as many channels, for all of the layers inside of attention."""
    return {
        "kernel_initializer": K.RandomNormal(stddev=float(n**-0.5)),
        "bias_initializer": K.RandomNormal(stddev=0.3),
    }


def heads(n):
    """Keras's attention, whose weights stay random; a mask leaves keys out."""
    inputs = keras.Input([5, 3])
    x = L.Dense(n, "relu", **weights())(L.Masking()(inputs))
    x = L.ReLU()(L.MultiHeadAttention(n, 4, 1, **projections(n))(x, x))
    return keras.Model(inputs, dense()(L.GlobalAveragePooling1D()(x)))


def two_sequences(n):
    """Attention from one sequence to another, to earlier positions alone."""
    inputs = keras.Input([5, 3])
    x = L.Dense(n, "relu", **weights())(inputs)
    y = line(n, activation="relu", padding="causal")(inputs)
    x = L.MultiHeadAttention(n, 3, 1, **projections(n))(x, value=y, key=x, use_causal_mask=True)
    return keras.Model(inputs, dense()(L.Flatten()(x)))


MODELS = {
    "normalized": normalized,
    "joined": joined,
    "correlated": correlated,
    "shared": shared,
    "siamese": siamese,
    "depthwise": depthwise,
    "gated": gated,
    "resized": resized,
    "sequences": sequences,
    "filters": filters,
    "volumes": volumes,
    "tokens": tokens,
}
ATTENTION = {
    "attention": attention,
    "masked": masked,
    "heads": heads,
    "two sequences": two_sequences,
}
MODELS |= ATTENTION
# Without a closed form: the channels that are drawn. Errors are 0.2 % at most, of 3 % of networks.
SAMPLED = {"heads": 4000, "two sequences": 4000}


def operations(model):
    for layer in model.layers:
        yield from operations(layer) if isinstance(layer, keras.Model) else [layer]


def two_inputs(shape, seed=0):
    x = np.random.default_rng(seed).normal(size=(2, *shape))
    x[1] = x[0] + 0.5 * x[1]
    return x


def inputs_of(name, model):
    if name == "tokens":
        return np.array([[0, 1, 2, 3, 1], [0, 1, 1, 3, 3]], float)
    shapes = [tensor.shape[1:] for tensor in model.inputs]
    x = [two_inputs(shape, seed) for seed, shape in enumerate(shapes)]
    if name in ("masked", "heads"):
        x[0][0, 3:] = x[0][1, 1] = 0.0
    return x if len(x) > 1 else x[0]


def frozen(make):
    """Without what has no standard tangent kernel: trained scales and filters of a channel."""

    def made(n):
        model = make(n)
        for layer in operations(model):
            for name in ("gamma", "scale", "alpha", "depthwise_kernel"):
                if isinstance(getattr(layer, name, None), keras.Variable):
                    getattr(layer, name).trainable = False
            if isinstance(layer, (L.DepthwiseConv1D, L.DepthwiseConv2D)):
                layer.kernel.trainable = False
        return model

    return made
