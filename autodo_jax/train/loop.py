"""Algorithm 1: runs a prepared experiment and writes its workdir."""

import contextlib
import itertools
import math
import pathlib
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from autodo_jax import config as config_lib
from autodo_jax import distributed, processes
from autodo_jax._typing import Metrics
from autodo_jax.errors import AutodoError, Interrupted, RunError
from autodo_jax.train import evaluate, fit, guard, snapshot, solved
from autodo_jax.train.checkpoint_schedule import CheckpointSchedule
from autodo_jax.train.progress import EpochProgress
from autodo_jax.train.run_log import MAX_IN_FLIGHT, RunLog, divergence_error
from autodo_jax.train.setup import Setup
from autodo_jax.train.state import TrainState
from autodo_jax.train.summary import Finished, finish
from autodo_jax.train.tensorboard import TensorBoard
from autodo_jax.workdir import files

AfterStep = Callable[[TrainState, RunLog], None]
Warn = Callable[[AutodoError], None]


_GUESSING_EPOCH = 5  # by which a network knows more than nothing


def run(
    setup: Setup,
    state: TrainState,
    workdir: pathlib.Path,
    progress: EpochProgress | None = None,
) -> Finished:
    """Trains as configured, writes the workdir and returns the results.

    A run that was interrupted continues from its newest checkpoint.

    Args:
      setup, state: from `setup.prepare`.
      workdir: existing folder for the files of `workdir.files`. Of several processes
        the first one writes them; all need to see the checkpoints.
      progress: shows epochs and warnings; None: nothing is shown.

    Raises:
      DataError: streamed images that cannot be read.
      RunError: steps that do not fit the devices; a loss, gradient or Lambda that is
        not finite; a linear solve that diverges, where that is to stop the run; a
        folder for the profile that cannot be made; a checkpoint of other data.
      CheckpointError, WriteError: files that cannot be written; a checkpoint that
        cannot be read.
      Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    config = setup.config
    if progress is None:
        progress = EpochProgress(config.epochs, "nothing")
    if processes.is_first():
        files.write_config(workdir, config_lib.to_json(config))
        _make_profile_folder(config.profile)
        text = files.to_json(setup.data.summary._asdict(), indent=2) + "\n"
        files.write_text(workdir / files.DATA, text)
    with (
        jax.debug_nans(config.debug_nans),
        progress,
        CheckpointSchedule(
            config, workdir / files.CHECKPOINTS, progress.message
        ) as schedule,
        processes.stop_requests() as stop_requested,
        processes.Watchdog(60 * config.watchdog_minutes) as watchdog,
    ):
        memory = None if setup.solves else fit.check(setup, state)
        if memory:
            progress.message(memory)
        state, log = schedule.restore(state, setup.data.fingerprint())
        progress.start(log.epoch)

        calls = itertools.count(1)

        def after_step(state: TrainState, log: RunLog) -> None:
            watchdog.step_ended()
            signum = stop_requested(next(calls))
            if signum:
                schedule.save(state, log, and_wait=True)
                raise Interrupted(
                    f"stopped by {signal.Signals(signum).name} in epoch "
                    f"{log.epoch + 1}, saved",
                    "<again> continues from here",
                    signum=signum,
                )
            schedule.after_step(state, log)

        _write_records(workdir, log)
        with TensorBoard(workdir, log.records) as board:
            epoch_of = run_epoch if setup.solves is None else solved.run_epoch
            while log.epoch < config.epochs and not log.is_stopped:  # line 2
                with _profiled(config, setup.plan.start_epoch, log.epoch):
                    state, record = epoch_of(
                        setup, state, log, after_step=after_step, warn=progress.warn
                    )
                log.end_epoch(record)
                if processes.is_first():
                    line = files.to_json(record) + "\n"
                    files.append_text(workdir / files.METRICS, line)
                board.add_epoch(record)
                schedule.after_epoch(state, log)
                progress.update(record)
                if record["epoch"] == _GUESSING_EPOCH:
                    _warn_of_guessing(setup, record, progress.warn)
            explanation = guard.explain(log.records)
            if explanation:
                progress.message(explanation)
            schedule.save(state, log, and_wait=True)
            return finish(setup, state, log, workdir, board)


def run_epoch(
    setup: Setup,
    state: TrainState,
    log: RunLog,
    *,
    after_step: AfterStep = lambda state, log: None,
    warn: Warn = print,
) -> tuple[TrainState, dict[str, Any]]:
    """One iteration of line 2, or the rest of it.

    Args:
      setup: of the run.
      state: before the first step that the log does not have.
      log: gets the metrics of each step.
      after_step: called with the new state, after the steps of each dispatch.
      warn: is told of diverging solves.

    Returns:
      The state, and the epoch's metrics.

    Raises:
      RunError: as `run`.
    """
    start, epoch, learns = time.monotonic(), log.epoch, False
    if setup.plan.is_first_joined(epoch) and not log.num_steps("task"):
        state = _remember_unseen(setup, state)
    waited, features = 0.0, None
    for phase in setup.plan.phases(epoch):
        if phase in ("task", "hyper"):  # lines 3 and 11
            learns = learns or phase == "hyper"
            if phase == "hyper" and evaluate.features_are_constant(setup):
                features = evaluate.compute_features(setup, state, "validation", epoch)
            state, seconds = _run_phase(setup, state, log, phase, after_step, features)
            waited += seconds
    jax.block_until_ready(log.pending)
    trained = time.monotonic() - start
    started = {
        "validation": evaluate.start(setup, state, "validation", epoch, features),
        "test": evaluate.start(setup, state, "test", epoch),
    }
    history, fetched = log.fetch(started)
    validation, test = (
        evaluate.finish(setup, part, fetched[part]) for part in ("validation", "test")
    )
    values = {"hyper_learning_rate": 0.0} | _mean_values(history["task"])
    if learns:
        values |= _hyper_values(history["hyper"], epoch, warn)
    if learns and state.kept:
        state, guarded = _guard(setup, state, validation.losses, epoch)
        values |= guarded
    num_images = setup.config.batch_size * sum(map(len, history.values()))
    return state, {
        "epoch": epoch + 1,
        "train_loss": values.pop("train_loss"),
        "val_loss": validation.loss,
        "val_error": validation.error,
        "test_error": test.error,
        "seconds": time.monotonic() - start,
        "images_per_second": num_images / trained,
        "data_wait": waited / trained,
        **values,
    }


def _remember_unseen(setup: Setup, state: TrainState) -> TrainState:
    """Notes what theta says of the clean points before it learns from them."""
    values = evaluate.log_probabilities(setup, state, "validation")
    sharding: Any = state.step.sharding
    return state._replace(unseen=distributed.place(sharding.mesh, values))


def _guard(
    setup: Setup, state: TrainState, losses: np.ndarray, epoch: int
) -> tuple[TrainState, dict[str, float]]:
    """Judges Lambda by the losses [M] of the clean points; it may be put back.

    Returns the state, and metrics for the epoch.
    """
    is_held_out = snapshot.held_out(setup.config, setup.data.splits.validation.labels)
    losses = losses[is_held_out]
    values = {"held_out_loss": float(losses.mean())}
    kept = snapshot.better(state.kept, state.tables, losses, epoch + 1)
    state = state._replace(kept=kept)
    if setup.plan.is_last_hyper(epoch):
        tables, chosen = snapshot.choose(kept, state.tables, losses, epoch + 1)
        state = state._replace(tables=tables)
        values["lambda_epoch"] = float(chosen)
    return state, values


def _warn_of_guessing(setup: Setup, record: dict[str, Any], warn: Warn) -> None:
    guessing = math.log(setup.data.num_classes)
    if record["val_loss"] > guessing:
        warn(
            AutodoError(
                f"warning: after {record['epoch']} epochs the validation loss is "
                f"{record['val_loss']:.2f}, above {guessing:.2f}, that of guessing",
                "lower <config.task.learning_rate>",
                "set <config.task.clip_norm=1>",
            )
        )


def _make_profile_folder(folder: str) -> None:
    """Creates the folder now, since a failure later would end the training."""
    if not folder:
        return
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"config.profile is {folder!r}, a folder that cannot be made: "
            f"{error.strerror}",
            "pass another",
        ) from error


def _profiled(
    config: ml_collections.ConfigDict, start_epoch: int, epoch: int
) -> contextlib.AbstractContextManager:
    """Traces epochs that compile nothing: the second, and the second of line 11."""
    chosen = {min(first + 1, config.epochs - 1) for first in (0, start_epoch)}
    if config.profile and epoch in chosen and processes.is_first():
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # It would trace every call of Python.
        # Its files have names that can be known before: nobody can have links there.
        folder = tempfile.mkdtemp(prefix="trace-", dir=config.profile)
        return jax.profiler.trace(folder, profiler_options=options)
    return contextlib.nullcontext()


def _run_phase(
    setup: Setup,
    state: TrainState,
    log: RunLog,
    phase: str,
    after_step: AfterStep,
    features: jax.Array | None,
) -> tuple[TrainState, float]:
    """Runs the steps the log lacks; returns the seconds devices waited for data.

    `features` of the validation points, in a hyper phase, save their forward passes.
    """
    plan = setup.plan
    task = setup.steps.task if plan.early_points is None else setup.steps.early
    if plan.is_joined(log.epoch):
        task = setup.steps.plain if plan.is_plain(log.epoch) else setup.steps.joined
    steps: dict[str, tuple[Callable[..., tuple[TrainState, Metrics]], Any]] = {
        "task": (task, setup.task_key),
        "hyper": (setup.steps.hyper, setup.hyper_key),
    }
    step, key = steps[phase]
    start = log.num_steps(phase)
    batches = setup.feed.batches(phase, log.epoch, start=start)
    waited = 0.0
    while True:
        before = time.monotonic()
        points = next(batches, None)
        # While an earlier step is under way the devices do not wait.
        if _is_done(log.pending[-1:]):
            waited += time.monotonic() - before
        if points is None:
            return state, waited
        if phase == "hyper":
            points = points[0], evaluate.use_features(points[1], features)
        state, values = step(state, *points, key)
        log.end_steps(phase, values)
        jax.block_until_ready(log.pending[-MAX_IN_FLIGHT:][0])
        after_step(state, log)


def _is_done(values: Any) -> bool:
    return all(value.is_ready() for _, step in values for value in step.values())


def _hyper_values(
    history: Sequence[dict[str, float]], epoch: int, warn: Warn
) -> dict[str, float]:
    diverged = [values for values in history if values["diverged"]]
    means = _mean_values(history)
    del means["diverged"]
    means["diverged_steps"] = len(diverged)
    if diverged:
        warn(
            divergence_error(
                f"warning: epoch {epoch + 1}: {len(diverged)} of {len(history)} "
                "hypergradients diverge and are replaced by the first term",
                max(values["lambda_max"] for values in diverged),
            )
        )
    return means


def _mean_values(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Returns means over the steps of an epoch; of learning rates the last."""
    return {
        name: (
            value
            if name.endswith("learning_rate")
            else float(np.mean([values[name] for values in history]))
        )
        for name, value in history[-1].items()
    }


def _write_records(workdir: pathlib.Path, log: RunLog) -> None:
    if processes.is_first():
        lines = [files.to_json(record) + "\n" for record in log.records]
        files.write_text(workdir / files.METRICS, "".join(lines))
