import json
import pathlib
import subprocess
import sys

import pytest

import benchmarks
from mfcnn.layers import stack_memory

LAYER = 9 * 16 * 16 + 16
ACTIVATION = 32 * 8 * 8 * 16


def test_memory_is_parameters_slots_gradients_and_a_root_of_the_activations():
    memory = stack_memory(10_000, LAYER, ACTIVATION, slots=2, checkpoint_levels=1)
    parameters = 10_000 * LAYER * 4
    assert memory.parameters == memory.gradients == parameters
    assert memory.slots == 2 * parameters
    assert 200 * ACTIVATION * 4 <= memory.activations <= 230 * ACTIVATION * 4


def test_the_total_counts_each_part_once():
    lean = stack_memory(100, LAYER, ACTIVATION, slots=0, gradient_copies=0, checkpoint_levels=1)
    full = stack_memory(100, LAYER, ACTIVATION, slots=2, gradient_copies=1, checkpoint_levels=1)
    assert full.total - lean.total == 3 * 100 * LAYER * 4
    assert "gradients 906.2 KiB" in str(full)


def test_one_layer_at_work_is_counted_at_any_depth():
    """Input, output, their cotangents, and the nine neighbourhoods of two of them: 4 + 2 * 9."""
    for depth in (1, 2, 50):
        memory = stack_memory(depth, LAYER, ACTIVATION, window=9, checkpoint_levels=0)
        assert memory.activations == (max(depth - 1, 1) + 22) * ACTIVATION * 4
    dense = stack_memory(50, LAYER, ACTIVATION, window=1, checkpoint_levels=0)
    assert memory.activations - dense.activations == 2 * 8 * ACTIVATION * 4


def test_the_process_itself_is_counted():
    # Traces, code and freed pages: 23 to 55 MiB were measured, at any depth.
    for depth in (1, 10_000):
        assert 23 * 2**20 <= stack_memory(depth, LAYER, ACTIVATION).program <= 55 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ["mfcnn", "mfcnn_jit", "mfcnn_fused"])
def test_a_step_of_ten_thousand_layers_takes_the_predicted_memory_within_15_percent(
    implementation,
):
    child = pathlib.Path(benchmarks.__file__).with_name("deep_stack_child.py")
    sizes = ["10000", "16", "32", "8", "1", "1"]  # depth, channels, batch, side, steps, threads
    command = [sys.executable, str(child), implementation, *sizes]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured = json.loads(output.splitlines()[-1])
    assert measured["peak"] - measured["base"] == pytest.approx(measured["predicted"], rel=0.15)
