"""Images that occur more than once: the same pixels, whatever their file."""

import collections
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.errors import DataError

_BYTES = 16  # of a digest


class Overlap(NamedTuple):
    """Images of a part that are in another part too."""

    part: str
    other: str
    ids: list[tuple[str, str]]  # in `part`, in `other`


class Found(NamedTuple):
    """The duplicates of a source."""

    overlaps: list[Overlap]
    copies: np.ndarray | None  # int [N], of each train image the first one like it
    conflicts: list[tuple[str, str, str, str]]  # two ids of train and their labels

    @property
    def num_copies(self) -> int:
        """Number of train images that are like an earlier one."""
        if self.copies is None:
            return 0
        return int(np.sum(self.copies != np.arange(len(self.copies))))


def find(parts: SourceSplits) -> Found | None:
    """Returns the duplicates within the train set and between all pairs of parts.

    Args:
      parts: as loaded.

    Returns:
      None where images are streamed and were not read yet: it would take too long.
    """
    named = {name: part for name, part in parts._asdict().items() if part is not None}
    digests = {}
    for name, part in named.items():
        if part.digests is not None:
            digests[name] = list(part.digests)
        elif isinstance(part.images, np.ndarray):
            digests[name] = _digests(part.images)
        else:
            return None
    first = {name: _first_of(values) for name, values in digests.items()}
    overlaps = []
    names = [*named]
    for i, other in enumerate(names):
        for part in names[i + 1 :]:
            ids = [
                (str(named[part].ids[row]), str(named[other].ids[first[other][digest]]))
                for row, digest in enumerate(digests[part])
                if digest in first[other]
            ]
            if ids:
                overlaps.append(Overlap(part, other, ids))
    copies = np.array([first["train"][digest] for digest in digests["train"]])
    return Found(overlaps, copies, list(_conflicts(parts.train, copies)))


def refuse_overlaps(parts: SourceSplits, overlaps: list[Overlap]) -> None:
    """Raises DataError where parts share images."""
    if not overlaps:
        return
    texts = []
    for part, other, ids in overlaps:
        num_images = len(getattr(parts, part).ids)
        texts.append(
            f"{len(ids)} of {num_images} {part} images are in the {other} set too, "
            f"{ids[0][0]} as {ids[0][1]}"
        )
    raise DataError(
        "; ".join(texts),
        "move them out of one of the sets",
        "pass <config.data.allow_overlap=True>",
    )


def _digests(images: np.ndarray) -> list[bytes]:
    return [
        hashlib.blake2b(image.tobytes(), digest_size=_BYTES).digest()
        for image in images
    ]


def _first_of(digests: list[bytes]) -> dict[bytes, int]:
    return {digest: row for row, digest in reversed([*enumerate(digests)])}


def _conflicts(
    train: Dataset, copies: np.ndarray
) -> Iterator[tuple[str, str, str, str]]:
    """Yields pairs of images with the same pixels and different labels."""
    groups = collections.defaultdict(list)
    for row in np.flatnonzero(np.bincount(copies)[copies] > 1):
        groups[copies[row]].append(row)
    for first, rows in groups.items():
        for row in rows:
            if train.labels[row] != train.labels[first]:
                yield (
                    str(train.ids[first]),
                    train.class_names[train.labels[first]],
                    str(train.ids[row]),
                    train.class_names[train.labels[row]],
                )
