"""Where a program runs: one device, all local ones, several hosts, or a TPU."""

import contextlib

import tensorflow as tf

__all__ = ["STRATEGIES", "make_strategy"]

STRATEGIES = ("default", "mirrored", "multiworker", "tpu")


def make_strategy(name="default", tpu="local"):
    """The tf.distribute strategy of a name.

    Args:
        name: "default" (one device), "mirrored" (all local GPUs, or all logical CPU devices),
            "multiworker" (hosts of the TF_CONFIG environment variable) or "tpu".
        tpu: for "tpu": "local", a TPU's name or its address.

    Returns:
        A `tf.distribute.Strategy`.

    Raises:
        ValueError: for an unknown name.
        RuntimeError: if there is no TPU.
    """
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    if name == "multiworker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "tpu":
        return _tpu_strategy(tpu)
    raise ValueError(f"strategy must be one of {STRATEGIES}. Received: {name!r}")


def _tpu_strategy(address):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
        if address not in ("local", ""):
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (tf.errors.NotFoundError, tf.errors.InvalidArgumentError, ValueError, OSError) as error:
        raise RuntimeError(
            f"There is no TPU at tpu={address!r}: {error}. Run on a TPU VM with tpu='local', or "
            "give the name or the grpc:// address of a TPU, or use another strategy."
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def scope_of(strategy):
    """The strategy's scope; nothing to enter for the default one."""
    return strategy.scope() if strategy.num_replicas_in_sync > 1 else contextlib.nullcontext()
