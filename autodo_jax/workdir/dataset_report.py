"""The report on the train points: labels, weights and augmentation of each.

docs/dataset-report.md explains the columns.
"""

import csv
import dataclasses
import importlib.util
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import IO

import numpy as np

from autodo_jax.errors import RunFilesError
from autodo_jax.spreadsheet import cell, read_table
from autodo_jax.workdir import files

_LABELS = ("id", "given_label", "suggested_label")
_NUMBERS = ("label_confidence", "noise_score", "weight")
_SUSPECT = "is_suspect"
_GATE, _MAGNITUDE = "gate_", "magnitude_"  # before the name of an operation
# Where no clean set has decided: suspects have a higher noise score.
THRESHOLD = 0.5
_ROUNDING, _LARGEST = 1e-4, 1e39
_MAX_LENGTH, _MAX_TEXTS = 4096, 2**27  # characters of a text, and of a column
# As spreadsheets save truth values in some languages.
_TRUE = {"true", "1", "wahr", "vrai", "vero", "verdadero", "verdadeiro", "waar"}
_FALSE = {"false", "0", "falsch", "faux", "falso", "onwaar"}


@dataclasses.dataclass(frozen=True)
class DatasetReport:
    """Arrays over the N train points, in their order in the run."""

    index: np.ndarray  # int64 [N], 0..N-1: rows of the saved Lambda
    id: np.ndarray  # str [N], file name or the data set's own id
    given_label: np.ndarray  # str [N], class names
    suggested_label: np.ndarray  # str [N], class names
    label_confidence: np.ndarray  # float64 [N], in [0, 1], of the suggested label
    noise_score: np.ndarray  # float64 [N], in [0, 1], of all labels but the given one
    is_suspect: np.ndarray  # bool [N], the label is likely wrong, by the clean set
    weight: np.ndarray  # float64 [N], of the point's loss; 1 where none are learned
    gate: dict[str, np.ndarray]  # operation -> probability [N] that it is applied
    magnitude: dict[str, np.ndarray]  # operation -> standard deviation [N]

    def soft_labels(self, class_names: Sequence[str]) -> np.ndarray:
        """Returns the soft label that the trained network gives each point, [N, C].

        It has the network's probabilities of the given and of the suggested label,
        scaled to sum to 1.

        Args:
          class_names: the C names, in the order of the columns.

        Raises:
          ValueError: a label is not among the names.
        """
        column = {name: c for c, name in enumerate(class_names)}
        missing = {*self.given_label, *self.suggested_label} - column.keys()
        if missing:
            raise ValueError(
                f"`class_names` lacks the labels {', '.join(sorted(missing)[:5])}"
            )
        soft = np.zeros((len(self.index), len(class_names)))
        for labels, probability in (
            (self.given_label, 1 - self.noise_score),
            (self.suggested_label, self.label_confidence),
        ):
            # The same where the labels agree.
            soft[np.arange(len(soft)), [column[name] for name in labels]] = probability
        return soft / soft.sum(axis=1, keepdims=True)


def write_csv(file: IO[bytes], report: DatasetReport) -> None:
    """Writes a report as UTF-8 with a line for each point, numbers to six digits."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    columns = _columns(report)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        writer.writerow(
            f"{value:.6g}"
            if isinstance(value, float)
            else cell(value)
            if isinstance(value, str)
            else value
            for value in row
        )
    text.detach()


def has_parquet() -> bool:
    """True where the extra `parquet` is installed."""
    return importlib.util.find_spec("pyarrow") is not None


def write_parquet(file: IO[bytes], report: DatasetReport) -> None:
    """Writes the columns of the CSV file in full precision; needs `parquet`."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(_columns(report)), file)


def load_dataset_report(workdir: str | pathlib.Path) -> DatasetReport:
    """Returns the report of a finished run on its train points.

    Args:
      workdir: folder of the run.

    A spreadsheet may have saved it, with semicolons and decimal commas.

    Raises:
      RunFilesError: the workdir holds no such file, or one that cannot be read, or is
        of a newer version.

    Examples:
      >>> import tempfile
      >>> import numpy as np
      >>> from autodo_jax import load_dataset_report, optimize_dataset
      >>> rng, labels = np.random.default_rng(0), np.arange(60) % 3
      >>> features = np.eye(3)[labels] + 0.1 * rng.normal(size=(60, 3))
      >>> given = np.where(np.arange(60) == 7, 0, labels)  # number 7 is a 1
      >>> with tempfile.TemporaryDirectory() as workdir:
      ...     _ = optimize_dataset(
      ...         (features[:40], given[:40]),
      ...         (features[40:], labels[40:]),
      ...         workdir=workdir,
      ...         progress=False,
      ...     )
      ...     report = load_dataset_report(workdir)
      >>> str(report.given_label[7]), str(report.suggested_label[7])
      ('0', '1')
    """
    path = pathlib.Path(workdir) / files.DATASET
    files.refuse_newer(path.parent)
    try:
        read = read_table(path, escaped=True)
        table = read.columns
        missing = {"index", *_LABELS, *_NUMBERS} - table.keys()
        if missing:
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        numbers = {
            name: _in_range(name, np.array(read.numbers(name), np.float64))
            for name in table
            if name in _NUMBERS or name.startswith((_GATE, _MAGNITUDE))
        }
        given = {name: _texts(name, table[name]) for name in _LABELS}
        if _SUSPECT in table:
            suspect = np.array([_truth(each) for each in table[_SUSPECT]], bool)
        else:  # of an older version
            suspect = above_threshold(
                numbers["noise_score"], given["suggested_label"] != given["given_label"]
            )
        return DatasetReport(
            index=_indices(table["index"]),
            **given,
            **{name: numbers[name] for name in _NUMBERS},
            is_suspect=suspect,
            gate=_of_operations(numbers, _GATE),
            magnitude=_of_operations(numbers, _MAGNITUDE),
        )
    except FileNotFoundError as error:
        raise RunFilesError(
            f"{workdir} holds no {files.DATASET}", "pass the workdir of a finished run"
        ) from error
    except (OSError, ValueError) as error:
        raise files.read_error(path, error) from error


def create(
    *,
    ids: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    suggested: np.ndarray,
    confidence: np.ndarray,
    noise_score: np.ndarray,
    weight: np.ndarray,
    gate: Mapping[str, np.ndarray],
    magnitude: Mapping[str, np.ndarray],
    is_suspect: np.ndarray | None = None,
) -> DatasetReport:
    """Returns the report of N points.

    Args:
      ids: str [N].
      labels, suggested: classes [N].
      class_names: C names.
      confidence, noise_score: [N].
      weight: [N] or, the same for all points, [1].
      gate, magnitude: likewise, by operation.
      is_suspect: bool [N]; None: by the noise score alone.
    """
    names = np.asarray(class_names)
    if is_suspect is None:
        is_suspect = above_threshold(noise_score, suggested != labels)

    def column(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.asarray(values, np.float64), labels.shape)

    return DatasetReport(
        index=np.arange(len(labels)),
        id=np.asarray(ids),
        given_label=names[labels],
        suggested_label=names[suggested],
        label_confidence=column(confidence),
        noise_score=column(noise_score),
        is_suspect=np.asarray(is_suspect, bool),
        weight=column(weight),
        gate={name: column(values) for name, values in gate.items()},
        magnitude={name: column(values) for name, values in magnitude.items()},
    )


def above_threshold(
    noise_score: np.ndarray, differs: np.ndarray, threshold: float = THRESHOLD
) -> np.ndarray:
    """Returns where another label is suggested, with a higher noise score, [N]."""
    return (np.asarray(noise_score) > threshold) & differs


def _in_range(name: str, values: np.ndarray) -> np.ndarray:
    """Returns a column of finite numbers, shares where it is one of shares."""
    is_share = name not in ("weight",) and not name.startswith(_MAGNITUDE)
    low, high = -_ROUNDING, 1 + _ROUNDING if is_share else _LARGEST
    wrong = np.flatnonzero(~((low <= values) & (values <= high)))
    if len(wrong):
        expected = "a number in [0, 1]" if is_share else "a number >= 0"
        raise ValueError(
            f"row {wrong[0] + 1}: {name} is {values[wrong[0]]:g}, expected {expected}"
        )
    return values


def _texts(name: str, cells: list[str]) -> np.ndarray:
    """Returns a column of texts, which take the space of the longest each."""
    longest = max(map(len, cells), default=0)
    if longest > _MAX_LENGTH or longest * len(cells) > _MAX_TEXTS:
        raise ValueError(
            f"{name} has a text of {longest:,} characters, expected {_MAX_LENGTH:,} at "
            f"most, and {_MAX_TEXTS:,} over all rows"
        )
    return np.array(cells, np.str_)


def _indices(cells: list[str]) -> np.ndarray:
    for row, each in enumerate(cells, 1):
        if not (each.isascii() and each.isdecimal() and len(each) < 16):
            raise ValueError(
                f"row {row}: index is {each[:60]!r}, expected an integer >= 0"
            )
    indices = np.array([int(each) for each in cells], np.int64)
    if len(np.unique(indices)) < len(indices):
        raise ValueError("two rows have the same index")
    return indices


def _truth(given: str) -> bool:
    word = given.strip().casefold()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{_SUSPECT} is {given[:60]!r}, expected True or False")
    return word in _TRUE


def _columns(report: DatasetReport) -> dict[str, np.ndarray]:
    *numbers, weight = _NUMBERS
    names = ("index", *_LABELS, *numbers, _SUSPECT, weight)
    return {
        **{name: getattr(report, name) for name in names},
        **{_GATE + name: values for name, values in report.gate.items()},
        **{_MAGNITUDE + name: values for name, values in report.magnitude.items()},
    }


def _of_operations(
    numbers: Mapping[str, np.ndarray], prefix: str
) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): values
        for name, values in numbers.items()
        if name.startswith(prefix)
    }
