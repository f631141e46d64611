"""Runs that are killed, find a full disk or damage: their numbers stay the same."""

import json
import multiprocessing
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from autodo_jax import main
from tests.workdir.test_checkpoint import damage

pytestmark = pytest.mark.slow

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


def refuse_pickles(event, args):
    """What is unpickled may run any code."""
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickles {args}")


def train(folder, flags):
    """Runs the command line in a process of its own."""
    sys.addaudithook(refuse_pickles)
    with open(folder.with_suffix(".log"), "a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        sys.exit(main.main(["main", *flags, f"--workdir={folder}"]))


def start(folder, flags=FLAGS):
    CONTEXT.set_forkserver_preload(["autodo_jax.main", "autodo_jax.workdir.checkpoint"])
    process = CONTEXT.Process(target=train, args=(folder, flags))
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


def finish(folder, flags=FLAGS):
    process = start(folder, flags)
    process.join()
    assert process.exitcode == 0, folder.with_suffix(".log").read_text()


def steps(folder):
    """Numbers of the whole checkpoints, rising."""
    return sorted(
        int(path.name)
        for path in (folder / "checkpoints").iterdir()
        if path.name.isdecimal()
    )


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
    step = steps(folder)[-1]
    state = read_state(folder / f"checkpoints/{step}/state")
    with np.load(folder / "hyperparams.npz") as tables:
        return {
            "numbers": [
                {name: value for name, value in record.items() if name not in TIMES}
                for record in [result, *records]
            ],
            "arrays": [*map(np.asarray, jax.tree.leaves(state)), *tables.values()],
            "step": step,
            "report": (folder / "dataset.csv").read_bytes(),
        }


def assert_same(found, expected):
    assert found["numbers"] == expected["numbers"]
    assert found["step"] == expected["step"]
    assert found["report"] == expected["report"]
    assert len(found["arrays"]) == len(expected["arrays"]) > 10
    for ours, theirs in zip(found["arrays"], expected["arrays"], strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(folder)
    return outcome(folder)


def test_twenty_kills_and_a_sigterm_change_nothing(whole, tmp_path):
    rng = random.Random(0)
    folder = tmp_path / "killed"
    signals = [signal.SIGKILL] * 20
    signals.insert(10, signal.SIGTERM)
    cut_off = sum(stop_somewhere(folder, rng, signum) for signum in signals)
    assert cut_off >= 3
    finish(folder)
    assert_same(outcome(folder), whole)
    log = folder.with_suffix(".log").read_text()
    assert "Traceback" not in log and "damaged" not in log
    assert log.count("continues from the checkpoint") >= 10


def test_kills_of_a_run_on_features_change_nothing(tmp_path):
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name, num_points in (("train", 200), ("validation", 40), ("test", 40)):
        labels = np.arange(num_points) % 4
        features = rng.normal(size=(num_points, 16)) + np.eye(4, 16)[labels]
        arrays |= {f"{name}_features": features, f"{name}_labels": labels}
    np.savez(tmp_path / "features.npz", **arrays)
    flags = [
        f"--config={ROOT}/configs/embeddings.py",
        f"--config.data.data_dir={tmp_path / 'features.npz'}",
        "--config.guard.folds=2",
        "--config.guard.patience=0",
        "--config.checkpoint_minutes=0.0001",  # after each head of an epoch
    ]
    finish(tmp_path / "whole", flags)
    folder = tmp_path / "killed"
    for wanted in (2, 9):
        process = start(folder, flags)
        wait_for(lambda wanted=wanted: num_epochs(folder) >= wanted, process)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    finish(folder, flags)
    assert_same(outcome(folder), outcome(tmp_path / "whole"))
    log = folder.with_suffix(".log").read_text()
    assert log.count("continues from the checkpoint") == 2


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A run that was stopped shortly before its end, with two checkpoints or more."""
    folder = tmp_path_factory.mktemp("late") / "run"
    process = start(folder)
    wait_for(lambda: num_epochs(folder) >= EPOCHS - 4, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    assert len(steps(folder)) >= 2
    return folder


def resume(late, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(late, folder)
    return folder


def largest_file(folder):
    return max(folder.rglob("*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("kind", ["truncated", "emptied", "deleted", "flipped"])
def test_from_a_damaged_checkpoint_it_falls_back_to_the_one_before(
    whole, late, kind, tmp_path
):
    folder = resume(late, tmp_path)
    damage(largest_file(folder / f"checkpoints/{steps(folder)[-1]}"), kind)
    finish(folder)
    assert "is damaged" in folder.with_suffix(".log").read_text()
    assert_same(outcome(folder), whole)


def test_a_full_disk_ends_the_run_in_a_line_and_it_goes_on(whole, late, tmp_path):
    folder = resume(late, tmp_path)
    saved = steps(folder)
    process = start(folder)
    log = folder.with_suffix(".log")
    wait_for(lambda: log.exists() and "continues from" in log.read_text(), process)
    # The largest size of a file, as of a disk that is full: no tensor fits any more.
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3000, hard))
    process.join()
    assert process.exitcode == 1
    last = log.read_text().splitlines()[-1]
    assert last.startswith("autodo_jax: ") and "File too large" in last
    assert last.endswith("fix the cause and repeat the same command")
    assert "Traceback" not in log.read_text() and not (folder / "result.json").exists()
    assert set(steps(folder)) & set(saved)
    finish(folder)
    assert "damaged" not in log.read_text()
    assert_same(outcome(folder), whole)


def test_a_second_run_in_the_folder_is_refused_and_harms_nothing(
    whole, late, tmp_path, capsys
):
    folder = resume(late, tmp_path)
    process = start(folder)
    log = folder.with_suffix(".log")
    wait_for(lambda: log.exists() and "continues from" in log.read_text(), process)
    assert main.main(["main", *FLAGS, f"--workdir={folder}"]) == 2
    assert "another run is writing to" in capsys.readouterr().err
    assert main.main(["main", *FLAGS, f"--workdir={folder}", "--overwrite"]) == 2
    process.join()
    assert process.exitcode == 0
    assert_same(outcome(folder), whole)
