"""Sections on the predictions of the trained network for the test set."""

import numpy as np
import threadpoolctl
from sklearn.manifold import TSNE

from autodo_jax.report import figures
from autodo_jax.report.section import UNFINISHED, Section, kind_of
from autodo_jax.workdir.report_data import ReportData
from autodo_jax.workdir.run import Run

_MIN_POINTS = 5  # of a map


def confusion(shown: ReportData | None) -> Section:
    """Returns the confusion matrix."""
    section = ("confusion", "Confusion matrix")
    if shown is None or not len(shown.test_labels):
        return Section(*section, UNFINISHED if shown is None else "No test set.")
    drawn = figures.confusion(
        shown.test_labels, shown.test_predictions, shown.class_names.tolist()
    )
    text = "Points of the test set. Each row is a class, shaded by shares of its points"
    has_numbers = len(shown.class_names) <= figures.MAX_NUMBERS
    text += ", with their numbers." if has_numbers else "."
    return Section(
        *section,
        text,
        figures={"confusion matrix of the test set": drawn},
    )


def embedding(shown: ReportData | None) -> Section:
    """Returns a map of the inputs of the head."""
    section = ("embedding", "What the head sees")
    if shown is None:
        return Section(*section, UNFINISHED)
    # Inputs beyond the range of float16 are stored as infinite.
    is_finite = np.isfinite(shown.features).all(axis=1)
    features = shown.features[is_finite].astype(np.float32)
    if len(features) < _MIN_POINTS or np.sum(np.ptp(features, axis=0) > 0) < 2:
        text = "There are too few test points to draw, or they are all alike."
        return Section(*section, text)
    index = shown.feature_index[is_finite]
    labels = shown.test_labels[index]
    is_wrong = labels != shown.test_predictions[index]
    position = _tsne(features)
    drawn = figures.embedding(position, labels, is_wrong, shown.class_names.tolist())
    text = (
        f"t-SNE of the inputs of the linear head for {len(labels):,} test points. "
        f"Crosses mark the {is_wrong.sum():,} that are misclassified"
    )
    has_names = len(shown.class_names) <= figures.MAX_CLASSES
    text += "; the name of each class is at its centre." if has_names else "."
    return Section(
        *section,
        text,
        figures={"t-SNE of the head's inputs": drawn},
    )


def _tsne(features: np.ndarray) -> np.ndarray:
    """Returns positions [F, 2] of points [F, D]."""
    tsne = TSNE(perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=0)
    # On a busy machine, threads that wait for each other take half a minute.
    with threadpoolctl.threadpool_limits(1):
        return tsne.fit_transform(features)


def classes(run: Run, control: Run | None, shown: ReportData | None) -> Section:
    """Returns the errors by class beside those of the control."""
    section = ("classes", "Errors by class")
    if run.result is None or shown is None or not len(shown.test_labels):
        return Section(*section, UNFINISHED if run.result is None else "No test set.")
    errors = np.array([*run.result["class_error"].values()])
    worst = np.argsort(-np.nan_to_num(errors), kind="stable")[: figures.MAX_CLASSES]
    chosen = np.sort(worst)
    values = {"this run": errors[chosen].tolist()}
    text = "Errors on the test set, in percent."
    if control is not None and control.result is not None:
        others = np.array([*control.result["class_error"].values()])
        values[kind_of(control)] = others[chosen].tolist()
    if len(chosen) < len(errors):
        text += f" Only the {len(chosen)} worst classes of {len(errors)} are shown."
    names = shown.class_names[chosen].tolist()
    drawn = figures.bars(names, values, "error in %")
    return Section(*section, text, figures={"errors by class": drawn})
