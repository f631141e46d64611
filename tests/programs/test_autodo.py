"""The program `autodo`: one command for each module that is a program."""

import importlib
import importlib.util
import json
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


COMMANDS = (
    (["train", "--help"], 0, ("--config.field=value", "autodo train --config=")),
    (["report", "--help"], 0, ("usage: autodo report [-h]",)),
    (["predict"], 2, ("usage: autodo predict [-h]",)),
    (["train", "--config=nope"], 2, ("no experiment file or name 'nope'",)),
    (["report", "absent"], 2, ("absent",)),
)
# One process for all of them: each imports what the others do.
PROGRAM = f"""
import contextlib, io, json, sys
from {autodo.__name__} import main
done = []
for sys.argv[1:] in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main()
        except SystemExit as error:
            status = error.code
    done.append((status, said.getvalue()))
print(json.dumps(done))
"""


def test_a_command_is_its_module(tmp_path):
    """Statuses and messages are those of `python -m`."""
    commands = [arguments for arguments, _, _ in COMMANDS]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    for (_, expected, texts), (status, said) in zip(
        COMMANDS, json.loads(done.stdout), strict=True
    ):
        assert status == expected, said
        assert all(text in said for text in texts)
        assert "python -m" not in said and "Traceback" not in said
