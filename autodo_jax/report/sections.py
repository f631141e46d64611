"""What the page of a run says, part by part."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.manifold import TSNE

from autodo_jax.dataset_report import DatasetReport
from autodo_jax.report import figures, table
from autodo_jax.report.workdirs import Run
from autodo_jax.report_data import ReportData

Records = Sequence[Mapping[str, Any]]  # lines of metrics.jsonl

_UNFINISHED = "The run has not finished yet."
_SUSPECT = 0.5  # noise scores above it, as docs/dataset-report.md says


@dataclasses.dataclass(frozen=True)
class Card:
    """A suspect: its images and what is known of it."""

    image: np.ndarray  # uint8 [H, W, channels]
    augmented: np.ndarray  # uint8 [R, H, W, channels]
    name: str
    given: str
    suggested: str
    numbers: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page; what it has not stays empty."""

    id: str
    title: str
    text: str  # how to read it, or why there is nothing
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()  # of a table
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)  # label: SVG
    cards: Sequence[Card] = ()

    @property
    def is_half(self) -> bool:
        """True where a wide page has it beside another one."""
        return self.id in ("confusion", "embedding", "classes", "weights")


def of_run(run: Run) -> list[Section]:
    """Returns all parts, in their order.

    Raises:
      ValueError: a file of the workdir that cannot be read.
    """
    records, control = run.records(), run.control()
    dataset, shown = run.dataset(), run.shown()
    return [
        _summary(run, records, control),
        _curves(run, records),
        _solver(records),
        _confusion(shown),
        _embedding(shown),
        _classes(run, control, shown),
        _weights(run, dataset),
        _augmentation(dataset),
        _suspects(dataset, shown),
    ]


def _summary(run: Run, records: Records, control: Run | None) -> Section:
    config = run.config
    text = (
        f"Class imbalance {config['data.imbalance_ratio']:g}, "
        f"{100 * config['data.noise_ratio']:g} % of the labels changed"
        f"{' (pair)' * (config['data.noise_kind'] == 'pair')}. Errors are those of the "
        "last epoch; the test set chooses nothing."
    )
    if run.result is None:
        last = records[-1]
        rows = [
            ["epochs", f"{last['epoch']} of {config['epochs']}"],
            ["test error", _percent(last["test_error"])],
            ["validation error", _percent(last["val_error"])],
        ]
        return Section("summary", "Summary", text, ["", "so far"], rows)
    results = {"this run": run.result}
    if control is not None and control.result is not None:
        results[_kind(control)] = control.result
        text += (
            " The frozen control is the same run with Lambda kept at its start: the "
            "difference is what learning Lambda brings."
        )
    elif run.learns:
        text += (
            " No frozen control stands beside this run: "
            "--config.hyper.frozen=True with the same flags makes one."
        )
    names = {
        "test error": lambda r: _percent(r["test_error"]),
        "error of the rare classes": lambda r: _percent(table.rare_class_error(r)),
        "validation error": lambda r: _percent(r["val_error"]),
        "epoch of the best validation error": lambda r: str(r["best_val_epoch"]),
        "AUROC of the noise score": lambda r: (
            f"{r['noise_auroc']:.3f}"
            if "noise_auroc" in r
            else "no labels were changed"
        ),
        "train, validation, test points": lambda r: ", ".join(
            f"{r[name]:,}" for name in ("num_train", "num_val", "num_test")
        ),
        "seconds": lambda r: f"{r['seconds']:.0f}",
    }
    if config["data.imbalance_ratio"] == 1:
        del names["error of the rare classes"]
    rows = [
        [name, *(show(result) for result in results.values())]
        for name, show in names.items()
    ]
    return Section("summary", "Summary", text, ["", *results], rows)


def _curves(run: Run, records: Records) -> Section:
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
    losses = {"train_loss": "train", "val_loss": "validation", "outer_loss": "outer"}
    errors = {"val_error": "validation", "test_error": "test"}
    return Section(
        "curves",
        "Learning curves",
        "The train loss has weights and soft labels in it, so it may rise where they "
        "are learned. The outer loss is that of validation batches in the steps that "
        "learn Lambda.",
        figures={
            "loss": drawn(losses, "loss"),
            "error": drawn(errors, "error in %"),
            "learning rates": drawn(rates, "learning rate", log=True),
        },
    )


def _solver(records: Records) -> Section:
    kinds = {
        "residual_norm": "residual |Ax - b| / |b|",
        "curvature": "curvature x'Ax / x'x",
        "lambda_max": "largest eigenvalue of A",
        "neumann_horizon": "step size * lambda_max * T",
    }
    drawn = {}
    for field, label in kinds.items():
        epochs, values = _values(records, field)
        if len(epochs):
            drawn[label] = figures.curves([(label, epochs, values)], label)
    if not drawn:
        return Section(
            "solver", "Health of the solver", "No step has learned Lambda in this run."
        )
    _, diverged = _values(records, "diverged_steps")
    return Section(
        "solver",
        "Health of the solver",
        "The linear solve of each hypergradient (Eq. 5). A residual of 1 is that of no "
        "solve at all, 0 is exact; the few terms of a Neumann series stay near 1, and "
        "above 1 they diverge. Curvature below 0 means a matrix A that is indefinite. "
        "The product of step size, largest eigenvalue and T says how much of the "
        "series is used: far below 1 the result is nearly that of the identity. Solves "
        "that "
        f"diverged: {int(sum(diverged)):,}.",
        figures=drawn,
    )


def _confusion(shown: ReportData | None) -> Section:
    section = ("confusion", "Confusion matrix")
    if shown is None or not len(shown.test_labels):
        return Section(*section, _UNFINISHED if shown is None else "No test set.")
    drawn = figures.confusion(
        shown.test_labels, shown.test_predictions, shown.class_names.tolist()
    )
    return Section(
        *section,
        "Of the test set. Rows are classes, shaded by the share of their points, with "
        "the numbers of points.",
        figures={"confusion matrix of the test set": drawn},
    )


def _embedding(shown: ReportData | None) -> Section:
    section = ("embedding", "What the head sees")
    if shown is None or len(shown.features) < 5:
        few = "Too few test points to draw."
        return Section(*section, _UNFINISHED if shown is None else few)
    labels = shown.test_labels[shown.feature_index]
    is_wrong = labels != shown.test_predictions[shown.feature_index]
    position = TSNE(
        perplexity=min(30, (len(labels) - 1) / 3), init="pca", random_state=0
    ).fit_transform(shown.features.astype(np.float32))
    drawn = figures.embedding(position, labels, is_wrong, shown.class_names.tolist())
    return Section(
        *section,
        f"t-SNE of the inputs of the linear head, {len(labels):,} test points. Crosses "
        f"are the {is_wrong.sum():,} that are classified wrongly; of up to "
        f"{figures.MAX_CLASSES} classes each has its name in its middle.",
        figures={"t-SNE of the head's inputs": drawn},
    )


def _classes(run: Run, control: Run | None, shown: ReportData | None) -> Section:
    section = ("classes", "Errors by class")
    if run.result is None or shown is None or not len(shown.test_labels):
        return Section(*section, _UNFINISHED if run.result is None else "No test set.")
    errors = np.array(run.result["class_error"])
    worst = np.argsort(-np.nan_to_num(errors), kind="stable")[: figures.MAX_CLASSES]
    chosen = np.sort(worst)
    values = {"this run": errors[chosen].tolist()}
    text = "Of the test set, in percent."
    if control is not None and control.result is not None:
        others = np.array(control.result["class_error"])
        values[_kind(control)] = others[chosen].tolist()
    if len(chosen) < len(errors):
        text += f" The {len(chosen)} classes of {len(errors)} with the largest errors."
    names = shown.class_names[chosen].tolist()
    drawn = figures.bars(names, values, "error in %")
    return Section(*section, text, figures={"errors by class": drawn})


def _weights(run: Run, dataset: DatasetReport | None) -> Section:
    section = ("weights", "Weights by class")
    if dataset is None:
        return Section(*section, _UNFINISHED)
    if not run.config.get("hyper.weights"):
        return Section(*section, "This method learns no weights.")
    names, members = _largest_classes(dataset)
    drawn = figures.boxes(names, [dataset.weight[m] for m in members], "weight")
    return Section(
        *section,
        "How much the loss of a point counts, by its given label; 1 at the start "
        "(dotted). Boxes are quartiles, whiskers go from 5 to 95 %.",
        figures={"weights by class": drawn},
    )


def _augmentation(dataset: DatasetReport | None) -> Section:
    section = ("augmentation", "Learned augmentation")
    if dataset is None:
        return Section(*section, _UNFINISHED)
    if not dataset.gate:
        return Section(*section, "This method learns no augmentation.")
    names, members = _largest_classes(dataset)
    if all(np.ptp(values) == 0 for values in dataset.gate.values()):
        names, members = ["all"], [np.arange(len(dataset.index))]
    drawn = {}
    for label, values in (
        ("probability that an operation is applied", dataset.gate),
        ("standard deviation of its magnitude", dataset.magnitude),
    ):
        means = [[column[m].mean() for m in members] for column in values.values()]
        drawn[label] = figures.matrix(list(values), names, np.array(means))
    return Section(
        *section,
        "Means over the train points of each given label. Each row has its own shades, "
        "from its smallest to its largest number. Magnitudes are in the operation's "
        "unit: degrees of rotation, shares of the side or of full strength.",
        figures=drawn,
    )


def _suspects(dataset: DatasetReport | None, shown: ReportData | None) -> Section:
    section = ("suspects", "Suspicious labels")
    if dataset is None or shown is None:
        return Section(*section, _UNFINISHED)
    is_suspect = dataset.noise_score > _SUSPECT
    rows = []
    for name in sorted(set(dataset.given_label[is_suspect]), key=_natural(shown)):
        here = dataset.given_label == name
        found = dataset.suggested_label[here & is_suspect]
        share = f"{100 * len(found) / here.sum():.1f}\u00a0%"
        others = collections.Counter(found[found != name].tolist()).most_common(1)
        most = "".join(f"{label} ({count:,})" for label, count in others)
        rows.append([str(name), f"{here.sum():,}", f"{len(found):,}", share, most])
    cards = [
        Card(
            image=image,
            augmented=augmented,
            name=str(dataset.id[row]),
            given=str(dataset.given_label[row]),
            suggested=str(dataset.suggested_label[row]),
            numbers={
                "noise score": f"{dataset.noise_score[row]:.3f}",
                "confidence": f"{dataset.label_confidence[row]:.3f}",
                "weight": f"{dataset.weight[row]:.2f}",
            },
        )
        for row, image, augmented in zip(
            shown.suspect_index,
            shown.suspect_images,
            shown.augmented_images,
            strict=True,
        )
    ]
    return Section(
        *section,
        f"The noise score is the probability the network gives to all classes but the "
        f"given one. {is_suspect.sum():,} of {len(is_suspect):,} train points have one "
        f"above {_SUSPECT}; dataset.csv has all. Below, the {len(cards)} with the "
        "highest scores, the worst first"
        + (
            ", each with draws of its learned augmentation."
            if cards[0].augmented.size
            else "."
        ),
        ["given label", "points", "suspects", "share", "mostly suggested"],
        rows,
        cards=cards,
    )


def _largest_classes(dataset: DatasetReport) -> tuple[list[str], list[np.ndarray]]:
    """Names and rows of the given labels, at most as many as a figure shows."""
    names, counts = np.unique(dataset.given_label, return_counts=True)
    chosen = np.sort(np.argsort(-counts, kind="stable")[: figures.MAX_CLASSES])
    members = [np.flatnonzero(dataset.given_label == name) for name in names[chosen]]
    return names[chosen].tolist(), members


def _natural(shown: ReportData) -> Any:
    """Sorts class names as the data set has them."""
    return shown.class_names.tolist().index


def _kind(control: Run) -> str:
    return "frozen control" if control.config["hyper.frozen"] else "with Lambda learned"


def _values(records: Records, field: str) -> tuple[list[int], list[float]]:
    """Epochs that have a metric, and its finite values; rates of 0 are none."""
    pairs = [
        (record["epoch"], record[field])
        for record in records
        if np.isfinite(record.get(field, np.nan))
        and (record[field] or not field.endswith("learning_rate"))
    ]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def _percent(value: float) -> str:
    return "no test set" if np.isnan(value) else f"{value:.2f} %"
