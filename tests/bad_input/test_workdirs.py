"""Workdirs and checkpoints that a run cannot continue from."""

import json
import shutil

import filelock
import pytest

from autodo_jax import main
from autodo_jax.data import sources
from tests.bad_input import refusal
from tests.test_main import DIGITS, ROOT, TINY

RESUME = [DIGITS + ":baseline", *TINY, "--config.checkpoint_every=1"]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A workdir with a checkpoint of a run that was stopped."""
    workdir = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert main.main(["main", *RESUME, f"--workdir={workdir}"]) == 0
    (workdir / "result.json").unlink()
    return workdir


@pytest.fixture
def workdir(unfinished, tmp_path):
    return shutil.copytree(unfinished, tmp_path / "run")


@pytest.mark.parametrize(
    ("flags", "status", "expected"),
    [
        (["seed=1"], 2, "an unfinished run with another config.seed"),
        (["model.name=resnet", "model.depth=18"], 2, "depth"),
        (
            ["batch_size=16", "task.learning_rate=1"],
            2,
            "another config.batch_size, config.task.learning_rate;",
        ),
        (["epochs=1", "hyper.frozen=True"], 2, "frozen"),
        (["epochs=1"], 1, "but 2 epochs are saved"),
    ],
)
def test_other_configurations(flags, status, expected, workdir, capfd):
    fields = [f"--config.{flag}" for flag in flags]
    found, error = refusal([*RESUME, *fields], workdir, capfd)
    assert found == status and expected in error


@pytest.mark.parametrize("text", ["", "[1]", None])
def test_a_configuration_that_cannot_be_read(text, workdir, capfd):
    if text is None:
        (workdir / "config.json").unlink()
    else:
        (workdir / "config.json").write_text(text)
    status, error = refusal(RESUME, workdir, capfd)
    assert status == 2 and "an unfinished run: cannot read" in error
    assert error.endswith("; pass another --workdir\n")


def test_a_file_for_the_checkpoints(workdir, capfd):
    shutil.rmtree(workdir / "checkpoints")
    (workdir / "checkpoints").write_text("text")
    status, error = refusal(RESUME, workdir, capfd)
    assert status == 1 and "checkpoints in" in error


def test_other_data(workdir, monkeypatch, capfd):
    def other(data, seed):
        splits = original(data, seed)
        labels = (splits.train.labels + 1) % 10
        return splits._replace(train=splits.train._replace(labels=labels))

    original = sources.SOURCES["digits"]
    monkeypatch.setitem(sources.SOURCES, "digits", other)
    status, error = refusal(RESUME, workdir, capfd)
    assert status == 1 and "the data are not those of the checkpoints" in error
    assert error.endswith("; restore them, or pass another --workdir\n")


def test_a_state_of_another_shape(workdir, capfd):
    fields = json.loads((workdir / "config.json").read_text())
    fields["model"]["widths"] = [4, 8]  # as if it had been trained so
    (workdir / "config.json").write_text(json.dumps(fields))
    # It joins the (4,) before.
    status, error = refusal([*RESUME, "--config.model.widths=(8,)"], workdir, capfd)
    assert status == 1 and "checkpoints in" in error


def test_another_run_that_is_writing(workdir, capfd):
    lock = filelock.FileLock(workdir / ".lock")
    with lock:
        status, error = refusal(RESUME, workdir, capfd)
    assert status == 2 and "another run is writing to" in error


def test_the_result_of_another_run(workdir, capfd):
    (workdir / "result.json").write_text("{}")
    status, error = refusal([*RESUME, "--config.seed=2"], workdir, capfd)
    assert status == 2 and "a finished run with another config.seed" in error
