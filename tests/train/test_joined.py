"""The last epochs, in which clean points join and Lambda is still."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax import config as config_lib
from autodo_jax.errors import ConfigError
from autodo_jax.train import evaluate, joined, loop, snapshot
from autodo_jax.train.run_log import RunLog
from configs import digits
from tests.train.prepared import prepare, run, tiny_config


def joined_config(method="autodo_s", epochs=3):
    config = tiny_config(method, epochs)
    config.task.joined_epochs = 1
    config.data.validation_size = 60
    return config


def test_clean_points_join_in_the_last_epochs():
    setup, _ = prepare(joined_config())
    plan, num_train = setup.plan, len(setup.data.splits.train.labels)
    assert [plan.phases(epoch)[:2] for epoch in range(3)] == [
        ("task", "validation"), ("task", "hyper"), ("task", "validation")
    ]  # fmt: skip
    assert [*plan.order("task", 1)] == ["train"]
    (order,) = plan.order("task", 2).values()
    assert order.max() >= num_train  # clean points come after them
    (points,) = next(iter(setup.feed.batches("task", 2)))
    clean = setup.data.splits.validation
    np.testing.assert_array_equal(points.labels[num_train:], clean.labels)


def test_a_clean_point_has_its_own_label_and_lambda_stays():
    """A clean batch takes the step of Lambda's start, whatever the tables hold."""
    setup, state = prepare(joined_config())
    num_train = len(setup.data.splits.train.labels)
    (points,) = next(iter(setup.feed.batches("task", 2)))
    chosen = points._replace(index=num_train + np.arange(16))
    spoiled = jax.tree.map(jnp.copy, state)
    spoiled = spoiled._replace(
        tables={name: -table for name, table in spoiled.tables.items()}
    )
    before = {name: np.asarray(table) for name, table in spoiled.tables.items()}
    losses = []
    for given in (state, spoiled):
        given, values = setup.steps.joined(given, chosen, setup.task_key)
        losses.append(float(values["train_loss"]))
    assert losses[0] == losses[1]
    for name, table in given.tables.items():
        np.testing.assert_array_equal(table, before[name])


def loss_with(step, setup, state, points, label):
    """The train loss of a step of train points, with a table of labels."""
    state = jax.tree.map(jnp.copy, state)
    state.tables["label"] = jax.device_put(label, state.tables["label"].sharding)
    return float(step(state, points, setup.task_key)[1]["train_loss"])


def test_a_learned_label_counts_in_the_last_epochs_where_it_is_another_class():
    setup, state = prepare(joined_config())
    (points,) = next(iter(setup.feed.batches("task", 2)))
    points = points._replace(index=np.arange(16))
    start = np.array(state.tables["label"])
    given = start.argmax(-1)
    softer, other = start.copy(), start.copy()
    softer[np.arange(len(start)), given] -= 0.5
    other[0, (given[0] + 1) % 10] += 20
    loss = functools.partial(loss_with, setup.steps.joined, setup, state, points)
    assert (softer.argmax(-1) == given).all() and loss(softer) == loss(start)
    assert abs(loss(other) - loss(start)) > 1e-2
    # Before, they count as they are.
    loss = functools.partial(loss_with, setup.steps.early, setup, state, points)
    assert abs(loss(softer) - loss(start)) > 1e-3


@pytest.fixture
def few_are_kept(monkeypatch):
    """Ten clean points of each class are enough for the outer loss."""
    monkeypatch.setattr(joined, "MIN_OUTER", 10)


@pytest.mark.usefixtures("few_are_kept")
def test_a_share_of_the_clean_points_joins_in_all_epochs():
    config = joined_config()
    config.data.validation_size, config.task.joined_share = 200, 0.4
    setup, state = prepare(config)
    plan, num_train = setup.plan, len(setup.data.splits.train.labels)
    is_early = joined.early(config, setup.data.splits.validation.labels)
    assert is_early.sum() == 80 and not state.kept
    seen: dict[str, set[int]] = {"task": set(), "outer": set()}
    for epoch in range(2):
        (order,) = plan.order("task", epoch).values()
        seen["task"] |= {*order[order >= num_train].ravel() - num_train}
    for epoch in range(8):
        seen["outer"] |= {*plan.order("hyper", epoch)["validation"].ravel()}
    assert seen["outer"] == {*np.flatnonzero(~is_early)}
    assert seen["task"] and seen["task"] <= {*np.flatnonzero(is_early)}
    (last,) = plan.order("task", 2).values()
    assert {*last[last >= num_train] - num_train} & seen["outer"]  # all join at last


@pytest.mark.usefixtures("few_are_kept")
def test_copies_of_clean_points_are_drawn_more_often():
    config = joined_config()
    config.data.validation_size = 200
    config.task.joined_share, config.task.joined_copies = 0.5, 3
    setup, _ = prepare(config)
    num_train = len(setup.data.splits.train.labels)
    for epoch, num_clean in ((0, 100), (2, 200)):
        chosen = setup.plan.joined_points if epoch == 2 else setup.plan.early_points
        assert np.bincount(chosen[:num_train]).tolist() == [1] * num_train
        times = np.bincount(chosen[num_train:] - num_train, minlength=200)
        assert (times > 0).sum() == num_clean and set(times) <= {0, 3}
        (order,) = setup.plan.order("task", epoch).values()
        assert np.isin(order, chosen).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("sizes", [(1, 0), (7, 60), (200, 201), (52, 300)])
def test_each_class_has_its_share_but_for_fifty(share, sizes):
    config = joined_config()
    config.task.joined_share = share
    labels = np.repeat([0, 1], sizes)
    is_early = joined.early(config, labels)
    counts, sizes = np.bincount(labels[is_early], minlength=2), np.array(sizes)
    expected = np.minimum(share * sizes, np.maximum(sizes - 50, 0))
    assert np.all(np.abs(counts - expected) <= 1)
    assert np.all(sizes - counts >= np.minimum(sizes, 50))


def test_without_joined_epochs_no_clean_point_joins():
    config = joined_config()
    config.task.joined_share, config.task.joined_epochs = 0.75, 0
    assert not joined.early(config, np.repeat([0, 1], 100)).any()
    assert "joined" not in prepare(config)[0].plan.num_points


@pytest.mark.parametrize(
    ("num_train", "num_clean", "expected"),
    [
        # Points a class, with the copies: 400 each; as the clean ones, up to four
        # copies: 700, 500, 350 for 700, 700, 350; and so on.
        ((300, 100, 0), (100, 100, 100), (1, 3, 4)),
        ((300, 100, 300), (100, 100, 50), (4, 4, 1)),
        ((90, 90), (45, 45), (1, 1)),
        ((300, 20), (10, 10), (1, 4)),
        ((40, 10), (40, 10), (1, 1)),
        ((40, 10), (40, 0), (1, 1)),
    ],
)
def test_clean_points_of_rare_classes_are_drawn_more_often(
    num_train, num_clean, expected
):
    config = joined_config()
    config.task.joined_copies = 0
    labels, clean = (np.repeat(np.arange(len(n)), n) for n in (num_train, num_clean))
    found = joined.copies(config, labels, clean)
    np.testing.assert_array_equal(found, np.repeat(expected, num_clean))


def test_images_are_plain_in_the_last_of_the_joined_epochs():
    """The steps of these epochs are those of a Lambda without g_A."""
    config = joined_config("autodo", epochs=6)
    config.task.joined_epochs, config.task.plain_share = 4, 0.5
    config.augment.policy = "none"
    setup, state = prepare(config)
    is_plain = [setup.plan.is_plain(epoch) for epoch in range(6)]
    assert is_plain == [False] * 4 + [True] * 2
    same, closed = (jax.tree.map(jnp.copy, state) for _ in range(2))
    closed.tables["gate"] = jnp.full_like(closed.tables["gate"], -50.0)
    (points,) = next(iter(setup.feed.batches("task", 5)))
    points = points._replace(index=np.arange(16))  # of the train set, which has gates
    plain, of_closed, augmented = (
        float(step(given, points, setup.task_key)[1]["train_loss"])
        for step, given in (
            (setup.steps.plain, same),
            (setup.steps.joined, closed),
            (setup.steps.joined, state),
        )
    )
    assert plain == pytest.approx(of_closed, rel=1e-5)
    assert abs(plain - augmented) > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.4])
@pytest.mark.usefixtures("few_are_kept")
def test_epochs_take_their_steps(share):
    config = joined_config("autodo_a", epochs=6)
    config.data.validation_size, config.task.joined_share = 200, share
    config.task.joined_epochs, config.task.plain_share = 4, 0.5
    setup, state = prepare(config)
    taken = []

    def recorded(name):
        def step(state, *_):
            taken.append(name)
            return state, {"train_loss": jnp.zeros(())}

        return step

    names = ("task", "early", "joined", "plain")
    steps = setup.steps._replace(**{name: recorded(name) for name in names})
    setup = dataclasses.replace(setup, steps=steps)
    for epoch in (0, 2, 4):
        log = RunLog(records=[{}] * epoch)
        loop._run_phase(setup, state, log, "task", lambda *_: None, None)
    first = "early" if share else "task"
    assert list(dict.fromkeys(taken)) == [first, "joined", "plain"]


@pytest.mark.usefixtures("few_are_kept")
def test_no_point_that_theta_learns_from_judges_lambda():
    config = joined_config()
    config.task.joined_share, config.guard.folds = 0.5, 3
    labels = np.arange(240) % 10
    is_early = joined.early(config, labels)
    is_held_out = snapshot.held_out(config, labels)
    assert is_held_out.sum() == 40 and not (is_early & is_held_out).any()


@pytest.mark.slow
def test_lambda_is_that_of_the_epochs_before(tmp_path):
    result, records, _ = run(joined_config(), tmp_path)
    assert "outer_loss" in records[1] and "outer_loss" not in records[2]
    assert result["epochs"] == 3 and result["best_val_epoch"] in (1, 2)


@pytest.mark.parametrize(
    ("value", "epochs", "start", "expected"),
    [
        *((0, 120, 30, 0), (30, 120, 30, 30), (2 / 3, 120, 30, 60), (0.5, 3, 2, 0)),
        *((2 / 3, 2, 1, 0), (0.99, 4, 1, 2)),
    ],
)
def test_a_share_is_one_of_the_epochs_of_the_outer_loop(value, epochs, start, expected):
    config = tiny_config("autodo_s", epochs)
    config.hyper.start_epoch, config.task.joined_epochs = start, value
    assert config_lib.joined_epochs(config) == expected


@pytest.mark.parametrize(("outer_set", "expected"), [("validation", 60), ("test", 0)])
def test_a_share_is_of_none_without_a_clean_set(outer_set, expected):
    config = digits.get_config("autodo_s")
    config.data.outer_set = outer_set
    config_lib.validate(config)
    assert config_lib.joined_epochs(config) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"task.joined_epochs": 2}, "less than 2"),
        ({"guard.folds": 2}, "0 without task.joined_epochs"),
        ({"guard.patience": 2}, "0 of a network that is not solved"),
        ({"task.joined_epochs": 1.5}, "a share"),
        ({"task.joined_epochs": -0.5}, "a share"),
        ({"data.outer_set": "test", "task.joined_epochs": 1}, "outer_set=test"),
        ({"task.joined_share": 1.0}, r"a share in \[0, 1\)"),
        ({"task.plain_share": 1.5}, r"a share in \[0, 1\]"),
        ({"task.joined_copies": -1}, ">= 0"),
        ({"task.logit_adjustment": -0.5}, ">= 0"),
    ],
)
def test_what_does_not_fit_is_refused(fields, expected):
    config = tiny_config("autodo_s", epochs=3)
    for name, value in fields.items():
        section, field = name.split(".")
        config[section][field] = value
    with pytest.raises(ConfigError, match=expected):
        config_lib.validate(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("joined_share", 0.5), ("joined_copies", 2), ("logit_adjustment", 1.0)],
)
def test_a_solved_head_has_none_of_them(field, value):
    config = config_lib.default_config()
    config_lib.use_features(config)
    config.data.source = "embeddings"
    config_lib.validate(config)
    config.task[field] = value
    with pytest.raises(ConfigError, match="of a head that is solved"):
        config_lib.validate(config)


@pytest.mark.parametrize(("epochs", "expected"), [(1, True), (0, False)])
def test_logits_are_adjusted_with_joined_epochs(epochs, expected):
    """`task.joined_epochs=0` alone is the paper's protocol."""
    config = joined_config()
    config.task.joined_epochs, config.task.logit_adjustment = epochs, 1.0
    config.data.imbalance_ratio = 5.0
    setup, _ = prepare(config)
    adjustment = np.array(setup.objective.adjustment)
    assert bool(len(adjustment)) == expected
    if expected:
        assert setup.objective.num_train == len(setup.data.splits.train.labels)
        counts = np.bincount(setup.data.splits.train.labels)
        rare = counts < counts.mean()
        assert (adjustment[rare] < 0).all() and (adjustment[~rare] > 0).all()


def test_train_points_have_the_probabilities_of_their_own_classes(tmp_path):
    """Those of the network by Bayes' rule, with the shares of the train labels."""
    config = joined_config()
    config.task.logit_adjustment, config.data.imbalance_ratio = 1.0, 5.0
    setup, state = prepare(config)
    finished = loop.run(setup, state, tmp_path)
    labels = setup.data.splits.train.labels
    balanced = np.exp(
        evaluate.log_probabilities(setup, finished.state, "train"), dtype=np.float64
    )
    clean = np.bincount(setup.data.splits.validation.labels) + 1
    expected = balanced * (np.bincount(labels) + 1) / clean
    expected /= expected.sum(axis=1, keepdims=True)
    found = np.load(tmp_path / "probabilities.npy")
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(found - balanced).max() > 0.01
    of_label = expected[np.arange(len(labels)), labels]
    np.testing.assert_allclose(finished.report.noise_score, 1 - of_label, atol=1e-5)
    suggested = np.array(finished.report.suggested_label, int)
    np.testing.assert_array_equal(suggested, expected.argmax(axis=1))
