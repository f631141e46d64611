"""Data sets prepared by TensorFlow Datasets (TFDS), read without TensorFlow.

Only files on the disk are read; nothing here uses the network. `data.prepare` makes
these files from the original archives.
"""

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from autodo_jax.data import split
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.images import decode, lazy
from autodo_jax.disk import arrays, regular
from autodo_jax.disk.arrays import Expected
from autodo_jax.errors import DataError

# Our name of a source -> TFDS's.
NAMES = {
    "mnist": "mnist",
    "svhn": "svhn_cropped",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "imagenet": "imagenet2012",
}
_CHUNK = 1024  # records read at once
_MANY = 100_000  # from this number of records on, reading them is announced
_INDEX = "autodo_jax_index_{}.npz"  # beside the records of a split
_INDEX_ARRAYS = {"labels": Expected("iu", ("N",)), "ids": Expected("U", ("N",), 4096)}
_MAX_INDEX = 2**31  # bytes


def load(data: ml_collections.ConfigDict, seed: int) -> SourceSplits:
    """Returns the train and the test part of `data.source`, in their stored order.

    ImageNet's published validation set is the test part, as in the paper. `ids` are
    the data set's own, or else positions in the stored order. If `stream` is set, an
    image is decoded only when it is asked for.

    Args:
      data: config.data; `source` is a key of NAMES.
      seed: of the choice of `max_train_points` and `max_test_points`.

    Raises:
      DataError: data that is absent, damaged, or in another format.
    """
    root = directory(data.data_dir)
    absent = DataError(
        f"{data.source} is not prepared in {root}",
        f"get its archive from its home page and run {_command(data)}",
    )
    if not (root / NAMES[data.source]).exists():  # TFDS takes seconds to import.
        raise absent
    builder = open_builder(data.source, data.data_dir)
    if not is_prepared(builder):
        raise absent
    train, test = _part_names(data)
    return SourceSplits(
        train=_read(builder, train, data, "max_train_points", seed),
        test=_read(builder, test, data, "max_test_points", seed),
    )


def _part_names(data: ml_collections.ConfigDict) -> tuple[str, str]:
    """Returns TFDS's names of the train and of the test part."""
    train = "train+extra" if data.source == "svhn" and data.extra else "train"
    return train, "validation" if data.source == "imagenet" else "test"


def directory(data_dir: str) -> pathlib.Path:
    """Returns the folder of prepared data sets; "": TFDS's default.

    Raises:
      DataError: it is a file.
    """
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = pathlib.Path(data_dir or default).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise DataError(f"{root} is a file, expected a folder", "pass another data_dir")
    return root


def open_builder(name: str, data_dir: str) -> Any:
    """Returns TFDS's builder of a key of NAMES, whether it is prepared or not.

    Raises:
      DataError: TFDS is not installed, or `data_dir` has files that are not TFDS's.
    """
    root = directory(data_dir)
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise DataError(
            f"{name} is read by TensorFlow Datasets, which cannot be imported: {error}",
            "run pip install tensorflow-datasets importlib_resources",
        ) from error
    try:
        return tensorflow_datasets.builder(NAMES[name], data_dir=root)
    except Exception as error:  # TFDS raises a different kind for each file format.
        folder = root / NAMES[name]
        remedy = f"move {folder} elsewhere and prepare it again"
        raise _unreadable(folder, error, remedy) from error


def is_prepared(builder: Any) -> bool:
    """Returns True if the complete data set is on the disk."""
    # TFDS warns of each folder that it does not find, so the path is checked first.
    return builder.data_path.exists() and builder.is_prepared()


def _command(data: ml_collections.ConfigDict) -> str:
    return (
        f"python -m autodo_jax.data.prepare {data.source} --source=DIR "
        f"--data_dir={directory(data.data_dir)}"
    )


def _redo(data: ml_collections.ConfigDict) -> str:
    return f"run {_command(data)} --overwrite"


def _unreadable(path: pathlib.Path, error: Exception, remedy: str) -> DataError:
    reason = str(error).partition("\n")[0]
    return DataError(f"{path} cannot be read: {reason}", remedy)


@contextlib.contextmanager
def _reading(path: pathlib.Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:  # Damaged records.
        raise _unreadable(path, error, remedy) from error


@dataclasses.dataclass(frozen=True, eq=False)
class _Encoded:
    """Source of the images of a part."""

    records: Any  # TFDS's data source of the whole split
    rows: np.ndarray  # int [N], positions of the part's points in `records`
    labels: np.ndarray  # int32 [N]
    ids: np.ndarray  # str [N]
    path: pathlib.Path  # of the data set
    remedy: str

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> tuple[str, bytes]:
        with _reading(self.path, self.remedy):
            record = self.records[int(self.rows[row])]
        return self._image(row, record)

    def read_all(self) -> Iterator[tuple[str, bytes]]:
        """Yields the name and the contents of each image, as `read` returns them."""
        with _reading(self.path, self.remedy):
            for row, record in enumerate(_records(self.records, self.rows)):
                yield self._image(row, record)

    def _image(self, row: int, record: dict[str, Any]) -> tuple[str, bytes]:
        if record["label"] != self.labels[row]:
            raise DataError(
                f"{self.path} has an index of other data",
                f"remove {_INDEX.format('*')}, which will be written again",
            )
        return f"{self.ids[row]} in {self.path}", record["image"]


def _read(
    builder: Any, name: str, data: ml_collections.ConfigDict, limit: str, seed: int
) -> Dataset:
    """Reads a split, or a stratified part of data[limit] points chosen by `seed`."""
    index = _index(builder, name, data)
    rows = split.subset(index.labels, data, limit, seed=seed)
    encoded = _Encoded(
        records=_open_split(builder, name, data),
        rows=rows,
        labels=index.labels[rows],
        ids=index.ids[rows],
        path=pathlib.Path(builder.data_path),
        remedy=_redo(data),
    )
    return Dataset(
        images=_pixels(encoded, data),
        labels=encoded.labels,
        ids=encoded.ids,
        class_names=tuple(builder.info.features["label"].names),
    )


def _pixels(
    encoded: "_Encoded", data: ml_collections.ConfigDict
) -> np.ndarray | lazy.LazyImages:
    decoder = decode.decoder(data)
    if data.stream:
        return lazy.LazyImages.of(encoded, decoder)
    decoded = decode.decode_all(encoded.read_all(), len(encoded), decoder)
    decode.refuse(decoded.failures)
    return decoded.pixels


class _Index(NamedTuple):
    """Labels and ids of the records, available without decoding the images."""

    labels: np.ndarray  # int32 [N]
    ids: np.ndarray  # str [N]


def write_indices(builder: Any, source: str, data_dir: str) -> None:
    """Writes the index of each part of a prepared data set that `load` may return."""
    for extra in {False, "extra" in builder.info.splits}:
        data = ml_collections.ConfigDict(
            {"source": source, "data_dir": data_dir, "extra": extra}
        )
        for name in _part_names(data):
            _index(builder, name, data)


def _index(builder: Any, name: str, data: ml_collections.ConfigDict) -> _Index:
    """Returns the index of a split from its file, which is written first if needed.

    The file is a cache; if it cannot be written, the index is made again each time.
    """
    path = pathlib.Path(builder.data_path, _INDEX.format(name))
    records = _open_split(builder, name, data)
    index = _load_index(path, len(records))
    if index is None:
        with _reading(path.parent, _redo(data)):
            index = _make_index(records, f"{data.source}_{name}")
        with contextlib.suppress(OSError):
            _save_index(path, index)
    return index


def _make_index(records: Any, prefix: str) -> _Index:
    if len(records) > _MANY:
        print(f"{prefix}: reading {len(records):,} labels, once", file=sys.stderr)
    labels: list[int] = []
    ids: list[str] = []
    for record in _records(records, np.arange(len(records))):
        own_id = record.get("id", record.get("file_name"))
        ids.append(own_id.decode() if own_id else f"{prefix}_{len(ids):05d}")
        labels.append(record["label"])
    return _Index(np.array(labels, np.int32), np.array(ids))


def _load_index(path: pathlib.Path, num_records: int) -> _Index | None:
    """Returns the index in a file, or None if it is not of `num_records` points."""
    try:
        with regular.open_file(path) as file:
            found = arrays.read_npz(file, _INDEX_ARRAYS, {"N": num_records}, _MAX_INDEX)
    # zipfile and numpy raise errors of any kind for damaged files.
    except Exception:
        return None
    labels, ids = found["labels"].astype(np.int32), found["ids"]
    return _Index(labels, ids) if len(labels) == num_records else None


def _save_index(path: pathlib.Path, index: _Index) -> None:
    # Other processes must find the whole file or none.
    regular.write(path, lambda file: np.savez_compressed(file, **index._asdict()))


def _open_split(builder: Any, name: str, data: ml_collections.ConfigDict) -> Any:
    """Returns the records of a split as a sequence, with images still encoded."""
    import tensorflow_datasets

    for part in name.split("+"):
        if part not in builder.info.splits:
            raise DataError(
                f"{builder.data_path} has no {part} split",
                f"put the archive that holds it beside the others and {_redo(data)}",
            )
    try:
        encoded = {"image": tensorflow_datasets.decode.SkipDecoding()}
        return builder.as_data_source(name, decoders=encoded)
    except NotImplementedError as error:
        raise DataError(
            f"{builder.data_path} is stored as {builder.info.file_format.value}, which "
            "needs TensorFlow",
            _redo(data),
            "pass another data_dir",
        ) from error


def _records(records: Any, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    for start in range(0, len(rows), _CHUNK):
        yield from records.__getitems__(rows[start : start + _CHUNK].tolist())
