"""RMSprop that touches only the rows of a batch.

Property: equal to dense RMSprop on gradients that are zero outside the rows. There a
dense step changes no parameter and multiplies the second moment by `decay`. Here the
step at which a row was last touched is stored, and the missing factors are applied when
it is touched next. A step costs O(rows in the batch), whatever the number of points.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from autodo_jax.hyperparams.state import Tables


class RowRMSpropState(NamedTuple):
    """State over tables as in `hyperparams.state`."""

    count: chex.Array  # int32: number of updates so far
    nu: Tables  # second moments, shaped like the tables
    last_touch: dict[str, chex.Array]  # int32 [rows]: count at a row's last touch


class RowOptimizer(NamedTuple):
    """`init(tables) -> state` and `update(...) -> (tables, state)`, both pure."""

    init: Callable[[Mapping[str, chex.Array]], RowRMSpropState]
    update: Callable[..., tuple[Tables, RowRMSpropState]]


def row_rmsprop(
    decay: float = 0.99, eps: float = 1e-8, max_update: float = 0.0
) -> RowOptimizer:
    """Returns RMSprop on rows, with `eps` outside the root as in torch.optim.RMSprop.

    `update(tables, state, row_grads, positions, learning_rate)` returns
    `(tables, state)`. For each table, `row_grads` are the gradients [B, ...] of the
    rows at `positions` [B]. Gradients of the same row are summed; those at a position
    past the end (the number of rows) are dropped.

    Args:
      decay: of the second moment, in [0, 1).
      eps: added to the root of the second moment.
      max_update: largest change of an entry in one update; 0: unbounded.
    """

    def init(tables: Mapping[str, chex.Array]) -> RowRMSpropState:
        return RowRMSpropState(
            count=jnp.zeros((), jnp.int32),
            nu={name: jnp.zeros_like(table) for name, table in tables.items()},
            last_touch={
                name: jnp.zeros(table.shape[:1], jnp.int32)
                for name, table in tables.items()
            },
        )

    def update_table(
        table: chex.Array,
        nu: chex.Array,
        last_touch: chex.Array,
        grads: chex.Array,
        positions: chex.Array,
        count: chex.Array,
        learning_rate: chex.Numeric,
    ) -> tuple[chex.Array, chex.Array, chex.Array]:
        # Padded with a position past the end, where nothing is written.
        rows, segments = jnp.unique(
            positions, return_inverse=True, size=len(positions), fill_value=len(table)
        )
        grads = jax.ops.segment_sum(grads, segments, num_segments=len(positions))
        elapsed = count - last_touch[rows]
        steps = elapsed.astype(nu.dtype).reshape(-1, *(1,) * (grads.ndim - 1))
        new_nu = decay**steps * nu[rows] + (1 - decay) * grads**2
        updates = learning_rate * grads / (jnp.sqrt(new_nu) + eps)
        if max_update:
            updates = jnp.clip(updates, -max_update, max_update)
        return (
            table.at[rows].set(table[rows] - updates, mode="drop"),
            nu.at[rows].set(new_nu, mode="drop"),
            # Becomes `count`, by an addition that depends on the values read, so that
            # the compiler writes in place: to set them it would copy all N entries.
            last_touch.at[rows].add(elapsed, mode="drop"),
        )

    def update(
        tables: Mapping[str, chex.Array],
        state: RowRMSpropState,
        row_grads: Mapping[str, chex.Array],
        positions: Mapping[str, chex.Array],
        learning_rate: chex.Numeric,
    ) -> tuple[Tables, RowRMSpropState]:
        count = state.count + 1
        updated = {
            name: update_table(
                table,
                state.nu[name],
                state.last_touch[name],
                row_grads[name],
                positions[name],
                count,
                learning_rate,
            )
            for name, table in tables.items()
        }
        new_tables, nu, last_touch = (
            {name: parts[i] for name, parts in updated.items()} for i in range(3)
        )
        return new_tables, RowRMSpropState(count, nu, last_touch)

    return RowOptimizer(init, update)
