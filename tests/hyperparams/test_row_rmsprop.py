"""The row optimizer against optax's dense RMSprop in its PyTorch form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from autodo_jax.hyperparams.row_rmsprop import row_rmsprop

NUM_POINTS, NUM_STEPS, BATCH = 50, 200, 8
SHAPES = {"weight": (NUM_POINTS,), "label": (NUM_POINTS, 3), "gate": (1, 2)}


def learning_rate(step):
    return 0.05 * 0.99**step


def run_both(dtype):
    """Random sparse gradients with repeated indices, through both optimizers."""
    rng = np.random.default_rng(0)
    tables = {
        name: jnp.asarray(rng.normal(size=shape), dtype)
        for name, shape in SHAPES.items()
    }
    rows = row_rmsprop(decay=0.99, eps=1e-8)
    reference = optax.rmsprop(learning_rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)

    @jax.jit
    def dense_step(dense, state, grads, positions):
        scattered = {
            name: jnp.zeros(shape, dtype).at[positions[name]].add(grads[name])
            for name, shape in SHAPES.items()
        }
        updates, state = reference.update(scattered, state)
        return optax.apply_updates(dense, updates), state

    dense, reference_state = tables, reference.init(tables)
    update, state = jax.jit(rows.update), rows.init(tables)
    for step in range(NUM_STEPS):
        index = jnp.asarray(rng.integers(0, NUM_POINTS, BATCH))
        positions = {
            name: index if shape[0] > 1 else jnp.zeros_like(index)
            for name, shape in SHAPES.items()
        }
        grads = {
            name: jnp.asarray(rng.normal(size=(BATCH, *shape[1:])) * 1e-3, dtype)
            for name, shape in SHAPES.items()
        }
        tables, state = update(tables, state, grads, positions, learning_rate(step))
        dense, reference_state = dense_step(dense, reference_state, grads, positions)
    return tables, dense


@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-6), (64, 1e-13)])
def test_equals_dense_rmsprop(bits, tolerance):
    with jax.enable_x64(bits == 64):
        tables, dense = run_both(jnp.dtype(f"float{bits}"))
        for name in SHAPES:
            scale = np.abs(dense[name]).max()
            np.testing.assert_allclose(
                tables[name], dense[name], atol=tolerance * scale, rtol=tolerance
            )


def test_untouched_rows_stay_and_are_not_written():
    tables = {"weight": jnp.arange(5.0)}
    rows = row_rmsprop()
    new, state = jax.jit(rows.update)(
        tables,
        rows.init(tables),
        {"weight": jnp.ones(3)},
        {"weight": jnp.array([1, 1, 5])},  # the last one is past the end
        0.1,
    )
    np.testing.assert_array_equal(new["weight"][jnp.array([0, 2, 3, 4])], [0, 2, 3, 4])
    np.testing.assert_array_equal(state.last_touch["weight"], [0, 1, 0, 0, 0])


def test_no_entry_moves_further_than_max_update():
    tables = {"weight": jnp.zeros(4)}
    grads = {"weight": jnp.array([-3.0, 1e-9])}
    positions = {"weight": jnp.array([1, 2])}
    rows = row_rmsprop(decay=0.99, eps=1e-8, max_update=0.25)
    update = jax.jit(rows.update)
    new, _ = update(tables, rows.init(tables), grads, positions, 0.1)
    # A first step is learning_rate * g / (0.1 |g| + eps): -1 and 0.0055.
    expected = [0, 0.25, -0.1 * 1e-9 / (1e-10 + 1e-8), 0]
    np.testing.assert_allclose(new["weight"], expected, rtol=1e-5)
