"""A run has its folder to itself."""

import json
import pathlib
import subprocess
import sys

import pytest

from autodo_jax import config as config_lib
from autodo_jax.errors import WorkdirError
from autodo_jax.workdir import files, folder
from configs import digits

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import os, pathlib, signal, sys
from autodo_jax.workdir import folder
from configs import digits
with folder.opened(pathlib.Path(sys.argv[1]), digits.get_config()):
    {action}
"""


def holds(workdir, **changed):
    """Writes the configuration of a run with some fields changed."""
    config = digits.get_config()
    config.update(changed)
    files.write_config(workdir, config_lib.to_json(config))


def opened(workdir, **options):
    return folder.opened(workdir, digits.get_config(), **options)


def elsewhere(workdir, action):
    """Opens the folder in another process, and does something there."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(action=action), str(workdir)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_a_folder_is_one_runs_at_a_time(tmp_path):
    workdir = tmp_path / "a/b"
    with opened(workdir):
        with (
            pytest.raises(WorkdirError, match="another run is writing to"),
            opened(workdir),
        ):
            pass
        refused = elsewhere(workdir, "print('mine')")  # Also for another process.
        assert "another run is writing to" in refused.stderr and not refused.stdout
    with opened(workdir):  # As soon as it has ended.
        pass


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
    killed = elsewhere(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert killed.returncode < 0
    with opened(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(WorkdirError, match=r"cannot write to .*file/x: "),
        opened(tmp_path / "file/x"),
    ):
        pass


def test_nothing_is_finished_where_nothing_is(tmp_path):
    assert not folder.is_finished(tmp_path, digits.get_config())
    holds(tmp_path, seed=7)  # Of a run that was not saved: nothing to lose.
    assert not folder.is_finished(tmp_path, digits.get_config())


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
        finished = folder.is_finished(tmp_path, digits.get_config())
        assert finished == (name == "result.json")
        return
    with pytest.raises(WorkdirError, match=refused):
        folder.is_finished(tmp_path, digits.get_config())
    with pytest.raises(WorkdirError, match=refused), opened(tmp_path):
        pass


def as_version_1(workdir):
    """Rewrites a configuration as the first version of the format has it."""
    path = workdir / "config.json"
    fields = json.loads(path.read_text())
    del fields["format_version"], fields["augment"]["num_ops"]
    fields["augment"] |= {"rand_num_ops": 3, "color_num_ops": 1, "uniform_num_ops": 2}
    fields["augment"]["temperature"] = 1.0
    fields["task"]["warmup_epochs"] = fields["hyper"]["warmup_epochs"] = 5
    fields["hyper"] |= {"decay": 0.99, "eps": 1e-8}
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize("method", ["autodo", "uniform_augment", "baseline"])
def test_a_finished_run_of_the_first_version_is_this_very_run(method, tmp_path):
    config = digits.get_config(method)
    files.write_config(tmp_path, config_lib.to_json(config))
    as_version_1(tmp_path)
    (tmp_path / "result.json").touch()
    assert folder.is_finished(tmp_path, config)


def test_an_unfinished_run_of_the_first_version_is_refused(tmp_path):
    holds(tmp_path)
    as_version_1(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(WorkdirError, match="unfinished run of an older version"):
        folder.is_finished(tmp_path, digits.get_config())


@pytest.mark.parametrize("name", ["result.json", "checkpoints"])
def test_a_run_of_a_newer_version_is_refused(name, tmp_path):
    holds(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('version": 2', 'version": 3'))
    (tmp_path / name).touch()
    with pytest.raises(WorkdirError, match="is of version 3 of the format"):
        folder.is_finished(tmp_path, digits.get_config())


def test_overwriting_removes_what_the_run_before_has_left(tmp_path, monkeypatch):
    results = (
        "result.json", "dataset.csv", "dataset.parquet", "hyperparams.npz",
        "report.npz", "report.html", "events.out.tfevents.7.host",
    )  # fmt: skip
    holds(tmp_path)
    for name in (*results, "metrics.jsonl", "notes.txt"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "checkpoints/7").mkdir(parents=True)
    kept = {"config.json", "metrics.jsonl", "notes.txt", ".lock"}
    with opened(tmp_path):
        pass
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, *results, "checkpoints"}
    # Cut short, what is left of them is not taken for checkpoints.
    with monkeypatch.context() as patch:
        patch.setattr(folder.shutil, "rmtree", lambda *_, **__: None)
        with opened(tmp_path, overwrite=True):
            pass
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, "checkpoints.removed"}
    (tmp_path / "checkpoints").mkdir()
    with opened(tmp_path, overwrite=True):
        pass
    assert {path.name for path in tmp_path.iterdir()} == kept
