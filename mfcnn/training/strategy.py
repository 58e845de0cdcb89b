"""Where a program runs: one device, all local ones, several hosts, or a TPU."""

import collections
import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import NoReturn

import numpy as np
import tensorflow as tf

from mfcnn import arguments
from mfcnn.training.failure import lost_peers, time_limit

__all__ = ["STRATEGIES", "is_chief", "make_strategy", "use_logical_cpus"]

STRATEGIES = ("default", "mirrored", "multiworker", "tpu")

_PORT_TIMEOUT = 10.0  # seconds for a TCP connection


def use_logical_cpus(count: int) -> None:
    """Splits the CPU into logical devices, over which "mirrored" then runs.

    To be called before anything else of TensorFlow.

    Args:
        count: number of devices, at least 1.

    Raises:
        ValueError: if count is below 1.
        RuntimeError: if TensorFlow has started already.

    Example:
        >>> mfcnn.training.use_logical_cpus(0)
        Traceback (most recent call last):
            ...
        ValueError: count must be an integer of at least 1. Received: count=0
    """
    count = arguments.integer("count", count, 1)
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * count,
    )


def make_strategy(
    name: str = "default", tpu: str = "local", timeout: float | None = 300.0
) -> tf.distribute.Strategy:
    """The tf.distribute strategy of a name; to be made before variables and data.

    Args:
        name: "default" (one device), "mirrored" (all local GPUs, or all logical CPU devices),
            "multiworker" (hosts of the TF_CONFIG environment variable, one process each) or
            "tpu".
        tpu: for "tpu": "local" on a TPU VM, a TPU's name, or the address grpc://host:port.
        timeout: seconds to wait for the other hosts or the TPU. Then the process ends, with a
            message on stderr, with status 75 or by SIGALRM, see `failure.time_limit`.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: for an unknown name, or a TF_CONFIG that is missing or wrong.
        RuntimeError: if there is no TPU.

    Example:
        >>> mfcnn.training.make_strategy("default").num_replicas_in_sync
        1
    """
    arguments.choice("strategy", name, STRATEGIES)
    if timeout is not None:
        timeout = arguments.number("timeout", timeout, above=0)
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        workers, own = _cluster(os.environ.get("TF_CONFIG"))
        others = ", ".join(worker for worker in workers if worker != own)
        with time_limit(timeout, f"Not all of the other workers came: {others}"), lost_peers():
            return tf.distribute.MultiWorkerMirroredStrategy()
    with time_limit(timeout, f"The TPU at tpu={tpu!r} does not answer"):
        return _tpu_strategy(tpu)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes checkpoints and results: the first worker, or the only one.

    Args:
        strategy: of the program.

    Returns:
        True or False.

    Example:
        >>> mfcnn.training.is_chief(tf.distribute.get_strategy())
        True
    """
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    has_chief = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" or (not has_chief and resolver.task_id == 0)


def scope_of(strategy: tf.distribute.Strategy) -> contextlib.AbstractContextManager:
    """The strategy's scope; nothing to enter for the default one."""
    is_default = strategy is tf.distribute.get_strategy()
    return contextlib.nullcontext() if is_default else strategy.scope()


def distribute(
    strategy: tf.distribute.Strategy, batches: Callable[..., tf.data.Dataset]
) -> tf.distribute.DistributedDataset:
    """The batches of a function from `tf.distribute.InputContext` to a dataset, on all replicas."""
    options = None
    if strategy is not tf.distribute.get_strategy():
        # To a CPU nothing is copied ahead; and each iterator that does so may take a minute to end.
        on_cpus = all("CPU" in device for device in strategy.extended.worker_devices)
        options = tf.distribute.InputOptions(experimental_fetch_to_device=not on_cpus)
    return strategy.distribute_datasets_from_function(batches, options)


def agree(strategy: tf.distribute.Strategy, number: int) -> bool:
    """Whether all workers have the same number, below 2^26; waits for all of them."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True

    @tf.function(autograph=False)
    def moments(value: tf.Tensor) -> tf.Tensor:
        each = strategy.run(lambda: tf.stack([tf.ones_like(value), value, value**2]))
        return strategy.reduce("SUM", each, axis=None)

    count, total, squares = moments(tf.constant(number, tf.float64)).numpy()
    return count * squares == total**2


def largest_of_workers(strategy: tf.distribute.Strategy) -> Callable[[int], int]:
    """A function from a number, from 0 to 64, to the largest of all workers.

    Every worker has to call it, and gets the same answer.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return lambda number: number

    @tf.function(autograph=False)
    def counts(value: tf.Tensor) -> tf.Tensor:
        each = strategy.run(lambda: tf.one_hot(value, 65))
        return strategy.reduce("SUM", each, axis=None)

    return lambda number: int(np.flatnonzero(counts(tf.constant(number)).numpy())[-1])


def _cluster(text: str | None) -> tuple[list[str], str]:
    """(addresses of all workers, own address) of a TF_CONFIG, checked."""
    example = (
        '{"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}'
    )

    def refuse(problem: str) -> NoReturn:
        raise ValueError(
            f"strategy=multiworker reads the environment variable TF_CONFIG: {problem}. "
            f"Accepted, with its own index on each host: {example}. Received: {text!r}"
        )

    try:
        config = json.loads(text or "")
    except ValueError as error:
        refuse("it is not set" if not text else f"it is not JSON ({error})")
    try:
        cluster = {job: list(hosts) for job, hosts in config["cluster"].items()}
        job, index = config["task"]["type"], config["task"]["index"]
    except (AttributeError, KeyError, TypeError) as error:
        refuse(f"it has no cluster of workers, no task.type or no task.index ({error!r})")
    if not cluster or not set(cluster) <= {"chief", "worker"}:
        refuse(f"its jobs must be worker or chief, not {sorted(cluster)}")
    if isinstance(index, bool) or not isinstance(index, int) or job not in cluster:
        refuse(f"it has no task {job}:{index}")
    if not 0 <= index < len(cluster[job]):
        refuse(f"its task.index must be from 0 to {len(cluster[job]) - 1}, not {index}")
    hosts = [host for job in sorted(cluster) for host in cluster[job]]
    for host in hosts:
        if not isinstance(host, str) or not _port(host):
            refuse(f"{host!r} is not host:port")
    twice = [host for host, count in collections.Counter(hosts).items() if count > 1]
    if twice:
        refuse(f"{twice[0]} is in it twice")
    own = cluster[job][index]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", _port(own)))
        except OSError as error:
            refuse(f"port {_port(own)} of this worker, {own}, is taken ({error.strerror})")
    return hosts, own


def _port(address: str) -> int | None:
    host, _, port = address.rpartition(":")
    return int(port) if host and port.isdecimal() and 0 < int(port) < 2**16 else None


def _tpu_strategy(address: str) -> tf.distribute.TPUStrategy:
    try:
        if not address:
            raise ValueError("the name is empty")
        _check_answers(address)
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
        if address != "local":
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, OSError, RuntimeError) as error:
        raise RuntimeError(
            f"There is no TPU at tpu={address!r}: {str(error).splitlines()[0]}. Run on a TPU VM "
            "with tpu='local', or give the name or the grpc:// address of a TPU, or use another "
            "strategy."
        ) from error


def _check_answers(address: str) -> None:
    # The client of TensorFlow waits for ever for an address where nobody listens.
    for part in address.split(",") if ":" in address else ():
        host, _, port = part.removeprefix("grpc://").rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"{part!r} is not grpc://host:port")
        socket.create_connection((host, int(port)), _PORT_TIMEOUT).close()
