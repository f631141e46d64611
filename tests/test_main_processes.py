"""Two processes of one run: same numbers as in one, and what the loss of one does."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = [
    "--config=configs/digits.py:autodo_s",
    "--config.batch_size=32",
    "--config.model.widths=(4,4)",
    "--config.hyper.start_epoch=2",
    "--config.checkpoint_every=1",
]


def start(workdir, *flags, num_devices=1):
    # The last of two counts holds.
    devices = f"--xla_force_host_platform_device_count={num_devices}"
    flags_of_xla = f"{os.environ['XLA_FLAGS']} {devices}"
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "autodo_jax.main",
            *FLAGS,
            f"--workdir={workdir}",
            *flags,
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "XLA_FLAGS": flags_of_xla,
            # It would let one process run ahead of another.
            "JAX_ENABLE_COMPILATION_CACHE": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two(workdir, *flags, second=None, num_devices=(1, 1)):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    own = (flags, flags if second is None else second)
    return [
        start(
            workdir,
            *own[number],
            *together,
            f"--process_id={number}",
            num_devices=num_devices[number],
        )
        for number in (0, 1)
    ]


def finish(process, seconds=300):
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def end(processes):
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()
        for stream in (process.stdout, process.stderr):
            stream.close()


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def wait_for_epoch(workdir, epoch, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        metrics = workdir / "metrics.jsonl"
        if metrics.exists() and len(records(workdir)) >= epoch:
            return
        time.sleep(0.05)
    raise AssertionError(f"no epoch {epoch} within {seconds} s")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    status, _, err = finish(start(workdir, "--config.epochs=5", num_devices=2))
    assert status == 0, err
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_run_that_lost_a_process_ends_and_goes_on_in_one(tmp_path, lost):
    both = start_two(tmp_path, "--config.epochs=40")
    try:
        wait_for_epoch(tmp_path, 3)
        both[lost].kill()
        since = time.monotonic()
        status, _, err = finish(both[1 - lost], seconds=120)
        assert time.monotonic() - since < 120
    finally:
        end(both)
    assert status != 0
    if lost == 1:  # Where the first one is lost, JAX may be faster to end this one.
        said = [line for line in err.splitlines() if line.startswith("autodo_jax:")]
        assert len(said) == 1 and "lost another process of the run" in said[0]
    else:
        assert "lost another process" in err or "another task died" in err
        return  # Resuming is the same for both.
    assert not (tmp_path / "result.json").exists()

    done = len(records(tmp_path))
    status, out, err = finish(start(tmp_path, f"--config.epochs={done + 1}"))
    assert status == 0, err
    assert "continues from the checkpoint" in out
    assert len(records(tmp_path)) == done + 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["epochs"] == done + 1


@pytest.mark.slow
def test_two_processes_train_as_one_with_two_devices(one_process, tmp_path):
    for process in start_two(tmp_path, "--config.epochs=5"):
        status, out, err = finish(process)
        assert status == 0, err
    assert "epoch" not in out  # Only the first one reports.
    for ours, theirs in zip(records(tmp_path), records(one_process), strict=True):
        for name in ("train_loss", "val_loss", "outer_loss"):
            if name in theirs:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-5)
        assert ours["test_error"] == theirs["test_error"]


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_saved(tmp_path):
    both = start_two(tmp_path, "--config.epochs=500")
    try:
        wait_for_epoch(tmp_path, 2)
        both[1].send_signal(signal.SIGTERM)
        found = [finish(process, seconds=120) for process in both]
    finally:
        end(both)
    assert [status for status, _, _ in found] == [143, 143]
    said = ["stopped by SIGTERM" in err for _, _, err in found]
    assert said == [True, False]  # Only the first one reports.
    assert list((tmp_path / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("second", "num_devices", "expected"),
    [
        (
            ["--config.epochs=5", "--config.seed=3"],
            (1, 1),
            "config.seed 3 (process 0: 0)",
        ),
        (["--config.epochs=6"], (1, 1), "config.epochs 6 (process 0: 5)"),
        (["--config.epochs=5"], (1, 2), "number of devices 2 (process 0: 1)"),
    ],
)
def test_processes_that_do_not_fit_together_all_end(
    tmp_path, second, num_devices, expected
):
    both = start_two(
        tmp_path, "--config.epochs=5", second=second, num_devices=num_devices
    )
    try:
        for process in both:
            status, _, err = finish(process, seconds=120)
            said = [line for line in err.splitlines() if line.startswith("autodo_jax:")]
            assert status == 1 and len(said) == 1, err
            assert f"process 1 has another {expected}" in said[0]
    finally:
        end(both)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_is_stopped_is_named_and_ends_the_run(tmp_path, stopped):
    both = start_two(tmp_path, "--config.epochs=500")
    try:
        wait_for_epoch(tmp_path, 2)
        both[stopped].send_signal(signal.SIGSTOP)
        status, _, err = finish(both[1 - stopped], seconds=90)
    finally:
        end(both)
    assert status == 1
    assert f"has not heard of process {stopped} for 30 s" in err
