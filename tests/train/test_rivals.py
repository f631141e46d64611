"""The rivals learn from the clean validation set, in as many steps as the others."""

import jax
import numpy as np
import pytest

from autodo_jax import config as config_lib
from autodo_jax.data import run_data
from autodo_jax.errors import ConfigError
from autodo_jax.report import page
from autodo_jax.train import label_noise
from autodo_jax.workdir import run as runs
from tests.train.prepared import prepare, run, tiny_config


def test_a_rival_learns_from_its_points():
    splits = run_data.load(tiny_config("baseline")).splits
    baseline, clean, joined = (
        run_data.load(tiny_config(method)).fit
        for method in ("baseline", "clean_only", "joined")
    )
    np.testing.assert_array_equal(baseline.ids, splits.train.ids)
    np.testing.assert_array_equal(baseline.labels, splits.train.labels)
    np.testing.assert_array_equal(clean.ids, splits.validation.ids)
    np.testing.assert_array_equal(joined.ids, [*splits.train.ids, *clean.ids])
    np.testing.assert_array_equal(joined.labels, [*baseline.labels, *clean.labels])


@pytest.mark.parametrize("method", config_lib.RIVALS)
def test_it_takes_the_steps_of_the_baseline_on_all_its_points(method):
    setup, _ = prepare(tiny_config(method))
    baseline, _ = prepare(tiny_config("baseline"))
    assert setup.plan.num_steps == baseline.plan.num_steps == 519 // 16
    seen = set()
    for epoch in range(12):
        (order,) = setup.plan.order("task", epoch).values()
        assert order.shape == (32, 16)
        seen |= set(order.ravel().tolist())
    assert seen == set(range(len(setup.data.fit.labels)))


def test_the_clean_set_alone_knows_nothing_of_the_train_labels(tmp_path):
    found = []
    for noise in (0.1, 0.4):
        config = tiny_config("clean_only")
        config.data.noise_ratio = noise
        found.append(run(config, tmp_path / str(noise)))
    (first, records, _), (second, others, _) = found
    assert first["test_error"] == second["test_error"]
    assert records[-1]["train_loss"] == others[-1]["train_loss"]
    # It scores the labels of the train set, as others do.
    assert first["num_train"] == second["num_train"] == 519
    assert first["noise_auroc"] > 0.6


@pytest.mark.slow
def test_streamed_points_are_the_same(tmp_path):
    grain = pytest.importorskip("grain")
    del grain
    losses = []
    for stream in (False, True):
        config = tiny_config("joined")
        config.data.stream = stream
        losses.append(run(config, tmp_path / str(stream))[1][0]["train_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("fields", [{"data.train_on": "both"}, {"hyper.weights": True}])
def test_lambda_has_no_rows_for_clean_points(fields):
    method = "autodo_s" if "data.train_on" in fields else "joined"
    config = tiny_config(method)
    config.update_from_flattened_dict(fields)
    with pytest.raises(
        ConfigError, match=r"config\.data\.train_on is 'both', expected"
    ):
        config_lib.validate(config)


def test_the_clean_set_is_not_another_one():
    config = tiny_config("clean_only")
    config.data.outer_set = "test"
    with pytest.raises(ConfigError, match=r"expected train with data\.outer_set=test"):
        config_lib.validate(config)


@pytest.mark.slow
def test_a_report_shows_the_rivals_beside_the_run(tmp_path):
    errors = {}
    for method in ("baseline", *config_lib.RIVALS):
        result, _, _ = run(tiny_config(method), tmp_path / method)
        errors[method] = f"{result['test_error']:.2f}"
    other = tiny_config("joined")
    other.seed = 1
    run(other, tmp_path / "another seed")
    found = runs.read(tmp_path / "baseline").rivals()
    assert {method: rival.path.name for method, rival in found.items()} == {
        "clean_only": "clean_only",
        "joined": "joined",
    }
    text = page.write_page(tmp_path / "baseline").read_text()
    assert "`clean_only` learns from it alone" in text
    for method in config_lib.RIVALS:
        assert f"<th>{method}" in text.replace(' scope="col"', "")
        assert errors[method] in text
    assert runs.read(tmp_path / "joined").rivals().keys() == {"clean_only"}
    text = page.write_page(tmp_path / "joined").read_text()
    assert "learns from the validation set" in text


def test_the_batches_of_a_rival_hold_its_points():
    setup, _ = prepare(tiny_config("clean_only"))
    (points,) = next(setup.feed.batches("task", 0))
    images = jax.device_get(points.images)
    np.testing.assert_array_equal(images, setup.data.splits.validation.images)


@pytest.mark.parametrize(
    ("method", "is_seen"),
    [("baseline", False), ("clean_only", True), ("joined", True)],
)
def test_labels_are_not_judged_by_clean_points_that_theta_knows(
    method, is_seen, tmp_path, monkeypatch
):
    numbers = []
    calibrate = label_noise.calibrate

    def note(logits, labels):
        numbers.append(len(labels))
        return calibrate(logits, labels)

    monkeypatch.setattr(label_noise, "calibrate", note)
    run(tiny_config(method), tmp_path)
    assert numbers == [0 if is_seen else 405]
