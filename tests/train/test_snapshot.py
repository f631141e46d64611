"""The guard of a run of steps: which clean points judge, and which Lambda is taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax import distributed
from autodo_jax.train import label_noise, loop, snapshot
from tests.train.prepared import prepare, run, tiny_config


def guarded_config(method="autodo_s", epochs=4):
    config = tiny_config(method, epochs)
    config.data.validation_size, config.guard.folds = 60, 4
    config.task.joined_epochs = 1
    return config


def test_a_fold_of_the_clean_points_takes_no_part_in_hypergradients():
    setup, _ = prepare(guarded_config())
    labels = setup.data.splits.validation.labels
    is_held_out = snapshot.held_out(setup.config, labels)
    assert is_held_out.sum() == len(labels) - len(setup.plan.outer_points) == 15
    assert set(labels[is_held_out]) == set(range(10))  # stratified
    seen = set()
    for epoch in range(8):
        order = setup.plan.order("hyper", epoch)["validation"]
        seen |= set(order.ravel().tolist())
    assert seen == set(np.flatnonzero(~is_held_out).tolist())
    assert set(setup.plan.order("validation", 0)["validation"].ravel()) >= set(
        range(60)
    )


@pytest.mark.parametrize("fields", [{"guard.folds": 0}, {"hyper.frozen": True}])
def test_there_is_none_where_it_is_off_or_nothing_is_learned(fields):
    config = guarded_config()
    config.update_from_flattened_dict(fields)
    assert not snapshot.held_out(config, np.arange(60) % 10).any()


def lambda_of(value):
    mesh = distributed.create_mesh(1)
    return distributed.place(mesh, {"label": np.full((6, 2), value, np.float32)})


def losses_of(mean, spread=0.1):
    """Losses of 16 points that differ from the mean in turns."""
    return (mean + spread * np.resize([-1, 1], 16)).astype(np.float32)


def kept_after(means):
    kept = snapshot.start(lambda_of(0.0), 16)
    kept = distributed.place(distributed.create_mesh(1), kept)
    for epoch, mean in enumerate(means, 1):
        kept = snapshot.better(kept, lambda_of(float(epoch)), losses_of(mean), epoch)
    return kept


@pytest.mark.parametrize(
    ("means", "best"), [([3, 2, 1], 3), ([3, 1, 2], 2), ([1, 2, 3], 1)]
)
def test_the_best_is_kept(means, best):
    kept = kept_after(means)
    assert int(kept.epoch) == best and float(kept.tables["label"][0, 0]) == best
    np.testing.assert_allclose(kept.losses, losses_of(means[best - 1]))


def test_it_is_a_copy():
    tables = lambda_of(1.0)
    kept = kept_after([])
    kept = snapshot.better(kept, tables, losses_of(1), 1)
    jax.tree.map(lambda table: table.delete(), tables)  # as a step that donates it
    assert float(kept.tables["label"][0, 0]) == 1


def test_the_last_is_taken_unless_the_best_is_surely_better():
    kept, last = kept_after([1.0]), lambda_of(9.0)
    # All points are worse by as much: a standard error of 0.
    tables, epoch = snapshot.choose(kept, last, losses_of(1.1), 5)
    assert (epoch, float(tables["label"][0, 0])) == (1, 1)
    # Worse by 0.1 on average, by 1.1 or better by 0.9 in turns: an error of 0.25.
    noisy = losses_of(1.1, spread=1.1)
    tables, epoch = snapshot.choose(kept, last, noisy, 5)
    assert (epoch, float(tables["label"][0, 0])) == (5, 9)


@pytest.mark.slow
def test_a_run_says_which_lambda_it_took(tmp_path, monkeypatch):
    """Held-out losses that rise: the Lambda of the first epoch of the outer loop."""
    judged, numbers = [], []
    better, estimate = snapshot.better, label_noise.estimate

    def worse_each_time(kept, tables, losses, epoch):
        judged.append(np.asarray(tables["label"]))
        losses[:] = epoch
        return better(kept, tables, losses, epoch)

    def note(logits, labels, clean_logits, clean_labels):
        numbers.append(len(clean_labels))
        return estimate(logits, labels, clean_logits, clean_labels)

    monkeypatch.setattr(snapshot, "better", worse_each_time)
    monkeypatch.setattr(label_noise, "estimate", note)
    result, records, tables = run(guarded_config(), tmp_path)
    assert result["lambda_epoch"] == 2 and result["joined_epochs"] == 1
    assert result["lambda_stop"].startswith("Lambda is that of epoch 2 of 4: ")
    assert [("held_out_loss" in line) for line in records] == [False, True, True, False]
    assert [line.get("lambda_epoch") for line in records] == [None, None, 2, None]
    assert len(judged) == 2 and (judged[0] != judged[1]).any()
    np.testing.assert_array_equal(tables["label"], judged[0][: len(tables["label"])])
    assert numbers == [15]  # labels are judged by clean points that nothing has seen


@pytest.mark.slow
def test_labels_are_judged_by_what_theta_said_before_the_clean_points_joined(tmp_path):
    config = guarded_config()
    config.guard.folds = 0
    setup, state = prepare(config)
    finished = loop.run(setup, state, tmp_path)
    unseen = np.asarray(finished.state.unseen)
    np.testing.assert_allclose(np.exp(unseen).sum(axis=1), 1, rtol=1e-5)
    labels = setup.data.splits.validation.labels
    # The clean error of the epoch before: 3 of 4.
    error = 100 * np.mean(unseen.argmax(axis=1) != labels)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert f'"val_error": {error:.4f}'[:20] in lines[2]
    assert jnp.isfinite(unseen).all()
