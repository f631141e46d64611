"""The guard: Lambda is stopped where clean points it is not learned from say so.

Lambda has more entries than the clean set has points, and with a well solved inner
problem it soon fits them by heart: their loss falls to the end, that of clean points
which are held out turns. Pure functions, for solved and for stepped runs alike.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

_MAX_LOG_SCALE = 5.0  # of the logits, in `calibrated_losses`


class Stop(NamedTuple):
    """Where Lambda is stopped."""

    epoch: int  # index of the epoch whose Lambda is taken
    best: int  # index of the smallest mean loss
    is_over: bool  # no further epoch is worth its time


def choose_stop(
    losses: np.ndarray, *, expected: int | None = None, patience: int = 0
) -> Stop:
    """Returns the epoch at which Lambda is stopped, by its held-out losses.

    Of the epochs that are not worse than the best by more than one standard error of
    the paired difference, it is the one closest to the expected one: few points know
    little, and the less they know, the more the expectation counts. Without one it is
    the best.

    Args:
      losses: [E, M] of the epochs so far, of M clean points that Lambda was not
        learned from.
      expected: index of an epoch.
      patience: epochs without a smaller loss, the expected one past, after which it is
        over; 0: never.

    Raises:
      ValueError: losses of another shape, none, or some that are not finite.
    """
    losses = np.asarray(losses, np.float64)
    if losses.ndim != 2 or not losses.size or not np.isfinite(losses).all():
        raise ValueError(
            f"`losses` must be finite, [E, M], both at least 1, got {losses.shape}"
        )
    best = int(losses.mean(axis=1).argmin())
    last = len(losses) - 1
    is_over = bool(patience) and last - best >= patience
    if expected is None:
        return Stop(best, best, is_over)
    worse = losses - losses[best]
    error = worse.std(axis=1) / np.sqrt(losses.shape[1])
    good = np.flatnonzero(worse.mean(axis=1) <= error)
    epoch = int(good[np.abs(good - expected).argmin()])
    return Stop(epoch, best, is_over and last >= expected)


def assign_folds(labels: np.ndarray, num_folds: int, *, seed: int) -> np.ndarray:
    """Returns the fold of each point, [M] in 0..num_folds-1, stratified.

    The folds differ by at most one point, in all and in each class.

    Args:
      labels: [M].
      num_folds: at least 1.
      seed: same seed, same folds.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), np.int64)
    folds[order] = np.arange(len(labels)) % num_folds
    return folds


def calibrated_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns cross-entropies [M] of logits times the factor that suits them best.

    The factor is the same for all points. A plain cross-entropy would reward Lambda for
    larger logits, long after the order of the classes has become worse.

    Args:
      logits: [M, C].
      labels: [M].
    """
    logits = logits.astype(np.float64)

    def losses(log_scale: float) -> np.ndarray:
        log_p = scipy.special.log_softmax(np.exp(log_scale) * logits, axis=1)
        return -log_p[np.arange(len(labels)), labels]

    bounds = (-_MAX_LOG_SCALE, _MAX_LOG_SCALE)
    best = scipy.optimize.minimize_scalar(lambda s: losses(s).mean(), bounds=bounds)
    return losses(best.x)


def explain(records: Sequence[Mapping[str, Any]]) -> str:
    """Returns where Lambda was stopped and why, in one line; "" without a guard.

    Args:
      records: metrics of the epochs. Those of the outer loop have `held_out_loss`, its
        last one `lambda_epoch`.
    """
    epoch = lambda_epoch(records)
    if epoch is None:
        return ""
    losses = {
        number: record["held_out_loss"]
        for number, record in enumerate(records, 1)
        if "held_out_loss" in record
    }
    best, first = min(losses, key=lambda number: losses[number]), min(losses)
    return (
        f"Lambda is that of epoch {epoch} of {len(records)}: the loss of held-out "
        f"clean points is {losses[epoch]:.3f} there, {losses[best]:.3f} at best "
        f"(epoch {best}) and {losses[first]:.3f} at the start"
    )


def lambda_epoch(records: Sequence[Mapping[str, Any]]) -> int | None:
    """Returns the epoch, from 1, that the guard took Lambda from; None without one."""
    found = [int(r["lambda_epoch"]) for r in records if "lambda_epoch" in r]
    return found[-1] if found else None
