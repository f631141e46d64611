"""Algorithm 1 on a head that is solved: an epoch is one step of Lambda on all points.

Several Lambdas are learned side by side: one from all clean points, and one for each
fold of them, learned without it. The folds judge the epoch (see `guard`); its Lambda,
learned from all, is the result, with a head that has learned from the clean points too.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import scipy.special

from autodo_jax._typing import Metrics, PyTree
from autodo_jax.train import evaluate, guard
from autodo_jax.train.run_log import RunLog
from autodo_jax.train.setup import Setup
from autodo_jax.train.solves import Solves, learns
from autodo_jax.train.state import Path, TrainState

_CROSS_FOLDS = 5  # of the train points, for predictions of heads that did not see them


def run_epoch(
    setup: Setup,
    state: TrainState,
    log: RunLog,
    *,
    after_step: Callable[[TrainState, RunLog], None] = lambda state, log: None,
    warn: Callable[..., None] = print,
) -> tuple[TrainState, dict[str, Any]]:
    """One step of each Lambda and the solves after it, or what comes after these.

    The first epoch has no step: it judges Lambda's start. As `loop.run_epoch`.
    """
    del warn
    start, epoch, config = time.monotonic(), log.epoch, setup.config
    if not log.num_steps("hyper"):
        state, values = _step(setup, state, epoch)
        log.end_steps("hyper", values)
        after_step(state, log)
    history, logits = log.fetch(state.heads.clean_logits)
    logits = _held_out_logits(setup, logits)
    clean_labels = setup.data.splits.validation.labels
    judged = evaluate.of_log_probabilities(_log_softmax(logits), clean_labels)
    held_out = guard.calibrated_losses(logits, clean_labels)
    state = state._replace(
        params=_at(state.path.joined, epoch),
        tables=_at(state.heads.tables, -1),
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
            state = _as_of(setup, state, stop.epoch)
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


def run_parts(setup: Setup) -> np.ndarray:
    """Returns the clean points that each Lambda is learned from, [K, M] in {0, 1}."""
    folds = _folds(setup)
    num_folds = setup.config.guard.folds if learns(setup.config) else 0
    without = [folds != fold for fold in range(num_folds)]
    return np.stack([*without, np.ones(len(folds), bool)]).astype(np.float32)


def held_out(setup: Setup, state: TrainState) -> np.ndarray:
    """Returns log-probabilities [M, C] of clean points by heads that did not see them.

    Those of the last epoch. Without folds there is one head.
    """
    logits = np.asarray(state.heads.clean_logits)
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
    # No fewer than the run has, whose program is compiled; what is left has all points.
    num_heads = max(_CROSS_FOLDS, len(run_parts(setup)))
    last = _at(state.heads, -1)._replace(tables=state.tables)
    fitted, _ = solves.fit(
        jax.tree.map(lambda leaf: jnp.stack([leaf] * num_heads), last),
        jnp.ones((num_heads, len(solves.points.clean_labels))),
        jnp.asarray(folds != np.arange(num_heads)[:, None], jnp.float32),
    )
    found = np.zeros((len(labels), setup.data.num_classes), np.float32)
    for fold in range(_CROSS_FOLDS):
        logits = solves.predict(_at(fitted.joined, fold), solves.points.train)
        found[folds == fold] = np.asarray(logits)[folds == fold]
    return _log_softmax(found)


def _step(setup: Setup, state: TrainState, epoch: int) -> tuple[TrainState, Metrics]:
    """Returns the state after the epoch's step of Lambda and its solves."""
    solves, chosen = _solves(setup), jnp.asarray(run_parts(setup))
    values: Metrics = {}
    heads = state.heads
    if epoch:
        heads, values = solves.learn(heads, chosen)
    heads, fitted = solves.fit(heads, chosen)
    path = jax.tree.map(
        lambda kept, of_heads: kept.at[epoch].set(of_heads[-1]),
        state.path,
        Path(heads.theta, heads.joined, heads.adjoint),
    )
    return state._replace(heads=heads, path=path), values | fitted


def _as_of(setup: Setup, state: TrainState, epoch: int) -> TrainState:
    """Returns the state with the head of an epoch, and the Lambda it was solved for.

    Lambda takes its steps once more, without the solves: to keep the tables of all
    epochs would take more memory.
    """
    solves, path = _solves(setup), state.path
    tables, scale = _at(solves.start(1).tables, 0), _at(state.heads.scale, -1)
    for number in range(1, epoch + 1):
        theta, adjoint = _at(path.theta, number - 1), _at(path.adjoint, number)
        tables = solves.repeat(tables, scale, theta, adjoint)
    return state._replace(params=_at(path.joined, epoch), tables=tables)


def _at(tree: PyTree, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], tree)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return scipy.special.log_softmax(logits.astype(np.float64), axis=1)


def _solves(setup: Setup) -> Solves:
    assert setup.solves is not None  # of a head on given features
    return setup.solves


def _folds(setup: Setup) -> np.ndarray:
    config, labels = setup.config, setup.data.splits.validation.labels
    return guard.assign_folds(labels, max(config.guard.folds, 1), seed=config.seed)


def _held_out_logits(setup: Setup, logits: np.ndarray) -> np.ndarray:
    """Logits [M, C] of each clean point by the head [K, M, C] without its fold."""
    if len(logits) == 1:
        return logits[0]
    return logits[_folds(setup), np.arange(logits.shape[1])]
