"""The sweep of bad inputs over the public names."""

import pytest

from tests import bad_inputs

# Rooms whose every wrong value is refused by argument and value: all of them.
CLEAN = sorted({name.split(".")[1] for name, _ in bad_inputs.functions()})


def _faults(rooms):
    return [
        f"{call.outcome}: {name}({call.argument}={call.value}): {call.message}"
        for name, function in bad_inputs.functions(rooms)
        for call in bad_inputs.sweep(name, function)
        if call.outcome != "refused"
    ]


def test_every_argument_has_a_kind():
    assert not bad_inputs.unknown_arguments()


@pytest.mark.slow
@pytest.mark.parametrize("room", CLEAN)
def test_wrong_values_are_refused_by_argument_and_value(room):
    assert not bad_inputs.controls((room,))
    assert not _faults((room,))


def test_the_sweep_sees_a_value_that_is_accepted_and_one_that_is_refused_without_its_name():
    def takes_anything(depth=3):
        return depth

    def says_little(depth=3):
        raise ValueError("bad value")

    def says_it(depth=3):
        raise ValueError(f"depth must be an integer. Received: depth={depth!r}")

    found = {
        f.__name__: {call.outcome for call in bad_inputs.sweep("mfcnn.test", f)}
        for f in (takes_anything, says_little, says_it)
    }
    assert found == {
        "takes_anything": {"accepted"},
        "says_little": {"unclear"},
        "says_it": {"refused"},
    }
