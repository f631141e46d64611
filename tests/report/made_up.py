"""Workdirs as runs leave them, without training."""

import json

import numpy as np

from autodo_jax import config as config_lib
from autodo_jax.workdir import dataset_report, report_data

CLASSES = ("cat", "<script>alert(1)</script>", 'a "b" & $c', "ünï")
NUM_TRAIN, NUM_TEST, EPOCHS, START = 60, 40, 6, 2


def configuration(method="autodo", *, frozen=False, seed=0, noise_ratio=0.1):
    config = config_lib.default_config()
    config_lib.apply_method(config, method)
    config.seed, config.epochs = seed, EPOCHS
    config.hyper.start_epoch, config.hyper.frozen = START, frozen
    config.data.imbalance_ratio, config.data.noise_ratio = 10.0, noise_ratio
    return config


def write_run(folder, method="autodo", *, frozen=False, seed=0, epochs=EPOCHS, **given):
    """Writes the files of a run, finished where all epochs are done.

    Further arguments: noise_ratio, channels, class_names, test_error, num_test, phases.
    """
    config = configuration(
        method, frozen=frozen, seed=seed, noise_ratio=given.get("noise_ratio", 0.1)
    )
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json_best_effort())
    learns = config_lib.has_hyperparams(config.hyper) and not frozen
    lines = [record(epoch, learns) for epoch in range(1, epochs + 1)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    if epochs == EPOCHS:
        write_results(folder, config, lines, **given)
    return folder


def record(epoch, learns):
    metrics = {
        "epoch": epoch,
        "train_loss": 2 / epoch,
        "val_loss": 3 / epoch,
        "val_error": 50 / epoch,
        "test_error": 60 / epoch,
        "learning_rate": 0.1 / epoch,
        "hyper_learning_rate": 0.05 / epoch if learns and epoch > START else 0.0,
        "seconds": 1.0,
    }
    if learns and epoch > START:
        metrics |= {
            "outer_loss": 1 / epoch,
            "residual_norm": 0.9,
            "curvature": 0.5,
            "lambda_max": 3.0,
            "neumann_horizon": 0.15,
            "diverged_steps": 1,
        }
    return metrics


def write_results(
    folder,
    config,
    lines,
    *,
    noise_ratio=0.1,
    channels=1,
    class_names=CLASSES,
    test_error=12.5,
    num_test=NUM_TEST,
    phases=(),
):
    rng = np.random.default_rng(0)
    size = len(class_names)
    result = {
        "method": config.method,
        "dataset": "digits",
        "seed": config.seed,
        "frozen": config.hyper.frozen,
        "imbalance_ratio": 10.0,
        "noise_ratio": noise_ratio,
        "epochs": config.epochs,
        "num_train": NUM_TRAIN,
        "num_val": 20,
        "num_test": num_test,
        "test_error": test_error if num_test else float("nan"),
        "class_error": {
            f"class {i}": error if num_test else np.nan
            for i, error in enumerate(np.linspace(0, 30, size))
        },
        "val_error": lines[-1]["val_error"],
        "best_val_epoch": 5,
        "seconds": 9.0,
    }
    result |= dict(phases)
    if noise_ratio:
        result["noise_auroc"] = 0.875
    uses = config.hyper
    names = ("rotate", "hue") if uses.augment != "none" else ()
    labels = np.arange(NUM_TRAIN) % size
    report = dataset_report.create(
        ids=np.array([f"train/<b>{i}</b>.png" for i in range(NUM_TRAIN)]),
        labels=labels,
        class_names=class_names,
        suggested=(labels + (np.arange(NUM_TRAIN) % 3 == 0)) % size,
        confidence=rng.uniform(0.5, 1, NUM_TRAIN),
        noise_score=np.linspace(0, 1, NUM_TRAIN),
        weight=rng.uniform(0, 3, NUM_TRAIN) if uses.weights else np.ones(1),
        gate={name: rng.uniform(0, 1, NUM_TRAIN) for name in names},
        magnitude={name: rng.uniform(0, 9, NUM_TRAIN) for name in names},
    )
    suspects = np.argsort(-report.noise_score)[:7]
    draws = 3 if names else 0
    shape = (len(suspects), draws, 12, 10, channels)
    labels = np.arange(num_test) % size
    shown = report_data.ReportData(
        class_names=np.array(class_names),
        test_labels=labels,
        test_predictions=np.where(np.arange(num_test) % 8, labels, 0),
        feature_index=np.arange(num_test),
        features=rng.normal(size=(num_test, 5)).astype(np.float16),
        suspect_index=suspects,
        suspect_images=rng.integers(0, 256, shape[:1] + shape[2:]).astype(np.uint8),
        augmented_images=rng.integers(0, 256, shape).astype(np.uint8),
    )
    with open(folder / "dataset.csv", "wb") as file:
        dataset_report.write_csv(file, report)
    with open(folder / "report.npz", "wb") as file:
        report_data.write_npz(file, shown)
    (folder / "result.json").write_text(json.dumps(result))
