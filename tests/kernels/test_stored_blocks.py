"""Blocks on the disk: of one problem, one process at a time, whole or computed again."""

import json
import warnings

import numpy as np
import pytest

from mfcnn import kernels
from mfcnn.training import DamagedFileError, DirectoryInUseError

X = np.random.default_rng(0).normal(size=(6, 4))


def compute(directory, depth=2):
    kernel = kernels.fully_connected(depth, "erf", 1.5, 0.1)
    return kernel(X, get="ntk", output_dir=directory).numpy()


@pytest.mark.parametrize("how", ["cut", "emptied", *range(8)])
def test_a_damaged_block_is_named_and_computed_again(tmp_path, how):
    expected = compute(tmp_path)
    (block,) = tmp_path.glob("block_*.npz")
    content = bytearray(block.read_bytes())
    if isinstance(how, int):  # a flipped byte at eight places
        content[how * len(content) // 8] ^= 255
    block.write_bytes({"cut": content[:-30], "emptied": b""}.get(how, content))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(compute(tmp_path), expected)
    damaged = [str(w.message) for w in caught if "computed again" in str(w.message)]
    # A byte may be one that nobody reads, as a time stamp.
    assert not damaged or block.name in damaged[0]
    assert damaged or isinstance(how, int)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(compute(tmp_path), expected)


def test_a_damaged_description_is_named(tmp_path):
    compute(tmp_path)
    (tmp_path / "kernel.json").write_text('{"problem"')
    with pytest.raises(DamagedFileError, match="kernel.json is damaged.*Give another directory"):
        compute(tmp_path)


def test_a_directory_in_use_is_refused_and_nothing_is_left_of_a_failure(tmp_path):
    record = {"host": "elsewhere", "boot": "", "pid": 7, "since": "today", "token": ""}
    (tmp_path / ".owner.json").write_text(json.dumps(record))
    with pytest.raises(DirectoryInUseError, match="pid 7 on elsewhere"):
        compute(tmp_path)
    with pytest.raises(ValueError, match="depth"):
        compute(tmp_path / "new", depth=-1)
    assert not (tmp_path / "new").exists()
