"""Every class of keras.layers has a kernel, tested against random networks, or is refused by name.

A network here has many layers at once: 1,000 draws at one width and half as many at half of it are
extrapolated to infinite width and judged in one chi-squared test, as in `test_wide_networks`.
"""

import inspect

import keras
import numpy as np
import pytest

from mfcnn import kernels
from mfcnn.kernels._models import registry
from tests.kernels import sampling
from tests.kernels.layer_networks import MODELS, SAMPLED, frozen, inputs_of, operations
from tests.kernels.test_wide_networks import DRAWS, SIGNIFICANT, WIDTH

L = keras.layers
QUICK = ("correlated", "siamese", "tokens")

# What has a kernel of its own, but only before the first weights, where Keras evaluates it.
ON_DATA = (
    "AugMix AutoContrast CategoryEncoding ContrastLimitedAdaptiveHistogramEqualization CutMix "
    "Discretization Equalization HashedCrossing Hashing InputLayer IntegerLookup "
    "MaxNumBoundingBoxes MelSpectrogram MixUp Normalization Pipeline RandAugment RandomBrightness "
    "RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform "
    "RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert "
    "RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness "
    "RandomShear RandomTranslation RandomZoom STFTSpectrogram Solarization StringLookup "
    "TextVectorization"
).split()
REFUSED = (
    "AdaptiveAveragePooling3D "
    "AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D AdditiveAttention Attention "
    "Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D Dot FlaxLayer GRU GRUCell "
    "GlobalMaxPooling3D GroupQueryAttention JaxLayer LSTM LSTMCell Lambda Layer "
    "MaxPooling3D Maximum Minimum RNN ReversibleEmbedding SimpleRNN "
    "SimpleRNNCell Softmax SpectralNormalization StackedRNNCells TFSMLayer TimeDistributed "
    "TorchModuleWrapper UnitNormalization Wrapper"
).split()
ELSEWHERE = (  # in `test_wide_networks`, and in the tests of this file that sample
    "Activation Add AveragePooling2D Conv1D Conv2D Dense Flatten LeakyReLU Rescaling "
    "ZeroPadding2D MaxPooling1D MaxPooling2D GlobalMaxPooling1D GlobalMaxPooling2D ELU"
).split()


# Of those, what this version of Keras has.
ON_DATA, REFUSED = ([n for n in names if hasattr(L, n)] for names in (ON_DATA, REFUSED))


def classes():
    every = (getattr(L, name) for name in dir(L))
    return {c for c in every if inspect.isclass(c) and issubclass(c, L.Layer)}


def test_every_class_of_keras_is_tested_or_refused():
    tested = {type(layer) for make in MODELS.values() for layer in operations(make(4))}
    listed = {getattr(L, name) for name in (*ON_DATA, *REFUSED, *ELSEWHERE)}
    assert classes() - tested - listed == set()
    assert not {getattr(L, name) for name in REFUSED} & tested


@pytest.mark.parametrize("name", [*REFUSED, *ON_DATA])
def test_a_class_without_a_rule_says_why(name):
    kind = getattr(L, name)
    rule, reason = registry.rule_of(L.Layer.__new__(kind))
    assert rule is None and len(reason.split()) > 3


def deviation(make, expected, x, standard=False):
    """(probability, standard errors over the largest entry), of NNGP and of NTK."""
    wide = sampling.kernels_of_draws(make(WIDTH), x, DRAWS, standard)
    narrow = sampling.kernels_of_draws(make(WIDTH // 2), x, DRAWS // 2, standard)
    rows, columns = np.triu_indices(2)
    for field in (0, 1):
        scales = [np.asarray(kernel[field])[rows, columns] for kernel in expected]
        samples = [
            draws[:, field, rows, columns] / scale for draws, scale in zip((wide, narrow), scales)
        ]
        yield sampling.significance(zip((2, -1), samples), np.ones(len(rows)))


@pytest.mark.parametrize("standard", [False, True])
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_kernels_are_the_means_of_finite_networks(name, standard):
    keras.utils.set_random_seed(0)
    make = MODELS[name]
    if standard:
        make = frozen(make)
    x = inputs_of(name, make(4))
    kind = "standard" if standard else "ntk"
    sampled = SAMPLED.get(name, False)
    expected = [kernels.from_keras(make(n), kind, sampled)(x) for n in (WIDTH, WIDTH // 2)]
    for probability, errors in deviation(make, expected, x, standard):
        assert np.all(errors < 0.1)
        assert probability > SIGNIFICANT
