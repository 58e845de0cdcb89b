"""Every argument of every public function of training and data refuses nonsense by its name."""

import inspect

import keras
import numpy as np
import pytest

from mfcnn import data, models, training

DATA = data.load("digits", batch_size=8, subset=16, test_subset=8)
COUNTS = [0, -1, 1.5, 2.0, True, "2", float("nan"), [2]]
FLAGS = [0, 1, "yes", None, 2.0]
NAMES = ["nothing", "", 3, None, True]
RATES = [3, "fast", [0.1], {"logits": 0.0}, {"logits": "fast"}, {"nothing": 2.0}]
SEEDS = [-1, 0.5, True, "1", [1]]


def make_model():
    return models.vanilla_cnn((8, 8, 1), 2, 2, 10, seed=0)


def built():
    model = make_model()
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer


CALLS = {
    "Trainer": lambda **k: training.Trainer(
        make_model, lambda _: keras.optimizers.SGD(0.1), DATA, "never made", **k
    ),
    "TrainingStep": lambda **k: training.TrainingStep(*built(), **{"batch_size": 4, **k}),
    "make_strategy": training.make_strategy,
    "use_logical_cpus": training.use_logical_cpus,
    "ntk_learning_rate": lambda **k: training.ntk_learning_rate(
        make_model(), np.zeros([2, 8, 8, 1], "float32"), **k
    ),
    "extrapolated_learning_rate": lambda **k: training.extrapolated_learning_rate(
        **{
            "make_model": lambda depth: make_model(),
            "depth": 10,
            "images": np.zeros([2, 8, 8, 1], "float32"),
            **k,
        }
    ),
    "load": lambda **k: data.load(**{"name": "digits", "batch_size": 8, **k}),
    "load_arrays": lambda **k: data.load_arrays(**{"name": "digits", **k}),
    "train_batches": DATA.train_batches,
    "test_batches": DATA.test_batches,
    "arrays": DATA.arrays,
    "RunDirectory": lambda **k: training.RunDirectory("never made", **k),
}
BAD = {
    "Trainer": {
        **dict.fromkeys(["eval_every", "steps_per_execution"], [*COUNTS, None]),
        **dict.fromkeys(["checkpoint_every", "eval_batch_size"], COUNTS),
        **dict.fromkeys(["jit_compile", "fused", "verbose", "artifacts"], FLAGS),
        "loss": NAMES,
    },
    "TrainingStep": {
        "batch_size": [*COUNTS, None],
        "loss": NAMES,
        "fused": FLAGS,
        "compiled": NAMES[0:1] + [3],
    },
    "make_strategy": {"name": NAMES, "timeout": [0, -1, "1", True, float("nan")]},
    "use_logical_cpus": {"count": [*COUNTS, None]},
    "ntk_learning_rate": {
        "rho": [0, -0.1, float("nan"), "0.3", None, float("inf")],
        "iterations": [*COUNTS, None],
        "seed": [*SEEDS, None],
        "jit_compile": FLAGS,
        "rates": RATES,
    },
    "extrapolated_learning_rate": {
        "depth": [*COUNTS, None],
        "depths": [(0,), (1.5,), ("a",)],
        "rho": [0, -0.1, float("nan"), "0.3", None, float("inf")],
        "make_model": [None, 3],
        "jit_compile": FLAGS,
        "rates": RATES,
    },
    "load": {
        "name": NAMES,
        "batch_size": [*COUNTS, None, 10_000],
        "seed": [*SEEDS[1:], None],
        "subset": [*COUNTS, 10_000],
        "test_subset": [*COUNTS, 10_000],
        "resize": COUNTS,
        "shift": [-1, 0.5, True, "0", None, 8],
        "download": FLAGS,
    },
    "load_arrays": {
        "name": NAMES,
        "split": NAMES,
        "subset": [*COUNTS, 10_000],
        "seed": [*SEEDS[1:], None],
        "resize": COUNTS,
    },
    "train_batches": {"start_step": [-1, 0.5, True, "0", None]},
    "test_batches": {"batch_size": COUNTS},
    "arrays": {"split": NAMES, "subset": [*COUNTS, 10_000]},
    "RunDirectory": {
        "part": [(0, 0), (1, 1), (-1, 2), (0, 1.0), (True, 2)],
        "beat": [0, -1, True, "1", None, [1]],
    },
}
# Objects and paths, which are what they are; each is used, and fails, by its own methods.
OBJECTS = set(
    """
    make_model make_optimizer dataset output_dir strategy title model config optimizer images tpu
    data_dir cache_dir input_context self path file may_differ defaults
    """.split()
)


@pytest.mark.parametrize(
    ("function", "argument"), [(f, argument) for f, bad in BAD.items() for argument in bad]
)
def test_nonsense_is_refused_by_the_argument_and_its_value(function, argument):
    for value in BAD[function][argument]:
        with pytest.raises((TypeError, ValueError)) as error:
            CALLS[function](**{argument: value})
        named = "strategy" if function == "make_strategy" and argument == "name" else argument
        words = str(error.value)
        assert words.startswith(named) and "Received: " in words, (value, words)


@pytest.mark.parametrize("function", CALLS)
def test_no_argument_is_left_out(function):
    owner = {"train_batches": DATA, "test_batches": DATA, "arrays": DATA}.get(function)
    owner = owner or (data if function in data.__all__ else training)
    names = set(inspect.signature(getattr(owner, function)).parameters)
    assert names == (names & OBJECTS) | set(BAD[function])
