"""Runs on features: Lambda on a solved head, its guard, and what a run promises."""

import json
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

import autodo_jax
from autodo_jax import config as config_lib
from autodo_jax import errors
from autodo_jax.export_model import __main__ as export_model
from autodo_jax.predict.trained import image_decoder
from autodo_jax.report import page
from autodo_jax.train import guard, solved
from autodo_jax.workdir.dataset_report import load_dataset_report
from configs import embeddings
from tests.train.prepared import prepare, run
from tests.train.test_resume import stop_after, without_times

C, WIDTH = 3, 12


def points(num_points, rng):
    """Gaussian classes, and their labels."""
    labels = np.arange(num_points) % C
    centers = 2.4 * np.eye(C, WIDTH)
    return centers[labels] + rng.normal(size=(num_points, WIDTH)) * 0.7, labels


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """90 train points, 30 % of them with another label, 24 clean, 60 test points."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for name, num_points in (("train", 90), ("validation", 24), ("test", 60)):
        features, labels = points(num_points, rng)
        arrays |= {f"{name}_features": features, f"{name}_labels": labels}
    wrong = rng.permutation(90)[:27]
    arrays["train_labels"][wrong] = (arrays["train_labels"][wrong] + 1) % C
    arrays["train_ids"] = np.array(
        [f"{'wrong' if i in wrong else 'right'}_{i}" for i in range(90)]
    )
    path = tmp_path_factory.mktemp("features") / "features.npz"
    np.savez(path, **arrays)
    return path


def config_of(file, method="autodo"):
    config = embeddings.get_config(method)
    config.data.data_dir = str(file)
    config.epochs, config.guard.folds, config.guard.expected_epochs = 4, 4, 2
    config_lib.validate(config)
    return config


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *run(config_of(file), folder)


def test_it_learns_which_labels_are_wrong(whole):
    folder, result, records, tables = whole
    report = load_dataset_report(folder)
    is_wrong, scores = np.char.startswith(report.id, "wrong"), report.noise_score
    assert np.mean(scores[is_wrong][:, None] > scores[~is_wrong]) > 0.9
    assert tables["weight"][is_wrong].mean() < tables["weight"][~is_wrong].mean()
    assert result["lambda_epoch"] in range(1, 5)
    assert result["lambda_epoch"] == records[-1]["lambda_epoch"]
    assert result["num_train"] == 90 and result["test_error"] < 15
    outer = [record["outer_loss"] for record in records[1:]]
    assert outer == sorted(outer, reverse=True)
    assert all(record["residual_norm"] < 0.02 for record in records[1:])
    for line in records:
        assert {"held_out_loss", "val_error", "test_error", "grad_norm"} <= line.keys()


def test_the_result_is_the_lambda_of_the_epoch_that_was_chosen(
    file, tmp_path, monkeypatch
):
    """That of an unguarded run, which stops there."""
    chosen = 2
    monkeypatch.setattr(
        guard, "choose_stop", lambda losses, **_: guard.Stop(chosen, chosen, False)
    )
    result, records, tables = run(config_of(file), tmp_path / "guarded")
    assert result["lambda_epoch"] == chosen + 1 < len(records) == 4
    config = config_of(file)
    config.guard.folds, config.epochs = 0, chosen + 1
    again, without, others = run(config, tmp_path / "unguarded")
    assert "lambda_epoch" not in again and "held_out_loss" not in without[0]
    assert again["test_error"] == result["test_error"]
    assert result["test_error"] == records[chosen]["test_error"]
    assert result["val_error"] == records[chosen]["val_error"]
    for name, table in tables.items():
        np.testing.assert_allclose(others[name], table, atol=1e-6)


@pytest.mark.parametrize("step", [1, 3])
def test_an_interrupted_run_continues_bit_for_bit(
    whole, file, step, tmp_path, monkeypatch
):
    _, result, records, tables = whole
    stop_after(step, monkeypatch)
    with pytest.raises(errors.Interrupted, match="stopped by SIGTERM"):
        run(config_of(file), tmp_path)
    again, more, others = run(config_of(file), tmp_path)
    assert without_times(more) == without_times(records)
    assert without_times([again]) == without_times([result])
    for name, table in tables.items():
        np.testing.assert_array_equal(others[name], table)


def test_the_report_says_where_lambda_was_stopped(whole):
    text = page.write_page(whole[0]).read_text()
    assert f"Lambda is that of epoch {whole[1]['lambda_epoch']} of 4" in text
    assert "held-out clean points" in text


def test_folds_judge_points_they_have_not_learned_from(file):
    setup, _ = prepare(config_of(file))
    parts = solved.run_parts(setup)
    assert len(parts) == 5 and parts[-1].all()
    np.testing.assert_array_equal(parts[:-1].sum(0), np.full(24, 3))
    logits = np.stack([np.full((24, C), float(i)) for i in range(5)])
    found = solved._held_out_logits(setup, logits)
    for fold in range(4):
        assert (found[parts[fold] == 0] == fold).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["baseline", "clean_only", "joined", "autodo_s"])
def test_rivals_and_controls_are_solved_once(file, method, tmp_path):
    config = config_of(file, method)
    config.hyper.frozen = method == "autodo_s"
    result, records, _ = run(config, tmp_path)
    assert result["epochs"] == len(records) == 1
    assert result["test_error"] < 40 and result["frozen"] == config.hyper.frozen
    assert json.loads((tmp_path / "result.json").read_text()) == result


def test_a_run_is_loaded_from_its_workdir(whole, file):
    loaded = autodo_jax.load_run(whole[0])
    with np.load(file) as arrays:
        features, labels = arrays["test_features"], arrays["test_labels"]
    probability = loaded.predict(features)
    error = 100 * np.mean(probability.argmax(axis=1) != labels)
    assert error == whole[1]["test_error"]
    with pytest.raises(errors.RunFilesError, match="trained on features"):
        image_decoder(whole[0], loaded)


@pytest.mark.slow
def test_the_exported_network_gives_the_same_logits(whole, file, tmp_path):
    assert export_model.main([str(whole[0]), f"--to={tmp_path}/net"]) == 0
    exported = jax.export.deserialize((tmp_path / "net.stablehlo").read_bytes())
    with np.load(file) as arrays:
        features = arrays["test_features"].astype(np.float32)
    found = autodo_jax.load_run(whole[0])
    expected: Any = found.model.apply(found.variables, features, train=False)
    np.testing.assert_allclose(exported.call(features), expected, atol=1e-5)
