"""Whole runs on digits, shrunken: files, determinism, controls, failures."""

import dataclasses
import gzip
import json
import time

import numpy as np
import pytest

from autodo_jax.data.batches.batch import IndexedBatch
from autodo_jax.errors import RunError
from autodo_jax.train import evaluate, loop
from autodo_jax.train.run_log import RunLog
from configs import digits
from tests.train.prepared import prepare, run, tiny_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("autodo")
    return folder, *run(tiny_config("autodo"), folder)


def test_the_workdir_holds_what_the_contract_names(finished):
    folder, result, records, tables = finished
    assert json.loads((folder / "result.json").read_text()) == result
    assert json.loads((folder / "config.json").read_text())["method"] == "autodo"
    assert set(result) >= {
        "method", "dataset", "seed", "epochs", "num_train", "num_val", "num_test",
        "test_error", "class_error", "val_error", "best_val_epoch", "frozen", "seconds",
        "noise_auroc",
    }  # fmt: skip
    assert [record["epoch"] for record in records] == [1, 2]
    always = {
        "epoch", "train_loss", "val_loss", "val_error", "test_error", "learning_rate",
        "hyper_learning_rate", "seconds", "images_per_second", "data_wait", "grad_norm",
    }  # fmt: skip
    outer = {"outer_loss", "residual_norm", "neumann_horizon", "diverged_steps"}
    assert set(records[0]) == always
    assert set(records[1]) >= always | outer
    assert all(0 <= record["data_wait"] < 1 for record in records)
    assert all(record["images_per_second"] > 0 for record in records)
    shapes = {name: table.shape for name, table in tables.items()}
    n = result["num_train"]
    assert shapes == {
        "gate": (n, 6), "magnitude": (n, 6), "weight": (n,), "label": (n, 10)
    }  # fmt: skip
    assert (result["num_val"], result["num_test"]) == (405, 450)


def test_result_is_the_final_epochs(finished):
    _, result, records, _ = finished
    assert result["test_error"] == records[-1]["test_error"]
    best = min(record["val_error"] for record in records)
    assert records[result["best_val_epoch"] - 1]["val_error"] == best
    counts = np.full(10, 45)  # 450 test points of ten nearly balanced classes
    assert (
        abs(
            np.average([*result["class_error"].values()], weights=counts)
            - result["test_error"]
        )
        < 1
    )


def test_same_seed_same_numbers_and_another_seed_others(finished, tmp_path):
    _, result, records, tables = finished
    again, again_records, again_tables = run(tiny_config("autodo"), tmp_path / "a")
    for name, table in tables.items():
        np.testing.assert_array_equal(table, again_tables[name])
    drop = {"seconds", "images_per_second", "data_wait"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in records] == [
        {k: v for k, v in r.items() if k not in drop} for r in again_records
    ]
    other = tiny_config("autodo")
    other.seed = 1
    assert run(other, tmp_path / "b")[1][0]["train_loss"] != records[0]["train_loss"]
    assert again["test_error"] == result["test_error"]


def test_frozen_keeps_lambda_at_its_start_and_trains(finished, tmp_path):
    config = tiny_config("autodo")
    config.hyper.frozen = True
    _, records, tables = run(config, tmp_path)
    assert all("outer_loss" not in record for record in records)
    np.testing.assert_array_equal(tables["weight"], 0)
    np.testing.assert_array_equal(tables["magnitude"], 0)
    # Soft labels as they were: all points of a class have the same.
    assert len(np.unique(tables["label"], axis=0)) == 10
    _, _, learned_records, _ = finished
    assert records[0]["train_loss"] == learned_records[0]["train_loss"]


def test_baseline_has_no_lambda(tmp_path):
    result, records, tables = run(tiny_config("baseline"), tmp_path)
    assert tables == {}
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert result["method"] == "baseline"


def test_a_batch_larger_than_the_data_is_refused(tmp_path):
    config = tiny_config("autodo")
    config.batch_size = 600
    with pytest.raises(RunError, match=r"only 5.. train and 405 validation points"):
        run(config, tmp_path)


def test_evaluation_pads_the_last_batch_without_counting_it():
    config = tiny_config("baseline")
    config.eval_batch_size = 400
    setup, state = prepare(config)
    padded = evaluate.evaluate(setup, state, "test", epoch=0)
    test = setup.data.splits.test
    whole, predictions, confidences = setup.steps.evaluate(
        state.params,
        state.batch_stats,
        IndexedBatch(test.images, test.labels, np.arange(450)),
    )
    assert padded.losses.shape == (450,)
    np.testing.assert_allclose(padded.losses, whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(padded.confidences, confidences, rtol=1e-5)
    # Where the prediction is right its loss is the logarithm of its confidence.
    right = test.labels == predictions
    np.testing.assert_allclose(
        padded.confidences[right], np.exp(-padded.losses[right]), rtol=1e-4
    )
    assert (padded.confidences[~right] > np.exp(-padded.losses[~right])).all()


class SlowFeed:
    """Batches that take their time to come."""

    def __init__(self, feed):
        self._feed = feed

    def batches(self, phase, epoch, start=0):
        for points in self._feed.batches(phase, epoch, start):
            time.sleep(0.1)
            yield points


def test_waiting_for_data_is_measured():
    setup, state = prepare(tiny_config("baseline"))
    log = RunLog()
    state, record = loop.run_epoch(setup, state, log)  # compiles
    log.end_epoch(record)
    slow = dataclasses.replace(setup, feed=SlowFeed(setup.feed))
    _, record = loop.run_epoch(slow, state, log)
    assert record["data_wait"] > 0.5
    per_second = setup.config.batch_size / 0.1
    assert record["images_per_second"] < per_second


@pytest.mark.slow
@pytest.mark.full_compile
def test_learning_beats_its_control_and_the_baseline(tmp_path):
    """A third of the full run at full size, on one seed that no table reports."""
    errors = {}
    for name, method, frozen in (
        ("baseline", "baseline", False),
        ("frozen", "autodo_s", True),
        ("learned", "autodo_s", False),
    ):
        config = digits.get_config(method)
        config.seed, config.epochs, config.hyper.start_epoch = 1234, 60, 15
        config.hyper.frozen = frozen
        # Clean points that join would teach all of them.
        config.data.validation_size, config.task.joined_epochs = 0.3, 0
        errors[name] = run(config, tmp_path / name)[0]["test_error"]
    assert errors["learned"] < 0.75 * errors["frozen"]
    assert errors["learned"] < 0.6 * errors["baseline"]


def test_a_profile_is_of_the_second_epoch_with_hyper_steps(tmp_path):
    config = tiny_config("autodo")
    config.hyper.start_epoch = 0
    config.profile = str(tmp_path / "profile")
    run(config, tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    assert b"PjitFunction(hyper_step)" in gzip.decompress(trace.read_bytes())


def test_a_folder_for_the_profile_that_cannot_be_made_is_named_at_once(tmp_path):
    config = tiny_config("baseline")
    config.profile = str(tmp_path / "file" / "profile")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"config\.profile is .*file/profile"):
        run(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()
