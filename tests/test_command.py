"""The command `mfcnn`, and the archives that carry it."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

import mfcnn_command

ROOT = pathlib.Path(__file__).parent.parent


def test_it_finds_the_programs_of_the_checkout():
    assert mfcnn_command.programs_root() == ROOT


def test_help_shows_every_command_that_is_there(capsys):
    mfcnn_command.main(["--help"])
    shown = capsys.readouterr().out
    for name, module in mfcnn_command.commands(ROOT).items():
        assert f"  mfcnn {name}" in shown
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    assert {"train", "compile-check", "launch"} <= set(mfcnn_command.commands(ROOT))


def test_help_waits_for_no_tensorflow():
    code = "import sys, mfcnn_command; mfcnn_command.main([]); print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.endswith("False\n")


def test_the_figures_are_the_binaries_of_experiments(capsys):
    with pytest.raises(SystemExit) as end:
        mfcnn_command.main(["figure"])
    assert end.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert {"phase_diagram", "kappa", "trainability"} <= set(listed)
    assert not {"common", "sweep", "train"} & set(listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing"], "'nothing' is none of train"), (["figure", "x"], "'x' is none of before_after")],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(arguments, message):
    with pytest.raises(SystemExit, match=message):
        mfcnn_command.main(arguments)


def test_the_launcher_takes_a_command_in_place_of_a_module():
    known = mfcnn_command.commands(ROOT)
    given = ["--processes=2", "--", "train", "--depth=3"]
    expected = ["--processes=2", "--", "-m", "experiments.train", "--depth=3"]
    assert mfcnn_command._launched(given, known) == expected
    assert mfcnn_command._launched(expected, known) == expected


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_programs(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "mfcnn").rglob("*.py"):
        assert str(path.relative_to(ROOT)) in names
    for folder, pattern in (("experiments", "*.py"), ("tpu", "*.py"), ("tpu/configs", "*.flags")):
        for path in (ROOT / folder).glob(pattern):
            assert f"mfcnn/_programs/{path.relative_to(ROOT)}" in names
    assert {"mfcnn/py.typed", "mfcnn_command.py"} <= names
