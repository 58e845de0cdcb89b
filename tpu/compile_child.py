"""Compiles a StableHLO module for a TPU that is not there; needs jax and libtpu, nothing else.

    python compile_child.py module.mlir v5e:2x2 4

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
    from jax.extend.mlir import ir
    from jax.interpreters import mlir
    from jaxlib import _jax

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
    with mlir.make_ir_context():
        module = ir.Module.parse(text)
        _drop_copies(module)
        try:
            compiled = devices[0].client.compile(
                module, _jax.DeviceList(tuple(devices)), _options(_jax, replicas)
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


def _options(jax: Any, replicas: int) -> Any:
    import numpy as np

    options = jax.CompileOptions()
    options.num_replicas = replicas
    options.num_partitions = 1
    options.device_assignment = jax.DeviceAssignment.create(np.arange(replicas)[:, None])
    return options


def _drop_copies(module: Any) -> None:
    # TensorFlow's lowering leaves mhlo.copy, which libtpu's compiler does not know.
    from jax.extend.mlir import ir

    copies = []

    def visit(operation: Any) -> Any:
        if operation.name == "mhlo.copy":
            copies.append(operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for operation in copies:
        operation.results[0].replace_all_uses_with(operation.operands[0])
        operation.erase()


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
