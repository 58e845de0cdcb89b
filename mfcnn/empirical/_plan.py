"""Which method, how many examples and outputs at a time: multiplications and bytes, counted."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from mfcnn.empirical._contraction import Size
from mfcnn.empirical._traces import Trace

__all__ = ["METHODS", "Plan", "Task", "plans"]

METHODS = ("structured", "jacobian", "products")


class Task(NamedTuple):
    """What is to be computed.

    Attributes:
        n1: rows.
        n2: columns.
        symmetric: whether the columns are the rows.
        outputs: "trace" or "full".
        unknown: indices of the weights whose Jacobian is formed row by row.
        bytes_a_number: of the weights' dtype.
    """

    n1: int
    n2: int
    symmetric: bool
    outputs: str
    unknown: tuple[int, ...]
    bytes_a_number: int


class Plan(NamedTuple):
    """One way to compute it: a method, a block's examples and outputs, and the cost."""

    method: str
    batch_size: int
    outputs_at_a_time: int
    multiplications: int
    bytes: int


def plans(
    trace: Trace,
    task: Task,
    parameters: list[int],
    memory_limit: float = math.inf,
    batch_size: int | None = None,
) -> dict[str, Plan]:
    """The cheapest plan of each method within the memory, or its smallest where none is.

    Args:
        trace: of the model.
        task: what to compute.
        parameters: numbers of each weight.
        memory_limit: bytes of working memory.
        batch_size: examples at a time, or None.
    """
    result = {}
    for method in METHODS:
        count = _Count(trace, task, parameters, method)
        options = [count.plan(n, k) for n, k in _sizes(count, batch_size)]
        fitting = [plan for plan in options if plan.bytes <= memory_limit]
        if fitting:
            result[method] = min(fitting, key=lambda plan: plan.multiplications)
        else:
            result[method] = min(options, key=lambda plan: plan.bytes)
    return result


def _sizes(count: "_Count", batch_size: int | None) -> Iterator[tuple[int, int]]:
    """Candidates (examples, outputs) at a time, large ones first."""
    largest = max(count.task.n1, count.task.n2, 1)
    examples = [batch_size] if batch_size else list(_shrinking(largest, 5))
    outputs = [count.k] if count.method == "products" else list(_shrinking(count.k, 2))
    return ((n, k) for n in examples for k in outputs)


def _shrinking(size: int, part: int) -> Iterator[int]:
    while size > 1:
        yield size
        size -= -(-size // part)
    yield 1


class _Count:
    """Multiplications and bytes of a method."""

    def __init__(self, trace: Trace, task: Task, parameters: list[int], method: str):
        self.trace, self.task, self.method, self.k = trace, task, method, trace.outputs
        self.uses = [
            size for i, sizes in trace.sizes.items() if i not in task.unknown for size in sizes
        ]
        everything = [size for sizes in trace.sizes.values() for size in sizes]
        unknown = [parameters[i] for i in task.unknown]
        self.rows = parameters if method == "jacobian" else unknown
        # How often a weight of unknown use is used is unknown; the activations bound it roughly.
        positions = max((size.positions for size in everything), default=1) if unknown else 1
        self.forward = sum(size.multiplications for size in everything)
        self.forward += sum(unknown) * max(positions, 1) + trace.activations

    def plan(self, n: int, k: int) -> Plan:
        size = self.task.bytes_a_number
        numbers = getattr(self, f"_numbers_{self.method}")(n, k)
        return Plan(self.method, n, k, self._multiplications(n, k), size * numbers)

    def _multiplications(self, n: int, k: int) -> int:
        task, chunks = self.task, -(-self.k // k)
        blocks = -(-task.n1 // n) * -(-task.n2 // n)
        if self.method == "products":
            columns = task.n2 * self.k
            return columns * -(-task.n1 // n) * 3 * self.forward + (
                columns * 3 * task.n1 * self.forward
            )
        if task.symmetric:
            rows = -(-task.n1 // n)
            sides = (blocks + rows) // 2 * 2 * n - rows * n
        else:
            sides = 2 * n * blocks
        passes = chunks if task.outputs == "trace" else chunks * chunks
        outputs = self.k if task.outputs == "trace" else self.k * self.k
        pairs = task.n1 * task.n2 * outputs * sum(self.rows)
        # Row by row the products are those of one example, at half the speed of a batch.
        row_passes = 2 * sides * passes * (1 + 2 * k) * self.forward if self.rows else 0
        if self.method == "jacobian":
            return row_passes + pairs
        contraction = sum(
            cost.costs(task.n1, task.n2, self.k, task.outputs)[
                0 if cost.by_jacobian(n, n, k, task.outputs) else 1
            ]
            for cost in self.uses
        )
        return sides * passes * (1 + k) * self.forward + contraction + row_passes + pairs

    def _row_numbers(self, n: int, k: int) -> int:
        """Rows of Jacobians on both sides, and one example's way to them.

        Where rows stack up they are copied, and one is on the way; a loop adds up its gradient.
        """
        several, whole = n * k > 1, sum(self.rows)
        on_the_way = whole * (several + 2 * self.trace.loops)
        stacks = (3 if several else 2) * n * k * whole
        return stacks + on_the_way + self.trace.activations + 4 * self.trace.largest

    def _numbers_jacobian(self, n: int, k: int) -> int:
        return self._row_numbers(n, k)

    def _numbers_structured(self, n: int, k: int) -> int:
        factors = cotangents = largest = contraction = 0
        for size in self.uses:
            inputs = size.positions * size.groups * size.d if size.multiplications else 0
            delta = size.positions * size.groups * size.o
            factors += inputs
            cotangents += delta
            largest = max(largest, delta)
            contraction = max(contraction, self._contraction(size, n, k))
        rows = self._row_numbers(n, k) if self.rows else 0
        sides = 1 if self.task.symmetric and n >= self.task.n1 else 2
        one = self.trace.activations + factors + k * (cotangents + 2 * largest)
        return sides * n * one + contraction + rows

    def _contraction(self, size: Size, n: int, k: int) -> int:
        if size.by_jacobian(n, n, k, self.task.outputs):
            return 2 * n * k * size.groups * size.d * size.o
        outputs = k * k if self.task.outputs == "full" else 1
        return n * n * size.positions**2 * (1 + outputs) if size.positions > 1 else 0

    def _numbers_products(self, n: int, k: int) -> int:
        loops = 3 if self.trace.loops else 1
        # Values and tangents live side by side, and are freed as the pass goes on.
        return (1 + loops) * self.trace.parameters + 3 * n * self.trace.activations // 2
