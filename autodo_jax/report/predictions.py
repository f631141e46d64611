"""What the trained network makes of the test set."""

import numpy as np
from sklearn.manifold import TSNE

from autodo_jax.report import figures
from autodo_jax.report.section import UNFINISHED, Section, kind_of
from autodo_jax.report.workdirs import Run
from autodo_jax.report_data import ReportData


def confusion(shown: ReportData | None) -> Section:
    """Returns the confusion matrix."""
    section = ("confusion", "Confusion matrix")
    if shown is None or not len(shown.test_labels):
        return Section(*section, UNFINISHED if shown is None else "No test set.")
    drawn = figures.confusion(
        shown.test_labels, shown.test_predictions, shown.class_names.tolist()
    )
    return Section(
        *section,
        "Of the test set. Rows are classes, shaded by the share of their points, with "
        "the numbers of points.",
        figures={"confusion matrix of the test set": drawn},
    )


def embedding(shown: ReportData | None) -> Section:
    """Returns a map of the inputs of the head."""
    section = ("embedding", "What the head sees")
    if shown is None or len(shown.features) < 5:
        few = "Too few test points to draw."
        return Section(*section, UNFINISHED if shown is None else few)
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


def classes(run: Run, control: Run | None, shown: ReportData | None) -> Section:
    """Returns the errors by class beside those of the control."""
    section = ("classes", "Errors by class")
    if run.result is None or shown is None or not len(shown.test_labels):
        return Section(*section, UNFINISHED if run.result is None else "No test set.")
    errors = np.array(run.result["class_error"])
    worst = np.argsort(-np.nan_to_num(errors), kind="stable")[: figures.MAX_CLASSES]
    chosen = np.sort(worst)
    values = {"this run": errors[chosen].tolist()}
    text = "Of the test set, in percent."
    if control is not None and control.result is not None:
        others = np.array(control.result["class_error"])
        values[kind_of(control)] = others[chosen].tolist()
    if len(chosen) < len(errors):
        text += f" The {len(chosen)} classes of {len(errors)} with the largest errors."
    names = shown.class_names[chosen].tolist()
    drawn = figures.bars(names, values, "error in %")
    return Section(*section, text, figures={"errors by class": drawn})
