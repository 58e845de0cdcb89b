"""The pod's program, executed: what `experiments.train` computes, on any number of replicas."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

from experiments import train
from mfcnn import layers, models
from mfcnn.layers._sharded import ShardedStack, shard_stacks
from tests.tolerances import float32
from tests.tpu.test_compile_check import PYTHON, configuration, has
from tpu import execute, launch, lowering
from tpu.runner import arrays, directory, draws, state

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 3000  # seconds, for a machine that does much else
SMALL = ("--depth=12", "--filters=6", "--batch_size=16", "--subset=200", "--test_subset=40")


needs_jax = pytest.mark.skipif(
    not has("jax"),
    reason="jax is not installed: pip install '.[tpu-check]', or set TPU_CHECK_PYTHON",
)


def start(module, *arguments):
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run_execute(*arguments):
    process = start("tpu.execute", f"--python={PYTHON}", *arguments)
    output, errors = process.communicate(timeout=TIMEOUT)
    return process.returncode, output, errors


def run_train(*arguments):
    process = start("experiments.train", *arguments)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, errors
    return output


def losses(run):
    rows = np.genfromtxt(run / "metrics.csv", delimiter=",", names=True, ndmin=1)
    return np.stack([rows["train_loss"], rows["test_loss"]])


def variables(run, step):
    reader = tf.train.load_checkpoint(str(run / "checkpoints" / f"ckpt-{step}"))
    names = [n for n in reader.get_variable_to_shape_map() if n.startswith("variables/")]
    return {name: reader.get_tensor(name) for name in names}


def worst(found, expected):
    """The largest difference of two dicts of arrays, each over its array's largest entry."""
    assert set(found) == set(expected)
    floats = [name for name, value in expected.items() if value.dtype.kind == "f"]
    scale = {name: max(np.max(np.abs(expected[name])), 1e-30) for name in floats}
    return max(np.max(np.abs(found[n] - expected[n])) / scale[n] for n in floats)


# The program before it runs.


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("replicas", [1, 8])
def test_a_sharded_program_holds_a_part_of_each_layer(optimizer, replicas):
    config = configuration(*SMALL, f"--optimizer={optimizer}", "--shard_stack")
    step = lowering.make_step(config, (8, 8, 1), 10, replicas)
    width = -(-(9 * 6 * 6 + 6) // replicas)
    slots = {"sgd": 0, "momentum": 1, "adam": 2}[optimizer]
    assert len(step.shards) == 1 + slots
    for path, parts in step.shards.items():
        assert step.variables[path].shape == (12, width)
        assert [part.replace("kernel", "bias") for part in parts[:1]] == parts[1:]
    unsharded = lowering.make_step({**config, "shard_stack": False}, (8, 8, 1), 10, replicas)
    held = {part for parts in step.shards.values() for part in parts}
    assert held | (set(step.variables) - set(step.shards)) == set(unsharded.variables)
    program = step.train()
    assert set(program.arguments) == set(step.variables)
    for word in ("all_reduce", "reduce_scatter", "replica_id"):
        assert (f"stablehlo.{word}" in program.text) == (replicas > 1)
    assert (
        f"tensor<12x{width}xf32>" in program.text and "tensor<12x3x3x6x6xf32>" not in program.text
    )
    assert "/" + "site-packages" not in program.text


@pytest.mark.parametrize("stack", [layers.DeepConvolution, layers.DeepDense])
def test_one_replica_holds_all_of_a_stack_and_computes_the_same(stack):
    shape = (4, 4, 3) if stack is layers.DeepConvolution else (3,)
    inputs = keras.Input(shape)
    outputs = stack(7, 3, bias_initializer="random_normal", name="stack")(inputs)
    model = keras.Model(inputs, outputs)
    sharded = shard_stacks(model, 1)
    (layer,) = [x for x in sharded.layers if isinstance(x, ShardedStack)]
    weights = [w.numpy() for w in model.get_layer("stack").weights]
    layer.shard.assign(state.split_shards(weights, 1)[0])
    x = tf.random.stateless_normal([2, *shape], [1, 2])
    results = []
    for each in (model, sharded):
        with tf.GradientTape() as tape:
            y = each(x)
            loss = tf.reduce_sum(y**2)
        own = [v.value for v in each.trainable_variables]
        results.append((y, [g.numpy() for g in tape.gradient(loss, own)]))
    (y, gradients), (sharded_y, (part,)) = results
    np.testing.assert_allclose(sharded_y, y, rtol=float32.summed)
    whole = state.split_shards(gradients, 1)[0]
    np.testing.assert_allclose(part, whole, atol=float32.summed * np.max(np.abs(whole)))


def test_constraints_and_models_without_a_stack_are_refused():
    model = models.vanilla_cnn((8, 8, 1), 3, 4, 10, kernel_constraint="max_norm")
    with pytest.raises(ValueError, match="no constraints and no regularizers"):
        shard_stacks(model, 2)
    with pytest.raises(ValueError, match="needs a model with a DeepConvolution"):
        shard_stacks(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), 2)


@pytest.mark.parametrize("replicas", [1, 3, 8])
def test_shards_join_to_what_was_split(replicas):
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=(5, 3, 3, 2, 2)), generator.normal(size=(5, 2))]
    shards = state.split_shards(parts, replicas)
    assert shards.shape == (replicas, 5, -(-38 // replicas))
    for found, part in zip(state.join_shards(shards, [p.shape[1:] for p in parts]), parts):
        np.testing.assert_array_equal(found, part)


# What the runner draws.


def singular_values(kernel, size=4):
    """Those of the circular convolution of images [size, size], by its Fourier symbol."""
    c = kernel.shape[-1]
    symbols = np.zeros((size, size, c, c), complex)
    for u, v in np.ndindex(size, size):
        for i, j in np.ndindex(kernel.shape[:2]):
            symbols[u, v] += kernel[i, j] * np.exp(2j * np.pi * (u * i + v * j) / size)
    return np.linalg.svd(symbols, compute_uv=False)


@pytest.mark.parametrize("name", ["delta_orthogonal", "orthogonal"])
def test_drawn_kernels_keep_norms_and_layers_do_not_depend_on_depth(name):
    law = {"name": name, "gain": 1.5, "seed": 3}
    stack = draws.draw(law, (4, 3, 3, 5, 5), "float32", 0, 4)
    for kernel in stack:
        np.testing.assert_allclose(singular_values(kernel), 1.5, rtol=float32.summed)
    np.testing.assert_array_equal(draws.draw(law, (9, 3, 3, 5, 5), "float32", 1, 3), stack[1:3])
    assert not np.allclose(stack[0], stack[1])
    outside = np.delete(stack.reshape(4, 9, 25), 4, axis=1)
    assert (not np.any(outside)) == (name == "delta_orthogonal")


def test_drawn_gaussians_have_the_deviations_of_their_taps():
    stddev = [[0.0, 1.0], [2.0, 3.0]]
    law = {"name": "gaussian", "stddev": stddev, "seed": 0}
    stack = draws.draw(law, (50, 2, 2, 10, 10), "float64", 0, 50)
    found = stack.std(axis=(0, 3, 4))
    # The relative standard error of a deviation from n draws is 1 / sqrt(2 n).
    np.testing.assert_allclose(found, stddev, rtol=5 / np.sqrt(2 * 5000))


def test_the_two_newest_checkpoints_are_kept_and_none_half_written(tmp_path):
    checkpoints = arrays.Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    for step in (5, 10, 15):
        folder = checkpoints.begin(step)
        arrays.write_array(folder, "count", np.array(step))
        for start in (0, 2):
            rows = np.full([2, 2], step + start)
            arrays.write_rows(folder, "deep/kernel", (4, 2), start, rows)
        checkpoints.end(step, {"rows": "a\nb"})
    arrays.write_array(checkpoints.begin(20), "count", np.array(20))
    step, values, extra = checkpoints.newest()
    assert step == 15 and values["count"] == 15 and extra == {"rows": "a\nb"}
    assert values["deep/kernel"].tolist() == [[15, 15]] * 2 + [[17, 17]] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".state-20.partial",
        "state-10",
        "state-15",
    ]
    checkpoints.remove()
    assert not list(tmp_path.iterdir())


# What is refused.


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"devices": 3}, "batch_size must be a multiple of the 3 devices"),
        ({"python": "/nowhere/python"}, "cannot be started"),
        ({"python": "/bin/false"}, "has no jax: pip install .*tpu-check"),
    ],
)
def test_what_cannot_be_executed_is_refused_before_anything_is_written(machine, words, tmp_path):
    with pytest.raises((ValueError, RuntimeError), match=words):
        execute.run(configuration(*SMALL), str(tmp_path / "run"), execute.Machine(**machine))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_there_is_not_written_to(tmp_path):
    with pytest.raises(FileExistsError, match="is there already: give a new folder"):
        execute.write_folder(configuration(*SMALL), tmp_path, execute.Machine())


def test_tensorflows_own_training_holds_whole_networks(tmp_path):
    with pytest.raises(ValueError, match="trained by `python -m tpu.execute --platform=tpu`"):
        train.run(configuration(*SMALL, "--shard_stack"), str(tmp_path / "run"))


@pytest.mark.parametrize("other", ["--strategy=default", "--fused"])
def test_flags_that_do_not_go_together_are_refused(other):
    with pytest.raises(flags.IllegalFlagValueError, match="shard_stack needs strategy=tpu"):
        configuration(*SMALL, "--shard_stack", other)


def test_the_runner_keeps_to_one_configuration_and_one_process(tmp_path):
    folder, run = tmp_path / "folder", tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text('{"depth": 3, "steps": 10}')
    lock = directory.take_directory(folder, run, ["steps"])
    with pytest.raises(ValueError, match="another process trains in"):
        directory.take_directory(folder, run, ["steps"])
    lock.close()
    (folder / "config.json").write_text('{"depth": 3, "steps": 20}')
    directory.take_directory(folder, run, ["steps"]).close()
    (folder / "config.json").write_text('{"depth": 4, "steps": 20}')
    with pytest.raises(ValueError, match="another configuration .depth: 3 there, 4 now"):
        directory.take_directory(folder, run, ["steps"])


# The program as it runs.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs of `experiments.train` by optimizer, rows at each of 50 steps."""
    found = {}

    def run(optimizer):
        if optimizer not in found:
            path = tmp_path_factory.mktemp("train")
            run_train(*FIFTY, f"--optimizer={optimizer}", to(path))
            found[optimizer] = path
        return found[optimizer]

    return run


NETWORK = ("--depth=20", "--filters=8", "--batch_size=32", "--test_subset=64")
FIFTY = (*NETWORK, "--steps=50", "--eval_every=1", "--checkpoint_every=50")


def to(path):
    return f"--output_dir={path}"


def check_is_trained(path, expected):
    found = losses(path), losses(expected)
    loss = np.max(np.abs(found[0] / found[1] - 1))
    variable = worst(variables(path, 50), variables(expected, 50))
    print(f"worst relative difference: losses {loss:.1e}, variables {variable:.1e}")
    assert max(loss, variable) < 1e-5


@needs_jax
def test_four_replicas_with_a_spread_stack_train_as_one(trained, tmp_path):
    expected = trained("momentum")
    options = (*FIFTY, "--optimizer=momentum", "--shard_stack", "--devices=4")
    status, _, errors = run_execute(*options, to(tmp_path))
    assert status == 0, errors
    check_is_trained(tmp_path, expected)
    assert not list((tmp_path / "checkpoints").glob("state-*"))
    assert {p.name for p in tmp_path.iterdir()} >= {"metrics.csv", "model.keras", "config.json"}


@needs_jax
@pytest.mark.slow  # 24 runs of 20 CPU seconds
@pytest.mark.parametrize("shard", ["--shard_stack", "--noshard_stack"])
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_every_program_trains_as_tensorflow_does(trained, tmp_path, optimizer, devices, shard):
    expected = trained(optimizer)
    options = (*FIFTY, f"--optimizer={optimizer}", shard, f"--devices={devices}")
    status, _, errors = run_execute(*options, to(tmp_path))
    assert status == 0, errors
    check_is_trained(tmp_path, expected)


@needs_jax
@pytest.mark.slow  # four programs, one after the other
def test_a_run_goes_back_and_forth(trained, tmp_path):
    """TensorFlow, then 4 sharded replicas, then 2 unsharded, then TensorFlow again."""
    expected = trained("adam")
    common = (*FIFTY, "--optimizer=adam", to(tmp_path))
    run_train(*common, "--steps=10")
    assert run_execute(*common, "--steps=20", "--devices=4", "--shard_stack")[0] == 0
    assert run_execute(*common, "--steps=35", "--devices=2")[0] == 0
    run_train(*common, "--steps=50")
    check_is_trained(tmp_path, expected)


@needs_jax
@pytest.mark.slow  # 400 steps, and again in parts
@pytest.mark.parametrize(
    ("signum", "schedule"), [(signal.SIGTERM, "constant"), (signal.SIGKILL, "cosine")]
)
def test_a_killed_run_goes_on(tmp_path, signum, schedule):
    options = (
        *SMALL,
        f"--schedule={schedule}",
        "--steps=400",
        "--eval_every=20",
        "--checkpoint_every=10",
        "--devices=2",
    )
    assert run_execute(*options, to(tmp_path / "whole"))[0] == 0
    process = start("tpu.execute", f"--python={PYTHON}", *options, to(tmp_path / "parts"))
    deadline = time.monotonic() + TIMEOUT
    while not list((tmp_path / "parts" / "checkpoints").glob("state-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signum)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[signum]
    status, output, _ = run_execute(*options, to(tmp_path / "parts"))
    assert status == 0 and "Going on" in output
    whole, parts = ((tmp_path / name / "metrics.csv").read_text() for name in ("whole", "parts"))
    assert whole == parts


@needs_jax
@pytest.mark.slow  # several programs, one after the other
def test_a_folder_trains_where_there_is_no_tensorflow(tmp_path):
    network = (*SMALL, "--steps=20", "--eval_every=10")
    options = (*network, "--devices=2", "--shard_stack")
    status, output, errors = run_execute(*options, f"--export={tmp_path / 'folder'}")
    assert status == 0, errors
    size = sum(p.stat().st_size for p in (tmp_path / "folder").rglob("*") if p.is_file())
    assert size < 2e6 and "python -m runner" in output
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    command = [PYTHON, "-m", "runner"]
    place = {"cwd": tmp_path / "folder", "env": environment}
    assert subprocess.run(command, **place).returncode == 0
    assert run_execute(*options, to(tmp_path / "here"))[0] == 0
    found = losses(tmp_path / "folder" / "run")
    np.testing.assert_allclose(found, losses(tmp_path / "here"), rtol=1e-5)
    # Two processes, of one device each, as on two hosts.
    (port,) = launch.free_ports(1)
    command += [f"--coordinator=localhost:{port}", "--processes=2", "--output_dir=pod"]
    both = [subprocess.Popen([*command, f"--process={i}"], **place) for i in range(2)]
    assert [process.wait(TIMEOUT) for process in both] == [0, 0]
    np.testing.assert_allclose(losses(tmp_path / "folder" / "pod"), found, rtol=1e-5)
    # And back: the run of the folder as one of `experiments.train`.
    pod = tmp_path / "folder" / "pod"
    assert run_execute(*network, to(pod))[0] == 0
    assert "Going on from step 20" in run_train(*network, to(pod))
    assert worst(variables(pod, 20), variables(tmp_path / "here", 20)) < 1e-5
