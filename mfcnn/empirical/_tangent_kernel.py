"""The neural tangent kernel of a Keras model of finite width, in blocks of bounded memory."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from mfcnn import arguments, numerics
from mfcnn.empirical import _inputs, _plan, _programs, _traces, _verification

__all__ = ["METHODS", "OUTPUTS", "MethodChoice", "choose_method", "ntk"]

METHODS = _plan.METHODS
OUTPUTS = ("trace", "full")
_MEMORY = 2**29


class MethodChoice(NamedTuple):
    """What `choose_method` found.

    Attributes:
        method: the cheapest method whose working memory stays within the limit.
        multiplications: estimated multiplications of each method.
        batch_size: rows of a block.
        explicit_weights: names of the weights whose Jacobian the method "structured" must form
            row by row, because they are used in ways it does not know.
        outputs_at_a_time: outputs whose derivatives exist at once.
        bytes: estimated working memory of each method.
    """

    method: str
    multiplications: dict[str, int]
    batch_size: int
    explicit_weights: tuple[str, ...]
    outputs_at_a_time: int
    bytes: dict[str, int]


def ntk(
    model: keras.Model,
    x1: Any,
    x2: Any = None,
    outputs: str = "trace",
    method: str = "auto",
    batch_size: int | None = None,
    jit_compile: bool = False,
    *,
    verify: bool = True,
    memory_limit: float = _MEMORY,
) -> tf.Tensor:
    """The empirical neural tangent kernel of a model at its present weights.

    Theta[i, j, a, b] = sum_w (d f_a(x1_i) / d w) (d f_b(x2_j) / d w), over the trainable weights;
    the trace is its mean over a = b. The model runs in inference mode. The result has no gradient:
    asking a tape for one raises.

    Args:
        model: a built Keras model with one output, which is flattened to k numbers.
        x1: inputs [n1, ...], cast as Keras casts them; a list or dict of them where the model has
            several.
        x2: inputs [n2, ...]; None is x1, at half the cost.
        outputs: "trace" or "full".
        method: "structured" uses the form of dense, convolution, normalization and attention layers
            and never forms their Jacobian where that is dearer; "jacobian" forms the Jacobian row
            by row; "products" takes a vector-Jacobian and a Jacobian-vector product for each
            column and never forms it; "auto" takes what `choose_method` says.
        batch_size: rows of a block; by default as many as fit the memory.
        jit_compile: whether XLA compiles the blocks.
        verify: whether the route is checked against a plain vector-Jacobian product, once for each
            model and shape of inputs. Weights for which "structured" fails go row by row; where
            a method fails "auto" takes the next.
        memory_limit: bytes of working memory, beside the weights and the result.

    Returns:
        A tensor of the weights' dtype, [n1, n2] for the trace and [n1, n2, k, k] for the full.

    Raises:
        TypeError: for what is no model or no array of real numbers.
        ValueError: for a model that is not built or is stochastic, inputs of another shape or not
            finite, an unknown option, or a memory limit that no method keeps.
        NotImplementedError: where no route passes its check, with the weights' names.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> mfcnn.empirical.ntk(model, np.eye(3)).numpy()  # <x, x'> + 1
        array([[2., 1., 1.],
               [1., 2., 1.],
               [1., 1., 2.]], dtype=float32)

    Source: NTK paper, section 2; finite-width paper, eq. 2.
    """
    x1, x2 = _check(model, x1, x2, outputs)
    arguments.choice("method", method, ("auto", *METHODS))
    if batch_size is not None:
        batch_size = arguments.integer("batch_size", batch_size, 1)
    jit_compile = arguments.boolean("jit_compile", jit_compile)
    verify = arguments.boolean("verify", verify)
    memory_limit = arguments.number("memory_limit", memory_limit, above=0, infinite=True)
    work = _Kernel(model, x1, x2, outputs, jit_compile)
    if 0 in work.shape:
        return _without_gradient(model, x1, work.empty())
    theta = work.run(method, batch_size, verify, memory_limit)
    return _without_gradient(model, x1, theta)


def choose_method(
    model: keras.Model,
    x1: Any,
    x2: Any = None,
    outputs: str = "trace",
    method: str | None = None,
    memory_limit: float = _MEMORY,
) -> MethodChoice:
    """Estimates the cost of each method of `ntk` and takes the least.

    Args:
        model: as for `ntk`.
        x1: inputs [n1, ...].
        x2: inputs [n2, ...] or None.
        outputs: "trace" or "full".
        method: a method to stick to, so that only the batch size is chosen.
        memory_limit: bytes of working memory.

    Returns:
        A `MethodChoice`.

    Raises:
        TypeError: as `ntk`.
        ValueError: as `ntk`.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> mfcnn.empirical.choose_method(model, np.eye(3)).method
        'structured'
    """
    x1, x2 = _check(model, x1, x2, outputs)
    if method is not None:
        arguments.choice("method", method, METHODS)
    memory_limit = arguments.number("memory_limit", memory_limit, above=0, infinite=True)
    work = _Kernel(model, x1, x2, outputs, False)
    plans = work.plans(memory_limit, None)
    best = plans[method] if method else work.order(plans, memory_limit)[0]
    unknown = [model.trainable_variables[i].path for i in work.trace.unknown]
    return MethodChoice(
        best.method,
        {name: plan.multiplications for name, plan in plans.items()},
        best.batch_size,
        tuple(unknown),
        best.outputs_at_a_time,
        {name: plan.bytes for name, plan in plans.items()},
    )


def _check(
    model: Any, x1: Any, x2: Any, outputs: Any = "trace", name: str = "x1"
) -> tuple[Any, Any]:
    _inputs.check_model(model)
    arguments.choice("outputs", outputs, OUTPUTS)
    x1 = _inputs.convert(model, x1, name)
    if x2 is not None:
        x2 = _inputs.convert(model, x2, "x2")
        _inputs.same_shape(x1, x2)
    return x1, x2


def _without_gradient(model: keras.Model, x: Any, theta: tf.Tensor) -> tf.Tensor:
    """The value; a tape that asks for its gradient by the inputs or the weights gets an error."""

    @tf.custom_gradient
    def value(*sources: tf.Tensor) -> tuple:
        del sources

        def refuse(*cotangents: tf.Tensor) -> None:
            raise NotImplementedError(
                "the empirical NTK is measured, not differentiable: take finite differences, or "
                "differentiate a kernel of mfcnn.kernels"
            )

        return tf.identity(theta), refuse

    floats = [leaf for leaf in keras.tree.flatten(x) if leaf.dtype.is_floating]
    return value(*floats, *(v.value for v in model.trainable_variables))


class _Kernel:
    """One call of `ntk`: its model, trace and inputs."""

    def __init__(self, model: keras.Model, x1: Any, x2: Any, outputs: str, jit_compile: bool):
        self._model, self._x1, self._x2 = model, x1, x2
        self._outputs, self._jit_compile = outputs, jit_compile
        self.trace = _traces.trace_of(model, x1)
        self.shape = _inputs.length(x1), _inputs.length(x1 if x2 is None else x2)
        self._parameters = [math.prod(v.shape) for v in model.trainable_variables]
        self._dtype = tf.as_dtype(model.trainable_variables[0].dtype)

    def empty(self) -> tf.Tensor:
        """The result where there are no inputs."""
        k = self.trace.outputs
        return tf.zeros([*self.shape, *([] if self._outputs == "trace" else [k, k])], self._dtype)

    def plans(
        self, memory_limit: float, batch_size: int | None, unknown: tuple | None = None
    ) -> dict[str, _plan.Plan]:
        """The cheapest plan of each method."""
        unknown = self.trace.unknown if unknown is None else unknown
        task = _plan.Task(*self.shape, self._x2 is None, self._outputs, unknown, self._dtype.size)
        return self.trace.plans(
            (task, memory_limit, batch_size),
            lambda: _plan.plans(self.trace, task, self._parameters, memory_limit, batch_size),
        )

    def order(self, plans: dict[str, _plan.Plan], memory_limit: float) -> list[_plan.Plan]:
        """Those within the memory, cheapest first."""
        fitting = [plan for plan in plans.values() if plan.bytes <= memory_limit]
        if not fitting:
            least = min(plan.bytes for plan in plans.values())
            raise ValueError(
                f"memory_limit must be at least {least} bytes for this model and these inputs. "
                f"Received: memory_limit={memory_limit:.0f}"
            )
        return sorted(fitting, key=lambda plan: plan.multiplications)

    def run(
        self, method: str, batch_size: int | None, verify: bool, memory_limit: float
    ) -> tf.Tensor:
        """The kernel by the method, or by the first of all methods that passes its check."""
        unbound = math.inf if batch_size else memory_limit
        plans = self.plans(memory_limit, batch_size)
        candidates = self.order(plans, unbound) if method == "auto" else [plans[method]]
        if method != "auto":
            self.order({method: plans[method]}, unbound)
        refusals = []
        for plan in candidates:
            try:
                if plan.method == "products":
                    return self._by_products(plan, verify)
                return self._by_features(plan, verify)
            except NotImplementedError as error:
                refusals.append(error)
        raise refusals[0]

    # By factors and rows of Jacobians.

    def _by_features(self, plan: _plan.Plan, verify: bool) -> tf.Tensor:
        rows = numerics.equal_parts(self.shape[0], plan.batch_size)
        columns = rows if self._x2 is None else numerics.equal_parts(self.shape[1], plan.batch_size)
        every = tuple(range(len(self._parameters)))
        unknown = self.trace.unknown if plan.method == "structured" else every
        if verify:
            for x, parts in ((self._x1, rows), (self._x2, columns)):
                if x is not None:
                    unknown = self._verified(_inputs.take(x, parts[0][0]), unknown)
        if self._outputs == "full":
            return self._in_blocks(rows, columns, self._full_block(plan, unknown))
        return self._in_blocks(rows, columns, self._trace_block(plan, unknown))

    def _features(self, unknown: tuple[int, ...]) -> _programs.Features:
        key = "features", self._outputs, unknown, self._jit_compile
        return self.trace.program(
            key,
            lambda: _programs.Features(self._model, self._outputs, unknown, self._jit_compile),
        )

    def _verified(self, x: Any, unknown: tuple[int, ...]) -> tuple[int, ...]:
        """The weights to take row by row, so that all gradients are the plain ones."""
        every = tuple(range(len(self._parameters)))
        key = _inputs.length(x), unknown
        if key not in self.trace.verified:
            wrong: list[int] = []
            for now in dict.fromkeys((unknown, None, every)):
                now = tuple(sorted({*unknown, *wrong})) if now is None else now
                wrong = _verification.wrong_weights(self._model, self.trace, self._features(now), x)
                if not wrong:
                    break
            self.trace.verified[key] = now, wrong
        now, wrong = self.trace.verified[key]
        if wrong:
            paths = ", ".join(self._model.trainable_variables[i].path for i in wrong)
            raise NotImplementedError(
                "the Jacobian of the model is not made of the Jacobians of single examples: a "
                "layer mixes examples, or its gradient is not deterministic. The weights whose "
                f"gradients differ: {paths}. verify=False goes on"
            )
        return now

    def _seeds(self, plan: _plan.Plan) -> list[tuple[tf.Tensor, int]]:
        """The outputs in parts of equal size, one-hot, with zeros beyond the last."""
        parts = numerics.equal_parts(self.trace.outputs, plan.outputs_at_a_time)
        eye, seeds = np.eye(self.trace.outputs), []
        for indices, valid in parts:
            rows = eye[indices]
            rows[valid:] = 0
            seeds.append((tf.constant(rows, self._dtype), valid))
        return seeds

    def _trace_block(self, plan: _plan.Plan, unknown: tuple[int, ...]) -> Callable:
        program, seeds = self._features(unknown), self._seeds(plan)
        single = len(unknown) == len(self._parameters)

        def block(x1: Any, x2: Any) -> np.ndarray:
            total: Any = 0
            for part, _ in seeds:
                if single:
                    first = program.rows(x1, part)
                    second = first if x2 is None else program.rows(x2, part)
                    total = total + program.contract(first, second)
                elif x2 is None:
                    total = total + program.diagonal(x1, part)
                else:
                    total = total + program.block(x1, part, x2, part)
            return (total / self.trace.outputs).numpy()

        return block

    def _full_block(self, plan: _plan.Plan, unknown: tuple[int, ...]) -> Callable:
        program, seeds = self._features(unknown), self._seeds(plan)

        def block(x1: Any, x2: Any) -> np.ndarray:
            if x2 is None and len(seeds) == 1:
                return program.diagonal(x1, seeds[0][0]).numpy()
            second = x1 if x2 is None else x2
            return np.concatenate(
                [
                    np.concatenate(
                        [
                            program.block(x1, s1, second, s2).numpy()[:, :, :v1, :v2]
                            for s2, v2 in seeds
                        ],
                        axis=3,
                    )
                    for s1, v1 in seeds
                ],
                axis=2,
            )

        return block

    # By products.

    def _by_products(self, plan: _plan.Plan, verify: bool) -> tf.Tensor:
        rows = numerics.equal_parts(self.shape[0], plan.batch_size)
        columns = rows if self._x2 is None else numerics.equal_parts(self.shape[1], plan.batch_size)
        k = self.trace.outputs
        program = self.trace.program(
            ("products", self._outputs, self._jit_compile),
            lambda: _programs.Products(self._model, self._outputs, k, self._jit_compile),
        )
        if verify:
            self.verify_products(_inputs.take(self._x1, rows[0][0]))
        scale = k if self._outputs == "trace" else 1
        return self._in_blocks(
            rows,
            columns,
            lambda x1, x2: (program.block(x1, x1 if x2 is None else x2) / scale).numpy(),
        )

    def verify_products(self, x: Any) -> None:
        """Checks the Jacobian-vector product once for each number of examples."""
        key = "products", _inputs.length(x)
        if key not in self.trace.verified:
            program = self.trace.program(
                ("products", "full", False),
                lambda: _programs.Products(self._model, "full", self.trace.outputs),
            )
            try:
                _verification.check_products(self._model, self.trace, program, x)
                self.trace.verified[key] = None
            except NotImplementedError as error:
                self.trace.verified[key] = str(error)
        if self.trace.verified[key]:
            raise NotImplementedError(self.trace.verified[key])

    def _in_blocks(self, rows: list, columns: list, block: Callable) -> tf.Tensor:
        """The kernel from its blocks; below the diagonal of a symmetric one they are mirrored."""
        blocks: list[list] = [[None] * len(columns) for _ in rows]
        second = self._x1 if self._x2 is None else self._x2
        for i, (row, height) in enumerate(rows):
            first = _inputs.take(self._x1, row)
            for j, (column, width) in enumerate(columns):
                if self._x2 is None and j < i:
                    mirrored = np.swapaxes(blocks[j][i], 0, 1)
                    full = mirrored.ndim == 4
                    blocks[i][j] = np.swapaxes(mirrored, 2, 3) if full else mirrored
                elif self._x2 is None and j == i:
                    blocks[i][j] = block(first, None)[:height, :width]
                else:
                    blocks[i][j] = block(first, _inputs.take(second, column))[:height, :width]
        theta = np.concatenate([np.concatenate(row, axis=1) for row in blocks], axis=0)
        return tf.convert_to_tensor(theta)
