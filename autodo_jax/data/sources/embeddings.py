"""Features of a frozen network, from a file or a folder of arrays.

A split is `train`, `validation` or `test`; the train split must be there, the others
are split from it where they are absent. Three forms:

* `NAME.npz`, and a folder of `.npy` files, which stay on the disk (memory maps):
  `<split>_features` floats [N, D], `<split>_labels` integers [N] in 0..C-1, and
  optionally `<split>_ids` [N] and `class_names` [C].
* `NAME.parquet`, a row for each point: `id`, `label` (an integer or a class name),
  `split`, `embedding` (a list of D floats).
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections
import numpy as np

from autodo_jax.data import split
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.disk import regular
from autodo_jax.disk.arrays import map_npy, read_any_npz
from autodo_jax.errors import DataError

_SPLITS = ("train", "validation", "test")
_COLUMNS = ("id", "label", "split", "embedding")

Arrays = Mapping[str, np.ndarray]


def load(data: ml_collections.ConfigDict, seed: int) -> SourceSplits:
    """Returns the splits of `data.data_dir`, parts of them where the data say so.

    Raises:
      DataError: a path that is absent or cannot be read; arrays that are missing, or
        whose shapes, types or labels do not fit together.
    """
    path = pathlib.Path(data.data_dir).expanduser()
    if not data.data_dir or not path.exists():
        raise DataError(
            f"config.data.data_dir is {data.data_dir!r}, expected an .npz or .parquet "
            "file, or a folder of .npy files",
            "pass <config.data.data_dir=PATH>",
        )
    parts = to_splits(_read(path), str(path))
    train, validation, test = parts
    if data.max_train_points:  # A memory map stays one.
        chosen = split.subset(train.labels, data, "max_train_points", seed=seed)
        train = train.take(chosen)
    if test is not None and data.max_test_points:
        chosen = split.subset(test.labels, data, "max_test_points", seed=seed)
        test = test.take(chosen)
    return SourceSplits(train, validation, test)


def to_splits(arrays: Arrays, where: str) -> SourceSplits:
    """Returns the splits of arrays by their names.

    Args:
      arrays: as an .npz file has them.
      where: they are from, for messages.

    Raises:
      DataError: as `load`.
    """
    present = [name for name in _SPLITS if f"{name}_features" in arrays]
    needed = ["train", *(name for name in _SPLITS if f"{name}_labels" in arrays)]
    for array in (f"{n}_{kind}" for n in needed for kind in ("features", "labels")):
        if array not in arrays:
            raise DataError(
                f"{where} has no array {array}, only {', '.join(sorted(arrays))}"
            )
    known = {f"{n}_{kind}" for n in _SPLITS for kind in ("features", "labels", "ids")}
    unknown = sorted(arrays.keys() - known - {"class_names"})
    if unknown:
        raise DataError(
            f"{where} has an array {unknown[0]}, which nothing reads", "take it out"
        )
    labels = {name: _labels(arrays, name, where) for name in present}
    largest = max(int(values.max(initial=0)) for values in labels.values())
    if "class_names" in arrays:
        names = np.asarray(arrays["class_names"])
        if names.ndim != 1:
            raise DataError(
                f"class_names of {where} have shape {names.shape}, expected [C]"
            )
        class_names = tuple(map(str, names))
        if largest >= len(class_names):
            raise DataError(
                f"a label in {where} is {largest}, expected 0..{len(class_names) - 1} "
                f"for the {len(class_names)} class_names"
            )
    elif largest >= len(labels["train"]):
        raise DataError(
            f"a label in {where} is {largest}, but there are only "
            f"{len(labels['train'])} train points",
            "number the classes from 0 on by np.unique(labels, return_inverse=True)",
        )
    else:
        class_names = tuple(map(str, range(largest + 1)))
    parts: dict[str, Any] = {
        name: Dataset(
            images=arrays[f"{name}_features"],
            labels=labels[name],
            ids=_ids(arrays, name, len(labels[name]), where),
            class_names=class_names,
        )
        for name in present
    }
    return SourceSplits(**parts)


def _labels(arrays: Arrays, name: str, where: str) -> np.ndarray:
    if f"{name}_labels" not in arrays:
        raise DataError(f"{where} has {name}_features, but no {name}_labels")
    labels, features = np.asarray(arrays[f"{name}_labels"]), arrays[f"{name}_features"]
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{name}_labels of {where} are {labels.dtype}, expected integers 0..C-1"
        )
    if labels.ndim != 1 or features.ndim != 2 or len(labels) != len(features):
        raise DataError(
            f"{name}_features and {name}_labels of {where} have shapes "
            f"{features.shape} and {labels.shape}, expected [N, D] and [N]"
        )
    if labels.size and (labels.min() < 0 or labels.max() >= 2**31 - 1):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(
            f"a label in {name}_labels of {where} is {wrong}, expected 0..C-1"
        )
    return labels.astype(np.int32)


def _ids(arrays: Arrays, name: str, num_points: int, where: str) -> np.ndarray:
    given = arrays.get(f"{name}_ids")
    if given is None:
        return np.array([f"{name}_{i}" for i in range(num_points)])
    if given.shape != (num_points,):
        raise DataError(
            f"{name}_ids of {where} have shape {given.shape}, expected [{num_points}]"
        )
    return np.asarray(given).astype(str)


def _read(path: pathlib.Path) -> Arrays:
    try:
        if path.is_dir():
            files = sorted(path.glob("*.npy"))
            return {file.stem: map_npy(file) for file in files}
        if path.suffix == ".npz":
            with regular.open_file(path) as file:
                return read_any_npz(file)
        if path.suffix == ".parquet":
            return _read_parquet(path)
    except DataError:
        raise
    except Exception as error:  # NumPy, zipfile and pyarrow raise many kinds.
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"cannot read {path}: {reason}") from error
    raise DataError(
        f"{path} is neither an .npz nor a .parquet file, nor a folder of .npy files"
    )


def _read_parquet(path: pathlib.Path) -> Arrays:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow", "install it by pip install 'autodo_jax[parquet]'"
        ) from error
    table = pyarrow.parquet.read_table(path)
    missing = [name for name in _COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}")
    splits = np.array(table["split"].to_pylist(), str)
    unknown = sorted({*splits} - {*_SPLITS})
    if unknown:
        raise DataError(
            f"{path} has rows of the split {str(unknown[0])!r}, expected one of "
            f"{', '.join(_SPLITS)}"
        )
    column = table["embedding"].combine_chunks()
    lengths = np.unique(column.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) != 1:
        raise DataError(f"{path} has embeddings of different lengths")
    features = column.flatten().to_numpy(zero_copy_only=False)
    features = features.reshape(len(splits), -1)
    labels, ids = np.array(table["label"].to_pylist()), table["id"].to_pylist()
    arrays = {}
    if labels.dtype.kind == "U":
        arrays["class_names"], labels = np.unique(labels, return_inverse=True)
    for name in np.unique(splits):
        at = splits == name
        arrays |= {
            f"{name}_features": features[at],
            f"{name}_labels": labels[at],
            f"{name}_ids": np.array(ids)[at],
        }
    return arrays
