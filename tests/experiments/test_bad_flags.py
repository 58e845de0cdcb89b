"""Every flag of every binary refuses nonsense in one line, before anything is written."""

import contextlib
import importlib
import pathlib
import re

import pytest
from absl import flags

from experiments import binary
from tests.experiments.running import run

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
NAMES = sorted(
    p.stem
    for p in FOLDER.glob("*.py")
    if re.search(r"^    binary.start", p.read_text(), re.MULTILINE)
)
TPU = ["tpu.launch", "tpu.compile_check", "tpu.execute"]
# Texts of any kind, which only their use can tell.
FREE = {"tpu", "worker_logs", "python", "hosts", "export", "initial_weights"}


def module_of(name):
    return importlib.import_module(name if "." in name else f"experiments.{name}")


@contextlib.contextmanager
def defined(module):
    """The flags of a binary, and no others; yields a dict of them by name."""
    values = flags.FLAGS
    kept = {flag.name: flag for flag in binary._own_flags()}
    for name in kept:
        delattr(values, name)
    try:
        module.define_flags()
        own = {flag.name: flag for flag in binary._own_flags()}
        yield own
    finally:
        for name in own:
            delattr(values, name)
        for name, flag in kept.items():
            values[name] = flag


def nonsense(flag):
    """Values that a flag must refuse, by what it takes."""
    parser, kind = flag.parser, type(flag.parser).__name__
    if kind == "IntegerParser":
        assert parser.lower_bound is not None, f"--{flag.name} has no bound"
        return ["x", "1.5", "nan", "", str(parser.lower_bound - 1)]
    if kind == "FloatParser":
        assert None not in (parser.lower_bound, parser.upper_bound), f"--{flag.name} has no range"
        return ["x", "nan", "inf", "-inf", "", "-1", "1e30", str(2 * parser.upper_bound)]
    if kind in ("ListParser", "WhitespaceSeparatedListParser"):
        none = [] if flag.name == "strides" else [""]  # a network may be without a stem
        return [*none, "nothing", "1,nothing", "-1", "nan", "1e30", "1" + 30 * "0"]
    if kind == "EnumParser":
        return ["nothing", ""]
    if kind == "BooleanParser":
        return ["maybe"]
    return {"output_dir": [""], "learning_rate": ["", "fast", "0", "-1", "nan", "inf", "1e30"]}.get(
        flag.name, ["", "nothing"]
    )


@pytest.mark.parametrize("name", NAMES + TPU)
def test_every_flag_refuses_nonsense_in_one_line(name, capsys):
    needed = ["--processes=1"] if name == "tpu.launch" else []
    count = 0
    with defined(module_of(name)) as own:
        for flag in own.values():
            for value in [] if flag.name in FREE else nonsense(flag):
                given = [n for n in needed if not n.startswith(f"--{flag.name}=")]
                for other in own.values():
                    other.unparse()
                with pytest.raises(SystemExit) as error:
                    binary._parse(["binary", *given, f"--{flag.name}={value}"])
                words = capsys.readouterr().err
                assert error.value.code == 1, (flag.name, value)
                assert flag.name in words and words.count("\n") == 1, (flag.name, value, words)
                count += 1
    print(f"{name}: {len(own)} flags, {count} values")


NETWORKS = ["orthogonal_speed", "train_depths", "trainability", "variance_profiles", "train"]
SMALL = ["--dataset=digits", "--filters=2", "--steps=1", "--subset=40", "--test_subset=9"]
AT_RUN_TIME = [
    *[
        (name, [*SMALL, *bad], words)
        for name in NETWORKS
        for bad, words in (
            (["--batch_size=100000"], "batch_size must be at most"),
            (["--subset=100000"], "subset must be at most"),
            (["--test_subset=100000"], "test_subset must be at most"),
            (["--strategy=tpu", "--tpu=grpc://localhost:1"], "no TPU at"),
            (["--dataset=cifar10"], "cifar10"),
        )
    ],
    ("train", [*SMALL, "--fused"], "fused update knows"),
    ("train", [*SMALL, "--fused", "--optimizer=sgd", "--jit_compile"], "jit_compile"),
    ("train", [*SMALL, "--strategy=multiworker"], "TF_CONFIG"),
    ("linearization", ["--dataset=digits", "--train_size=100000"], "subset"),
    ("linearization", ["--dataset=cifar10"], "cifar10"),
    ("linearization", ["--dataset=digits", "--batch_size=5000"], "batch_size"),
    ("effective_rank", ["--dataset=digits", "--examples=100000"], "subset"),
    ("ntk_change", ["--examples=100000"], "subset"),
    ("ntk_prediction", ["--dataset=digits", "--train_size=100000"], "subset"),
    ("kernel_limits", ["--examples=100000"], "subset"),
    ("eigenvector_overlap", ["--test_size=100000"], "subset"),
    ("deep_predictor", ["--train_size=100000"], "subset"),
    ("learning_curves", ["--examples=100000"], "subset"),
    ("learning_rates", ["--dataset=digits", "--examples=100000"], "subset"),
    ("learning_rates", ["--dataset=digits", "--examples=1000"], "subset"),  # of the test split
    (
        "trainability_generalization",
        ["--dataset=digits", "--test_subset=9", "--batch_size=9999"],
        "batch_size",
    ),
    (
        "trainability_generalization",
        ["--dataset=digits", "--test_subset=9", "--kernel_size=9999"],
        "subset",
    ),
    ("output_variance", ["--examples=100000"], "subset"),
    ("weight_spectrum", ["--size=4", "--kernel_size=5"], "size"),
]


@pytest.mark.parametrize(("name", "arguments", "words"), AT_RUN_TIME)
def test_what_only_the_run_can_tell_leaves_nothing_behind(
    name, arguments, words, tmp_path, monkeypatch
):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_data"))
    monkeypatch.setattr("mfcnn.data.sources._why_unreachable", lambda url: "there is no network")
    with pytest.raises(binary._REASONS) as error:
        run(module_of(name), tmp_path / "run", *arguments)
    assert words in binary._line(error.value)
    assert not (tmp_path / "run").exists()


def test_rates_of_their_own_are_refused_where_they_would_not_be_heeded(tmp_path):
    fused = ["--outer_rate=10", "--optimizer=sgd", "--learning_rate=0.1", "--fused"]
    with pytest.raises(flags.IllegalFlagValueError, match="outer_rate needs.*not fused"):
        run(module_of("train"), tmp_path / "run", *SMALL, *fused)
