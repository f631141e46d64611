"""What is not finite or diverges ends the run at its step, or is bounded as asked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.errors import RunError
from autodo_jax.train import loop
from autodo_jax.train.progress import EpochProgress
from autodo_jax.train.run_log import RunLog
from tests.train.prepared import prepare, run, tiny_config
from tests.train.test_resume import stop_after
from tests.train.test_steps import points, run_hyper_step


@pytest.fixture(scope="module")
def prepared():
    return prepare(tiny_config("autodo_s"))


def poison(tree):
    return jax.tree.map(lambda leaf: leaf + jnp.nan, tree)


def poisoned(setup, phase, at, field):
    """The setup with a step before which a part of the state becomes NaN."""
    step, seen = getattr(setup.steps, phase), []

    def wrapped(state, *args):
        seen.append(1)
        if len(seen) == at:
            state = state._replace(**{field: poison(getattr(state, field))})
        return step(state, *args)

    return dataclasses.replace(setup, steps=setup.steps._replace(**{phase: wrapped}))


@pytest.mark.parametrize(
    ("phase", "at", "field", "expected"),
    [
        (
            "task",
            5,
            "params",
            r"train_loss, grad_norm not finite in epoch 1, task step 5, at "
            r"learning_rate \S+; lower config.task.learning_rate, or",
        ),
        (
            "hyper",
            7,
            "tables",
            r"hypergrad_norm, lambda_norm not finite in epoch 2, hyper step 7, at "
            r"learning_rate \S+, hyper_learning_rate \S+; lower "
            r"config.hyper.learning_rate, or",
        ),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(
    prepared, phase, at, field, expected
):
    setup, state = prepared
    setup = poisoned(setup, phase, at, field)
    state, log, ended = jax.tree.map(jnp.copy, state), RunLog(), []
    with pytest.raises(RunError, match=expected):
        for _ in range(2):
            state, record = loop.run_epoch(
                setup, state, log, after_step=lambda *_: ended.append(1)
            )
            log.end_epoch(record)
            ended.clear()
    # Not all steps of the epoch were run in vain.
    assert len(ended) <= setup.plan.num_steps + 32


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, monkeypatch):
    config = tiny_config("baseline", epochs=1)
    config.task.learning_rate = 1e30
    stop_after(20, monkeypatch)
    with pytest.raises(RunError, match="not finite in epoch 1, task step"):
        run(config, tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_lambda_may_not_become_infinite(tmp_path):
    config = tiny_config("autodo_s")
    config.hyper.learning_rate = 1e38
    with pytest.raises(RunError, match=r"lambda_norm.* not finite in epoch 2"):
        run(config, tmp_path)


def test_the_gradient_is_clipped_to_its_largest_norm():
    config = tiny_config("baseline")
    config.task.clip_norm, config.task.weight_decay = 1e-3, 0.0
    setup, state = prepare(config)
    before = jax.tree.map(jnp.copy, state.params)
    train = setup.data.splits.train
    state, values = setup.steps.task(
        state, points(train, jnp.arange(16)), setup.task_key
    )
    assert values["grad_norm"] > 1e-3  # as it was before
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: a - b, state.params, before))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in moved))
    # Nesterov's first step is (1 + momentum) gradients.
    expected = values["learning_rate"] * (1 + config.task.momentum) * 1e-3
    np.testing.assert_allclose(norm, expected, rtol=1e-3)


def test_no_entry_of_lambda_moves_further_than_max_update():
    config = tiny_config("autodo")
    config.hyper.max_update = 1e-3
    setup, state = prepare(config)
    new, _ = run_hyper_step(setup, state, jnp.arange(16))
    for name, table in state.tables.items():
        moved = np.abs(new.tables[name] - table).max()
        np.testing.assert_allclose(moved, 1e-3, rtol=1e-2, err_msg=name)


def lambda_after_a_step(**fields):
    config = tiny_config("autodo_s")
    config.hyper.step_size = 100.0
    config.hyper.update(fields)
    setup, state = prepare(config)
    state, values = run_hyper_step(setup, state, jnp.arange(16))
    return state.tables["label"], values


def test_of_a_series_that_diverges_the_first_term_is_taken():
    found, values = lambda_after_a_step()
    assert values["diverged"] == 1
    expected, short = lambda_after_a_step(num_terms=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        values["hypergrad_norm"], short["hypergrad_norm"], rtol=1e-5
    )
    _, kept = lambda_after_a_step(on_divergence="stop")
    assert kept["residual_norm"] > 1e3 * values["residual_norm"] > 1e3
    assert kept["diverged"] == 1


def test_a_series_that_diverges_stops_the_run_where_that_is_asked_for(tmp_path):
    config = tiny_config("autodo_s")
    config.hyper.step_size, config.hyper.on_divergence = 100.0, "stop"
    with pytest.raises(
        RunError,
        match=r"diverges in epoch 2, hyper step 1: residual .* step_size < 2 / lambda",
    ):
        run(config, tmp_path)


def test_diverging_steps_are_counted_and_said(tmp_path, capsys):
    config = tiny_config("autodo_s")
    config.hyper.step_size = 100.0
    _, records, _ = run(config, tmp_path, EpochProgress(2))
    assert records[1]["diverged_steps"] > 0 and "diverged" not in records[1]
    out = capsys.readouterr().out
    assert "replaced by the first term" in out and "2 / lambda_max" in out
