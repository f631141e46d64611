"""Converts the original archives of a data set for `data.sources.tfds`.

    python -m autodo_jax.data.prepare cifar10 --source=DIR [--data_dir=DIR]

Get the archives from the home page of the data set. They are converted to TFDS's own
format (array_record), which `tfds.data_source` reads as if TFDS had prepared them.
Neither TensorFlow nor a network is needed.
"""

import contextlib
import functools
import io
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from autodo_jax.data.prepare import originals
from autodo_jax.data.prepare.cifar import cifar
from autodo_jax.data.sources import tfds
from autodo_jax.errors import (
    AbsentError,
    ArgumentParser,
    DataError,
    for_command_line,
    printable,
)

READERS: dict[str, Callable[[pathlib.Path], originals.Original]] = {
    "mnist": originals.mnist,
    "svhn": originals.svhn,
    "cifar10": functools.partial(cifar, "cifar10"),
    "cifar100": functools.partial(cifar, "cifar100"),
    "imagenet": originals.imagenet,
}
PUBLISHED_SIZES = {
    "mnist": {"train": 60000, "test": 10000},
    "svhn": {"train": 73257, "test": 26032, "extra": 531131},
    "cifar10": {"train": 50000, "test": 10000},
    "cifar100": {"train": 50000, "test": 10000},
    "imagenet": {"train": 1281167, "validation": 50000},
}


def prepare(
    name: str, source: str, data_dir: str = ""
) -> tuple[pathlib.Path, dict[str, int]]:
    """Prepares a data set and, once it is complete, replaces the one already there.

    Args:
      name: a key of READERS.
      source: folder of the original archives, or one of them.
      data_dir: folder of prepared data sets; "": TFDS's default.

    Returns:
      The folder of the data set, and the number of points of each split.

    Raises:
      AbsentError: no archive in `source`.
      DataError: an archive is damaged.
    """
    path = pathlib.Path(source).expanduser().absolute()
    if not path.exists():
        raise AbsentError(
            f"{path} does not exist", "set <source> to the folder of the archives"
        )
    original = READERS[name](path)
    root = tfds.directory(data_dir)
    root.mkdir(parents=True, exist_ok=True)
    # In place, TFDS would delete the old data set first and leave a download folder.
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=root) as work:
        builder = _builder(name, original, work)
        # TFDS reports downloads, although there are none.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=f"{work}/downloads")
        tfds.write_indices(builder, name, data_dir)
        target = root / pathlib.Path(builder.data_path).relative_to(work)
        if target.exists():
            target.rename(f"{work}/replaced")
        target.parent.mkdir(exist_ok=True)
        pathlib.Path(builder.data_path).rename(target)
    return target, {
        split: info.num_examples for split, info in builder.info.splits.items()
    }


def _builder(name: str, original: originals.Original, data_dir: str) -> Any:
    """Returns TFDS's builder of the data set, with `original` instead of downloads."""
    import tensorflow_datasets

    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    stock: Any = tensorflow_datasets.builder_cls(tfds.NAMES[name])

    class Builder(stock, skip_registration=True):  # type: ignore[call-arg]
        name = stock.name
        pkg_dir_path = stock.pkg_dir_path

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            for field, names in original.class_names.items():
                self.info.features[field].names = names
            return original.splits

    return Builder(data_dir=data_dir, file_format="array_record")


def _is_prepared(name: str, data_dir: str) -> bool:
    builder = tfds.open_builder(name, data_dir)
    if not tfds.is_prepared(builder):
        return False
    if builder.info.file_format.value == "tfrecord":
        raise DataError(
            f"{builder.data_path} is stored as tfrecord, which needs TensorFlow",
            "add <overwrite> to replace it",
            "set another <data_dir>",
        )
    path = builder.data_path
    where = printable(str(path))
    print(f"{name} is already prepared in {where}; --overwrite prepares it again")
    return True


def _report(name: str, path: pathlib.Path, sizes: dict[str, int]) -> None:
    points = ", ".join(f"{split} {size:,}" for split, size in sizes.items())
    print(printable(f"{name}: {points} points in {path}"))
    for split, size in sizes.items():
        published = PUBLISHED_SIZES[name][split]
        if size != published:
            print(f"The published {split} set has {published:,} points, not {size:,}.")


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line; returns 1 for a damaged archive, 2 for an absent one."""
    parser = ArgumentParser(
        prog="python -m autodo_jax.data.prepare", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", choices=READERS, help="the data set")
    parser.add_argument("--source", required=True, help="folder of its archives")
    parser.add_argument("--data_dir", default="", help="default: that of TFDS")
    parser.add_argument(
        "--overwrite", action="store_true", help="prepare it again if it is prepared"
    )
    flags = parser.parse_args(args)
    try:
        if flags.overwrite or not _is_prepared(flags.name, flags.data_dir):
            _report(flags.name, *prepare(flags.name, flags.source, flags.data_dir))
        return 0
    except AbsentError as error:
        status, message = 2, for_command_line(error)
    except (DataError, OSError) as error:
        status, message = 1, for_command_line(error)
    except KeyboardInterrupt:
        status, message = 130, "interrupted; nothing was changed"
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    # On SIGTERM it cleans up too, so that no part of ImageNet is left on the disk.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
