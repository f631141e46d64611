"""The grid: which commands it runs, and that a failure ends it."""

import contextlib
import io
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from autodo_jax import command_line
from launch import sweep

ROOT = pathlib.Path(__file__).parents[2]


def sweep_lines(*flags):
    """The commands of a grid, without the interpreter and the line's number."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert sweep.main(["sweep", "--dry_run", *flags]) == 0
    return [line.partition(": -m ")[2] for line in out.getvalue().splitlines()]


def test_learned_methods_run_beside_their_control():
    lines = sweep_lines(
        "--config=configs/digits.py",
        "--methods=baseline,dada,autodo",
        "--seeds=0,1",
        "--config.epochs=2",
    )
    common = "autodo_jax.main --config=configs/digits.py"
    assert lines[:4] == [
        f"{common}:baseline --workdir=runs/digits/baseline-seed0 --config.seed=0 "
        "--config.hyper.frozen=False --config.epochs=2",
        f"{common}:dada --workdir=runs/digits/dada-seed0 --config.seed=0 "
        "--config.hyper.frozen=False --config.epochs=2",
        f"{common}:autodo --workdir=runs/digits/autodo-frozen-seed0 --config.seed=0 "
        "--config.hyper.frozen=True --config.epochs=2",
        f"{common}:autodo --workdir=runs/digits/autodo-seed0 --config.seed=0 "
        "--config.hyper.frozen=False --config.epochs=2",
    ]
    assert len(lines) == 8


def test_tasks_share_the_grid():
    flags = ["--config=c.py", "--distortions=10-0.1,1-0", "--seeds=0,1,2"]
    shares = [sweep_lines(*flags, f"--task={k}", "--num_tasks=4") for k in range(4)]
    lines = [line for share in shares for line in share]
    assert len(set(lines)) == len(lines)
    assert sorted(lines) == sorted(sweep_lines(*flags))
    line = "--workdir=runs/c/1-0/dada-seed2 --config.seed=2 --config.hyper.frozen=False"
    fields = "--config.data.imbalance_ratio=1 --config.data.noise_ratio=0"
    assert any(f"{line} {fields}" in command for command in lines)


@pytest.mark.parametrize("variant", sorted(sweep.ABLATIONS))
def test_ablations_are_configurations_that_hold(variant):
    command = sweep.Run("autodo", "3", variant=variant).command(
        str(ROOT / "configs/digits.py"), "runs/x", []
    )
    options = command_line.parse(command[2:])
    assert options.workdir == pathlib.Path("runs/x", variant, "autodo-seed3")
    assert command_line.load_config(options).seed == 3


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "--config must have a value"),
        (["--config=configs/digits.py", "--distortions=10"], "'10' is not an IR-NR"),
        (["--config=configs/digits.py", "--seed=0"], "Unknown command line flag"),
    ],
)
def test_flags_that_make_no_grid_are_refused(flags, expected, capsys):
    assert sweep.main(["sweep", *flags]) == 2
    assert expected in capsys.readouterr().err


def test_a_failing_run_ends_the_sweep_with_its_status():
    command = [sys.executable, "launch/sweep.py", "--config=absent.py"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "no experiment file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("code,status", [("exit(5)", 5), ("os.kill(0, 9)", 137)])
def test_status_of_a_run_is_as_a_shell_has_it(code, status):
    # In a group of its own, which kill(0) is for.
    code = f"import os; os.setpgrp(); {code}"
    assert sweep.run([sys.executable, "-c", code], os.environ) == status


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_may_save(signum):
    # The sweep is told by its run, which then saves for a while. A terminal would send
    # SIGINT to the run too.
    code = f"""if True:
        import os, signal, time
        def save(*_):
            time.sleep(0.5)
            os._exit(43)
        signal.signal({signum:d}, save)
        os.kill(os.getppid(), {signum:d})
        {"os.kill(os.getpid(), 2)" if signum == signal.SIGINT else ""}
        time.sleep(30)
    """
    assert sweep.run([sys.executable, "-c", code], os.environ) == 43
