"""Slices of TPU pods by their names, like v5e:4x4: kind, then the sides of the grid of chips."""

import math
import re

__all__ = ["HBM", "device_count", "kind_of", "smaller_slices"]

# GiB that the compiler grants a device, as it says when a program is larger.
HBM = {"v5e": 15.75, "v6e": 31.25, "v5p": 95.74, "v4": 15.25}
_CORES = {"v2": 2, "v3": 2, "v4": 2, "tpu7x": 2}  # devices a chip, where not one


def device_count(topology: str) -> int:
    """Devices of a slice by its name; 0 if that is no name of one."""
    match = re.fullmatch(r"(v\d\w?|tpu\d+x):(\d+(?:x\d+)+)", topology)
    if not match:
        return 0
    return math.prod(int(side) for side in match[2].split("x")) * _CORES.get(match[1], 1)


def kind_of(topology: str) -> str:
    """The kind of chip, like v5e."""
    return topology.partition(":")[0]


def smaller_slices(topology: str) -> list[str]:
    """A slice and those with its sides halved again and again, the smallest first."""
    kind, _, shape = topology.partition(":")
    sides, found = [int(side) for side in shape.split("x")], [topology]
    while max(sides) > 1:
        sides = [max(side // 2, 1) for side in sides]
        found.append(f"{kind}:{'x'.join(map(str, sides))}")
    return found[::-1]
