"""Kernel regression on large data: (K + lambda I) a = y without K.

Conjugate gradients with the products of `_products` and the preconditioner of `_preconditioner`,
inside iterative refinement: products in float32 where the ridge lets them, residuals in float64.
"""

import dataclasses
import io
import json
import math
import os
from typing import Any

import numpy as np

from mfcnn import arguments
from mfcnn.kernels import _identity, _preconditioner, _products

__all__ = ["Solution", "solve"]

_INNER = 1e-5  # residual to which one round of conjugate gradients goes
_STALLED = 0.5  # a round that gains less than this has met rounding


@dataclasses.dataclass(frozen=True)
class Solution:
    """The answer of `solve`.

    Attributes:
        coefficients: a, [n, k] or [n].
        residual: the largest |(K + lambda) a - y| / |y| over the outputs, by float64 products.
        iterations: products with K.
        shift: lambda = ridge * mean(diag K).
        error_bound: of a prediction at an input with K(x, x) = mean(diag K), in units of the norm
            of y: residual / (2 sqrt(ridge)). It holds for any x, and most errors are far smaller.
    """

    coefficients: np.ndarray
    residual: float
    iterations: int
    shift: float
    error_bound: float
    _kernel: Any = dataclasses.field(repr=False)
    _x: np.ndarray = dataclasses.field(repr=False)
    _get: str = dataclasses.field(repr=False)

    def __repr__(self) -> str:
        """In a line."""
        return (
            f"Solution(n={len(self.coefficients)}, residual={self.residual:.2g}, "
            f"iterations={self.iterations}, error_bound={self.error_bound:.2g})"
        )

    def predict(self, x: Any) -> np.ndarray:
        """The mean predictions K(x, x_train) a, [m, k] or [m], for inputs [m, ...]."""
        return _products.matvec(self._kernel, self.coefficients, x, self._x, self._get)


def solve(
    kernel: Any,
    x: Any,
    y: Any,
    ridge: float,
    get: str = "ntk",
    tolerance: float = 1e-6,
    progress: bool = False,
    output_dir: Any = None,
    *,
    rank: int | None = None,
    block_size: int = 2048,
    max_iterations: int = 1000,
    seed: int = 0,
) -> Solution:
    """Solves (K + ridge * mean(diag K) I) a = y for kernels too large to store.

    Memory is that of the inputs, of a factor [n, rank] and of a block; time that of some dozens of
    products with K. On inputs of one norm a dense network's kernel costs the same at any depth.

    Args:
        kernel: a kernel of `mfcnn.kernels` with one depth.
        x: training inputs [n, ...].
        y: targets [n, k] or [n].
        ridge: relative to the mean of K's diagonal; not negative.
        get: "ntk" or "nngp".
        tolerance: of the residual |(K + lambda) a - y| / |y| of each output.
        progress: True writes a line an iteration to stdout.
        output_dir: a directory that keeps the state; the same call goes on from it.
        rank: columns of the preconditioner; None is 8 sqrt(n), at most n.
        block_size: rows and columns of a block in memory.
        max_iterations: products with K before giving up.
        seed: of the preconditioner's pivots.

    Returns:
        A `Solution` with coefficients, residual, error bound and `predict(x_test)`.

    Raises:
        ArithmeticError: "no digits left": the ridge is too small for the rounding of float64, or
            max_iterations did not suffice.
        ValueError: for arguments outside these ranges, or an output_dir of another problem.

    Example:
        >>> import mfcnn, numpy as np
        >>> kernel = mfcnn.kernels.fully_connected(3, "relu", 2.0, 0.1)
        >>> x = np.random.default_rng(0).standard_normal([100, 5])
        >>> solution = mfcnn.kernels.solve(kernel, x, x[:, 0], ridge=1e-4)
        >>> solution.residual < 1e-6, solution.predict(x[:2]).shape
        (True, (2,))
    """
    if not getattr(kernel, "config", None) or isinstance(kernel.config.get("depth"), tuple):
        raise ValueError(
            f"kernel must be a kernel of mfcnn.kernels with one depth. Received: kernel={kernel!r}"
        )
    x, targets = _finite(x), arguments.array("y", y)
    if targets.ndim not in (1, 2) or len(targets) != len(x) or not len(x):
        raise ValueError(
            f"y must be [{len(x)}] or [{len(x)}, k]. Received: y.shape={targets.shape}"
        )
    ridge = arguments.number("ridge", ridge, 0)
    tolerance = arguments.number("tolerance", tolerance, above=0)
    progress = arguments.boolean("progress", progress)
    output_dir = None if output_dir is None else arguments.path("output_dir", output_dir)
    most = arguments.integer("max_iterations", max_iterations, 1)
    seed = arguments.integer("seed", seed, 0)
    rank = _rank(len(x)) if rank is None else arguments.integer("rank", rank, 1)
    products = _products.Products(kernel, x, None, get, block_size)
    diagonal = products.diagonal()
    decided = {"ridge": ridge, "get": get, "rank": rank, "block_size": block_size, "seed": seed}
    store = _Store(output_dir, _problem(kernel, x, targets, **decided))
    system = _System(products, diagonal, ridge, rank, seed)
    state = _refine(system, targets.reshape(len(x), -1), tolerance, most, store, progress)
    return Solution(
        state.solution.reshape(targets.shape),
        state.worst,
        state.iterations,
        system.shift,
        state.worst / (2 * math.sqrt(ridge)) if ridge else math.inf,
        kernel,
        x,
        get,
    )


@dataclasses.dataclass
class _State:
    """Where the iteration stands: outer solution and residual, and the inner directions."""

    solution: np.ndarray
    residual: np.ndarray
    iterations: int
    worst: float
    step: np.ndarray
    inner: np.ndarray
    direction: np.ndarray
    energy: np.ndarray


class _System:
    """K + lambda I with its preconditioner, in the precision that the ridge lets."""

    def __init__(
        self, products: _products.Products, diagonal: np.ndarray, ridge: float, rank: int, seed: int
    ):
        self._products, self.shift = products, ridge * float(np.mean(diagonal))
        # Rounding of float32 entries moves eigenvalues by about eps sqrt(n) of the diagonal; the
        # refinement contracts while that is below the ridge.
        enough = 8 * np.finfo(np.float32).eps * math.sqrt(len(diagonal))
        self.dtype = "float32" if products.function and ridge > enough else "float64"
        factor = _preconditioner.partial_cholesky(
            products.columns, diagonal, rank, seed, self.dtype
        )
        self.precondition = _preconditioner.Preconditioner(factor, self.shift)

    def multiply(self, vectors: np.ndarray, dtype: str) -> np.ndarray:
        return self._products(vectors, dtype) + self.shift * vectors


def _refine(
    system: _System,
    targets: np.ndarray,
    tolerance: float,
    most: int,
    store: "_Store",
    progress: bool,
) -> _State:
    scale = np.linalg.norm(targets, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    state = store.load() or _start(np.zeros_like(targets), targets.copy(), system, 0, 1.0)
    while state.worst > tolerance:
        goal = np.maximum(_INNER * np.linalg.norm(state.residual, axis=0), tolerance / 4 * scale)
        while np.any(np.linalg.norm(state.inner, axis=0) > goal):
            if state.iterations >= most:
                raise ArithmeticError(_gave_up(state, most, tolerance))
            _conjugate_step(system, state)
            store.save(state)
            if progress:
                inner = np.max(np.linalg.norm(state.inner, axis=0) / scale)
                print(f"iteration {state.iterations}: residual {inner:.3g}", flush=True)
        solution = state.solution + state.step
        residual = targets - system.multiply(solution, "float64")
        worst = float(np.max(np.linalg.norm(residual, axis=0) / scale))
        if tolerance < worst > _STALLED * state.worst:
            raise ArithmeticError(
                f"no digits left: the residual stays at {worst:.2g}, above tolerance={tolerance:g}."
                " The ridge is too small for the rounding of the kernel: use a larger ridge (ten"
                " times as large, then again), a larger tolerance, or fewer near-duplicates in x."
            )
        state = _start(solution, residual, system, state.iterations + 1, worst, state)
        store.save(state)
        if progress:
            print(f"iteration {state.iterations}: residual {worst:.3g} in float64", flush=True)
    return state


def _start(
    solution: np.ndarray,
    residual: np.ndarray,
    system: _System,
    iterations: int,
    worst: float,
    before: _State | None = None,
) -> _State:
    """A round of conjugate gradients, which goes on in the directions of the one before.

    The residual alone is another one: what rounding had hidden is added to it and, by the
    preconditioner, to the direction.
    """
    preconditioned = system.precondition(residual)
    direction = preconditioned
    if before is not None:
        direction = before.direction + system.precondition(residual - before.inner)
    energy = np.einsum("ij,ij->j", residual, preconditioned)
    step = np.zeros_like(solution)
    return _State(solution, residual, iterations, worst, step, residual, direction, energy)


def _conjugate_step(system: _System, state: _State) -> None:
    """One step of preconditioned conjugate gradients, for each output by itself."""
    image = system.multiply(state.direction, system.dtype)
    curvature = np.einsum("ij,ij->j", state.direction, image)
    length = np.divide(state.energy, curvature, out=np.zeros_like(curvature), where=curvature > 0)
    state.step = state.step + length * state.direction
    state.inner = state.inner - length * image
    preconditioned = system.precondition(state.inner)
    energy = np.einsum("ij,ij->j", state.inner, preconditioned)
    ratio = np.divide(energy, state.energy, out=np.zeros_like(energy), where=state.energy > 0)
    state.direction = preconditioned + ratio * state.direction
    state.energy = energy
    state.iterations += 1


def _finite(x: Any) -> np.ndarray:
    """The inputs, in a dtype of their own if they are floats: a large array is not copied."""
    array = x if isinstance(x, np.ndarray) and x.dtype.kind == "f" else arguments.array("x", x)
    if not np.isfinite(np.sum(array, dtype=np.float64)):
        raise ValueError("x must be finite. Received NaN or infinite values.")
    return array


def _rank(count: int) -> int:
    return min(count, max(1, round(8 * math.sqrt(count))))


def _gave_up(state: _State, most: int, tolerance: float) -> str:
    return (
        f"the residual is {state.worst:.2g} after max_iterations={most} products, above "
        f"tolerance={tolerance:g}: use a larger ridge, a larger rank or more iterations."
    )


def _problem(kernel: Any, x: np.ndarray, targets: np.ndarray, **rest: Any) -> dict[str, Any]:
    """All that decides the answer, as plain data."""
    data = {"x": _identity.describe_array(x), "y": _identity.describe_array(targets)}
    return {"kernel": repr(kernel), **_identity.describe(kernel.config), **data, **rest}


class _Store:
    """The state in a file, replaced as a whole; None keeps nothing."""

    def __init__(self, output_dir: Any, problem: dict[str, Any]):
        self._problem, self._output_dir = problem, output_dir
        self._path = None if output_dir is None else os.path.join(output_dir, "solve.npz")
        if output_dir is not None:
            os.makedirs(output_dir, exist_ok=True)

    def load(self) -> _State | None:
        if self._path is None or not os.path.exists(self._path):
            return None
        with np.load(self._path) as stored:
            differs = _identity.difference(json.loads(str(stored["problem"])), self._problem)
            if differs:
                raise ValueError(
                    f"output_dir holds the state of another problem, where {'; '.join(differs)}. "
                    f"Use a directory of its own. Received: output_dir={str(self._output_dir)!r}"
                )
            values = {name: stored[name] for name in stored.files if name != "problem"}
        return _State(
            **values | {"iterations": int(values["iterations"]), "worst": float(values["worst"])}
        )

    def save(self, state: _State) -> None:
        if self._path is None:
            return
        buffer = io.BytesIO()
        np.savez(buffer, problem=json.dumps(self._problem), **dataclasses.asdict(state))
        partial = f"{self._path}.{os.getpid()}"
        with open(partial, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path)
