"""The guard of a run of steps: a Lambda that is kept, and clean points that judge it.

One fold of the clean points takes no part in the hypergradients. After each epoch of
the outer loop their loss judges theta, and so the Lambda that theta was trained with;
the best one is kept. Where it is better than the last one by more than a standard
error, the last epochs, in which the clean points join, start with it. It costs the
memory of one more Lambda and no step.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from autodo_jax import config as config_lib
from autodo_jax import distributed
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.train import guard, joined


class Kept(NamedTuple):
    """The best Lambda so far."""

    tables: hyperparams.Tables
    losses: chex.Array  # [H] of the clean points that are held out; inf at the start
    epoch: chex.Array  # int32, from 1; 0 at the start


def held_out(config: ml_collections.ConfigDict, labels: np.ndarray) -> np.ndarray:
    """Returns True of each clean point that Lambda is not learned from, [M].

    Args:
      config: of the run.
      labels: of the clean points, [M].
    """
    learns = config_lib.has_hyperparams(config.hyper) and not config.hyper.frozen
    if config_lib.is_solved(config) or not (config.guard.folds and learns):
        return np.zeros(len(labels), bool)
    rest = np.flatnonzero(~joined.early(config, labels))
    folds = guard.assign_folds(labels[rest], config.guard.folds, seed=config.seed)
    found = np.zeros(len(labels), bool)
    found[rest[folds == 0]] = True
    return found


def start(tables: hyperparams.Tables, num_held_out: int) -> Kept:
    """Returns Lambda at its start, which any other is better than."""
    losses = jnp.full(num_held_out, jnp.inf)
    return Kept(jax.tree.map(jnp.copy, tables), losses, jnp.zeros((), jnp.int32))


def better(
    kept: Kept, tables: hyperparams.Tables, losses: np.ndarray, epoch: int
) -> Kept:
    """Returns a copy of the better Lambda.

    Args:
      kept: the best so far.
      tables, losses, epoch: Lambda after an epoch, counted from 1, and the losses [H].
    """
    if not losses.mean() < np.asarray(kept.losses).mean():
        return kept
    sharding: Any = kept.epoch.sharding
    placed = distributed.place(sharding.mesh, (losses, np.int32(epoch)))
    return Kept(jax.tree.map(jnp.copy, tables), *placed)


def choose(
    kept: Kept, tables: hyperparams.Tables, losses: np.ndarray, epoch: int
) -> tuple[hyperparams.Tables, int]:
    """Returns the Lambda at which the outer loop ends, and its epoch, from 1.

    Args:
      kept: the best.
      tables, losses, epoch: the last, as `better` takes it.
    """
    both = np.stack([np.asarray(kept.losses), losses])
    if guard.choose_stop(both, expected=1).epoch == 1:
        return tables, epoch
    return jax.tree.map(jnp.copy, kept.tables), int(kept.epoch)
