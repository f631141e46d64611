"""Runs as their workdirs show them, also those of the first version of the format."""

import json
import os

import pytest

from autodo_jax import config as config_lib
from autodo_jax.errors import RunFilesError
from autodo_jax.workdir import files, run
from configs import digits, imagenet
from tests.workdir.test_folder import as_version_1

RESULT = {
    "dataset": "digits",
    "method": "autodo",
    "frozen": False,
    "class_error": [1.0, None],
    "seed": 0,
    "epochs": 120,
    "imbalance_ratio": 10.0,
    "noise_ratio": 0.1,
    "test_error": 3.0,
    "seconds": 9.0,
}


def write(workdir, config, **result):
    """Writes the files of a finished run that say what it was."""
    workdir.mkdir()
    files.write_config(workdir, config_lib.to_json(config))
    (workdir / "result.json").write_text(json.dumps(RESULT | result))
    return workdir


@pytest.mark.parametrize("method", ["autodo", "randaugment", "baseline"])
def test_a_run_of_the_first_version_is_read_as_one_of_this(method, tmp_path):
    config = digits.get_config(method)
    now, before = (write(tmp_path / name, config) for name in ("now", "before"))
    as_version_1(before)
    assert run.read(before).config == run.read(now).config
    found = run.load_config(before)
    assert config_lib.to_json(found) == config_lib.to_json(config)


def test_numbers_of_policies_are_found_in_the_first_version(tmp_path):
    workdir = write(tmp_path / "run", imagenet.get_config("randaugment"))
    as_version_1(workdir)  # which notes 3, 1 and 2
    assert run.read(workdir).config["augment.num_ops"] == 3


def test_fields_of_the_first_version_that_cannot_be_kept_are_refused(tmp_path):
    workdir = write(tmp_path / "run", digits.get_config())
    as_version_1(workdir)
    fields = json.loads((workdir / "config.json").read_text())
    fields["hyper"]["on_divergence"] = "keep"
    (workdir / "config.json").write_text(json.dumps(fields))
    with pytest.raises(RunFilesError, match="on_divergence is 'keep', expected one of"):
        run.load_config(workdir)


def test_a_run_of_a_newer_version_is_not_read(tmp_path):
    workdir = write(tmp_path / "run", digits.get_config())
    path = workdir / "config.json"
    path.write_text(path.read_text().replace('version": 2', 'version": 3'))
    for read in (run.read, run.load_config):
        with pytest.raises(RunFilesError, match=r"version 3 .*; update autodo_jax$"):
            read(workdir)


def test_the_control_is_the_run_that_differs_in_lambda_alone(tmp_path):
    config = digits.get_config()
    learned = write(tmp_path / "learned", config)
    assert run.read(learned).control() is None
    config.hyper.frozen, config.seed = True, 1
    write(tmp_path / "another seed", config)
    assert run.read(learned).control() is None
    config.seed, config.checkpoint_minutes = 0, 1.0
    frozen = write(tmp_path / "frozen", config)
    control = run.read(learned).control()
    assert control is not None and control.path == frozen
    assert run.read(frozen).control().path == learned  # type: ignore[union-attr]
    as_version_1(frozen)
    assert run.read(learned).control() is not None


def test_a_report_is_old_when_what_it_shows_is_newer(tmp_path):
    workdir = write(tmp_path / "run", digits.get_config())
    view = run.read(workdir)
    assert not view.has_report()
    (workdir / "report.html").touch()
    for path in workdir.iterdir():
        os.utime(path, (1, 1))
    assert view.has_report()
    (workdir / "hyperparams.npz").touch()  # The report does not show it.
    assert view.has_report()
    for name in ("metrics.jsonl", "dataset.csv", "report.npz"):
        (workdir / name).touch()
        assert not view.has_report()
        os.utime(workdir / name, (1, 1))
    assert view.has_report()


def test_the_line_that_a_killed_run_has_not_ended_is_left_out(tmp_path):
    workdir = write(tmp_path / "run", digits.get_config())
    whole = "".join(f'{{"epoch": {i}, "val_error": 3.5}}\n' for i in (1, 2))
    for torn in ("", '{"epoch"', '{"epoch": 3, "val_error": 3.5}'):
        (workdir / "metrics.jsonl").write_text(whole + torn)
        (workdir / "result.json").unlink(missing_ok=True)
        assert [line["epoch"] for line in run.read(workdir).records()] == [1, 2]
    (workdir / "metrics.jsonl").write_text(whole + '{"epoch"')
    (workdir / "result.json").write_text(json.dumps(RESULT))
    with pytest.raises(RunFilesError, match=r"metrics\.jsonl: line 3: "):
        run.read(workdir).records()


def test_rivals_need_not_have_what_only_a_learning_method_has(tmp_path):
    learned = write(tmp_path / "learned", digits.get_config())
    for method in ("joined", "baseline"):
        config = digits.get_config(method)
        assert config.task.joined_epochs == 0 < digits.get_config().task.joined_epochs
        write(tmp_path / method, config, method=method)
    rivals = run.read(learned).rivals()
    assert {name: found.path.name for name, found in rivals.items()} == {
        "joined": "joined"
    }
