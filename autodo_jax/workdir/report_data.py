"""Arrays that the report of a run shows beside its metrics and its data set."""

import dataclasses
import pathlib
from typing import IO

import numpy as np

from autodo_jax.errors import RunFilesError
from autodo_jax.workdir import files


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
        with np.load(path, allow_pickle=False) as arrays:
            return ReportData(
                **{
                    field.name: arrays[field.name]
                    for field in dataclasses.fields(ReportData)
                }
            )
    except FileNotFoundError as error:
        raise RunFilesError(
            f"{workdir} holds no {files.REPORT_DATA}",
            "pass the workdir of a finished run",
        ) from error
    except Exception as error:  # NumPy and zipfile raise many kinds.
        raise files.read_error(path, error) from error
