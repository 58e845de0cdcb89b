"""Keras's own test of a layer, for every layer of the package."""

import keras
import pytest
from keras.src import testing

from mfcnn import layers
from tests.layers.blocks import BLOCKS

LAYERS = {
    "DeepConvolution": (layers.DeepConvolution, {"depth": 3, "filters": 3}, (2, 4, 4, 3), 2),
    "DeepConvolution, all options": (
        layers.DeepConvolution,
        {
            "depth": 3,
            "filters": 3,
            "kernel_size": (3, 2),
            "padding": "SAME",
            "activation": "erf",
            "use_bias": False,
            "checkpoint_levels": 2,
            "kernel_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "activity_regularizer": "l1",
        },
        (2, 4, 4, 3),
        1,
    ),
    "DeepDense": (layers.DeepDense, {"depth": 3, "units": 4, "bias_scale": 0.5}, (2, 4), 2),
    "NTKDense": (layers.NTKDense, {"units": 3, "bias_variance": 0.1}, (2, 4), 2),
    "NTKConvolution": (
        layers.NTKConvolution,
        {"filters": 2, "activation": "relu"},
        (2, 4, 4, 3),
        1,
    ),
    "NTKSelfAttention": (
        layers.NTKSelfAttention,
        {"units": 3, "num_heads": 2, "key_dim": 4, "mechanism": "relu", "bias_variance": 0.1},
        (2, 4, 3),
        4,
    ),
    "PeriodicConvolution": (
        layers.PeriodicConvolution,
        {"filters": 2, "kernel_size": 3, "strides": 2},
        (2, 4, 4, 3),
        2,
    ),
    "Repeat, a layer": (
        layers.Repeat,
        {"block": keras.layers.Dense(4, "tanh"), "depth": 3},
        (2, 4),
        2,
    ),
    "Repeat, a model": (
        layers.Repeat,
        {"block": BLOCKS["residual convolution"][0]("float32"), "depth": 3},
        (2, 4, 4, 3),
        3,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_keras_finds_no_fault(name):
    kind, options, shape, weights = LAYERS[name]
    losses = ("kernel_regularizer" in options) + ("activity_regularizer" in options)
    case = testing.TestCase()
    case.setUp()
    other = layers.NTKDense, layers.NTKConvolution, layers.PeriodicConvolution
    case.run_layer_test(
        kind,
        init_kwargs=options,
        input_shape=shape,
        expected_output_shape=None if kind in other else shape,
        expected_num_trainable_weights=weights,
        expected_num_losses=losses,
        supports_masking=kind in (layers.Repeat, layers.NTKSelfAttention) or None,
    )
