"""The results of a finished run, and the files that hold them."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
import PIL.Image
import scipy.special

from autodo_jax import metrics, processes
from autodo_jax.augment import learned
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.train import guard, joined, label_noise, snapshot, solved
from autodo_jax.train.evaluate import (
    compute_features,
    evaluate,
    features_of,
    log_probabilities,
    of_log_probabilities,
)
from autodo_jax.train.run_log import RunLog
from autodo_jax.train.setup import Setup
from autodo_jax.train.state import TrainState
from autodo_jax.train.tensorboard import TensorBoard
from autodo_jax.workdir import dataset_report, files, report_data


class Finished(NamedTuple):
    """A finished run."""

    setup: Setup
    state: TrainState
    result: dict[str, Any]  # test_error, val_error, ...
    report: dataset_report.DatasetReport


def finish(
    setup: Setup,
    state: TrainState,
    log: RunLog,
    workdir: pathlib.Path,
    board: TensorBoard,
) -> Finished:
    """Evaluates the last state and writes the files of a finished run.

    Args:
      setup, state, log: of the run, after its last epoch.
      workdir: its folder.
      board: of TensorBoard.

    Raises:
      WriteError: a file cannot be written.
    """
    config, num_train = setup.config, setup.plan.num_points["train"]
    tables = {
        name: table[:num_train] for name, table in processes.fetch(state.tables).items()
    }
    points = setup.data.splits.train
    log_p = _train_log_probabilities(setup, state)
    noise = label_noise.estimate(
        log_p, points.labels, *_unseen_clean_points(setup, state)
    )
    if setup.objective.adjustment:  # Train points have classes of the train set.
        log_p = scipy.special.log_softmax(log_p + setup.objective.adjustment, axis=1)
    train = of_log_probabilities(log_p, points.labels)
    embeddings = None
    if config.save_embeddings:
        embeddings = _embeddings(setup, state)[:num_train]
    test = evaluate(setup, state, "test", config.epochs)
    result = summarize(setup, train, test, log.records)
    report = describe(setup, tables, train, noise)
    result |= {
        "num_suspects": int(report.is_suspect.sum()),
        "expected_wrong_labels": float(noise.wrong.sum()),
        "expected_wrong_suspects": float(noise.wrong[report.is_suspect].sum()),
        "seconds": log.seconds(),
    }
    if processes.is_first():
        shown = _report_data(setup, state, tables, report, test)
        files.write(
            workdir / files.DATASET,
            lambda file: dataset_report.write_csv(file, report),
        )
        if dataset_report.has_parquet():
            files.write(
                workdir / files.DATASET_PARQUET,
                lambda file: dataset_report.write_parquet(file, report),
            )
        files.write(
            workdir / files.REPORT_DATA,
            lambda file: report_data.write_npz(file, shown),
        )
        board.add_result(config.epochs, report, shown)
        if config.save_probabilities:
            _write_array(workdir / files.PROBABILITIES, np.exp(log_p))
        if embeddings is not None:
            _write_array(workdir / files.EMBEDDINGS, embeddings)
        files.write(workdir / files.HYPERPARAMS, lambda file: np.savez(file, **tables))
        text = files.to_json(result, indent=2) + "\n"
        files.write_text(workdir / files.RESULT, text)
    processes.wait_for_all("the result is written")
    return Finished(setup, state, result, report)


def _train_log_probabilities(setup: Setup, state: TrainState) -> np.ndarray:
    """Returns [N, C]; of a solved head out of sample, since it knows its points."""
    if setup.solves is not None:
        return solved.cross_fitted(setup, state)
    return log_probabilities(setup, state, "train")


def _unseen_clean_points(
    setup: Setup, state: TrainState
) -> tuple[np.ndarray, np.ndarray]:
    """Returns log probabilities [M, C] and labels [M] of the clean points.

    None of them, M = 0, where theta has learned from them: it is too sure of those. Of
    clean points that join in the last epochs it is what theta said before.
    """
    labels = setup.data.splits.validation.labels
    if setup.solves is not None and len(solved.run_parts(setup)) > 1:
        return solved.held_out(setup, state), labels
    config = setup.config
    if config.data.train_on != "train" or config.data.outer_set == "train":
        return np.zeros((0, setup.data.num_classes)), labels[:0]
    if setup.plan.joined_epochs:
        found = np.asarray(jax.device_get(state.unseen))
    else:
        found = log_probabilities(setup, state, "validation")
    # Those that Lambda was not learned from either, where there are some.
    is_held_out = snapshot.held_out(config, labels)
    is_early = joined.early(config, labels)
    chosen = is_held_out if is_held_out.any() else ~is_early
    return found[chosen], labels[chosen]


def _embeddings(setup: Setup, state: TrainState) -> np.ndarray:
    if setup.solves is not None:
        return np.asarray(setup.solves.points.train)
    features = compute_features(setup, state, "train", setup.config.epochs)
    return np.asarray(jax.device_get(features))


def _write_array(path: pathlib.Path, values: np.ndarray) -> None:
    files.write(path, lambda file: np.save(file, values.astype(np.float32)))


def summarize(
    setup: Setup,
    train: metrics.Evaluation,
    test: metrics.Evaluation,
    records: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Returns the result of the final epoch, without selection and without seconds.

    Args:
      setup: of the finished run.
      train, test: evaluations of the two sets.
      records: metrics of the epochs.
    """
    config, data = setup.config, setup.data
    num_points = setup.plan.num_points
    stop = guard.lambda_epoch(records)
    # A solved head is that of the epoch; a network of steps has gone through all.
    is_solved = setup.solves is not None
    chosen = stop - 1 if stop and is_solved else len(records) - 1
    # Once it has learned from the validation set, its error there says nothing.
    judged = records[: len(records) - setup.plan.joined_epochs]
    result = {
        "method": config.method,
        "dataset": config.data.source,
        "seed": config.seed,
        "frozen": config.hyper.frozen,
        "imbalance_ratio": config.data.imbalance_ratio,
        "noise_ratio": config.data.noise_ratio,
        "epochs": len(records),
        "image_shape": list(data.splits.train.images.shape[1:]),
        "num_train": num_points["train"],
        "num_val": num_points["validation"],
        "num_test": num_points["test"],
        "test_error": test.error,
        "class_error": dict(
            zip(
                data.splits.train.class_names,
                test.class_error(data.num_classes),
                strict=True,
            )
        ),
        "val_error": records[chosen]["val_error"],
        "best_val_epoch": min(judged, key=lambda record: record["val_error"])["epoch"],
    }
    if setup.plan.joined_epochs:
        result["joined_epochs"] = setup.plan.joined_epochs
    if setup.plan.plain_epochs:
        result["plain_epochs"] = setup.plan.plain_epochs
    if setup.plan.early_points is not None:
        is_early = joined.early(config, data.splits.validation.labels)
        result["num_early"] = int(is_early.sum())
    if stop:
        result |= {"lambda_epoch": stop, "lambda_stop": guard.explain(records)}
    auroc = metrics.noise_auroc(train.noise_score, data.is_flipped)
    return result if auroc is None else result | {"noise_auroc": auroc}


def describe(
    setup: Setup,
    tables: hyperparams.Tables,
    train: metrics.Evaluation,
    noise: label_noise.LabelNoise,
) -> dataset_report.DatasetReport:
    """Returns the report on each train point.

    Args:
      setup: of the finished run.
      tables: Lambda on the host, without padding.
      train: evaluation of the train set.
      noise: what the clean set says of the labels. A point is suspect where it holds
        another label for likelier, and the network predicts another one.
    """
    points, augment = setup.data.splits.train, setup.config.augment
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
        noise_score=train.noise_score,
        is_suspect=(noise.likeliest != points.labels)
        & (train.predictions != points.labels),
        weight=weight,
        gate=gate,
        magnitude=magnitude,
    )


def augmented_images(
    config: ml_collections.ConfigDict,
    images: np.ndarray,
    gate: np.ndarray,
    magnitude: np.ndarray,
    *,
    num_draws: int,
) -> np.ndarray:
    """Returns draws of the learned augmentation, without policy, crop or flip.

    Args:
      config: of the run.
      images: uint8 [K, H, W, channels].
      gate, magnitude: rows of Lambda of these points, [K, A].
      num_draws: R.

    Returns:
      uint8 [K, R, H, W, channels].
    """
    keys = jax.random.split(jax.random.key(config.seed), (num_draws, len(images)))
    draw = functools.partial(
        learned.augment,
        operations=tuple(config.augment.operations),
        magnitude=config.augment.magnitude,
    )
    pixels = jax.jit(jax.vmap(draw, in_axes=(0, None, None, None), out_axes=1))(
        keys, images.astype(np.float32) / 255, gate, magnitude
    )
    return np.round(255 * np.clip(pixels, 0, 1)).astype(np.uint8)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Returns uint8 [..., H, W, channels] in the size that the report shows at most."""
    *leading, height, width, channels = images.shape
    largest = max(height, width)
    if largest <= report_data.MAX_SIDE:
        return images
    size = [max(1, report_data.MAX_SIDE * side // largest) for side in (width, height)]
    small = [
        np.asarray(PIL.Image.fromarray(image.squeeze()).resize(size))
        for image in images.reshape(-1, height, width, channels)
    ]
    return np.array(small, np.uint8).reshape(*leading, size[1], size[0], channels)


def _report_data(
    setup: Setup,
    state: TrainState,
    tables: hyperparams.Tables,
    report: dataset_report.DatasetReport,
    test: metrics.Evaluation,
) -> report_data.ReportData:
    rng = np.random.default_rng(setup.config.seed)
    index = np.sort(rng.permutation(len(test.labels))[: report_data.MAX_FEATURES])
    worst_first = np.lexsort((-report.noise_score, ~report.is_suspect))
    suspects = worst_first[: report_data.MAX_SUSPECTS]
    points = setup.data.splits.train
    if points.has_features:  # There are no images to show.
        suspects, images = suspects[:0], np.zeros((0, 1, 1, 1), np.uint8)
    else:
        images = points.take(suspects).pixels()
    augmented = np.zeros((len(images), 0, *images.shape[1:]), np.uint8)
    if "gate" in tables:
        # A shared augmentation has a single row.
        rows = suspects % len(tables["gate"])
        gate, magnitude = tables["gate"][rows], tables["magnitude"][rows]
        augmented = augmented_images(
            setup.config, images, gate, magnitude, num_draws=report_data.MAX_DRAWS
        )
    with np.errstate(over="ignore"):  # Values beyond its range are not drawn.
        inputs = features_of(setup, state, "test", index).astype(np.float16)
    return report_data.ReportData(
        class_names=np.asarray(points.class_names),
        test_labels=test.labels,
        test_predictions=test.predictions.astype(np.int32),
        feature_index=index,
        features=inputs,
        suspect_index=suspects,
        suspect_images=thumbnails(images),
        augmented_images=thumbnails(augmented),
    )
