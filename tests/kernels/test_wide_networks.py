"""Kernels of Keras models against many draws of real, finite Keras networks."""

import keras
import numpy as np
import pytest

import mfcnn
from mfcnn import kernels
from tests.kernels import sampling

L = keras.layers
DRAWS, WIDTH, UNITS = 1000, 32, 32
# Three standard errors of one comparison; here the two of each network are 24 in all.
SIGNIFICANT = 0.0027


def weights(variance=1.7, bias=0.1):
    return {
        "kernel_initializer": keras.initializers.VarianceScaling(
            variance, "fan_in", "untruncated_normal"
        ),
        "bias_initializer": keras.initializers.RandomNormal(stddev=float(np.sqrt(bias))),
    }


def dense(units=UNITS, **kwargs):
    return L.Dense(units, **weights() | kwargs)


def convolution(filters, size=3, **kwargs):
    return L.Conv2D(filters, size, **{"padding": "same"} | weights() | kwargs)


def periodic(filters, **kwargs):
    return mfcnn.layers.PeriodicConvolution(filters, 3, **weights() | kwargs)


def line(filters, **kwargs):
    return L.Conv1D(filters, 3, **weights() | kwargs)


def sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def residual(n):
    """Two blocks, the second with a strided shortcut, its branch halved."""
    inputs = keras.Input([5, 4, 2])
    x = convolution(n)(inputs)
    x = L.Add()([x, convolution(n)(L.Activation("relu")(x))])
    y = L.Activation("tanh")(x)
    branch = L.Rescaling(0.5)(convolution(n, strides=2)(y))
    x = L.Add()([convolution(n, 1, strides=2, use_bias=False)(y), branch])
    return keras.Model(inputs, dense()(L.Flatten()(L.Activation("relu")(x))))


def skip(n):
    """The sum of an activated branch, of mean above zero, and a fresh one, under pooling."""
    inputs = keras.Input([5, 4, 2])
    x = L.ReLU()(convolution(n)(inputs))
    x = convolution(n)(L.Add()([x, periodic(n)(x)]))
    return keras.Model(inputs, dense()(L.GlobalAveragePooling2D()(L.LeakyReLU(0.3)(x))))


MODELS = {
    "fully connected": lambda n: sequential(
        [5, 4, 2],
        L.Rescaling(2.0, 0.1),
        L.Flatten(),
        dense(n, activation="tanh"),
        L.Dropout(0.1),
        L.Dense(n, activation="relu", kernel_initializer="he_normal"),
        dense(),
    ),
    "flatten, same, strides": lambda n: sequential(
        [5, 4, 2],
        convolution(n, strides=(2, 1), activation="relu"),
        convolution(n, activation="relu", strides=2),
        L.Flatten(),
        dense(),
    ),
    "flatten, valid, strides": lambda n: sequential(
        [5, 4, 2],
        L.ZeroPadding2D(((1, 0), (2, 1))),
        convolution(n, (2, 3), padding="valid", strides=(1, 2), activation="tanh"),
        convolution(n, 2, padding="valid", activation="relu"),
        L.Flatten(),
        dense(),
    ),
    "pool, circular": lambda n: sequential(
        [5, 4, 2],
        periodic(n, activation="tanh"),
        periodic(n, activation="tanh"),
        L.GlobalAveragePooling2D(),
        dense(),
    ),
    "pool, same, strides": lambda n: sequential(
        [5, 4, 2],
        convolution(n, activation="relu"),
        convolution(n, 2, strides=2, activation="sigmoid"),
        L.GlobalAveragePooling2D(keepdims=True),
        L.Flatten(),
        dense(),
    ),
    "average pooling and zero padding inside": lambda n: sequential(
        [5, 4, 2],
        convolution(n, activation="relu"),
        L.AveragePooling2D(2),
        L.ZeroPadding2D(((0, 1), (1, 0))),
        convolution(n, padding="valid", activation="relu"),
        L.AveragePooling2D(2, strides=1, padding="same"),
        L.Flatten(),
        dense(),
    ),
    "residual": residual,
    "skip": skip,
    "sequence, flatten": lambda n: sequential(
        [7, 2],
        line(n, padding="causal", activation="relu"),
        line(n, strides=2, padding="same", activation="mish"),
        L.Flatten(),
        dense(),
    ),
    "sequence, pool": lambda n: sequential(
        [7, 2],
        line(n, padding="same", activation="softplus"),
        L.AveragePooling1D(3, strides=2, padding="same"),
        line(n, padding="valid", activation="relu"),
        L.GlobalAveragePooling1D(),
        dense(),
    ),
    "stacks": lambda n: sequential(
        [5, 4, 2],
        mfcnn.layers.NTKConvolution(n, 3, "relu", 1.7, 0.1, padding="same"),
        mfcnn.layers.DeepConvolution(2, n, activation="tanh", padding="same", **weights()),
        L.GlobalAveragePooling2D(),
        mfcnn.layers.DeepDense(2, n, activation="relu", **weights()),
        mfcnn.layers.NTKDense(UNITS, None, 1.7, 0.1),
    ),
    "orthogonal kernels and a profile": lambda n: sequential(
        [5, 4, 2],
        convolution(
            n,
            activation="tanh",
            kernel_initializer=mfcnn.initializers.ConvolutionGaussian(
                [[0.1, 0.0, 0.1], [0.2, 0.3, 0.0], [0.0, 0.2, 0.1]], 1.7
            ),
        ),
        periodic(n, activation="tanh", kernel_initializer="glorot_uniform"),
        periodic(
            n, activation="tanh", kernel_initializer=mfcnn.initializers.ConvolutionOrthogonal(1.2)
        ),
        periodic(
            n,
            activation="tanh",
            kernel_initializer=mfcnn.initializers.ConvolutionDeltaOrthogonal(1.1),
        ),
        L.Flatten(),
        dense(),
    ),
}


# These draw QR factors or run custom gradients, or are like others: half of the time of all.
SLOW = (
    "flatten, same, strides",
    "average pooling and zero padding inside",
    "stacks",
    "skip",
    "orthogonal kernels and a profile",
)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in MODELS]
)
def test_kernels_are_the_means_of_finite_networks(name):
    """1,000 draws at one width and half as many at half of it, extrapolated to infinite width.

    A network of width n is off by b / n + O(1 / n^2); 2 E_n - E_(n/2) is off by O(1 / n^2) alone,
    1e-3 at width 32 and below a tenth of the standard error. All entries are judged in one test.
    """
    keras.utils.set_random_seed(0)
    shape = MODELS[name](1).input_shape[1:]
    x = np.random.default_rng(0).normal(size=(2, *shape))
    x[1] = x[0] + 0.5 * x[1]
    expected = kernels.from_keras(MODELS[name](WIDTH))(x)
    wide = sampling.kernels_of_draws(MODELS[name](WIDTH), x, DRAWS)
    narrow = sampling.kernels_of_draws(MODELS[name](WIDTH // 2), x, DRAWS // 2)
    rows, columns = np.triu_indices(2)
    for field, kernel in enumerate(expected):
        kernel = kernel.numpy()[rows, columns]
        samples = (draws[:, field, rows, columns] for draws in (wide, narrow))
        probability, errors = sampling.significance(zip((2, -1), samples), kernel)
        assert np.all(errors < 0.06 * np.max(kernel))  # a power to see errors of some percent
        assert probability > SIGNIFICANT


@pytest.mark.parametrize("shift, low, high", [(0.0, 0.02, 0.09), (5.0, 0.95, 1.0)])
def test_one_joint_test_is_as_strict_as_it_says(shift, low, high):
    """Products of correlated Gaussians, as kernels are: one in twenty has a probability < 0.05.

    Of 400 repetitions 20 +- 4.4; with one of six entries off by five standard errors nearly all.
    """
    rng = np.random.default_rng(0)
    covariance = np.array([[1.0, 0.8, 0.3], [0.8, 1.0, 0.5], [0.3, 0.5, 1.0]])
    rows, columns = np.triu_indices(3)
    rejected = []
    for _ in range(400):
        wide, narrow = (
            np.einsum("di,dj->dij", *[rng.multivariate_normal(np.zeros(3), covariance, n)] * 2)[
                :, rows, columns
            ]
            for n in (DRAWS, DRAWS // 2)
        )
        expected = covariance[rows, columns]
        _, errors = sampling.significance([(2, wide), (-1, narrow)], expected)
        moved = expected + shift * errors * (np.arange(6) == 2)
        probability, _ = sampling.significance([(2, wide), (-1, narrow)], moved)
        rejected.append(probability < 0.05)
    assert low <= np.mean(rejected) <= high
