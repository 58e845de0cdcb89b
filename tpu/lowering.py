"""The training program of one replica, as StableHLO: TensorFlow writes it, PJRT compiles it.

The program is that of `mfcnn.training`: its variables become parameters after the inputs, and those
that it changes results after the sums. Variables need no values for that, and get no memory.
"""

import contextlib
import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import keras
import numpy as np
import tensorflow as tf

from experiments import vanilla
from mfcnn import borrowed, training
from mfcnn.layers._sharded import ShardedStack, shard_stacks
from mfcnn.training import reduction

__all__ = ["Program", "Step", "by_path", "forward_flops", "make_step", "without_memory"]

_ALIAS = re.compile(r"parameter_number = (\d+) : i64}, output_index = array<i64: (\d+)>")


@dataclasses.dataclass(frozen=True)
class Program:
    """A program of one replica.

    Attributes:
        text: StableHLO.
        arguments: paths of the variables that follow the inputs, in their order.
        updated: paths of those whose new values follow the sums.
    """

    text: str
    arguments: tuple[str, ...]
    updated: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Step:
    """The model of a configuration and its step, without values.

    Attributes:
        model: the model of the configuration, unsharded.
        sharded: the model that the step trains: the same, or with its deep stack spread.
        optimizer: over the variables of `sharded`.
        step: the training step.
        image_shape: (height, width, channels).
        batch: images of one replica.
        replicas: their number.
    """

    model: keras.Model
    sharded: keras.Model
    optimizer: keras.optimizers.Optimizer
    step: training.TrainingStep
    image_shape: tuple[int, ...]
    batch: int
    replicas: int

    @property
    def variables(self) -> dict[str, keras.Variable]:
        """Those of the sharded model and of its optimizer, by path."""
        return by_path(self.sharded, self.optimizer)

    @property
    def shards(self) -> dict[str, list[str]]:
        """The paths in an unsharded program of what each sharded variable holds."""
        stack = self.stack
        if stack is None:
            return {}
        name = re.compile(rf"\b{stack.name}([/_])shard(?=_|$)")
        return {
            path: [name.sub(rf"{stack.name}\1{part}", path) for part in stack.names]
            for path in self.variables
            if name.search(path)
        }

    @property
    def stack(self) -> ShardedStack | None:
        """The sharded stack, None in an unsharded model."""
        found = [layer for layer in self.sharded.layers if isinstance(layer, ShardedStack)]
        return found[0] if found else None

    def train(self) -> Program:
        """(images, labels, *variables) to (sums of loss, hits and examples, *new values)."""
        all_reduce = reduction.in_parts(_xla_sum) if self.replicas > 1 else None
        return self._lower(lambda images, labels: self.step.train(images, labels, all_reduce), 2)

    def test(self) -> Program:
        """(images, labels, weights, *variables) to the sums."""
        return self._lower(lambda *batch: self.step.test(*batch), 3)

    def _lower(self, function: Callable[..., tf.Tensor], inputs: int) -> Program:
        specs = (
            tf.TensorSpec([self.batch, *self.image_shape], tf.float32),
            tf.TensorSpec([self.batch], tf.int32),
            tf.TensorSpec([self.batch], tf.float32),
        )[:inputs]
        compiled = tf.function(function, jit_compile=True, autograph=False)
        text = compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo")
        captured = compiled.get_concrete_function(*specs).captured_inputs
        paths = {id(v.value.handle): path for path, v in self.variables.items()}
        unknown = [handle for handle in captured if id(handle) not in paths]
        if unknown:
            raise RuntimeError(f"The step reads what is no variable of it: {unknown}")
        arguments = [paths[id(handle)] for handle in captured]
        aliases = {int(out): int(argument) for argument, out in _ALIAS.findall(text)}
        updated = [arguments[aliases[out] - inputs] for out in sorted(aliases)]
        if sorted(aliases) != list(range(1, len(aliases) + 1)):
            raise RuntimeError(f"The results of the step are not its variables: {aliases}")
        return Program(_without_places(text), tuple(arguments), tuple(updated))


def by_path(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> dict[str, keras.Variable]:
    """The variables of both by a name that does not depend on what was made before them."""
    found = {v.path: v for v in model.variables}
    return found | {f"optimizer/{v.path.partition('/')[2]}": v for v in optimizer.variables}


def make_step(
    config: Mapping[str, Any],
    image_shape: Sequence[int],
    classes: int,
    replicas: int,
    form: str = "library",
    learning_rate: float = 0.001,
    filled: int = 0,
) -> Step:
    """Makes the model of a configuration and one replica's step, with variables of any size.

    Args:
        config: dict of the main job's flags; `shard_stack` spreads the stack over the replicas.
        image_shape: (height, width, channels) of the data.
        classes: number of classes.
        replicas: number of replicas; divides the batch.
        form: of the convolutions, see `mfcnn.layers.DeepConvolution`: "library" on a TPU or GPU.
        learning_rate: of the optimizer; a constant of the program under a schedule.
        filled: bytes up to which a variable gets its first value; a larger one is never filled.

    Returns:
        A `Step`.

    Raises:
        ValueError: if the replicas do not divide the batch, or as `vanilla_cnn` says.
    """
    batch, shard = config["batch_size"], config["shard_stack"]
    if batch % replicas:
        raise ValueError(f"batch_size={batch} is not a multiple of the {replicas} replicas")
    vanilla.set_precision(config)
    with without_memory(filled):
        model = vanilla.make_model(config, image_shape, classes)
        model.get_layer("deep").form = form
        sharded = shard_stacks(model, replicas) if shard else model
        with_rate = {**config, "learning_rate": repr(learning_rate)}
        optimizer = vanilla.make_optimizer(with_rate, sharded, None, verbose=False)
        optimizer.build(sharded.trainable_variables)
    step = training.TrainingStep(sharded, optimizer, batch, fused=config["fused"])
    shape = tuple(image_shape)
    return Step(model, sharded, optimizer, step, shape, batch // replicas, replicas)


def forward_flops(model: keras.Model) -> int:
    """FLOPs of the matrix products and convolutions of one forward pass of one image."""
    return sum(
        2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        for layer in model.layers
        if hasattr(layer, "kernel")
    )


@contextlib.contextmanager
def without_memory(filled: int = 0) -> Iterator[None]:
    """Variables made in the block take no memory, of whatever size: their values are nothing.

    Args:
        filled: bytes up to which a variable gets its value all the same.
    """
    with tempfile.TemporaryFile() as file, tf.variable_creator_scope(_creator(file, filled)):
        yield


def _creator(file: IO[bytes], filled: int) -> Callable[..., tf.Variable]:
    """A variable creator whose values are one sparse file, mapped and never touched."""

    def values(shape: tf.TensorShape, dtype: tf.DType) -> tf.Tensor:
        size = max(shape.num_elements() * dtype.size, 1)
        if size > os.fstat(file.fileno()).st_size:
            os.truncate(file.fileno(), size)
        array = np.memmap(file, dtype.as_numpy_dtype, mode="r+", shape=tuple(shape))
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())

    def create(
        next_creator: Callable[..., tf.Variable], initial_value: Any = None, **arguments: Any
    ) -> tf.Variable:
        if callable(initial_value):
            with tf.Graph().as_default():
                drawn = initial_value()
            if drawn.shape.num_elements() * drawn.dtype.size > filled:
                initial_value = values(drawn.shape, drawn.dtype)
        return next_creator(initial_value=initial_value, **arguments)

    return create


def _xla_sum(tensor: tf.Tensor) -> tf.Tensor:
    return borrowed.xla_all_reduce(tensor, tf.zeros([0, 0], tf.int32), "Add", "CrossReplica")


def _without_places(text: str) -> str:
    """A module without the places in Python files that its operations come from."""
    lines = [line for line in text.splitlines() if not line.startswith("#loc")]
    place = r'#loc\d*|unknown|fused\[[^\]]*\]|"[^"]*"(?:\(#loc\d*\))?'
    bare = re.sub(rf" loc\((?:{place})\)", "", "\n".join(lines))
    return text if " loc(" in bare else bare + "\n"
