"""Algorithm 1, from a configuration to the files of a workdir."""

import contextlib
import itertools
import pathlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import numpy as np

from autodo_jax import processes
from autodo_jax.data.dataset import Parts
from autodo_jax.train import evaluate, progress
from autodo_jax.train.journal import (
    MAX_IN_FLIGHT,
    Journal,
    Keeper,
    advice_on_divergence,
)
from autodo_jax.train.setup import RunError, Setup, prepare
from autodo_jax.train.state import TrainState
from autodo_jax.train.summary import Finished, finish
from autodo_jax.train.tensorboard import TensorBoard
from autodo_jax.workdir.folder import to_json, write_text

AfterStep = Callable[[TrainState, Journal], None]


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    parts: Parts | None = None,
    model: nn.Module | None = None,
    show: str = "lines",
) -> Finished:
    """Trains as configured, writes the workdir, returns what it holds.

    A run that was interrupted goes on from its newest checkpoint.

    Args:
      config: validated configuration.
      workdir: existing folder for config.json, metrics.jsonl, checkpoints,
        TensorBoard's events and, when the run is finished, hyperparams.npz,
        dataset.csv, report.npz and result.json. Of several processes the first one
        writes them; all need to see the checkpoints.
      parts, model: as `setup.prepare` takes them.
      show: "lines", one an epoch; "bar", of the progress; or "nothing".

    Raises:
      DataError: data that is absent or cannot be used.
      RunError: a batch larger than a part of the data; a loss, gradient or Lambda that
        is not finite; a linear solve that diverges, where that is to stop the run; a
        folder for the profile that cannot be made.
      CheckpointError, WriteError: what cannot be written; a checkpoint that cannot be
        read.
      Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    if processes.is_first():
        text = config.to_json_best_effort(indent=2) + "\n"
        write_text(workdir / "config.json", text)
        _make_profile_folder(config.profile)
    setup, state = prepare(config, parts=parts, model=model)
    with (
        jax.debug_nans(config.debug_nans),
        progress.EpochProgress(
            config.epochs, show if processes.is_first() else "nothing"
        ) as shown,
        Keeper(config, workdir / "checkpoints", shown.message) as keeper,
        processes.stop_requests() as stop_requested,
        processes.Watchdog(60 * config.watchdog_minutes) as watchdog,
    ):
        state, journal = keeper.restore(state, setup.experiment.fingerprint())
        shown.start(journal.epoch)

        calls = itertools.count(1)

        def after_step(state: TrainState, journal: Journal) -> None:
            watchdog.step_ended()
            signum = stop_requested(next(calls))
            if signum:
                keeper.save(state, journal, and_wait=True)
                raise processes.Interrupted(
                    f"stopped by {signal.Signals(signum).name} in epoch "
                    f"{journal.epoch + 1}, saved; the same command goes on from here",
                    signum,
                )
            keeper.after_step(state, journal)

        _write_records(workdir, journal)
        with TensorBoard(workdir, journal.records) as board:
            while journal.epoch < config.epochs:  # line 2
                with _profiled(config, setup.plan.start_epoch, journal.epoch):
                    state, record = run_epoch(
                        setup, state, journal, after_step=after_step, warn=shown.message
                    )
                journal.end_epoch(record)
                _write_records(workdir, journal)
                board.add_epoch(record)
                keeper.after_epoch(state, journal)
                shown.update(record)
            keeper.save(state, journal, and_wait=True)
            return finish(setup, state, journal, workdir, board)


def run_epoch(
    setup: Setup,
    state: TrainState,
    journal: Journal,
    *,
    after_step: AfterStep = lambda state, journal: None,
    warn: Callable[[str], None] = print,
) -> tuple[TrainState, dict[str, Any]]:
    """One turn of line 2, or what is left of it.

    Args:
      setup: of the run.
      state: before the first step that the journal does not have.
      journal: notes each step.
      after_step: called with the new state, after the steps of each dispatch.
      warn: is told of diverging solves.

    Returns:
      The state and the epoch's line of metrics.jsonl.

    Raises:
      RunError: as `run`.
    """
    start, epoch, learns = time.monotonic(), journal.epoch, False
    waited, features = 0.0, None
    for phase in setup.plan.phases(epoch):
        if phase in ("task", "hyper"):  # lines 3 and 11
            learns = learns or phase == "hyper"
            if phase == "hyper" and evaluate.features_stay(setup):
                features = evaluate.all_features(setup, state, "validation", epoch)
            state, seconds = _run_phase(
                setup, state, journal, phase, after_step, features
            )
            waited += seconds
    jax.block_until_ready(journal.pending)
    trained = time.monotonic() - start
    started = {
        "validation": evaluate.start(setup, state, "validation", epoch, features),
        "test": evaluate.start(setup, state, "test", epoch),
    }
    history, fetched = journal.fetch(started)
    validation, test = (
        evaluate.finish(setup, part, fetched[part]) for part in ("validation", "test")
    )
    values = {"hyper_learning_rate": 0.0} | _mean_values(history["task"])
    if learns:
        values |= _hyper_values(setup.config.hyper, history["hyper"], epoch, warn)
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


def _make_profile_folder(folder: str) -> None:
    """Makes the folder before the training that would be lost for want of it."""
    if not folder:
        return
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"config.profile is {folder!r}, a folder that cannot be made: "
            f"{error.strerror}; pass another"
        ) from error


def _profiled(
    config: ml_collections.ConfigDict, start_epoch: int, epoch: int
) -> contextlib.AbstractContextManager:
    """Traces epochs that compile nothing: the second, and the second of line 11."""
    chosen = {min(first + 1, config.epochs - 1) for first in (0, start_epoch)}
    if config.profile and epoch in chosen and processes.is_first():
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # Every call of Python would be in it.
        return jax.profiler.trace(config.profile, profiler_options=options)
    return contextlib.nullcontext()


def _run_phase(
    setup: Setup,
    state: TrainState,
    journal: Journal,
    phase: str,
    after_step: AfterStep,
    features: jax.Array | None,
) -> tuple[TrainState, float]:
    """Runs the steps the journal lacks; returns the seconds devices waited for data.

    `features` of the validation points, in a hyper phase, save their forward passes.
    """
    step, key = {
        "task": (setup.task_step, setup.task_key),
        "hyper": (setup.hyper_step, setup.hyper_key),
    }[phase]
    start = journal.num_steps(phase)
    batches = setup.feed.batches(phase, journal.epoch, start=start)
    waited = 0.0
    while True:
        before = time.monotonic()
        points = next(batches, None)
        # While an earlier step is under way the devices do not wait.
        if _is_done(journal.pending[-1:]):
            waited += time.monotonic() - before
        if points is None:
            return state, waited
        if phase == "hyper":
            points = points[0], evaluate.with_features(points[1], features)
        state, values = step(state, *points, key)
        journal.end_steps(phase, values)
        jax.block_until_ready(journal.pending[-MAX_IN_FLIGHT:][0])
        after_step(state, journal)


def _is_done(values: Any) -> bool:
    return all(value.is_ready() for _, step in values for value in step.values())


def _hyper_values(
    hyper: ml_collections.ConfigDict,
    history: Sequence[dict[str, float]],
    epoch: int,
    warn: Callable[[str], None],
) -> dict[str, float]:
    diverged = [values for values in history if values["diverged"]]
    means = _mean_values(history)
    del means["diverged"]
    means["diverged_steps"] = len(diverged)
    if diverged:
        used = {"first_term": "replaced by the first term", "keep": "worse than none"}
        largest = max(values["lambda_max"] for values in diverged)
        warn(
            f"warning: epoch {epoch + 1}: {len(diverged)} of {len(history)} "
            f"hypergradients diverge and are {used[hyper.on_divergence]}: "
            + advice_on_divergence(largest)
        )
    return means


def _mean_values(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over an epoch's steps; of learning rates the last."""
    return {
        name: (
            value
            if name.endswith("learning_rate")
            else float(np.mean([values[name] for values in history]))
        )
        for name, value in history[-1].items()
    }


def _write_records(folder: pathlib.Path, journal: Journal) -> None:
    if processes.is_first():
        lines = [to_json(record) + "\n" for record in journal.records]
        write_text(folder / "metrics.jsonl", "".join(lines))
