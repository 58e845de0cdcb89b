"""Kernels of attention and masks: what is exact, and what is refused."""

import keras
import numpy as np
import pytest

from mfcnn import kernels, layers
from tests.kernels.layer_networks import functional, two_inputs
from tests.kernels.test_wide_networks import dense, line, weights
from tests.tolerances import float32, float64

L = keras.layers


def padded(x, length):
    return np.pad(x, [(0, 0), (0, length - x.shape[1]), (0, 0)])


def self_attention(x, **kwargs):
    return layers.NTKSelfAttention(4, 2, 4, key_variance=1.3, bias_variance=0.1, **kwargs)(x)


def pooled(start, attends=self_attention, positions=None):
    def build(inputs):
        x = L.Dense(4, "relu", **weights())(start(inputs))
        return dense(1)(L.GlobalAveragePooling1D()(L.ReLU()(attends(x))))

    return functional([positions, 3], build)


@pytest.mark.parametrize(
    "attends",
    [
        lambda x: dense(4)(x),
        self_attention,
        lambda x: dense(4)(L.Add()([x, L.BatchNormalization()(self_attention(x))])),
        lambda x: self_attention(self_attention(x, mechanism="relu"), mechanism="identity"),
    ],
)
def test_masked_positions_leave_no_trace(attends):
    """A sequence with masked positions behind it, and others between, has its own kernel."""
    x = two_inputs((3, 3))
    expected = kernels.from_keras(pooled(L.Identity(), attends, 3))(x)
    kernel = kernels.from_keras(pooled(L.Masking(), attends))
    for longer in (padded(x, 5), np.insert(x, [0, 2], 0.0, axis=1)):
        for value, wanted in zip(kernel(longer), expected):
            # Masking casts to float32, and without it Keras casts nothing.
            np.testing.assert_allclose(value, wanted, rtol=10 * float32.rounded)
    # Inputs of different lengths in one kernel: its off-diagonal entry against that of padding.
    one, other = (
        kernel(np.concatenate([padded(x, 4)[:1], padded(x[1:, :2], 4)])),
        kernel(padded(x[:1], 6), padded(x[1:, :2], 6)),
    )
    np.testing.assert_allclose(one.ntk[0, 1], other.ntk[0, 0], rtol=10 * float32.rounded)


def test_a_mask_is_compared_as_the_model_rounds_it():
    """0.1 in float32 is not 0.1: Keras masks both."""
    kernel = kernels.from_keras(pooled(L.Masking(0.1), positions=4))
    x = two_inputs((3, 3))
    filled = np.pad(x, [(0, 0), (0, 1), (0, 0)], constant_values=0.1)
    np.testing.assert_array_equal(kernel(filled).ntk, kernel(np.float32(filled)).ntk)
    plain = kernels.from_keras(pooled(L.Identity(), positions=3))(x)
    np.testing.assert_allclose(kernel(filled).ntk, plain.ntk, rtol=10 * float32.rounded)


class Mixed(L.Layer):
    """A fixed matrix on the positions."""

    def call(self, x):
        matrix = np.tri(4) if self.name.startswith("causal") else np.ones([4, 4])
        matrix = matrix / matrix.sum(1, keepdims=True)
        return keras.ops.einsum("ps,bsc->bpc", keras.ops.cast(matrix, x.dtype), x)


@pytest.mark.parametrize("name", ["causal", "all"])
def test_heads_without_logits_are_means_over_the_keys_that_count(name):
    """With keys of zero every one weighs alike, and nothing is left to draw."""
    kernels.register_layer_rule(Mixed)(kernels.position_map)

    def build(inputs, heads):
        x = L.Dense(4, "relu", **weights())(inputs)
        if heads:
            layer = L.MultiHeadAttention(2, 3, use_bias=False)
            causal = {"use_causal_mask": True} if name == "causal" else {}
            x = layer(x, value=x, key=L.Rescaling(0.0)(x), **causal)
        else:
            # Keras counts the fans of [4, 2, 3] as 8 and 12, those of [2, 3, 4] as 6 and 8.
            x = L.Rescaling((4 * 2 / 20 * 6 * 2 / 14) ** 0.5)(Mixed(name=name)(x))
        return dense(1)(L.Flatten()(x))

    x = two_inputs((4, 3))
    found, expected = (
        kernels.from_keras(functional([4, 3], lambda i, h=heads: build(i, h)), sampled=2)(x)
        for heads in (True, False)
    )
    np.testing.assert_allclose(found.nngp, expected.nngp, rtol=float64.solved)
    assert np.all(np.asarray(found.nngp_error) < float64.summed)


def attention(**kwargs):
    options = {name: kwargs.pop(name) for name in ("use_gate", "attention_axes") if name in kwargs}
    return lambda x: L.MultiHeadAttention(2, 3, **options)(x, x, **kwargs)


@pytest.mark.parametrize(
    "attends, message",
    [
        (attention(), "sampled=True.*infinitely many heads.*NTKSelfAttention"),
        (lambda x: L.Attention()([x, x]), "no heads"),
        (lambda x: L.GroupQueryAttention(3, 4, 2)(x, x), "share keys"),
    ],
)
def test_attention_without_a_closed_form_says_what_has_one(attends, message):
    with pytest.raises(ValueError, match=message):
        kernels.from_keras(pooled(L.Identity(), attends, 4))


@pytest.mark.parametrize(
    "start, attends, message",
    [
        (L.Identity(), attention(use_gate=True), "gate"),
        (L.Identity(), attention(attention_mask=np.ones([1, 4, 4], bool)), "attention_mask"),
        (L.Identity(), lambda x: attention()(attention()(x)), None),
        (L.Masking(), lambda x: attention()(attention()(x)), "another attention layer"),
        (L.Masking(), lambda x: L.Multiply()([x, line(4, padding="same")(x)]), "Multiply"),
        (L.Masking(), lambda x: keras.Sequential([L.Dense(4)])(x), "model inside"),
        (L.Dense(3), lambda x: L.Masking()(x), "random signal"),
    ],
)
def test_what_attention_and_masks_do_not_do_is_refused(start, attends, message):
    def make():
        return kernels.from_keras(pooled(start, attends, 4), sampled=4)

    if message is None:
        assert np.all(np.isfinite(make()(two_inputs((4, 3))).ntk))
        return
    with pytest.raises(ValueError, match=message):
        make()


def test_an_input_without_any_position_is_refused():
    x = two_inputs((4, 3))
    x[1] = 0.0
    with pytest.raises(ValueError, match="a position that is not masked"):
        kernels.from_keras(pooled(L.Masking(), positions=4))(x)


def test_a_mask_on_data_counts_before_the_first_weights():
    inputs = keras.Input([4, 3])
    model = keras.Model(inputs, dense(1)(L.GlobalAveragePooling1D()(L.Masking()(inputs))))
    x = two_inputs((3, 3))
    expected = x.mean(1) @ x.mean(1).T / 3 * 1.7 + 0.1
    kernel = kernels.from_keras(model)(padded(x, 4))
    np.testing.assert_allclose(kernel.nngp, expected, rtol=10 * float32.rounded)
