"""Data sets prepared by TensorFlow Datasets (TFDS), read without TensorFlow.

Only what is on the disk is read; nothing here touches the network. `data.prepare`
turns the original archives into what is read.
"""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_collections
import numpy as np

from autodo_jax.data import images, split
from autodo_jax.data.dataset import DataError, Dataset, Parts

# Our name of a source -> TFDS's.
NAMES = {
    "mnist": "mnist",
    "svhn": "svhn_cropped",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "imagenet": "imagenet2012",
}
_CHUNK = 1024  # records read at once


def load(data: ml_collections.ConfigDict, seed: int) -> Parts:
    """Returns the train and the test part of `data.source`, in their stored order.

    ImageNet's published validation set is the test part, as in the paper. `ids` are
    the data set's own, or else positions in the stored order.

    Args:
      data: config.data; `source` is a key of NAMES.
      seed: of the choice of `max_train_points` and `max_test_points`.

    Raises:
      DataError: data that is absent, damaged, or in another format.
    """
    root = directory(data.data_dir)
    absent = DataError(
        f"{data.source} is not prepared in {root}; get its archive from its home page "
        f"and run {_command(data)}"
    )
    if not (root / NAMES[data.source]).exists():  # Said before TFDS takes its time.
        raise absent
    builder = open_builder(data.source, data.data_dir)
    if not is_prepared(builder):
        raise absent
    train = "train+extra" if data.source == "svhn" and data.extra else "train"
    test = "validation" if data.source == "imagenet" else "test"
    return Parts(
        train=_read(builder, train, data, "max_train_points", seed),
        test=_read(builder, test, data, "max_test_points", seed),
    )


def directory(data_dir: str) -> pathlib.Path:
    """Returns the folder of prepared data sets; "": TFDS's default.

    Raises:
      DataError: it is a file.
    """
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = pathlib.Path(data_dir or default).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file; data_dir must be a folder")
    return root


def open_builder(name: str, data_dir: str) -> Any:
    """Returns TFDS's builder of a key of NAMES, whether it is prepared or not.

    Raises:
      DataError: TFDS is not installed, or what is in `data_dir` is not TFDS's.
    """
    root = directory(data_dir)
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"{name} is read by TensorFlow Datasets, which fails to start: {error}; "
            "run pip install tensorflow-datasets importlib_resources"
        ) from error
    try:
        return tensorflow_datasets.builder(NAMES[name], data_dir=root)
    except Exception as error:  # of as many kinds as TFDS has file formats
        folder = root / NAMES[name]
        raise _unreadable(folder, error, f"remove {folder}, prepare it anew") from error


def is_prepared(builder: Any) -> bool:
    """True where the data set is on the disk, complete."""
    # TFDS warns of each folder that it does not find.
    return builder.data_path.exists() and builder.is_prepared()


def _command(data: ml_collections.ConfigDict) -> str:
    return (
        f"python -m autodo_jax.data.prepare {data.source} --source=DIR "
        f"--data_dir={directory(data.data_dir)}"
    )


def _unreadable(path: pathlib.Path, error: Exception, remedy: str) -> DataError:
    reason = str(error).partition("\n")[0]
    return DataError(f"{path} cannot be read: {reason}; {remedy}")


def _read(
    builder: Any, name: str, data: ml_collections.ConfigDict, limit: str, seed: int
) -> Dataset:
    """Reads a split, or a stratified part of data[limit] points chosen by `seed`."""
    split_records = _open_split(builder, name, data)
    rows = np.arange(len(split_records))
    labels: list[int] = []
    ids: list[str] = []

    def files() -> Iterator[tuple[str, bytes]]:
        """Names and contents of the images; notes their labels and ids."""
        for record in _records(split_records, rows):
            own_id = record.get("id", record.get("file_name"))
            default = f"{data.source}_{name}_{rows[len(ids)]:05d}"
            ids.append(own_id.decode() if own_id else default)
            labels.append(record["label"])
            yield f"{ids[-1]} in {builder.data_path}", record["image"]

    try:
        if 0 < data[limit] < len(rows):
            all_labels = [record["label"] for record in _records(split_records, rows)]
            rows = split.subset(np.array(all_labels), data, limit, seed=seed)
        pixels = images.decode_all(
            files(),
            len(rows),
            channels=len(data.mean),
            size=tuple(data.image_size),
            resize=data.resize,
        )
    except (RuntimeError, OSError) as error:  # of damaged records
        remedy = f"run {_command(data)} --overwrite"
        raise _unreadable(builder.data_path, error, remedy) from error
    class_names = tuple(builder.info.features["label"].names)
    return Dataset(pixels, np.array(labels, np.int32), np.array(ids), class_names)


def _open_split(builder: Any, name: str, data: ml_collections.ConfigDict) -> Any:
    """Returns the records of a split, a sequence; their images are still encoded."""
    from tensorflow_datasets import decode

    for part in name.split("+"):
        if part not in builder.info.splits:
            raise DataError(
                f"{builder.data_path} has no {part} split; put the archive that holds "
                f"it beside the others and run {_command(data)} --overwrite"
            )
    try:
        return builder.as_data_source(name, decoders={"image": decode.SkipDecoding()})
    except NotImplementedError as error:
        raise DataError(
            f"{builder.data_path} is stored as {builder.info.file_format.value}, which "
            f"needs TensorFlow; run {_command(data)} --overwrite, or set another "
            "data_dir"
        ) from error


def _records(records: Any, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    for start in range(0, len(rows), _CHUNK):
        yield from records.__getitems__(rows[start : start + _CHUNK].tolist())
