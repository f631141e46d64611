"""python -m autodo_jax.predict WORKDIR PATH... [--output=FILE.csv]

Classifies images by the network of a finished run. PATH is an image, a folder or an
archive (.tar, .tar.xz, .tar.gz, .zip); images of any size are prepared as in training.
Writes a line for each image: id, predicted_label, confidence, and the probability of
each class. The id is the path below the folder or archive, and begins with PATH itself
where there are several. Images that cannot be read are named and left out, and the exit
status is then 1.
"""

import collections
import contextlib
import csv
import io
import itertools
import pathlib
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np

from autodo_jax.data.images import archive_files, decode, formats, opened
from autodo_jax.errors import ArgumentParser, DataError, for_command_line, printable
from autodo_jax.predict.trained import OptimizedDataset, image_decoder, load_run
from autodo_jax.spreadsheet import cell
from autodo_jax.workdir import files

_BATCH = 256  # images in memory at once


class Images:
    """Iterable over the images below the paths, and what was left out of them."""

    def __init__(self, paths: Sequence[pathlib.Path], decoder: decode.Decoder):
        """Args: files, folders or archives; the decoder of their images."""
        self._paths, self._decoder = paths, decoder
        self.failures: list[DataError] = []
        self.others: collections.Counter[str] = collections.Counter()  # by suffix

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields ids with uint8 images [H, W, channels].

        Raises:
          DataError: a path that does not exist, or an archive that cannot be read.
        """
        for path in self._paths:
            prefix = f"{path}/" if len(self._paths) > 1 else ""
            files = self._files(path, prefix)
            for name, image in decode.attempts(files, self._decoder, self._decoder):
                if isinstance(image, DataError):
                    self.failures.append(image)
                else:
                    yield name, image

    def _files(self, path: pathlib.Path, prefix: str) -> Iterator[tuple[str, bytes]]:
        if path.is_file() and not _is_archive(path):
            with archive_files.reading(path), open(path, "rb") as file:
                yield str(path), archive_files.contents(file, str(path))
            return
        with opened.opened(path) as found:
            for name, handle in found.entries.items():
                if name.endswith("/") or opened.is_hidden(name):
                    continue
                suffix = pathlib.PurePosixPath(name).suffix.lower()
                try:
                    opened.check_encoding(name, path)
                    is_image = suffix in formats.suffixes() or formats.begins_as_image(
                        found.head(handle)
                    )
                    content = found.read(handle) if is_image else b""
                except (DataError, OSError) as error:  # The rest may be readable.
                    if not found.root.is_dir():
                        raise
                    self.failures.append(DataError(f"the image {name}: {error}"))
                    continue
                if is_image:
                    yield prefix + name, content
                else:
                    self.others[suffix or "no suffix"] += 1


def _is_archive(path: pathlib.Path) -> bool:
    with open(path, "rb") as file:
        if formats.begins_as_image(file.read(32)):
            return False
    return tarfile.is_tarfile(path) or zipfile.is_zipfile(path)


def write_predictions(
    file: IO[bytes], found: OptimizedDataset, images: Iterable[tuple[str, np.ndarray]]
) -> collections.Counter[str]:
    """Writes a line for each image as UTF-8, numbers to six digits.

    Args:
      file: opened for writing.
      found: a trained run.
      images: ids with uint8 images [H, W, channels].

    Returns:
      Number of images by their predicted label.
    """
    counts: collections.Counter[str] = collections.Counter()
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    names = found.class_names
    columns = ("id", "predicted_label", "confidence")
    writer.writerow((*columns, *(f"probability_{name}" for name in names)))
    remaining = iter(images)
    while batch := list(itertools.islice(remaining, _BATCH)):
        probability = found.predict(np.stack([image for _, image in batch]))
        for (name, _), row in zip(batch, probability, strict=True):
            label = names[row.argmax()]
            counts[label] += 1
            numbers = (f"{value:.6g}" for value in (row.max(), *row))
            writer.writerow((cell(name), cell(label), *numbers))
    text.detach()
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = ArgumentParser(
        prog="python -m autodo_jax.predict",
        description="Classifies images by the network of a finished run.",
    )
    parser.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")
    parser.add_argument("paths", nargs="+", type=pathlib.Path, metavar="PATH")
    parser.add_argument(
        "--output", type=pathlib.Path, metavar="FILE.csv", help="instead of the screen"
    )
    arguments = parser.parse_args(argv)
    try:
        for path in arguments.paths:
            if not path.exists():
                raise DataError(f"{path} does not exist")
        found = load_run(arguments.workdir)
        images = Images(arguments.paths, image_decoder(arguments.workdir, found))
        counts = _write(found, images, arguments.output)
    except (ValueError, OSError) as error:
        print(f"autodo_jax.predict: {for_command_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return _say(images, counts, arguments.output)


def _write(
    found: OptimizedDataset, images: Images, output: pathlib.Path | None
) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()

    def save(file: IO[bytes]) -> None:
        counts.update(write_predictions(file, found, images))

    if output is not None:
        files.write(output, save)
        return counts
    with contextlib.suppress(BrokenPipeError):
        save(sys.stdout.buffer)
    return counts


def _say(
    images: Images, counts: collections.Counter[str], output: pathlib.Path | None
) -> int:
    for error in images.failures:
        print(f"autodo_jax.predict: {printable(error.reason)}", file=sys.stderr)
    if images.others:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in images.others.most_common())
        print(
            f"autodo_jax.predict: {images.others.total()} files that are not images "
            f"are left out: {printable(kinds)}",
            file=sys.stderr,
        )
    listed = ", ".join(f"{name} {count}" for name, count in counts.most_common(10))
    where = f"{output}: " if output is not None else ""
    print(
        printable(f"{where}{counts.total()} images classified ({listed or 'none'})"),
        file=sys.stderr,
    )
    return 1 if images.failures or not counts else 0


if __name__ == "__main__":
    sys.exit(main())
