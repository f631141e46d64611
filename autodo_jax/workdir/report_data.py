"""Arrays that the report of a run shows beside its metrics and its data set."""

import dataclasses
import os
import pathlib
from typing import IO

import numpy as np

from autodo_jax.disk import arrays, regular
from autodo_jax.disk.arrays import Expected
from autodo_jax.errors import RunFilesError
from autodo_jax.workdir import files

# In the report: suspects, draws of the augmentation of each, test points, pixels.
MAX_SUSPECTS, MAX_DRAWS, MAX_FEATURES, MAX_SIDE = 32, 3, 1000, 96
_MAX_BYTES = 2**27  # of all arrays together
_BOUNDS = {
    "C": 2**20,
    "M": 2**24,
    "F": MAX_FEATURES,
    "D": 2**16,
    "K": MAX_SUSPECTS,
    "R": MAX_DRAWS,
    **dict.fromkeys("HWhw", MAX_SIDE),
    "channels": 3,
}
_ARRAYS = {
    "class_names": Expected("U", ("C",), 4 * 1024),
    "test_labels": Expected("iu", ("M",)),
    "test_predictions": Expected("iu", ("M",)),
    "feature_index": Expected("iu", ("F",)),
    "features": Expected("f", ("F", "D"), 4),
    "suspect_index": Expected("iu", ("K",)),
    "suspect_images": Expected("u", ("K", "H", "W", "channels"), 1),
    "augmented_images": Expected("u", ("K", "R", "h", "w", "channels"), 1),
}


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Arrays over the M test points, and over the K most suspicious train points."""

    class_names: np.ndarray  # str [C]
    test_labels: np.ndarray  # int32 [M]
    test_predictions: np.ndarray  # int32 [M], classes
    feature_index: np.ndarray  # int64 [F], test points whose features are kept
    features: np.ndarray  # float16 [F, D], inputs of the head
    suspect_index: np.ndarray  # int64 [K], rows of dataset.csv, worst first
    suspect_images: np.ndarray  # uint8 [K, H, W, channels], as given
    # uint8 [K, R, H, W, channels], R draws of each one's learned augmentation; R is 0
    # where none is learned.
    augmented_images: np.ndarray


def write_npz(file: IO[bytes], data: ReportData) -> None:
    """Writes the arrays by the names of their fields, compressed."""
    fields = {
        field.name: getattr(data, field.name) for field in dataclasses.fields(data)
    }
    np.savez_compressed(file, **fields)


def load_report_data(workdir: pathlib.Path) -> ReportData:
    """Returns the data of a finished run for its report.

    Raises:
      RunFilesError: the workdir holds no such file, or one that cannot be read.
    """
    path = workdir / files.REPORT_DATA
    try:
        with regular.open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > files.REPORT_DATA.max_bytes:
                raise ValueError(f"it has {size:,} bytes, too many")
            found = ReportData(**arrays.read_npz(file, _ARRAYS, _BOUNDS, _MAX_BYTES))
        _check_values(found)
        return found
    except FileNotFoundError as error:
        raise RunFilesError(
            f"{workdir} holds no {files.REPORT_DATA}",
            "pass the workdir of a finished run",
        ) from error
    except Exception as error:  # NumPy and zipfile raise many kinds.
        raise files.read_error(path, error) from error


def _check_values(data: ReportData) -> None:
    num_classes, num_test = len(data.class_names), len(data.test_labels)
    arrays.in_range("test_labels", data.test_labels, 0, num_classes)
    arrays.in_range("test_predictions", data.test_predictions, 0, num_classes)
    arrays.in_range("feature_index", data.feature_index, 0, num_test)
    arrays.in_range("suspect_index", data.suspect_index, 0, 2**53)
