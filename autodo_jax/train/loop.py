"""Algorithm 1, from a configuration to the files of a workdir."""

import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import ml_collections
import numpy as np

from autodo_jax import metrics
from autodo_jax.data import pipeline
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.train import progress, steps
from autodo_jax.train.setup import RunError, Setup, prepare
from autodo_jax.train.state import TrainState

# Streams of batches, told apart in the seed of their order.
_TASK_STREAM, _HYPER_STREAM, _VALIDATION_STREAM = range(3)

# A convergent Neumann series never leaves a residual above 1; rounding may.
_DIVERGED = 1 + 1e-3


def run(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, *, show_bar: bool = False
) -> dict[str, Any]:
    """Trains as configured, writes the workdir, returns what stands in result.json.

    Args:
      config: validated configuration.
      workdir: existing folder for config.json, metrics.jsonl, hyperparams.npz and, when
        the run is finished, result.json.
      show_bar: a progress bar instead of a line per epoch.

    Raises:
      DataError: data that is absent or cannot be used.
      RunError: a batch larger than a part of the data; a loss that is not finite.
    """
    start = time.monotonic()
    (workdir / "config.json").write_text(config.to_json_best_effort(indent=2) + "\n")
    setup, state = prepare(config)
    records = []
    with (
        open(workdir / "metrics.jsonl", "w") as file,
        progress.EpochProgress(config.epochs, bar=show_bar) as shown,
    ):
        for epoch in range(config.epochs):  # line 2
            state, record = run_epoch(setup, state, epoch, shown.message)
            records.append(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
            shown.update(record)
    tables = jax.device_get(state.tables)
    np.savez(workdir / "hyperparams.npz", **tables)
    result = summarize(setup, state, records) | {"seconds": time.monotonic() - start}
    (workdir / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def run_epoch(
    setup: Setup, state: TrainState, epoch: int, warn: Callable[[str], None] = print
) -> tuple[TrainState, dict[str, Any]]:
    """One turn of line 2; returns the state and the epoch's line of metrics.jsonl.

    Raises:
      RunError: a value that is not finite.
    """
    start = time.monotonic()
    state, values = _task_epoch(setup, state, epoch)
    hyper_learning_rate = 0.0
    if setup.learns and epoch >= setup.config.hyper.start_epoch:  # line 10
        state, hyper_values = _hyper_epoch(setup, state, epoch, warn)
        values |= hyper_values
        count = int(state.hyper_optimizer_state.count)
        hyper_learning_rate = float(setup.optimizers.hyper_schedule(count - 1))
    validation = evaluate(setup, state, setup.validation)
    test = evaluate(setup, state, setup.test)
    return state, {
        "epoch": epoch + 1,
        "train_loss": values.pop("train_loss"),
        "val_loss": validation.loss,
        "val_error": validation.error,
        "test_error": test.error,
        "learning_rate": float(setup.optimizers.task_schedule(int(state.step) - 1)),
        "hyper_learning_rate": hyper_learning_rate,
        "seconds": time.monotonic() - start,
        **values,
    }


def evaluate(
    setup: Setup, state: TrainState, data: steps.DeviceData
) -> metrics.Evaluation:
    """Losses and predictions of a part of the data, without augmentation."""
    num_points = len(data.labels)
    batch_size = min(setup.config.eval_batch_size, num_points)
    outputs = [
        setup.eval_step(state.params, state.batch_stats, data, index)
        for index in pipeline.sequential_order(num_points, batch_size)
    ]
    losses, predictions = (
        np.concatenate(parts)[:num_points]
        for parts in zip(*jax.device_get(outputs), strict=True)
    )
    return metrics.Evaluation(losses, predictions, np.asarray(data.labels))


def summarize(
    setup: Setup, state: TrainState, records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The content of result.json, but for the seconds: final epoch, no selection."""
    config, experiment = setup.config, setup.experiment
    test = evaluate(setup, state, setup.test)
    result = {
        "method": config.method,
        "dataset": config.data.source,
        "seed": config.seed,
        "frozen": config.hyper.frozen,
        "imbalance_ratio": config.data.imbalance_ratio,
        "noise_ratio": config.data.noise_ratio,
        "epochs": config.epochs,
        "num_train": len(setup.train.labels),
        "num_val": len(setup.validation.labels),
        "num_test": len(setup.test.labels),
        "test_error": test.error,
        "class_error": test.class_error(experiment.num_classes),
        "val_error": records[-1]["val_error"],
        "best_val_epoch": min(records, key=lambda record: record["val_error"])["epoch"],
    }
    tables = state.tables
    scores = metrics.noise_score(
        np.asarray(setup.train.labels),
        evaluate(setup, state, setup.train).losses,
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


def _task_epoch(
    setup: Setup, state: TrainState, epoch: int
) -> tuple[TrainState, dict[str, float]]:
    history = []
    for index in _order(setup, len(setup.train.labels), _TASK_STREAM, epoch):  # line 3
        state, values = setup.task_step(state, setup.train, index, setup.task_key)
        history.append(values)
    return state, _mean_values(history, epoch)


def _hyper_epoch(
    setup: Setup, state: TrainState, epoch: int, warn: Callable[[str], None]
) -> tuple[TrainState, dict[str, float]]:
    history = []
    orders = zip(
        _order(setup, len(setup.train.labels), _HYPER_STREAM, epoch),
        _order(setup, len(setup.validation.labels), _VALIDATION_STREAM, epoch),
        strict=True,
    )
    for index, validation_index in orders:  # line 11
        state, values = setup.hyper_step(
            state,
            setup.train,
            setup.validation,
            index,
            validation_index,
            setup.hyper_key,
        )
        history.append(values)
    history = jax.device_get(history)  # Once for the means and the check.
    means = _mean_values(history, epoch)
    # Conjugate gradients may pass through larger residuals on their way.
    is_series = setup.config.hyper.solver == "neumann"
    diverged = [
        values
        for values in history
        if is_series and values["residual_norm"] > _DIVERGED
    ]
    means["diverged_steps"] = len(diverged)
    if diverged:
        largest = max(float(values["lambda_max"]) for values in diverged)
        warn(
            f"warning: epoch {epoch + 1}: {len(diverged)} of {setup.num_steps} "
            "hypergradients are worse than none: the linear solve diverges, residual "
            f"{means['residual_norm']:.3g} on average. A Neumann series needs a "
            f"step_size < 2 / lambda_max = {2 / largest:.3g}; lower "
            "--config.hyper.step_size or pass --config.hyper.auto_step_size=True."
        )
    return state, means


def _order(setup: Setup, num_points: int, stream: int, epoch: int) -> np.ndarray:
    return pipeline.shuffled_order(
        num_points,
        setup.config.batch_size,
        setup.num_steps,
        seed=(setup.config.seed, stream, epoch),
    )


def _mean_values(
    history: Sequence[dict[str, chex.Array]], epoch: int
) -> dict[str, float]:
    """Means over an epoch's steps, fetched at once; refuses what is not finite."""
    fetched = jax.device_get(history)
    for step, values in enumerate(fetched):
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            raise RunError(
                f"{', '.join(wrong)} not finite in epoch {epoch + 1}, step {step + 1}; "
                "lower --config.task.learning_rate or --config.hyper.learning_rate, or "
                "find the operation with --config.debug_nans=True."
            )
    return {
        name: float(np.mean([values[name] for values in fetched]))
        for name in fetched[0]
    }
