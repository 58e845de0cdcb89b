"""The training step compiles for TPUs that are not there; its figures are what they should be."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from experiments import vanilla
from mfcnn import data
from tpu import compile_check, slices

ROOT = pathlib.Path(__file__).parents[2]

# An interpreter that has jax and libtpu, where they are not beside TensorFlow.
PYTHON = os.environ.get("TPU_CHECK_PYTHON", sys.executable)


def has(*packages):
    program = f"import importlib.metadata as m; [m.version(name) for name in {packages}]"
    return subprocess.run([PYTHON, "-c", program], stderr=subprocess.DEVNULL).returncode == 0


needs_libtpu = pytest.mark.skipif(
    not has("jax", "libtpu"),
    reason="jax and libtpu are not installed: pip install '.[tpu-check]', or set TPU_CHECK_PYTHON",
)


def configuration(*arguments):
    """The main job's flags from a command line, flagfiles included, as the check sees them."""
    values = flags.FlagValues()
    vanilla.define_flags(values)
    for name, default in compile_check.DEFAULTS.items():
        values.set_default(name, default)
    values(["check", *arguments])
    return {name: values[name].value for name in values}


SMALL = ("--depth=40", "--filters=8", "--batch_size=8", "--dataset=digits")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_lowered_step_has_one_size_for_every_depth_and_fills_no_variable(precision):
    texts = [
        compile_check.lower(
            configuration(*SMALL, f"--depth={depth}", f"--precision={precision}"), 4
        )[0]
        for depth in (1_000, 1_000_000)
    ]
    lengths = [text.count("\n") for text in texts]
    # Only the digits of the sizes differ, and a remainder of the parts in the sum over replicas.
    assert lengths[1] < 1.2 * lengths[0]
    assert "tensor<1000000x3x3x8x8xf32>" in texts[1]  # variables stay float32
    assert ("xbf16>" in texts[1]) == (precision == "bfloat16")
    for word in ("all_reduce", "while"):
        assert f"stablehlo.{word}" in texts[1]
    for dynamic in ("tensor<?", "dynamic_reshape", "custom_call"):
        assert dynamic not in texts[1]


@needs_libtpu
def test_the_real_step_compiles_for_four_chips():
    report = compile_check.check(configuration(*SMALL), "v5e:2x2", python=PYTHON)
    assert report.fits and report.replicas == 4
    assert re.search(r"compiles for v5e:2x2: yes", str(report))
    # Weights and both slots of Adam, updated in place; not less, and padding at most.
    variables = 3 * 4 * report.parameters
    assert variables < report.compiled["arguments"]
    assert report.compiled["aliased"] >= variables
    assert report.hbm < 0.05 * report.available


@needs_libtpu
def test_flops_are_those_of_the_compiler_where_there_is_no_loop():
    config = configuration("--depth=1", "--filters=128", "--batch_size=32", "--optimizer=sgd")
    report = compile_check.check(config, "v5e:1x1", python=PYTHON)
    # Three times the forward pass but the first layer's input gradient; elementwise work on top.
    assert report.compiled["flops_of_loops_once"] == pytest.approx(
        3 * report.forward_flops, rel=0.1
    )


@needs_libtpu
def test_spread_over_the_chips_a_stack_takes_a_part_of_the_memory(capsys):
    config = configuration(*SMALL, "--depth=20000", "--filters=32", "--shard_stack")
    compile_check.print_hbm(config, "v5e:2x2", python=PYTHON)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "HBM a chip against the number of replicas, 2 images a chip:"
    one, four = (float(re.search(r": ([\d.]+) GiB", line)[1]) for line in lines[1:])
    # Weights, slots and gradient, of 4 bytes, are a quarter; what does not shrink is small.
    saved = 0.75 * 4 * 4 * 20_000 * (9 * 32 + 1) * 32 / 2**30
    assert one - four > 0.9 * saved


@pytest.mark.parametrize(
    ("topology", "names"),
    [
        ("v5e:16x16", "1x1 2x2 4x4 8x8 16x16"),
        ("v5p:2x2x4", "1x1x1 1x1x2 2x2x4"),
        ("v5e:1x1", "1x1"),
    ],
)
def test_smaller_slices_have_halved_sides(topology, names):
    kind = slices.kind_of(topology)
    assert slices.smaller_slices(topology) == [f"{kind}:{name}" for name in names.split()]


@needs_libtpu
def test_a_network_that_does_not_fit_says_so():
    config = configuration(*SMALL, "--depth=1000000", "--filters=128")
    report = compile_check.check(config, "v5e:2x2", python=PYTHON)
    assert not report.fits and report.available == 15.75 * 2**30
    assert "NO" in str(report) and "more than 15.75 GiB" in str(report)


def test_a_python_without_libtpu_is_told_what_to_install(tmp_path):
    empty = tmp_path / "python"
    answer = json.dumps({"missing": ["jax", "libtpu"]})
    empty.write_text(f"#!/bin/sh\necho '{answer}'\n")
    empty.chmod(0o755)
    with pytest.raises(
        compile_check.CheckError, match=r"no jax and no libtpu: pip install .*tpu-check"
    ):
        compile_check.check(configuration(*SMALL), "v5e:2x2", python=str(empty))


@pytest.mark.parametrize(
    ("topology", "devices"),
    [("v5e:2x2", 4), ("v5p:2x2x4", 16), ("v4:2x2x1", 8), ("v5e", 0), ("2x2", 0), ("v5e:2x", 0)],
)
def test_devices_are_counted_from_the_name(topology, devices):
    assert slices.device_count(topology) == devices


def test_a_batch_that_chips_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size=10 is not a multiple of the 4 replicas"):
        compile_check.lower(configuration(*SMALL, "--batch_size=10"), 4)


@pytest.mark.parametrize("topology", ["v5e:2x2", "v3:2x2"], ids=["memory known", "unknown"])
@pytest.mark.parametrize("start", [3, 100_000])
def test_the_largest_depth_is_found_by_compiling_a_few(topology, start, monkeypatch):
    border, compiled = 1234, []

    def check(config, topology):
        compiled.append(config["depth"])
        used = dict.fromkeys(("temporaries", "code", "outputs", "aliased"), 0)
        used["arguments"] = config["depth"] * slices.HBM["v5e"] * 2**30 / (border + 0.5)
        error = "RESOURCE_EXHAUSTED" if config["depth"] > border else ""
        return compile_check.Report(topology, 4, 0, 0, used, error)

    monkeypatch.setattr(compile_check, "check", check)
    depth, report = compile_check.largest_depth({"depth": start}, topology)
    assert 0.98 * border <= depth <= border and report.fits
    assert depth in compiled and len(compiled) < 20


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_image_shapes_are_those_of_the_data(name):
    try:
        dataset = data.load(name, 10, download=False)
    except data.DatasetNotPreparedError:
        pytest.skip(f"{name} is not prepared")
    assert dataset.image_shape == compile_check.IMAGES[name]
    assert dataset.classes == compile_check.CLASSES


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tpu" / "configs").glob("*_v*.flags")), ids=lambda p: p.stem
)
def test_configurations_are_flags_of_the_main_job_for_their_slice(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configuration(f"--flagfile={path}")
    chips = int(path.stem.rpartition("_")[2])
    assert config["strategy"] == "tpu" and config["batch_size"] % chips == 0
    assert f"_{config['depth']}_" in path.stem and path.stem.rpartition("_v")[0]
