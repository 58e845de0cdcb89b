"""What neural-tangents gives for the networks of `test_neural_tangents.py`, as JSON.

    PATH -m tests.site.neural_tangents_values > tests/site/neural_tangents.json

PATH is a Python with neural-tangents 0.6.5 and jax 0.4.30. For each network NNGP and then NTK at
the pairs (0, 1) and (1, 2) of `inputs`, in float64, with W_std^2 = 1.5 and b_std^2 = 0.1; and every
public name of the library.
"""

import json
from collections.abc import Callable

import numpy as np

W, B = 1.5**0.5, 0.1**0.5


def inputs(shape: tuple[int, ...]) -> np.ndarray:
    """Three inputs of mean square near one."""
    return np.random.default_rng(0).normal(size=(3, *shape))


def main() -> None:
    """Prints the values."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import neural_tangents as nt
    from jax import numpy as jnp
    from neural_tangents import stax

    def dense() -> tuple:
        return stax.Dense(1, W, B)

    def wave(x: jnp.ndarray) -> jnp.ndarray:
        return jnp.tanh(x) + x / 4

    functions = {
        "ABRelu": stax.ABRelu(-0.5, 1.5),
        "Abs": stax.Abs(),
        "Cos": stax.Cos(),
        "ElementwiseNumerical": stax.ElementwiseNumerical(wave, deg=60),
        "Erf": stax.Erf(0.7, 1.3, 0.2),
        "Exp": stax.Exp(1.0, 0.5),
        "Gabor": stax.Gabor(),
        "Gaussian": stax.Gaussian(),
        "Gelu": stax.Gelu(),
        "Identity": stax.Identity(),
        "LeakyRelu": stax.LeakyRelu(0.1),
        "Monomial": stax.Monomial(3),
        "Polynomial": stax.Polynomial([0.5, 0.25, 0.1]),
        "Rbf": stax.Rbf(0.7),
        "RectifiedMonomial": stax.RectifiedMonomial(2),
        "Relu": stax.Relu(),
        "Sigmoid_like": stax.Sigmoid_like(),
        "Sign": stax.Sign(),
        "Sin": stax.Sin(1.2, 0.8, 0.3),
    }
    found = {
        name: values(stax.serial(stax.Dense(1, W, B), function, dense()), (6,))
        for name, function in functions.items()
    }

    def attention(mechanism: str) -> tuple:
        return stax.GlobalSelfAttention(
            *(1, 1, 1, 1),
            W_key_std=0.8,
            W_query_std=1.1,
            W_value_std=W,
            b_std=B,
            attention_mechanism=mechanism,
        )

    conv, relu = stax.Conv(1, (3, 3), (1, 1), "SAME", W, B), stax.Relu()
    start, flat = (conv, relu), (stax.Flatten(), dense())
    branch = stax.serial(relu, conv)
    sums = (conv, stax.FanOut(2), stax.parallel(stax.Identity(), branch), stax.FanInSum())
    two = (stax.FanOut(2), stax.parallel(conv, conv))
    networks = {
        "Dense": (stax.Flatten(), dense(), relu, dense()),
        "Conv": (*start, stax.Conv(1, (3, 3), (2, 1), "VALID", W, B), relu, *flat),
        "Conv CIRCULAR": (stax.Conv(1, (3, 3), (1, 1), "CIRCULAR", W, B), relu, *flat),
        "AvgPool": (*start, stax.AvgPool((2, 2), (2, 2)), *start, *flat),
        "SumPool": (*start, stax.SumPool((2, 2), (2, 2)), *start, *flat),
        "GlobalAvgPool": (*start, *start, stax.GlobalAvgPool(), dense()),
        "GlobalSumPool": (*start, *start, stax.GlobalSumPool(), dense()),
        "Flatten": (*start, *flat),
        "FanInSum": (*sums, relu, *flat),
        "FanInConcat": (*start, *two, stax.FanInConcat(-1), *start, *flat),
        "FanInProd": (*start, *two, stax.FanInProd(), *start, *flat),
        "LayerNorm": (conv, stax.LayerNorm(), relu, *start, *flat),
        "ImageResize": (*start, stax.ImageResize((-1, 8, 8, -1), "nearest"), *start, *flat),
        "Slice": (*start, stax.Index(stax.Slice[:, 1:, :3]), *start, *flat),
        "Index": (*start, stax.Index(stax.Slice[:, 1, 2]), dense()),
        "DotGeneral": (*start, stax.DotGeneral(rhs=MATRIX, dimension_numbers=DIMENSIONS), *flat),
        "ConvTranspose": (
            *start,
            stax.ConvTranspose(1, (2, 2), (2, 2), "VALID", W, B),
            relu,
            *flat,
        ),
        "GlobalSelfAttention": (*start, attention("SOFTMAX"), relu, *flat),
        "AttentionMechanism": (conv, attention("RELU"), relu, *flat),
        "attention ABS": (conv, attention("ABS"), relu, *flat),
        "attention IDENTITY": (conv, attention("IDENTITY"), relu, *flat),
        "repeat": (*start, stax.repeat(stax.serial(conv, relu), 5), *flat),
    }
    for name, layers in networks.items():
        found[name] = values(stax.serial(*layers), (4, 4, 2))
    sequence = stax.Dense(1, W, B), attention("SOFTMAX"), relu, stax.GlobalAvgPool(), dense()
    found["masks"] = values(stax.serial(*sequence), (5, 2), masked, 0.0)
    names = {
        module.__name__.replace("neural_tangents", "nt"): sorted(
            name for name in dir(module) if not name.startswith("_")
        )
        for module in (nt, stax, nt.predict, nt.experimental)
    }
    print(json.dumps({"version": nt.__version__, "names": names, "values": found}, indent=1))


# What DotGeneral does to the first image axis: the order of its outputs is (b, y', x, c).
MATRIX = np.array([[0.5, 0.5, 0, 0], [0, 1.0, 0, 0], [0, 0.25, 0.5, 0.25]])
DIMENSIONS = (((1,), (1,)), ((), ()))


def masked(shape: tuple[int, ...]) -> np.ndarray:
    """The inputs with zeros at some positions, which a mask leaves out."""
    x = inputs(shape)
    x[0, 3:] = x[1, 1] = x[2, :2] = 0.0
    return x


def values(
    network: tuple,
    shape: tuple[int, ...],
    make: Callable[[tuple[int, ...]], np.ndarray] = inputs,
    mask_constant: float | None = None,
) -> list[float]:
    """NNGP and then NTK at two pairs."""
    kernel = network[2](make(shape), None, ("nngp", "ntk"), mask_constant=mask_constant)
    return [float(matrix[i, i + 1]) for matrix in (kernel.nngp, kernel.ntk) for i in range(2)]


if __name__ == "__main__":
    main()
