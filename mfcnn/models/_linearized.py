"""The Taylor expansion of a Keras model in its weights, as a Keras model that can be trained."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, borrowed
from mfcnn.empirical import _copies, _functional, _inputs, _verification

__all__ = ["LinearizedModel", "linearize"]


@keras.saving.register_keras_serializable(package="mfcnn")
class LinearizedModel(keras.Model):
    """T(u, x) = f(w0, x) + u . grad_w f(w0, x), with u as its trainable weights.

    Made by `linearize`. The second term is one Jacobian-vector product; no Jacobian is held. With
    order 2 the term u . (grad_w grad_w f(w0, x)) u / 2 is added. Regularizers of weights apply to
    w0 + u, and the output's mask is the model's.

    Args:
        model: f, built; it becomes part of this model, and its weights are w0.
        trainable: for each weight of the model, whether u has a part for it; by default as the
            model says.
        order: 1 or 2.
        verify: whether the products are checked against a plain vector-Jacobian product, once for
            each shape of inputs.
        **kwargs: those of `keras.Model`.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> [tuple(u.shape) for u in mfcnn.models.linearize(model).displacement]
        [(3, 1), (1,)]

    Source: linearization paper, eqs. 1 to 3.
    """

    def __init__(
        self,
        model: keras.Model,
        trainable: Sequence[bool] | None = None,
        order: int = 1,
        verify: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, keras.Model):
            _inputs.check_model(model)
        # The inputs must reach the model in its own precision.
        kwargs.setdefault("dtype", model.weights[0].dtype)
        super().__init__(**kwargs)
        self.model, self.order = model, arguments.integer("order", order, 1, 2)
        self.supports_masking = True
        self._verify, self._verified = arguments.boolean("verify", verify), set[tuple]()
        if trainable is None:
            ids = {id(v) for v in model.trainable_variables}
            trainable = [id(v) in ids for v in model.variables]
        self._trainable_mask = [bool(t) for t in trainable]
        self._displacement = [
            self.add_weight(
                shape=v.shape,
                dtype=v.dtype,
                initializer="zeros",
                name=f"u_{i}",
                autocast=False,
                regularizer=None if v.regularizer is None else _OfSum(v.regularizer, v),
            )
            for i, v in enumerate(self._initial())
        ]
        # From here on the model holds w0 and not weights to train. Not by its own `trainable`: that
        # would put a BatchNormalization called with training=True into inference mode.
        for v in model.variables:
            v.trainable = False
        self.built = True

    def _initial(self) -> list[Any]:
        # No attribute: Keras would save and count a list of variables as this layer's own.
        return [v for v, t in zip(self.model.variables, self._trainable_mask) if t]

    def _values(self) -> list[tf.Tensor]:
        # The tapes of callers have no business in w0.
        return [tf.stop_gradient(v.value) for v in self._initial()]

    @property
    def displacement(self) -> list[Any]:
        """u: one variable for each trained weight of the model, in its order."""
        return list(self._displacement)

    @property
    def input_shape(self) -> Any:
        """The model's."""
        return self.model.input_shape

    @property
    def output_shape(self) -> Any:
        """The model's."""
        return self.model.output_shape

    def call(self, x: Any, training: bool | None = None) -> tf.Tensor:
        """F(w0, x) + J u, in inference mode; with order 2 also u . H u / 2."""
        del training
        if self._verify:
            self._check(x)
        values = self._values()
        tangents = [tf.convert_to_tensor(u.value) for u in self._displacement]
        function = self._function(x)
        if self.order == 1:
            y, tangent = _functional.output_and_jvp(function, values, tangents)
            result = y + tangent
        else:
            y, tangent, second = _functional.output_and_jvps(function, values, tangents)
            result = y + tangent + second / 2
        mask = borrowed.get_mask(y)
        if mask is not None:
            borrowed.set_mask(result, mask)
        return result

    def _function(self, x: Any) -> Callable[[Sequence[tf.Tensor]], tf.Tensor]:
        initial = self._initial()

        def function(values: Sequence[tf.Tensor]) -> tf.Tensor:
            losses: list = []
            y = _functional.run(self.model, initial, values, x, losses)
            if losses:
                raise ValueError(
                    "model must have no activity regularization and add no losses in call: only "
                    f"regularizers of weights are kept. Received: {self.model.name!r}, which adds "
                    f"{len(losses)}"
                )
            return y

        return function

    def _check(self, x: Any) -> None:
        """Checks the products on random inputs of x's shapes, once for each of them.

        In a graph the check runs outside, while it is traced. Shapes that are not known there, and
        replicas, are checked where they are: by `linearize`, or by a call with values.
        """
        leaves = keras.tree.flatten(x)
        key = tuple((tuple(leaf.shape[1:]), str(leaf.dtype)) for leaf in leaves)
        known = all(size is not None for shape, _ in key for size in shape)
        symbolic = any(isinstance(leaf, keras.KerasTensor) for leaf in leaves)
        if key in self._verified or not known or symbolic or tf.distribute.has_strategy():
            return
        shapes = keras.tree.map_structure(lambda leaf: tf.TensorSpec(leaf.shape, leaf.dtype), x)
        dtypes = {self.model.compute_dtype, *(v.dtype for v in self._initial())}

        def check() -> None:
            example = self._function(keras.tree.map_structure(_random, shapes))
            _verification.check_linearization(example, self._values, dtypes)

        _verification.apart(check)
        self._verified.add(key)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The model's."""
        return self.model.compute_output_shape(input_shape)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """None: `call` gives its result the mask that the model's has."""
        del inputs, mask

    def export(self, filepath: Any, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.export`, with the model's inputs where it knows them."""
        symbols = _inputs.symbols(self.model)
        if symbols is not None and "input_signature" not in kwargs and len(args) < 3:
            kwargs["input_signature"] = [
                keras.tree.map_structure(
                    lambda s: keras.layers.InputSpec(shape=(None, *s.shape[1:]), dtype=s.dtype),
                    symbols,
                )
            ]
        return super().export(filepath, *args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        adapted = [
            layer.name
            for layer in self.model._flatten_layers()
            if getattr(layer, "lora_enabled", False)
        ]
        if adapted:
            raise ValueError(
                "a linearized model with LoRA cannot be saved, since Keras merges the two factors "
                f"on saving and w0 would be another. Received: {', '.join(adapted)} with LoRA; "
                "load the saved model, whose kernels are merged, and linearize that"
            )
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "trainable": self._trainable_mask,
            "order": self.order,
            "verify": self._verify,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "LinearizedModel":
        """Makes the model that `get_config` described."""
        config = dict(config)
        config["model"] = keras.saving.deserialize_keras_object(config["model"])
        return cls(**config)


class _OfSum(keras.regularizers.Regularizer):
    """The regularizer of w0 + u, as a function of u."""

    def __init__(self, regularizer: Callable, initial: Any) -> None:
        self._regularizer, self._initial = regularizer, initial

    def __call__(self, x: Any) -> Any:
        return self._regularizer(self._initial.value + x)


def _random(leaf: Any) -> tf.Tensor:
    """Two examples like a tensor; of integers only 0 and 1, which every table of tokens has."""
    shape, rng = (2, *leaf.shape[1:]), np.random.default_rng(0)
    dtype = tf.as_dtype(leaf.dtype)
    values = rng.standard_normal(shape) if dtype.is_floating else rng.integers(0, 2, shape)
    return tf.cast(values, dtype)


def linearize(
    model: keras.Model, name: str | None = None, order: int = 1, verify: bool = True
) -> LinearizedModel:
    """The model's Taylor expansion in its weights, as a model of its own.

    T(u, x) = f(w0, x) + u . grad_w f(w0, x), at u = 0 equal to f; order 2 adds
    u . (grad_w grad_w f(w0, x)) u / 2. It trains u with `fit`, any optimizer and any loss, and
    saves and loads as `.keras`. f runs in inference mode. Where f holds loops (recurrent layers,
    deep stacks), XLA compiles the prediction but not the training, whose gradient is a third
    derivative of the loop: give `compile` jit_compile=False there.

    Args:
        model: a built Keras model with one output that can be cloned (a Sequential, functional or
            serializable one). It is copied: to train it further changes nothing here.
        name: of the new model.
        order: 1 or 2.
        verify: whether the products are checked against a plain vector-Jacobian product on random
            inputs, here if the model knows its input's shape, else in the first call.

    Returns:
        A `LinearizedModel`.

    Raises:
        TypeError: for what is no Keras model.
        ValueError: for a model that is not built, has no weights, several outputs or layers in
            training mode, or cannot be cloned.
        NotImplementedError: where a layer allows no Jacobian-vector product.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        >>> linear = mfcnn.models.linearize(model)
        >>> x = np.eye(3, dtype="float32")
        >>> bool(np.all(linear(x).numpy() == model(x).numpy()))
        True
        >>> linear.compile("sgd", "mse")
        >>> history = linear.fit(x, np.ones([3, 1]), verbose=0)

    Source: linearization paper, eqs. 1 to 3.
    """
    _inputs.check_model(model)
    _inputs.check_inference(model)
    if name is not None and not isinstance(name, str):
        raise arguments.ArgumentTypeError(f"name must be a string or None. Received: name={name!r}")
    linear = LinearizedModel(
        _copies.copy_of(model), None, order, verify, name=name or f"linearized_{model.name}"
    )
    symbols = _inputs.symbols(model)
    if verify and symbols is not None:
        linear._check(keras.tree.map_structure(_spec, symbols))
    return linear


def _spec(symbol: Any) -> tf.TensorSpec:
    return tf.TensorSpec(symbol.shape, symbol.dtype)
