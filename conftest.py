"""Settings of every test: quiet logs, one thread a worker, the names that examples use."""

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _example(request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]) -> Iterator[None]:
    """Each docstring example starts with mfcnn, keras, np and tf imported, and a fixed seed."""
    if isinstance(request.node, pytest.DoctestItem):
        import keras
        import numpy as np
        import tensorflow as tf

        import mfcnn

        doctest_namespace.update(keras=keras, mfcnn=mfcnn, np=np, tf=tf)
        keras.utils.set_random_seed(0)
    yield


@pytest.fixture(autouse=True, scope="module")
def _memory() -> Iterator[None]:
    """What one file of tests compiled is gone before the next: a process stays under 2 GB."""
    yield
    if "mfcnn" in sys.modules:
        import keras

        from mfcnn import kernels

        kernels.clear_cache()
        keras.backend.clear_session()
        gc.collect()
