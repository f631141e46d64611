"""Sections on the train points: weights, augmentation and suspects."""

import collections

import numpy as np

from autodo_jax.report import figures
from autodo_jax.report.section import UNFINISHED, Card, Section
from autodo_jax.workdir import files
from autodo_jax.workdir.dataset_report import DatasetReport
from autodo_jax.workdir.report_data import ReportData
from autodo_jax.workdir.run import Run

_FROZEN = "Lambda is kept at its start in this run"


def weights(run: Run, dataset: DatasetReport | None) -> Section:
    """Returns the distribution of the weights."""
    section = ("weights", "Weights by class")
    if dataset is None:
        return Section(*section, UNFINISHED)
    if not run.config.get("hyper.weights"):
        return Section(*section, "This method learns no weights.")
    if not run.learns:
        return Section(*section, f"{_FROZEN}: all weights are 1.")
    names, members = _largest_classes(dataset)
    drawn = figures.boxes(names, [dataset.weight[m] for m in members], "weight")
    return Section(
        *section,
        "The weight of a point in the loss, by its given label; 1 at the start "
        "(dotted). Boxes are quartiles, whiskers go from 5 to 95 %.",
        figures={"weights by class": drawn},
    )


def augmentation(run: Run, dataset: DatasetReport | None) -> Section:
    """Returns gates and magnitudes by operation."""
    section = ("augmentation", "Learned augmentation")
    if dataset is None:
        return Section(*section, UNFINISHED)
    if not dataset.gate:
        return Section(*section, "This method learns no augmentation.")
    if not run.learns:
        return Section(*section, f"{_FROZEN}: all points have the same augmentation.")
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
        "Means over the train points of each given label. Each row is shaded from its "
        "smallest to its largest number. Magnitudes are in the operation's unit: "
        "degrees of rotation, shares of the side or of full strength.",
        figures=drawn,
    )


def suspects(
    run: Run, dataset: DatasetReport | None, shown: ReportData | None
) -> Section:
    """Returns the points whose labels are most likely wrong."""
    section = ("suspects", "Suspicious labels")
    if dataset is None or shown is None:
        return Section(*section, UNFINISHED)
    is_suspect = dataset.is_suspect
    cards = _cards(dataset, shown)
    text = (
        "The noise score is the probability that the network gives to all classes but "
        f"the given one. {is_suspect.sum():,} of {len(is_suspect):,} train points are "
        "suspects: with what it says of clean points that it has not learned from, "
        f"another label is likelier. {files.DATASET} lists all points."
    )
    expected = (run.result or {}).get("expected_wrong_labels")
    if expected is not None:
        text += f" About {expected:,.0f} labels are expected to be wrong."
    if cards:
        text += f" The {len(cards)} worst are below"
        if cards[0].augmented.size:
            kind = "its learned augmentation" if run.learns else "the augmentation"
            text += f", each with draws of {kind}"
        text += "."
    header = ["given label", "points", "suspects", "share", "mostly suggested"]
    rows = _suspects_by_class(dataset, is_suspect, shown.class_names.tolist())
    return Section(*section, text, header, rows, cards=cards)


def _suspects_by_class(
    dataset: DatasetReport, is_suspect: np.ndarray, class_names: list[str]
) -> list[list[str]]:
    rows = []
    for name in sorted(set(dataset.given_label[is_suspect]), key=class_names.index):
        here = dataset.given_label == name
        found = dataset.suggested_label[here & is_suspect]
        share = f"{100 * len(found) / here.sum():.1f}\u00a0%"
        others = collections.Counter(found[found != name].tolist()).most_common(1)
        most = "".join(f"{label} ({count:,})" for label, count in others)
        rows.append([str(name), f"{here.sum():,}", f"{len(found):,}", share, most])
    return rows


def _cards(dataset: DatasetReport, shown: ReportData) -> list[Card]:
    return [
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


def _largest_classes(dataset: DatasetReport) -> tuple[list[str], list[np.ndarray]]:
    """Returns names and rows of the largest classes, as many as a figure shows."""
    names, counts = np.unique(dataset.given_label, return_counts=True)
    chosen = np.sort(np.argsort(-counts, kind="stable")[: figures.MAX_CLASSES])
    members = [np.flatnonzero(dataset.given_label == name) for name in names[chosen]]
    return names[chosen].tolist(), members
