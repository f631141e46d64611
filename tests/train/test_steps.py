"""The steps of Algorithm 1: what they change, whose randomness they use."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax import config as config_lib
from autodo_jax import models, objective
from autodo_jax.data.batches.batch import Batch, IndexedBatch
from autodo_jax.train import steps
from tests.train.prepared import prepare, tiny_config


@pytest.fixture(scope="module")
def prepared():
    return prepare(tiny_config("autodo"))


def points(dataset, index):
    return IndexedBatch(dataset.images, dataset.labels, index)


def run_hyper_step(setup, state, index):
    return setup.steps.hyper(
        jax.tree.map(jnp.copy, state),
        points(setup.data.splits.train, index),
        points(setup.data.splits.validation, jnp.arange(16)),
        setup.hyper_key,
    )


def test_a_hyper_step_moves_the_rows_of_its_batch_and_nothing_else(prepared):
    setup, state = prepared
    index = jnp.arange(3, 19)
    new, values = run_hyper_step(setup, state, index)
    touched = np.isin(np.arange(len(state.tables["weight"])), index)
    for name, table in state.tables.items():
        moved = np.abs(new.tables[name] - table).reshape(len(table), -1).max(axis=1)
        np.testing.assert_array_equal(moved[~touched], 0)
        # A magnitude counts only where its gate is open.
        assert (moved[touched] > 0).mean() > (0.5 if name == "magnitude" else 0.99), (
            name
        )
    same = jax.tree.map(np.array_equal, new.params, state.params)
    assert all(jax.tree.leaves(same))
    assert set(values) >= {"outer_loss", "residual_norm", "neumann_horizon"}
    # The paper's budget hardly leaves the start of the series.
    assert 0.5 < values["residual_norm"] <= 1
    expected = 0.01 * 5 * values["lambda_max"]
    np.testing.assert_allclose(values["neumann_horizon"], expected, rtol=1e-6)


def test_a_hyper_step_may_be_given_the_features_of_its_validation_points(prepared):
    """What a run does: they are the same in all hyper steps of an epoch."""
    setup, state = prepared
    train, validation, _ = setup.data.splits
    model = models.create(setup.config.model, setup.data.num_classes)
    pixels = validation.images / np.float32(255)
    features = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        setup.objective.normalize(pixels),
        train=False,
        method="features",
    )
    index = jnp.arange(16)
    expected = run_hyper_step(setup, state, index)
    found = setup.steps.hyper(
        jax.tree.map(jnp.copy, state),
        points(train, index),
        points(validation, index)._replace(images=features),
        setup.hyper_key,
    )
    chex.assert_trees_all_close(found[1], expected[1], rtol=1e-4, atol=1e-6)
    # RMSprop's first steps are signs of the gradient, but for entries that have none.
    chex.assert_trees_all_close(
        found[0].hyper_optimizer_state.nu,
        expected[0].hyper_optimizer_state.nu,
        rtol=1e-3,
        atol=1e-12,
    )


def test_lambda_max_is_the_heads_largest_eigenvalue(prepared):
    setup, state = prepared
    index = jnp.arange(16)
    _, values = run_hyper_step(setup, state, index)
    losses = objective.create(
        setup.config, models.create(setup.config.model, setup.data.num_classes)
    )
    theta, others = objective.split_theta(state.params, "head")
    flat, unravel = jax.flatten_util.ravel_pytree(theta)
    rows = {name: table[index] for name, table in state.tables.items()}
    train = setup.data.splits.train
    batch = Batch(train.images[:16], jnp.asarray(train.labels[:16]), index)
    keys = steps.point_keys(setup.hyper_key, jnp.int32(0), index)

    @jax.jit
    @jax.hessian
    def hessian(theta):
        return losses.inner_loss(
            unravel(theta), rows, others, state.batch_stats, batch, keys
        )

    largest = np.abs(np.linalg.eigvalsh(hessian(flat))).max()
    assert 0.8 * largest < values["lambda_max"] <= 1.001 * largest


def test_a_task_step_leaves_lambda_alone_and_counts(prepared):
    setup, state = prepared
    new, _ = setup.steps.task(
        jax.tree.map(jnp.copy, state),
        points(setup.data.splits.train, jnp.arange(16)),
        setup.task_key,
    )
    assert int(new.step) == int(state.step) + 1
    for name, table in state.tables.items():
        np.testing.assert_array_equal(new.tables[name], table)
    changed = jax.tree.map(lambda a, b: (a != b).any(), new.params, state.params)
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("phase", ["task", "hyper"])
def test_several_steps_at_once_are_as_many_one_by_one(prepared, phase):
    setup, state = prepared
    parts = ["train"] if phase == "task" else ["train", "validation"]
    splits = setup.data.splits._asdict()
    step, key = {
        "task": (setup.steps.task, setup.task_key),
        "hyper": (setup.steps.hyper, setup.hyper_key),
    }[phase]
    rng = np.random.default_rng(0)
    # Points come again: a step takes the rows as the one before left them.
    index = np.stack([rng.permutation(40)[:16] for _ in range(3)])
    at_once, values = step(
        jax.tree.map(jnp.copy, state), *(points(splits[p], index) for p in parts), key
    )
    one_by_one, expected = jax.tree.map(jnp.copy, state), []
    for row in index:
        one_by_one, value = step(
            one_by_one, *(points(splits[p], row) for p in parts), key
        )
        expected.append(value)
    expected = jax.tree.map(lambda *rows: np.stack(rows), *expected)
    chex.assert_trees_all_close(values, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(at_once, one_by_one, rtol=1e-4, atol=1e-6)


def test_draws_depend_on_seed_step_and_point_only():
    keys = steps.point_keys(jax.random.key(0), jnp.int32(1), jnp.array([4, 9]))
    data = jax.random.key_data(keys)
    alone = steps.point_keys(jax.random.key(0), jnp.int32(1), jnp.array([9]))
    np.testing.assert_array_equal(data[1:], jax.random.key_data(alone))
    later = steps.point_keys(jax.random.key(0), jnp.int32(2), jnp.array([4, 9]))
    assert (data != jax.random.key_data(later)).any()


@pytest.mark.parametrize(
    ("method", "solver"),
    [
        ("autodo_shared", "neumann"),
        ("autodo_aw", "conjugate_gradient"),
        ("autodo_s", "identity"),
    ],
)
def test_each_solver_takes_a_step_for_each_method(method, solver):
    config = tiny_config(method)
    config.hyper.solver = solver
    config.hyper.auto_step_size = True
    setup, state = prepare(config)
    _, values = run_hyper_step(setup, state, jnp.arange(16))
    assert all(np.isfinite(value) for value in values.values())
    if solver == "neumann":
        assert values["residual_norm"] < 0.98  # an estimated step gets somewhere


@pytest.mark.parametrize(
    "fields",
    [
        {
            "augment.operations": ("gamma", "rotate", "brightness", "contrast"),
            "hyper.symmetric_kl": False,
        },
        {
            "model.name": "wide_resnet",
            "model.depth": 10,
            "model.width": 1,
            "model.dtype": "bfloat16",
        },
    ],
    ids=["colour operations and one-sided KL", "wide resnet in bfloat16"],
)
def test_options_of_the_config_take_a_finite_step(fields):
    config = tiny_config("autodo")
    config.update_from_flattened_dict(fields)
    config_lib.validate(config)
    setup, state = prepare(config)
    state, values = run_hyper_step(setup, state, jnp.arange(16))
    assert all(np.isfinite(value) for value in values.values())
    assert {leaf.dtype for leaf in state.tables.values()} == {jnp.dtype("float32")}
    moved = np.abs(state.tables["gate"] - state.tables["gate"][-1:]).max(axis=0)
    assert (moved > 0).all() and len(moved) == len(config.augment.operations)
