"""Sections on the training: errors, curves and linear solves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autodo_jax import config as config_lib
from autodo_jax.report import figures, table
from autodo_jax.report.section import Section, kind_of
from autodo_jax.workdir.run import Run

Records = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl


def summary(run: Run, records: Records, control: Run | None) -> Section:
    """Returns the errors of a run and of its control."""
    text = f"{_distortions(run.config)} Errors are those of the last epoch; nothing is "
    text += "selected by the test set."
    if run.result is None:
        last = records[-1]
        rows = [
            ["epochs", f"{last['epoch']} of {run.config['epochs']}"],
            ["test error", _percent(last["test_error"])],
            ["validation error", _percent(last["val_error"])],
        ]
        return Section("summary", "Summary", text, ["", "so far"], rows)
    results = {"this run": run.result}
    text += _what_saw_the_clean_set(run.result, run.config)
    if control is not None and control.result is not None:
        results[kind_of(control)] = control.result
        text += (
            " The frozen control is the same run with Lambda kept at its start, so the "
            "difference is the effect of learning Lambda."
        )
    elif run.learns:
        text += (
            " There is no frozen control next to this run; "
            "the same configuration with hyper.frozen=True makes one."
        )
    for method, rival in run.rivals().items():
        if rival.result is not None:
            results[method] = rival.result
    if results.keys() & set(config_lib.RIVALS):
        text += (
            " The rivals see the clean validation set too: `clean_only` learns from it "
            "alone, `joined` from it and the train set."
        )
    columns = [
        _figures(result, is_imbalanced=run.config["data.imbalance_ratio"] != 1)
        for result in results.values()
    ]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return Section("summary", "Summary", text, ["", *results], rows)


def _what_saw_the_clean_set(
    result: Mapping[str, Any], config: Mapping[str, Any]
) -> str:
    text = ""
    if config.get("data.train_on", "train") != "train":
        text += (
            " The network learns from the validation set, whose error is therefore too "
            "low."
        )
    elif "joined_epochs" in result:
        text += (
            f" In its last {result['joined_epochs']} epochs the network learns from "
            "the validation set too, whose error is then too low."
        )
    if "plain_epochs" in result:
        text += (
            f" In its last {result['plain_epochs']} epochs the learned augmentation "
            "is off."
        )
    if "num_early" in result:
        text += (
            f" It learns from {result['num_early']} of the {result['num_val']} "
            "validation points in all epochs, so their error is too low throughout."
        )
    if "lambda_stop" in result:
        text += f" {result['lambda_stop']}."
        if len(result["image_shape"]) == 1:  # a solved head
            text += (
                " The validation error is that of clean points which Lambda was not "
                "learned from."
            )
    return text


def _distortions(config: Mapping[str, Any]) -> str:
    ratio, noise = config["data.imbalance_ratio"], config["data.noise_ratio"]
    classes = "as in the data" if ratio == 1 else f"made imbalanced {ratio:g} to 1"
    if not noise:
        return f"The classes are {classes}; no train labels are changed."
    kind = {"uniform": "redrawn", "pair": "moved to the next class"}
    changed = f"{100 * noise:g} % of the train labels are"
    return f"The classes are {classes}; {changed} {kind[config['data.noise_kind']]}."


def _figures(result: Mapping[str, Any], *, is_imbalanced: bool) -> dict[str, str]:
    """Returns the figures of a finished run for the summary, by name."""
    rare = {"error of the rare classes": _percent(table.rare_class_error(result))}
    return {
        "test error": _percent(result["test_error"]),
        **(rare if is_imbalanced else {}),
        "validation error": _percent(result["val_error"]),
        "epoch of the best validation error": str(result["best_val_epoch"]),
        "AUROC of the noise score": (
            f"{result['noise_auroc']:.3f}"
            if "noise_auroc" in result
            else "no labels were changed"
        ),
        "train, validation, test points": ", ".join(
            f"{result[name]:,}" for name in ("num_train", "num_val", "num_test")
        ),
        "epochs": f"{result['epochs']:,}",
        "seconds": f"{result['seconds']:.0f}",
    }


def curves(run: Run, records: Records) -> Section:
    """Returns losses, errors and learning rates over the epochs."""
    start = run.config["hyper.start_epoch"] if run.learns else None

    def drawn(names: Mapping[str, str], ylabel: str, log: bool = False) -> str:
        lines = [
            (name, *_values(records, field))
            for field, name in names.items()
            if len(_values(records, field)[0])
        ]
        return figures.curves(lines, ylabel, start=start, log=log)

    rates = {"learning_rate": "of the network"}
    if run.learns:
        rates["hyper_learning_rate"] = "of Lambda"
    text = "Errors are shares of the points. Lower is better, for losses too."
    if run.learns:
        text = (
            "The train loss includes weights and soft labels, so it may rise while "
            "they are learned. The outer loss is that of the validation batches in the "
            "steps that learn Lambda. Where it falls and the loss of held-out clean "
            "points does not, Lambda learns the clean points by heart."
        )
    losses = {"train_loss": "train", "val_loss": "validation", "outer_loss": "outer"}
    losses["held_out_loss"] = "held-out clean points"
    errors = {"val_error": "validation", "test_error": "test"}
    return Section(
        "curves",
        "Learning curves",
        text,
        figures={
            "loss": drawn(losses, "loss"),
            "error": drawn(errors, "error in %"),
            "learning rates": drawn(rates, "learning rate", log=True),
        },
    )


def solver(records: Records) -> Section:
    """Returns the health of the linear solves in the steps that learn Lambda."""
    kinds = {
        "residual_norm": "residual |Ax - b| / |b|",
        "curvature": "curvature x'Ax / x'x",
        "lambda_max": "largest eigenvalue of A",
        "neumann_horizon": "step size * lambda_max * T",
        "diverged_steps": "solves that diverged",
    }
    drawn = {}
    for field, label in kinds.items():
        epochs, values = _values(records, field)
        if epochs and (any(values) or field != "diverged_steps"):
            drawn[label] = figures.curves([(label, epochs, values)], label)
    if not drawn:
        return Section(
            "solver", "Health of the solver", "No step has learned Lambda in this run."
        )
    _, diverged = _values(records, "diverged_steps")
    return Section(
        "solver",
        "Health of the solver",
        "The linear solve of each hypergradient (Eq. 5). A residual of 0 is exact, and "
        "1 is no better than no solve. The few terms of a Neumann series stay near 1; "
        "above 1 they diverge. Curvature below 0 means that the matrix A is "
        "indefinite. The product of step size, largest eigenvalue and T shows how much "
        "of the series is used: far below 1, the result is nearly that of the "
        f"identity. Solves that diverged: {int(sum(diverged)):,}.",
        figures=drawn,
    )


def _values(records: Records, field: str) -> tuple[list[int], list[float]]:
    """Returns the epochs with a finite metric, and its values, without rates of 0."""
    pairs = [
        (record["epoch"], record[field])
        for record in records
        if np.isfinite(record.get(field, np.nan))
        and (record[field] or not field.endswith("learning_rate"))
    ]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f} %"
