"""The program `autodo`: one command for each module that is a program."""

import importlib
import importlib.util
import subprocess
import sys

import pytest

from autodo_jax.programs import autodo


def test_help_fits_one_screen(capsys):
    for arguments in ([], ["--help"], ["help"]):
        assert autodo.main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert all(any(name in line for line in lines) for name in autodo.PROGRAMS)
    assert "{" not in "".join(lines)


@pytest.mark.parametrize("name", autodo.PROGRAMS)
def test_every_command_is_a_program(name):
    module, text = autodo.PROGRAMS[name]
    spec = importlib.util.find_spec(module)
    assert spec is not None and text
    is_package = spec.submodule_search_locations is not None
    program = importlib.import_module(f"{module}.__main__" if is_package else module)
    assert callable(program.main)


def test_an_unknown_command_names_the_known(capsys):
    assert autodo.main(["tarin"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'tarin'" in error and "train, predict" in error


def test_the_version_is_said(capsys):
    assert autodo.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("autodo_jax ")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["train", "--help"], 0, "--config.field=value"),
        (["train", "--help"], 0, "autodo train --config="),
        (["report", "--help"], 0, "usage: autodo report [-h]"),
        (["predict"], 2, "usage: autodo predict [-h]"),
        (["train", "--config=nope"], 2, "no experiment file or name 'nope'"),
        (["report", "absent"], 2, "absent"),
    ],
)
def test_a_command_is_its_module(arguments, status, said, tmp_path):
    """Statuses and messages are those of `python -m`."""
    command = f"import sys; from {autodo.__name__} import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert "python -m" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
