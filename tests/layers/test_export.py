"""Models with looped stacks leave Keras: SavedModel, TFLite of the unrolled stack, its limit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import layers, models
from tests.layers.blocks import BLOCKS

MODELS = {
    "vanilla": lambda: models.vanilla_cnn((8, 8, 1), 6, 4, 2, seed=0),
    "kept": lambda: models.vanilla_cnn((8, 8, 1), 6, 4, 2, seed=0, checkpoint_levels=0),
    "deep dense": lambda: keras.Sequential([keras.Input((6,)), layers.DeepDense(5, 6)]),
    "compiled": lambda: keras.Sequential(
        [keras.Input((6,)), layers.DeepDense(5, 6, jit_compile=True)]
    ),
    "repeated": lambda: keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            layers.Repeat(BLOCKS["residual convolution"][0]("float32"), 5),
        ]
    ),
    "dropout": lambda: keras.Sequential(
        [keras.Input((5, 6)), layers.Repeat(keras.layers.Dropout(0.5), 3)]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_an_exported_model_is_served_with_equal_outputs(name, tmp_path):
    model = MODELS[name]()
    x = np.random.default_rng(0).normal(size=(3, *model.input_shape[1:])).astype("float32")
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_array_equal(served.serve(x), model(x))
    again = keras.layers.TFSMLayer(str(tmp_path / "served"), call_endpoint="serve")
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize("name", ["vanilla", "repeated"])
def test_an_unrolled_stack_runs_in_tflite(name, tmp_path):
    model = MODELS[name]()
    stack = model.layers[-1] if name == "repeated" else model.get_layer("deep")
    unrolled = stack.unroll()
    unrolled.export(tmp_path / "unrolled", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "unrolled"))
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    x = np.random.default_rng(0).normal(size=(1, *unrolled.input_shape[1:])).astype("float32")
    details = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(details["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, stack(x), atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [layers.DeepDense(1200, 2), layers.Repeat(keras.layers.Dense(2), 1200)],
    ids=["deep", "repeat"],
)
def test_a_stack_too_deep_for_keras_is_not_unrolled(layer):
    layer.build((None, 2))
    with pytest.raises(ValueError, match="recursion limit of 1000.*depth=1200"):
        layer.unroll()
