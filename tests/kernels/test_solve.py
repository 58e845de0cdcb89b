"""Kernel regression without the kernel: against direct solutions, killed runs, no digits left."""

import numpy as np
import pytest

import mfcnn
from mfcnn.kernels import _function, _products, _solve


def _sphere(count, features, seed=0):
    x = np.random.default_rng(seed).standard_normal([count, features])
    return x / np.sqrt(np.mean(x**2, axis=1, keepdims=True))


KERNELS = {
    "relu": mfcnn.kernels.fully_connected(5, "relu", 2.0, 0.1),
    "erf": mfcnn.kernels.fully_connected(20, "erf", 1.5, 0.1),
    "tanh": mfcnn.kernels.fully_connected(3, "tanh", 1.2, 0.05),
    "linear": mfcnn.kernels.fully_connected(0, "relu", 1.0, 0.5),
}


@pytest.mark.parametrize("get", ["nngp", "ntk"])
@pytest.mark.parametrize("name", KERNELS)
def test_the_function_of_the_angle_is_the_kernel(name, get):
    kernel, x = KERNELS[name], _sphere(30, 7)
    function = kernel.function(1.0, features=7)
    correlation = np.clip(x @ x.T / 7, -1, 1)
    np.fill_diagonal(correlation, 1.0)
    # Correlations are rounded: 1e-16, whose root is an angle. The series ends at 1e-13.
    expected = kernel(x, get=get).numpy()
    np.testing.assert_allclose(function(correlation, get=get), expected, rtol=1e-10)


def test_relu_at_depth_one_is_cho_and_saul():
    kernel = mfcnn.kernels.fully_connected(1, "relu", 2.0, 0.0)
    angle = np.linspace(0.01, np.pi - 0.01, 50)
    nngp, ntk = kernel.function(1.0)(np.cos(angle))
    exact = 2 * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
    np.testing.assert_allclose(nngp, exact, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(ntk, exact + 2 * np.cos(angle) * (1 - angle / np.pi), atol=1e-12)


def test_a_kernel_deep_in_chaos_has_no_series_and_says_so():
    kernel = mfcnn.kernels.fully_connected(100, "erf", 4.0, 0.05)
    with pytest.raises(_function.NotResolvedError, match="not resolved by 512 terms"):
        kernel.function(1.0)


def test_a_convolution_is_no_function_of_the_angle():
    kernel = mfcnn.kernels.convolutional(1, "relu", 2.0, 0.1)
    with pytest.raises(ValueError, match="sees inputs through norms and angles.*convolutional"):
        kernel.function()


@pytest.mark.parametrize("equal", [True, False], ids=["table", "blocks"])
@pytest.mark.parametrize("square", [True, False])
def test_products_are_those_of_the_whole_kernel(equal, square):
    kernel, x1 = KERNELS["relu"], _sphere(37, 5)
    x2 = None if square else _sphere(23, 5, seed=1)
    if not equal:
        x1 = x1 * np.linspace(0.5, 2, 37)[:, None]
    vectors = np.random.default_rng(2).standard_normal([37 if square else 23, 3])
    product = kernel.matvec(vectors, x1, x2, block_size=10)
    whole = kernel(x1, x2, get="ntk").numpy()
    scale = np.abs(whole) @ np.abs(vectors)
    assert np.all(np.abs(product - whole @ vectors) < 1e-10 * scale)
    assert kernel.matvec(vectors[:, 0], x1, x2, block_size=10).shape == (37,)
    route = _products.Products(kernel, x1, x2, "ntk", 10).function
    assert (route is not None) == equal


def test_products_of_images():
    kernel = mfcnn.kernels.convolutional(2, "relu", 2.0, 0.1, readout="pool")
    x = np.random.default_rng(0).standard_normal([7, 4, 4, 2])
    vector = np.arange(7.0)
    whole = kernel(x, get="nngp").numpy()
    product = kernel.matvec(vector, x, get="nngp", block_size=3)
    np.testing.assert_allclose(product, whole @ vector, rtol=1e-12)


@pytest.mark.parametrize(
    "name, ridge",  # the smallest ridge takes float64 products
    [
        ("relu", 1e-1),
        ("relu", 1e-6),
        ("tanh", 1e-3),
        pytest.param("tanh", 1e-6, marks=pytest.mark.slow),  # most iterations, slowest kernel
    ],
)
def test_solutions_are_the_direct_ones_within_the_bound(name, ridge):
    kernel, x = KERNELS[name], _sphere(300, 6)
    y = np.stack([x[:, 0], x[:, 1] * x[:, 2], np.zeros(300)], axis=1)
    solution = mfcnn.kernels.solve(kernel, x, y, ridge, tolerance=1e-7, rank=50, block_size=128)
    matrix = kernel(x, get="ntk").numpy()
    shift = ridge * np.mean(np.diag(matrix))
    regular = matrix + shift * np.eye(300)
    residual = np.linalg.norm(regular @ solution.coefficients - y, axis=0)
    assert np.all(residual <= 1.01e-7 * np.linalg.norm(y, axis=0) + 1e-30)
    assert solution.residual <= 1e-7 and solution.shift == pytest.approx(shift)
    x_test = _sphere(50, 6, seed=3)
    direct = kernel(x_test, x, get="ntk").numpy() @ np.linalg.solve(regular, y)
    error = np.abs(solution.predict(x_test) - direct)
    assert np.all(error <= solution.error_bound * np.linalg.norm(y, axis=0) + 1e-9)


def test_a_preconditioner_of_few_columns_saves_most_of_the_iterations():
    kernel, x = KERNELS["relu"], _sphere(400, 4)
    few, many = (
        mfcnn.kernels.solve(kernel, x, x[:, 0], 1e-4, rank=rank).iterations for rank in (1, 160)
    )
    assert many < few / 2


def test_outputs_may_depend_on_each_other():
    kernel, x = KERNELS["relu"], _sphere(100, 4)
    y = np.stack([x[:, 0], x[:, 1], x[:, 0] + x[:, 1], x[:, 0] * (1 + 1e-12), 1e-9 * x[:, 2]], 1)
    solution = mfcnn.kernels.solve(kernel, x, y, 1e-2, tolerance=1e-10)
    matrix = kernel(x, get="ntk").numpy() + solution.shift * np.eye(100)
    residual = np.linalg.norm(matrix @ solution.coefficients - y, axis=0)
    assert np.all(residual < 2e-10 * np.linalg.norm(y, axis=0))


def test_nothing_to_explain_is_zero_at_once():
    solution = mfcnn.kernels.solve(KERNELS["relu"], _sphere(20, 4), np.zeros([20, 2]), 1e-3)
    assert not np.any(solution.coefficients)


class _KilledError(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_killed_solution_goes_on_and_ends_with_the_same_bits(after, tmp_path, monkeypatch):
    kernel, x = KERNELS["relu"], _sphere(200, 4)
    arguments = (kernel, x, x[:, :2], 1e-4)
    whole = mfcnn.kernels.solve(*arguments, rank=20)
    save, saved = _solve._Store.save, []

    def dying(store, state):
        save(store, state)
        saved.append(state.iterations)
        if len(saved) == after:
            raise _KilledError

    monkeypatch.setattr(_solve._Store, "save", dying)
    with pytest.raises(_KilledError):
        mfcnn.kernels.solve(*arguments, rank=20, output_dir=tmp_path)
    monkeypatch.setattr(_solve._Store, "save", save)
    again = mfcnn.kernels.solve(*arguments, rank=20, output_dir=tmp_path)
    np.testing.assert_array_equal(again.coefficients, whole.coefficients)
    assert again.iterations == whole.iterations


@pytest.mark.parametrize("changed", ["kernel", "x", "y", "ridge", "get", "rank", "seed"])
def test_another_problem_does_not_take_the_stored_state(changed, tmp_path):
    x = _sphere(60, 4)
    problem = {"kernel": KERNELS["relu"], "x": x, "y": x[:, 0], "ridge": 1e-3, "rank": 5}
    mfcnn.kernels.solve(**problem, output_dir=tmp_path)
    other = {
        "kernel": mfcnn.kernels.fully_connected(5, "relu", 2.0, 0.2),
        "x": _sphere(60, 4, seed=1),
        "y": x[:, 1],
        "ridge": 2e-3,
        "get": "nngp",
        "rank": 6,
        "seed": 1,
    }
    named = "kernel|bias_variance" if changed == "kernel" else changed
    with pytest.raises(ValueError, match=f"another problem, where ({named}) is"):
        mfcnn.kernels.solve(**problem | {changed: other[changed]}, output_dir=tmp_path)


def test_duplicates_without_ridge_leave_no_digits():
    x = np.repeat(_sphere(40, 3), 2, axis=0)
    y = np.random.default_rng(0).standard_normal(80)
    with pytest.raises(ArithmeticError, match="no digits left|max_iterations"):
        mfcnn.kernels.solve(KERNELS["relu"], x, y, 0.0, rank=10, max_iterations=500)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ridge": -1}, "ridge must be"),
        ({"ridge": np.nan}, "ridge must be"),
        ({"tolerance": 0}, "tolerance must be"),
        ({"y": np.zeros(3)}, r"y must be \[5\]"),
        ({"y": np.full(5, np.nan)}, "y must be finite"),
        ({"x": np.full([5, 2], np.nan)}, "x must be finite"),
        ({"rank": 0}, "rank must be"),
        ({"rank": 2.5}, "rank must be"),
        ({"block_size": 0}, "block_size must be"),
        ({"max_iterations": 0}, "max_iterations must be"),
        ({"seed": -1}, "seed must be"),
        ({"get": "both"}, "get must be"),
        ({"kernel": None}, "kernel must be"),
        ({"kernel": mfcnn.kernels.fully_connected([1, 2], "relu", 2.0, 0.0)}, "one depth"),
    ],
)
def test_bad_arguments_are_refused_by_name(changes, message):
    x = _sphere(5, 2)
    problem = {"kernel": KERNELS["relu"], "x": x, "y": x[:, 0], "ridge": 1e-3}
    with pytest.raises(ValueError, match=message):
        mfcnn.kernels.solve(**problem | changes)
