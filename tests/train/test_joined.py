"""The last epochs, in which clean points join and Lambda is still."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax import config as config_lib
from autodo_jax.errors import ConfigError
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
    ],
)
def test_what_does_not_fit_is_refused(fields, expected):
    config = tiny_config("autodo_s", epochs=3)
    for name, value in fields.items():
        section, field = name.split(".")
        config[section][field] = value
    with pytest.raises(ConfigError, match=expected):
        config_lib.validate(config)
