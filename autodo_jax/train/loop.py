"""Algorithm 1, from a configuration to the files of a workdir."""

import json
import pathlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import scipy.special

from autodo_jax import dataset_report, metrics, processes
from autodo_jax.augment import learned
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.train import progress
from autodo_jax.train.journal import (
    Journal,
    Keeper,
    advice_on_divergence,
    is_fetched,
)
from autodo_jax.train.setup import Setup, prepare
from autodo_jax.train.state import TrainState
from autodo_jax.workdir import write, write_text

# Steps under way at once. With more than 32 several devices of the CPU backend wait for
# each other forever.
_MAX_STEPS_IN_FLIGHT = 8

AfterStep = Callable[[TrainState, Journal], None]


def run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, *, show_bar: bool = False
) -> dict[str, Any]:
    """Trains as configured, writes the workdir, returns what stands in result.json.

    A run that was interrupted goes on from its newest checkpoint.

    Args:
      config: validated configuration.
      workdir: existing folder for config.json, metrics.jsonl, checkpoints,
        hyperparams.npz, dataset.csv and, when the run is finished, result.json. Of
        several processes the first one writes them; all need to see the checkpoints.
      show_bar: a progress bar instead of a line per epoch.

    Raises:
      DataError: data that is absent or cannot be used.
      RunError: a batch larger than a part of the data; a loss, gradient or Lambda that
        is not finite; a linear solve that diverges, where that is to stop the run.
      CheckpointError, WriteError: what cannot be written; a checkpoint that cannot be
        read.
      Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    if processes.is_first():
        text = config.to_json_best_effort(indent=2) + "\n"
        write_text(workdir / "config.json", text)
    setup, state = prepare(config)
    with (
        progress.EpochProgress(
            config.epochs, bar=show_bar, quiet=not processes.is_first()
        ) as shown,
        Keeper(config, workdir / "checkpoints", shown.message) as keeper,
        processes.stop_requests() as stop_requested,
        processes.Watchdog(60 * config.watchdog_minutes) as watchdog,
    ):
        state, journal = keeper.restore(state, setup.experiment.fingerprint())
        shown.start(journal.epoch)

        def after_step(state: TrainState, journal: Journal) -> None:
            watchdog.step_ended()
            signum = stop_requested(journal.step)
            if signum:
                keeper.save(state, journal, and_wait=True)
                raise processes.Interrupted(
                    f"stopped by {signal.Signals(signum).name} in epoch "
                    f"{journal.epoch + 1}, saved; the same command goes on from here",
                    signum,
                )
            keeper.after_step(state, journal)

        _write_records(workdir, journal)
        while journal.epoch < config.epochs:  # line 2
            state, record = run_epoch(
                setup, state, journal, after_step=after_step, warn=shown.message
            )
            journal.end_epoch(record)
            _write_records(workdir, journal)
            keeper.after_epoch(state, journal)
            shown.update(record)
        keeper.save(state, journal, and_wait=True)
        return _finish(setup, state, journal, workdir)


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
      after_step: called with the new state.
      warn: is told of diverging solves.

    Returns:
      The state and the epoch's line of metrics.jsonl.

    Raises:
      RunError: as `run`.
    """
    start, epoch, learns = time.monotonic(), journal.epoch, False
    waited = 0.0
    for phase in setup.plan.phases(epoch):
        if phase in ("task", "hyper"):  # lines 3 and 11
            learns = learns or phase == "hyper"
            state, seconds = _run_phase(setup, state, journal, phase, after_step)
            waited += seconds
    history = journal.fetch()
    trained = time.monotonic() - start
    values = {"hyper_learning_rate": 0.0} | _mean_values(history["task"])
    if learns:
        values |= _hyper_values(setup.config.hyper, history["hyper"], epoch, warn)
    validation = evaluate(setup, state, "validation", epoch)
    test = evaluate(setup, state, "test", epoch)
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


def evaluate(
    setup: Setup, state: TrainState, part: str, epoch: int
) -> metrics.Evaluation:
    """Losses and predictions of a part of the data, without augmentation."""
    outputs = [
        setup.eval_step(state.params, state.batch_stats, *points)
        for points in setup.feed.batches(part, epoch)
    ]
    labels = getattr(setup.experiment.splits, part).labels
    losses, predictions, confidences = (
        np.concatenate(parts)[: len(labels)]
        for parts in zip(*jax.device_get(outputs), strict=True)
    )
    return metrics.Evaluation(losses, predictions, confidences, labels)


def summarize(
    setup: Setup,
    state: TrainState,
    tables: hyperparams.Tables,
    train: metrics.Evaluation,
    records: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The content of result.json, but for the seconds: final epoch, no selection.

    Args:
      setup, state: of the finished run.
      tables: Lambda on the host, without padding.
      train: evaluation of the train set.
      records: the lines of metrics.jsonl.
    """
    config, experiment = setup.config, setup.experiment
    test = evaluate(setup, state, "test", config.epochs)
    num_points = setup.plan.num_points
    result = {
        "method": config.method,
        "dataset": config.data.source,
        "seed": config.seed,
        "frozen": config.hyper.frozen,
        "imbalance_ratio": config.data.imbalance_ratio,
        "noise_ratio": config.data.noise_ratio,
        "epochs": config.epochs,
        "num_train": num_points["train"],
        "num_val": num_points["validation"],
        "num_test": num_points["test"],
        "test_error": test.error,
        "class_error": test.class_error(experiment.num_classes),
        "val_error": records[-1]["val_error"],
        "best_val_epoch": min(records, key=lambda record: record["val_error"])["epoch"],
    }
    scores = metrics.noise_score(
        train.labels,
        train.losses,
        soft_labels=(
            np.exp(hyperparams.log_soft_labels(tables["label"]))
            if "label" in tables
            else None
        ),
        weights=(
            np.asarray(hyperparams.loss_weights(tables["weight"]))
            if "weight" in tables
            else None
        ),
    )
    auroc = metrics.noise_auroc(scores, experiment.is_flipped)
    return result if auroc is None else result | {"noise_auroc": auroc}


def describe(
    setup: Setup, tables: hyperparams.Tables, train: metrics.Evaluation
) -> dataset_report.DatasetReport:
    """Returns what the run has learned of each train point.

    Args:
      setup: of the finished run.
      tables: Lambda on the host, without padding.
      train: evaluation of the train set.
    """
    points, augment = setup.experiment.splits.train, setup.config.augment
    gate: dict[str, np.ndarray] = {}
    magnitude: dict[str, np.ndarray] = {}
    if "gate" in tables:
        for a, name in enumerate(augment.operations):
            unit = learned.OPERATIONS[name].range * augment.magnitude / 10
            gate[name] = scipy.special.expit(tables["gate"][:, a])
            magnitude[name] = unit * scipy.special.expit(tables["magnitude"][:, a])
    weight = np.ones(1)
    if "weight" in tables:
        weight = np.asarray(hyperparams.loss_weights(tables["weight"]))
    return dataset_report.create(
        ids=points.ids,
        labels=points.labels,
        class_names=points.class_names,
        suggested=train.predictions,
        confidence=train.confidences,
        noise_score=-np.expm1(-train.losses.astype(np.float64)),
        weight=weight,
        gate=gate,
        magnitude=magnitude,
    )


def _run_phase(
    setup: Setup,
    state: TrainState,
    journal: Journal,
    phase: str,
    after_step: AfterStep,
) -> tuple[TrainState, float]:
    """Runs the steps the journal lacks; returns the seconds devices waited for data."""
    step, key = {
        "task": (setup.task_step, setup.task_key),
        "hyper": (setup.hyper_step, setup.hyper_key),
    }[phase]
    history = journal.history[phase]
    batches = setup.feed.batches(phase, journal.epoch, start=len(history))
    waited = 0.0
    while True:
        before = time.monotonic()
        points = next(batches, None)
        # While an earlier step is under way the devices do not wait.
        if not history or _is_ready(history[-1]):
            waited += time.monotonic() - before
        if points is None:
            return state, waited
        state, values = step(state, *points, key)
        journal.end_step(phase, values)
        jax.block_until_ready(history[-_MAX_STEPS_IN_FLIGHT:][0])
        after_step(state, journal)


def _is_ready(values: dict[str, Any]) -> bool:
    """True where the step is done."""
    return is_fetched(values) or all(value.is_ready() for value in values.values())


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


def _finish(
    setup: Setup, state: TrainState, journal: Journal, folder: pathlib.Path
) -> dict[str, Any]:
    num_train = setup.plan.num_points["train"]
    tables = {
        name: table[:num_train] for name, table in processes.fetch(state.tables).items()
    }
    train = evaluate(setup, state, "train", setup.config.epochs)
    result = summarize(setup, state, tables, train, journal.records)
    result |= {"seconds": journal.seconds()}
    if processes.is_first():
        report = describe(setup, tables, train)
        write(
            folder / dataset_report.NAME,
            lambda file: dataset_report.write_csv(file, report),
        )
        write(folder / "hyperparams.npz", lambda file: np.savez(file, **tables))
        write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
    processes.wait_for_all("the result is written")
    return result


def _write_records(folder: pathlib.Path, journal: Journal) -> None:
    if processes.is_first():
        lines = [json.dumps(record) + "\n" for record in journal.records]
        write_text(folder / "metrics.jsonl", "".join(lines))
