"""The end of another host is told from a mistake that would be repeated."""

import pytest
import tensorflow as tf

from mfcnn.training import PeerLostError, failure


def fail(strategy, error):
    with failure.lost_peers(strategy):
        raise error


@pytest.mark.parametrize(
    "kind", [tf.distribute.MultiWorkerMirroredStrategy, tf.distribute.TPUStrategy]
)
def test_the_end_of_another_host_is_told_from_other_errors(kind):
    spanning = object.__new__(kind)
    with pytest.raises(PeerLostError, match="UnavailableError: gone.*last checkpoint"):
        fail(spanning, tf.errors.UnavailableError(None, None, "gone\nsince a while"))
    with pytest.raises(tf.errors.InvalidArgumentError):
        fail(spanning, tf.errors.InvalidArgumentError(None, None, "wrong shape"))


def test_one_host_alone_loses_no_other():
    with pytest.raises(tf.errors.UnavailableError):
        fail(tf.distribute.get_strategy(), tf.errors.UnavailableError(None, None, ""))
