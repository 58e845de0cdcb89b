"""The linearization of a Keras model in its weights, as a Keras model that can be trained."""

import keras
import tensorflow as tf

from mfcnn.empirical import _functional as functional
from mfcnn.empirical import _inputs

__all__ = ["LinearizedModel", "linearize"]


@keras.saving.register_keras_serializable(package="mfcnn")
class LinearizedModel(keras.Model):
    """T(u, x) = f(w0, x) + u . grad_w f(w0, x), with u as its trainable weights.

    Made by `linearize`. The second term is one Jacobian-vector product; no Jacobian is held.

    Args:
        model: f, built; it becomes part of this model, and its weights are w0.
        trainable: for each weight of the model, whether u has a part for it; by default as the
            model says.
        **kwargs: those of `keras.Model`.
    """

    def __init__(self, model, trainable=None, **kwargs):
        # The inputs must reach the model in its own precision.
        kwargs.setdefault("dtype", model.weights[0].dtype)
        super().__init__(**kwargs)
        self.model = model
        if trainable is None:
            ids = {id(v) for v in model.trainable_variables}
            trainable = [id(v) in ids for v in model.variables]
        self._trainable_mask = [bool(t) for t in trainable]
        self._displacement = [
            self.add_weight(
                shape=v.shape, dtype=v.dtype, initializer="zeros", name=f"u_{i}", autocast=False
            )
            for i, v in enumerate(self._initial())
        ]
        # From here on the model holds w0 and not weights to train.
        model.trainable = False
        self.built = True

    def _initial(self):
        # No attribute: Keras would save and count a list of variables as this layer's own.
        return [v for v, t in zip(self.model.variables, self._trainable_mask) if t]

    @property
    def displacement(self):
        """u: one variable for each trained weight of the model, in its order."""
        return list(self._displacement)

    def call(self, x, training=None):
        """f(w0, x) + J u, in inference mode."""
        del training

        initial = self._initial()

        def function(values):
            mapping = list(zip(initial, values))
            with keras.StatelessScope(state_mapping=mapping):
                return self.model(x, training=False)

        # The tapes of callers have no business in w0.
        weights = [tf.stop_gradient(v.value) for v in initial]
        tangents = [tf.convert_to_tensor(u.value) for u in self._displacement]
        y, tangent = functional.output_and_jvp(function, weights, tangents)
        return y + tangent

    def compute_output_shape(self, input_shape):
        """The model's."""
        return self.model.compute_output_shape(input_shape)

    def get_config(self):
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "trainable": self._trainable_mask,
        }

    @classmethod
    def from_config(cls, config):
        """Makes the model that `get_config` described."""
        config = dict(config)
        config["model"] = keras.saving.deserialize_keras_object(config["model"])
        return cls(**config)


def linearize(model, name=None):
    """The model's first-order Taylor expansion in its weights, as a model of its own.

    T(u, x) = f(w0, x) + u . grad_w f(w0, x), at u = 0 equal to f. It trains u with `fit`, any
    optimizer and any loss, and saves and loads as `.keras`. f runs in inference mode. Where f holds
    loops (recurrent layers, deep stacks), XLA compiles the prediction but not the training, whose
    gradient is a third derivative of the loop: give `compile` jit_compile=False there.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "tanh")])
        >>> linear = mfcnn.models.linearize(model)
        >>> linear.compile("sgd", "mse")
        >>> history = linear.fit(np.ones([4, 3]), np.zeros([4, 1]), verbose=0)

    Args:
        model: a built Keras model with one output that can be cloned (a Sequential, functional or
            serializable one). It is copied: to train it further changes nothing here.
        name: of the new model.

    Returns:
        A `LinearizedModel`.

    Raises:
        TypeError, ValueError: for what is no Keras model, is not built or has no weights.

    Source: linearization paper, equations 1 to 3.
    """
    _inputs.check_model(model)
    config = keras.saving.serialize_keras_object(model)
    copy = keras.saving.deserialize_keras_object(config)
    if not copy.built:
        copy.build(model.input_shape)
    copy.set_weights(model.get_weights())
    return LinearizedModel(copy, name=name or f"linearized_{model.name}")
