"""The fused step gives the weights of the plain step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import data, models
from mfcnn.training import FusedUpdate, Trainer, TrainingStep


def make_model():
    return models.vanilla_cnn((8, 8, 1), 9, 4, 10, padding="same", seed=2)


def train(directory, fused, momentum):
    trainer = Trainer(
        lambda: make_model(),
        lambda _: keras.optimizers.SGD(0.01, momentum=momentum),
        data.load("digits", batch_size=16, seed=1),
        directory,
        fused=fused,
        eval_every=6,
        verbose=False,
    )
    trainer.run(6)
    return trainer


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_six_fused_steps_give_the_weights_of_six_plain_steps(tmp_path, momentum):
    plain, fused = (train(tmp_path / str(fused), fused, momentum) for fused in (False, True))
    start = make_model().get_weights()
    for before, expected, found in zip(
        start, plain.model.get_weights(), fused.model.get_weights(), strict=True
    ):
        # Float32 rounding of the weights themselves, and of their change through 9 layers.
        change = np.abs(expected - before).max()
        tolerance = 10 * np.finfo("float32").eps * np.abs(expected).max() + 1e-4 * change
        assert np.abs(found - expected).max() < tolerance
        assert change > tolerance
    iterations = [int(t.optimizer.iterations.value) for t in (plain, fused)]
    assert iterations == [6, 6]


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(),
        keras.optimizers.SGD(nesterov=True, momentum=0.9),
        keras.optimizers.SGD(clipnorm=1.0),
    ],
    ids=["adam", "nesterov", "clipping"],
)
def test_other_optimizers_are_refused(optimizer):
    with pytest.raises(ValueError, match="knows keras.optimizers.SGD"):
        FusedUpdate(make_model(), optimizer)


def test_a_model_without_a_deep_stack_is_refused():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="one DeepConvolution or DeepDense"):
        FusedUpdate(model, keras.optimizers.SGD())


def test_the_fused_step_holds_no_gradient_of_the_stack():
    # Of the ops in the program none but the variables' own reads has the size of the stack.
    model, optimizer = make_model(), keras.optimizers.SGD(0.01)
    optimizer.build(model.trainable_variables)
    fused = FusedUpdate(model, optimizer)
    step = tf.function(lambda x: fused.step(x, tf.reduce_sum)).get_concrete_function(
        tf.TensorSpec([2, 8, 8, 1])
    )
    stack = tuple(model.get_layer("deep").kernel.shape)
    functions = [
        step.graph,
        *(f.graph for f in step.graph._functions.values() if hasattr(f, "graph")),
    ]
    shapes = [
        tuple(output.shape.as_list())
        for graph in functions
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank is not None
    ]
    assert shapes and stack not in shapes


@pytest.mark.parametrize(
    ("fused", "options", "message"),
    [
        (False, {"kernel_regularizer": "l2"}, "regularizers.*weight_decay"),
        (True, {"kernel_constraint": "max_norm"}, "constraints"),
    ],
)
def test_what_a_step_would_leave_out_is_refused(fused, options, message):
    model = models.vanilla_cnn((8, 8, 1), 2, 2, 2, **options)
    optimizer = keras.optimizers.SGD()
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match=message):
        TrainingStep(model, optimizer, 4, fused=fused)
