"""Compiles a StableHLO module for a TPU that is not there; needs jax and libtpu, nothing else.

    python -m tpu.compile_child module.mlir v5e:2x2 4

Prints one line of JSON: what the compiled program takes, or why there is none. A program of its
own, since TensorFlow and libtpu do not share a process well and may live in two environments.
"""

import importlib.util
import json
import os
import sys
from typing import Any


def main(path: str, topology_name: str, replicas: int) -> dict[str, Any]:
    """Compiles the module at path for a replica on each device of a topology."""
    missing = [name for name in ("jax", "libtpu") if importlib.util.find_spec(name) is None]
    if missing:
        return {"missing": missing}
    # No TPU is looked for, neither on this machine nor by the cloud's metadata server, and none is
    # locked: another check, or a job on this machine's TPU, may run at the same time.
    os.environ.update(TPU_SKIP_MDS_QUERY="1", JAX_PLATFORMS="cpu", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    from jax.experimental import topologies
    from jaxlib import _jax

    from tpu.runner import program

    # A host has more than one chip, unless it is told otherwise.
    kind, _, shape = topology_name.partition(":")
    sides = [int(side) for side in shape.split("x")]
    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if set(sides) == {1} else {}
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=topology_name, **one_chip
        )
    except Exception as error:  # of several kinds, for names that libtpu does not know
        return {"refused": f"libtpu has no topology {topology_name!r}: {error}"}
    devices = topology.devices
    if len(devices) != replicas:
        return {"refused": f"{topology_name} has {len(devices)} devices, not {replicas}"}
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        with program.parsed(text) as module:
            compiled = devices[0].client.compile(
                module, _jax.DeviceList(tuple(devices)), program.options(range(replicas))
            )
    except _jax.JaxRuntimeError as error:
        return {"error": str(error)}
    memory = compiled.get_compiled_memory_stats()
    cost = compiled.cost_analysis()
    return {
        "kind": devices[0].device_kind,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
        "flops_of_loops_once": (cost[0] if isinstance(cost, list) else cost).get("flops"),
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
