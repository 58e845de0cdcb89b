"""StableHLO modules as programs that run on the devices of PJRT, one replica on each.

They hold the collectives of several replicas, which jax has no public way to execute: the parts of
jaxlib that do are those of version 0.10. Several processes, one on each host of a pod, run the same
program together; each puts and reads what is on its own devices.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["Devices", "Executable", "options", "parsed"]


@contextlib.contextmanager
def parsed(text: str) -> Iterator[Any]:
    """The module of a text, without what only TensorFlow knows."""
    from jax.extend.mlir import ir
    from jax.interpreters import mlir

    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        _drop_copies(module, ir)
        yield module


def options(devices: Sequence[int]) -> Any:
    """The compiler's options for a replica on each of some devices, given by their numbers."""
    from jaxlib import _jax

    chosen = _jax.CompileOptions()
    chosen.num_replicas = len(devices)
    chosen.num_partitions = 1
    chosen.device_assignment = _jax.DeviceAssignment.create(np.asarray(devices)[:, None])
    return chosen


def _drop_copies(module: Any, ir: Any) -> None:
    # TensorFlow's lowering leaves mhlo.copy, which the compilers do not know.
    copies = []

    def visit(operation: Any) -> Any:
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for operation in copies:
        operation.results[0].replace_all_uses_with(operation.operands[0])
        operation.erase()


class Devices:
    """The devices of the replicas, those of all processes, and arrays on them.

    Args:
        platform: "cpu", "gpu" or "tpu".
        count: number of replicas.

    Attributes:
        own: indices of the replicas whose devices this process has.
        is_chief: whether this process is the first.
        alone: whether there is no other one.
    """

    def __init__(self, platform: str, count: int) -> None:
        import jax

        found = jax.devices(platform)
        self.alone = jax.process_count() == 1
        # All devices of several processes, or a process would have nothing to do.
        if len(found) < count or (len(found) > count and not self.alone):
            raise ValueError(
                f"the program is for {count} replicas, and platform={platform} has {len(found)} "
                "devices: export it for that many, with --devices"
            )
        self.all = found[:count]
        self.own = [i for i, d in enumerate(self.all) if d.process_index == jax.process_index()]
        self.is_chief = jax.process_index() == 0
        mesh = jax.sharding.Mesh(np.array(self.all), ("replica",))
        self._same = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._parts = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("replica"))

    def same(self, value: np.ndarray) -> Any:
        """An array with one value on all devices."""
        return self._put([value] * len(self.own), sharded=False)

    def parts(self, value_of: Callable[[int], np.ndarray]) -> Any:
        """An array with a value of its own on each device, by the index of the replica."""
        return self._put([value_of(index) for index in self.own], sharded=True)

    def _put(self, values: Sequence[np.ndarray], sharded: bool) -> Any:
        import jax

        pieces = [jax.device_put(v, self.all[index]) for v, index in zip(values, self.own)]
        return self.joined(pieces, sharded)

    def joined(self, pieces: Sequence[Any], sharded: bool) -> Any:
        """One array of what is on the devices of this process."""
        import jax

        shape = pieces[0].shape
        if sharded:
            shape = (len(self.all) * shape[0], *shape[1:])
        sharding = self._parts if sharded else self._same
        return jax.make_array_from_single_device_arrays(shape, sharding, list(pieces))

    def value(self, array: Any) -> np.ndarray:
        """The value of an array that is the same on all devices."""
        return np.asarray(array.addressable_shards[0].data)

    def rows(self, count: int) -> Callable[[Any, int], np.ndarray]:
        """A function from an array of shards and a layer to those of `count` layers from it on.

        It gives [replicas, count, width], from all devices; all processes have to call it.
        """
        import jax

        replicas = len(self.all)

        def cut(array: Any, start: Any) -> Any:
            shards = array.reshape(replicas, -1, array.shape[-1])
            return jax.lax.dynamic_slice_in_dim(shards, start, count, axis=1)

        compiled = jax.jit(cut, out_shardings=self._same)
        return lambda array, start: self.value(compiled(array, start))

    def total(self, values: Any) -> np.ndarray:
        """The sum of what the processes have; all of them have to call it."""
        return self._of_processes(values).sum(axis=0)

    def largest(self, values: Any) -> np.ndarray:
        """The largest of what the processes have; all of them have to call it."""
        return self._of_processes(values).max(axis=0)

    def _of_processes(self, values: Any) -> np.ndarray:
        if self.alone:
            return np.asarray(values)[None]
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(np.asarray(values)))


class Executable:
    """A program of the folder, compiled.

    Args:
        path: of the module.
        devices: where it runs.
        updated: for each variable that it changes, whether it is spread over the replicas.
    """

    def __init__(self, path: pathlib.Path, devices: Devices, updated: Sequence[bool]) -> None:
        from jaxlib import _jax

        self._devices, self._updated = devices, updated
        chosen = options([device.id for device in devices.all])
        with parsed(path.read_text(encoding="utf-8")) as module:
            self._compiled = devices.all[0].client.compile_and_load(
                module, _jax.DeviceList(tuple(devices.all)), chosen
            )

    def __call__(self, arguments: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Executes it; arguments that it changes are used up.

        Returns:
            (the sums of this process's replicas, float32 [3] each, still on their devices; the
            variables' new values).
        """
        results = self._compiled.execute_sharded(list(arguments))
        sums, *values = results.disassemble_into_single_device_arrays()
        joined = [self._devices.joined(v, s) for v, s in zip(values, self._updated)]
        return sums, joined
