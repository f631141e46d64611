"""A run has its folder to itself, and its files are whole."""

import errno
import json
import subprocess
import sys

import pytest

from autodo_jax.workdir import folder as workdir
from configs import digits


def holds(folder, **changed):
    """Writes the configuration of a run with some fields changed."""
    config = digits.get_config()
    config.update(changed)
    (folder / "config.json").write_text(config.to_json_best_effort())


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    folder = tmp_path / "a/b"
    with workdir.locked(folder):
        with (
            pytest.raises(workdir.WorkdirError, match="another run is writing to"),
            workdir.locked(folder),
        ):
            pass
        # Also for another process.
        program = (
            "import pathlib, sys; from autodo_jax.workdir import folder as workdir\n"
            "with workdir.locked(pathlib.Path(sys.argv[1])): print('mine')"
        )
        command = [sys.executable, "-c", program, str(folder)]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert "another run is writing to" in refused.stderr and not refused.stdout
    with workdir.locked(folder):  # As soon as it has ended.
        pass


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    program = (
        "import os, pathlib, signal, sys\n"
        "from autodo_jax.workdir import folder as workdir\n"
        "with workdir.locked(pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)])
    assert killed.returncode < 0
    with workdir.locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(workdir.WorkdirError, match=r"cannot write to .*file/x: "),
        workdir.locked(tmp_path / "file/x"),
    ):
        pass


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "x"
    workdir.write_text(path, "old")

    def full(file):
        file.write(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        workdir.WriteError, match=r"cannot write .*x: No space left on device; what"
    ):
        workdir.write(path, full)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
    workdir.write(path, lambda file: file.write(b"new"))
    assert path.read_text() == "new"


def test_nothing_is_finished_where_nothing_is(tmp_path):
    assert not workdir.is_finished(tmp_path, digits.get_config(), overwrite=False)
    holds(tmp_path, seed=7)  # Of a run that was not saved: nothing to lose.
    assert not workdir.is_finished(tmp_path, digits.get_config(), overwrite=False)


@pytest.mark.parametrize(
    ("name", "changed", "refused"),
    [
        ("result.json", {}, ""),
        ("result.json", {"checkpoint_minutes": 1.0, "watchdog_minutes": 0.0}, ""),
        ("result.json", {"epochs": 130}, "a finished run with another config.epochs;"),
        ("checkpoints", {}, ""),
        ("checkpoints", {"epochs": 130}, ""),
        (
            "checkpoints",
            {"batch_size": 7, "seed": 7},
            "an unfinished run with another config.batch_size, config.seed;",
        ),
    ],
)
def test_a_run_of_another_configuration_is_told_from_this(
    name, changed, refused, tmp_path
):
    holds(tmp_path, **changed)
    (tmp_path / name).touch()
    if not refused:
        finished = workdir.is_finished(tmp_path, digits.get_config(), overwrite=False)
        assert finished == (name == "result.json")
        return
    with pytest.raises(workdir.WorkdirError, match=refused):
        workdir.is_finished(tmp_path, digits.get_config(), overwrite=False)
    assert not workdir.is_finished(tmp_path, digits.get_config(), overwrite=True)


def test_what_is_not_known_is_null():
    text = workdir.to_json({"a": float("nan"), "b": [1.5, float("nan")], "c": "NaN"})
    assert text == '{"a": null, "b": [1.5, null], "c": "NaN"}'


def test_overwriting_removes_what_the_run_before_has_left(tmp_path, monkeypatch):
    results = (
        "result.json", "dataset.csv", "dataset.parquet", "hyperparams.npz",
        "report.npz", "report.html", "events.out.tfevents.7.host",
    )  # fmt: skip
    for name in (*results, "metrics.jsonl", "notes.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "checkpoints/7").mkdir(parents=True)
    workdir.prepare(tmp_path, overwrite=False)
    assert len(list(tmp_path.iterdir())) == 10
    # Cut short, what is left of them is not taken for checkpoints.
    with monkeypatch.context() as patch:
        patch.setattr(workdir.shutil, "rmtree", lambda *_, **__: None)
        workdir.prepare(tmp_path, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"metrics.jsonl", "notes.txt", "checkpoints.removed"}
    (tmp_path / "checkpoints").mkdir()
    workdir.prepare(tmp_path, overwrite=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"metrics.jsonl", "notes.txt"}
    assert json.loads((tmp_path / "notes.txt").read_text()) == {}
