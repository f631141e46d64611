"""Clean points that theta learns from, too: which, how often, and with which Lambda.

In the last epochs it learns from all of them. Where each class has more of them than
the outer loss needs, the others are train points in all epochs.
"""

from collections.abc import Callable

import chex
import jax.numpy as jnp
import ml_collections
import numpy as np

from autodo_jax import config as config_lib
from autodo_jax.data.batches.batch import Batch
from autodo_jax.objective import Rows
from autodo_jax.train import guard

StartRows = Callable[[chex.Array], Rows]  # labels [B] -> Lambda's start

# Clean points of each class that are kept for the outer loss before the last epochs.
MIN_OUTER = 50
# Times that a point of a rare class is drawn at most, to make up for its class.
MAX_COPIES = 4


def early(config: ml_collections.ConfigDict, labels: np.ndarray) -> np.ndarray:
    """Returns True of each clean point that theta learns from in all epochs, [M].

    They are `task.joined_share` of each class at most, and leave MIN_OUTER of it.

    Args:
      config: of the run.
      labels: of the clean points, [M].
    """
    share = config.task.joined_share if config_lib.joined_epochs(config) else 0.0
    # By class, at random within each: any run of places has its share of each class.
    place = guard.assign_folds(labels, max(len(labels), 1), seed=config.seed)
    is_early = np.floor((place + 1) * share) > np.floor(place * share)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        chosen = of_class[is_early[of_class]]
        num_kept = len(of_class) - len(chosen)
        is_early[chosen[: max(MIN_OUTER - num_kept, 0)]] = False
    return is_early


def copies(
    config: ml_collections.ConfigDict, labels: np.ndarray, clean_labels: np.ndarray
) -> np.ndarray:
    """Returns how often each clean point is drawn for each time of a train point, [M].

    It is `task.joined_copies`; if that is 0, what makes the classes of all points
    together as frequent as those of the clean ones, up to MAX_COPIES: given labels of
    rare classes are few, and more of them are wrong.

    Args:
      config: of the run.
      labels: as given, of the train points, [N].
      clean_labels: of the clean points that theta learns from, [M].
    """
    given = config.task.joined_copies
    if given:
        return np.full(len(clean_labels), given)
    num_classes = 1 + max(labels.max(initial=0), clean_labels.max(initial=0))
    num_clean = np.bincount(clean_labels, minlength=num_classes)
    num_train = np.bincount(labels, minlength=num_classes) * (num_clean > 0)
    ratio = num_train / np.maximum(num_clean, 1)
    # The class with the most points for its share sets the number of all.
    times = np.round(ratio.max() + 1 - ratio)
    return np.clip(times, 1, MAX_COPIES).astype(int)[clean_labels]


def start_of_clean_points(
    start_rows: StartRows, num_train: int, rows: Rows, batch: Batch
) -> Rows:
    """Gives clean points, those from `num_train` on, the rows of Lambda's start."""
    is_clean = batch.index >= num_train

    def chosen(start: chex.Array, row: chex.Array) -> chex.Array:
        if len(row) != len(is_clean):  # A single row is shared by all points.
            return row
        return jnp.where(jnp.expand_dims(is_clean, range(1, row.ndim)), start, row)

    start = start_rows(batch.label)
    return {name: chosen(start[name], row) for name, row in rows.items()}


def decide_labels(start_rows: StartRows, rows: Rows, batch: Batch) -> Rows:
    """Puts labels that still are for the given class back to Lambda's start.

    Where no label is wrong, labels that moved within their class made theta err more.
    """
    if "label" not in rows:
        return rows
    start, learned = start_rows(batch.label)["label"], rows["label"]
    is_given = start.argmax(-1, keepdims=True) == learned.argmax(-1, keepdims=True)
    return {**rows, "label": jnp.where(is_given, start, learned)}


def without_augmentation(rows: Rows) -> Rows:
    """Returns the rows without those of g_A, whose images it leaves as they are."""
    return {k: row for k, row in rows.items() if k not in ("gate", "magnitude")}
