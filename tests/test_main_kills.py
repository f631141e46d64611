"""A run that is killed again and again comes to the numbers of one that is not."""

import json
import multiprocessing
import os
import pathlib
import random
import signal
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from autodo_jax import main

ROOT = pathlib.Path(__file__).parents[1]
EPOCHS = 46
FLAGS = [
    f"--config={ROOT}/configs/digits.py:autodo_s",
    f"--config.epochs={EPOCHS}",
    "--config.batch_size=32",
    "--config.model.widths=(4,)",
    "--config.hyper.start_epoch=1",
    "--config.num_devices=1",
    "--config.checkpoint_every=1",
    "--config.checkpoint_minutes=0.003",  # about twice an epoch
]
TIMES = {"seconds", "images_per_second", "data_wait"}
# Its children start with everything imported.
CONTEXT = multiprocessing.get_context("forkserver")


def train(folder):
    """Runs the command line in a process of its own."""
    with open(folder.with_suffix(".log"), "a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        sys.exit(main.main(["main", *FLAGS, f"--workdir={folder}"]))


def start(folder):
    CONTEXT.set_forkserver_preload(["autodo_jax.main", "autodo_jax.checkpoint"])
    process = CONTEXT.Process(target=train, args=(folder,))
    process.start()
    return process


def num_epochs(folder):
    try:
        return len((folder / "metrics.jsonl").read_text().splitlines())
    except FileNotFoundError:
        return 0


def unfinished_saves(folder):
    return list(folder.glob("checkpoints/*.orbax-checkpoint-tmp*"))


def wait_for(condition, process):
    while not condition() and process.is_alive():
        time.sleep(0.002)
    assert process.is_alive()


def stop_somewhere(folder, rng, signum):
    """Starts the run, stops it somewhere; returns whether that cut a save off."""
    before = num_epochs(folder)
    process = start(folder)
    # Before it trains, SIGTERM just ends it.
    kinds = ["steps", "save"] + ["start"] * (signum == signal.SIGKILL)
    kind = rng.choice(kinds)
    if kind == "start":  # imports, data, compilation, restoring
        time.sleep(rng.uniform(0, 4))
    else:
        # The epochs that a run of less than two more cannot exceed.
        wanted = before + rng.choice([0, 1])
        wait_for(lambda: num_epochs(folder) > wanted, process)
        time.sleep(rng.uniform(0, 0.1))
    if kind == "save":
        known = set(unfinished_saves(folder))
        wait_for(lambda: set(unfinished_saves(folder)) - known, process)
        time.sleep(rng.uniform(0, 0.05))
    assert process.pid is not None
    os.kill(process.pid, signum)
    process.join()
    expected = -signum if signum == signal.SIGKILL else 128 + signum
    assert process.exitcode == expected, folder.with_suffix(".log").read_text()
    return bool(unfinished_saves(folder))


def finish(folder):
    process = start(folder)
    process.join()
    assert process.exitcode == 0, folder.with_suffix(".log").read_text()


def read_state(folder):
    checkpointer = ocp.PyTreeCheckpointer()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
        checkpointer.metadata(folder).item_metadata.tree,
    )
    return checkpointer.restore(folder, restore_args=as_numpy)


def outcome(folder):
    """Everything a run leaves but times: numbers, Lambda, and the last state."""
    result = json.loads((folder / "result.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    steps = [
        int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()
    ]
    state = read_state(folder / f"checkpoints/{max(steps)}/state")
    with np.load(folder / "hyperparams.npz") as tables:
        return {
            "numbers": [
                {name: value for name, value in record.items() if name not in TIMES}
                for record in [result, *records]
            ],
            "arrays": [*map(np.asarray, jax.tree.leaves(state)), *tables.values()],
            "step": max(steps),
        }


@pytest.mark.slow
def test_twenty_kills_and_a_sigterm_change_nothing(tmp_path):
    finish(tmp_path / "whole")
    rng = random.Random(0)
    folder = tmp_path / "killed"
    signals = [signal.SIGKILL] * 20
    signals.insert(10, signal.SIGTERM)
    cut_off = sum(stop_somewhere(folder, rng, signum) for signum in signals)
    assert cut_off >= 3
    finish(folder)
    found, expected = outcome(folder), outcome(tmp_path / "whole")
    assert found["numbers"] == expected["numbers"]
    assert found["step"] == expected["step"]
    assert len(found["arrays"]) == len(expected["arrays"]) > 10
    for ours, theirs in zip(found["arrays"], expected["arrays"], strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()
    log = folder.with_suffix(".log").read_text()
    assert "Traceback" not in log and "damaged" not in log
    assert log.count("goes on from the checkpoint") >= 10
