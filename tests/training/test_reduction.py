"""Gradients are summed over the replicas once, whatever their size."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mfcnn import borrowed
from mfcnn.training import TrainingStep, reduction


def sums_of_a_step(monkeypatch, step):
    """How often the replicas' values are summed in a step under a strategy."""
    calls = []
    original = tf.distribute.ReplicaContext.all_reduce

    def counted(self, operation, values, options=None):
        calls.append(operation)
        return original(self, operation, values, options)

    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", counted)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
    strategy.run(tf.function(step(model, optimizer), autograph=False))
    return len(calls)


def keras_step(model, optimizer):
    gradients = [tf.ones(v.shape) for v in model.trainable_variables]
    return lambda: optimizer.apply(gradients, model.trainable_variables)


def own_step(model, optimizer):
    step = TrainingStep(model, optimizer, 4)
    batch = tf.ones([4, 3]), tf.zeros([4], tf.int32)
    return lambda: step.train(
        *batch, lambda sums: tf.distribute.get_replica_context().all_reduce("SUM", sums)
    )


@pytest.mark.parametrize("step", [keras_step, own_step])
def test_gradients_are_summed_once_by_keras_and_once_by_our_step(step, monkeypatch):
    # The first is what is switched off in the second: should Keras change it, this test says so.
    assert sums_of_a_step(monkeypatch, step) == 1


def test_an_optimizer_that_sums_elsewhere_is_refused():
    with pytest.raises(RuntimeError, match="sums gradients over the replicas elsewhere"):
        borrowed.take_summed_gradients(object())


@pytest.mark.parametrize("rows", [1, 6, 7])
def test_sums_in_parts_are_the_sums(rows):
    tensors = [tf.random.stateless_normal([rows, 3, 2], [1, 2]), tf.constant([1.0, 2.0])]
    double = reduction.in_parts(lambda part: 2 * part, part_bytes=2 * 3 * 2 * 4)
    found = tf.function(double, jit_compile=True, autograph=False)(tensors)
    for tensor, sums in zip(tensors, found):
        np.testing.assert_array_equal(sums, 2 * tensor)
