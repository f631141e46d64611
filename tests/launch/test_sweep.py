"""The grid: which commands it runs, and that a failure ends it."""

import pathlib
import subprocess
import sys

import pytest

from launch import sweep

ROOT = pathlib.Path(__file__).parents[2]


def test_learned_methods_run_beside_their_control():
    grid = list(
        sweep.commands(
            "c.py",
            ["baseline", "autodo"],
            ["0", "1"],
            ["--config.epochs=2"],
            frozen=True,
        )
    )
    assert [command[3:] for command in grid[:3]] == [
        [
            "--config=c.py:baseline",
            "--config.seed=0",
            "--config.hyper.frozen=False",
            "--config.epochs=2",
        ],
        [
            "--config=c.py:autodo",
            "--config.seed=0",
            "--config.hyper.frozen=False",
            "--config.epochs=2",
        ],
        [
            "--config=c.py:autodo",
            "--config.seed=0",
            "--config.hyper.frozen=True",
            "--config.epochs=2",
        ],
    ]
    assert len(grid) == 6
    assert len(list(sweep.commands("c", ["autodo"], ["0"], [], frozen=False))) == 1


@pytest.mark.parametrize("flags", [[], ["--config=absent.py"]])
def test_a_failing_run_ends_the_sweep_with_its_status(flags):
    command = [sys.executable, "launch/sweep.py", *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
