"""Algorithm 1 on a head that is solved: an epoch is one step of Lambda on all points.

Several Lambdas are learned side by side: one from all clean points, and one for each
fold of them, learned without it. The folds judge the epoch (see `guard`); its Lambda,
learned from all, is the result, with a head that has learned from the clean points too.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.special

from autodo_jax._typing import Metrics
from autodo_jax.train import evaluate, guard
from autodo_jax.train.run_log import RunLog
from autodo_jax.train.setup import Setup
from autodo_jax.train.solves import Solves, learns
from autodo_jax.train.state import LearnedHead, TrainState

_CROSS_FOLDS = 5  # of the train points, for predictions of heads that did not see them


def run_epoch(
    setup: Setup,
    state: TrainState,
    log: RunLog,
    *,
    after_step: Callable[[TrainState, RunLog], None] = lambda state, log: None,
    warn: Callable[..., None] = print,
) -> tuple[TrainState, dict[str, Any]]:
    """One step of Lambda and the solves after it, or the rest of them.

    The first epoch has no step: it judges Lambda's start. As `loop.run_epoch`.
    """
    del warn
    start, epoch, config = time.monotonic(), log.epoch, setup.config
    solves = _solves(setup)
    parts = run_parts(setup)
    heads = list(state.heads)
    for number in range(log.num_steps("hyper"), len(heads)):
        head = heads[number]
        values: Metrics = {}
        if epoch:
            head, values = solves.learn(head, solves.points, parts[number])
        head, fitted = solves.fit(head, solves.points, parts[number])
        heads[number] = head
        state = state._replace(heads=tuple(heads))
        log.end_steps("hyper", values | fitted)
        after_step(state, log)
    full = heads[-1]
    history, logits = log.fetch([head.clean_logits for head in heads])
    logits = _held_out_logits(setup, logits)
    clean_labels = setup.data.splits.validation.labels
    judged = evaluate.of_log_probabilities(_log_softmax(logits), clean_labels)
    held_out = guard.calibrated_losses(logits, clean_labels)
    state = state._replace(
        params=full.joined,
        tables=full.tables,
        held_out=state.held_out.at[epoch].set(held_out),
    )
    record = {
        "epoch": epoch + 1,
        **history["hyper"][-1],
        "val_loss": judged.loss,
        "val_error": judged.error,
        "test_error": evaluate.evaluate(setup, state, "test", epoch).error,
        "learning_rate": 0.0,
        "hyper_learning_rate": config.hyper.learning_rate if epoch else 0.0,
    }
    if config.guard.folds and learns(config):
        record["held_out_loss"] = float(held_out.mean())
    stop = stop_of(config, np.asarray(state.held_out[: epoch + 1]))
    if stop.is_over or epoch + 1 == config.epochs:
        record["stopped"] = 1.0
        if "held_out_loss" in record:
            record["lambda_epoch"] = stop.epoch + 1
        if stop.epoch < epoch:
            head = repeat(setup, stop.epoch)
            state = state._replace(params=head.joined, tables=head.tables)
    return state, record | {"seconds": time.monotonic() - start}


def stop_of(config: ml_collections.ConfigDict, held_out: np.ndarray) -> guard.Stop:
    """Returns the epoch of the result so far, and whether this is the last.

    Without a guard it is the last epoch.

    Args:
      config: of the run.
      held_out: losses [E, M] of the epochs so far.
    """
    last = len(held_out) - 1
    if not learns(config):
        return guard.Stop(last, last, True)
    if not config.guard.folds:
        return guard.Stop(last, last, False)
    return guard.choose_stop(
        held_out,
        expected=config.guard.expected_epochs,
        patience=config.guard.patience,
    )


def repeat(setup: Setup, num_steps: int) -> LearnedHead:
    """Returns the head, and the Lambda learned from all clean points, of an epoch.

    It repeats these steps: to keep the tables of all epochs would take more memory.

    Args:
      setup: of the run.
      num_steps: of Lambda; 0: its start.
    """
    solves, chosen = _solves(setup), run_parts(setup)[-1]
    head, _ = solves.fit(solves.start(), solves.points, chosen)
    for _ in range(num_steps):
        head, _ = solves.learn(head, solves.points, chosen)
        head, _ = solves.fit(head, solves.points, chosen)
    return head


def run_parts(setup: Setup) -> list[chex.Array]:
    """Returns the clean points that each Lambda is learned from, each [M] in {0, 1}."""
    folds = _folds(setup)
    every = np.ones(len(folds), np.float32)
    num_folds = setup.config.guard.folds if learns(setup.config) else 0
    without = [(folds != fold).astype(np.float32) for fold in range(num_folds)]
    return [jnp.asarray(chosen) for chosen in [*without, every]]


def held_out(setup: Setup, state: TrainState) -> np.ndarray:
    """Returns log-probabilities [M, C] of clean points by heads that did not see them.

    Those of the last epoch. Without folds there is one head.
    """
    logits = [np.asarray(head.clean_logits) for head in state.heads]
    return _log_softmax(_held_out_logits(setup, logits))


def cross_fitted(setup: Setup, state: TrainState) -> np.ndarray:
    """Returns log-probabilities [N, C] of train points by heads that did not see them.

    A head with as many inputs as points would know them by heart. Lambda is the
    result's, the head is solved without one of five parts of the train points in turn.
    """
    labels = setup.data.splits.train.labels
    solves = _solves(setup)
    if setup.config.data.train_on == "validation":  # It has seen none.
        logits = solves.predict(state.params, solves.points.train)
        return _log_softmax(np.asarray(logits))
    folds = guard.assign_folds(labels, _CROSS_FOLDS, seed=setup.config.seed)
    head = state.heads[-1]._replace(tables=state.tables)
    found = np.zeros((len(labels), setup.data.num_classes), np.float32)
    every = jnp.ones(len(solves.points.clean_labels))
    for fold in range(_CROSS_FOLDS):
        fitted, _ = solves.fit(
            head, solves.points, every, jnp.asarray(folds != fold, jnp.float32)
        )
        logits = solves.predict(fitted.joined, solves.points.train)
        found[folds == fold] = np.asarray(logits)[folds == fold]
    return _log_softmax(found)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return scipy.special.log_softmax(logits.astype(np.float64), axis=1)


def _solves(setup: Setup) -> Solves:
    assert setup.solves is not None  # of a head on given features
    return setup.solves


def _folds(setup: Setup) -> np.ndarray:
    config, labels = setup.config, setup.data.splits.validation.labels
    return guard.assign_folds(labels, max(config.guard.folds, 1), seed=config.seed)


def _held_out_logits(setup: Setup, logits: Sequence[np.ndarray]) -> np.ndarray:
    """Logits [M, C] of each clean point by the head learned without its fold."""
    if len(logits) == 1:
        return np.asarray(logits[0])
    return np.stack(logits)[_folds(setup), np.arange(len(logits[0]))]
