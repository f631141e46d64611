"""A user's own images: a folder or an archive, with a folder or a table of labels.

`train/<class>/*` is read, and `val/<class>/*` and `test/<class>/*` if they exist; or
`<class>/*`, the train set alone. All may lie below one common folder, and images at any
depth below the folder of their class. Archives are read without unpacking them to disk.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator

import ml_collections
import numpy as np

from autodo_jax.data import split
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.images import decode, formats, lazy, opened
from autodo_jax.data.sources import listing
from autodo_jax.errors import DataError

_LISTED = 5  # names in a note
_SKIP = "leave them out by <config.data.skip_unreadable=True>"


@dataclasses.dataclass
class _Seen:
    """What was met while images were read."""

    failures: list[DataError] = dataclasses.field(default_factory=list)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    num_grey: int = 0
    num_transparent: int = 0

    def of(
        self, files: Iterable[tuple[str, decode.Contents]]
    ) -> Iterator[tuple[str, decode.Contents]]:
        """Yields the files, and notes their kinds."""
        for name, content in files:
            kind = None if isinstance(content, DataError) else formats.kind_of(content)
            if kind is not None:
                self.sizes[kind.size] += 1
                self.num_grey += kind.is_grey
                self.num_transparent += kind.is_transparent
            yield name, content

    def notes(self) -> Iterator[tuple[str, str]]:
        if self.failures:
            reasons = "; ".join(error.reason for error in self.failures[:_LISTED])
            more = " and others" * (len(self.failures) > _LISTED)
            yield "left out", f"{len(self.failures)} unreadable: {reasons}{more}"
        if self.sizes:
            areas = sorted(self.sizes, key=lambda size: size[0] * size[1])
            (height, width), (largest, broadest) = areas[0], areas[-1]
            text = f"{height}x{width} pixels"
            if len(areas) > 1:
                text += f" to {largest}x{broadest}, {len(areas)} different sizes"
            yield "sizes", text
        if self.num_grey or self.num_transparent:
            yield "kinds", f"{self.num_grey} grey, {self.num_transparent} transparent"


def load(
    data: ml_collections.ConfigDict, seed: int, *, keep_pixels: bool = True
) -> SourceSplits:
    """Returns the images of `data.data_dir`, each part in the order of its paths.

    `ids` are paths below `data_dir`; classes are numbered in the order of their names.
    Images that `max_train_points` and `max_test_points` leave out are not decoded. If
    `stream` is set, an image is decoded only when it is asked for.

    Args:
      data: config.data.
      seed: of the choice of points.
      keep_pixels: False reads all images once, for what is said of them, and keeps
        their digests alone: their pixels cannot be asked for, streamed or not.

    Raises:
      DataError: a path that does not exist or is not an archive, a part without the
        classes of the others, images that cannot be read.
    """
    if not data.data_dir:
        raise DataError("no images given", "pass <config.data.data_dir=PATH>")
    root = pathlib.Path(data.data_dir).expanduser()
    seen = _Seen()
    with listing.opened_images(root, data) as (found, files):
        parts = {
            part: _read(files, part, found, data, seed, seen, keep_pixels)
            for part in found.members
        }
    if not data.skip_unreadable:
        decode.refuse(seen.failures, _SKIP)
    notes = (*found.notes, *seen.notes())
    parts["train"] = parts["train"]._replace(notes=notes)
    return SourceSplits(**parts)


def _read(
    files: opened.Files,
    part: str,
    found: listing.Listing,
    data: ml_collections.ConfigDict,
    seed: int,
    seen: _Seen,
    keep_pixels: bool,
) -> Dataset:
    """Returns a part, reduced to as many images as `data` allows."""
    number = {name: label for label, name in enumerate(found.class_names)}
    label_of = {name: number[each.label] for name, each in found.members[part].items()}
    names = sorted(label_of)
    if part != "validation":
        labels = np.array([label_of[name] for name in names])
        chosen = split.subset(labels, data, f"max_{part}_points", seed=seed)
        names = [names[i] for i in chosen]
    names, images, digests = _pixels(files, names, data, seen, keep_pixels)
    return Dataset(
        images=images,
        labels=np.array([label_of[name] for name in names], np.int32),
        ids=np.array(names, dtype=str),
        class_names=found.class_names,
        digests=None if digests is None else np.array(digests, object),
    )


def _pixels(
    files: opened.Files,
    names: list[str],
    data: ml_collections.ConfigDict,
    seen: _Seen,
    keep_pixels: bool,
) -> tuple[list[str], np.ndarray | lazy.LazyImages, list[bytes] | None]:
    """Returns names, images (decoded now, or later if streamed), and digests."""
    decoder, digests = decode.decoder(data), None
    if keep_pixels and not data.stream:
        return _decoded(files, names, decoder, seen)
    if data.skip_unreadable or not keep_pixels:
        found, failures = decode.digest_all(seen.of(files.pick(names)), decoder)
        seen.failures += failures
        names = sorted(found)
        digests = [found[name] for name in names]
    if not names:
        if not data.skip_unreadable:
            decode.refuse(seen.failures, _SKIP)
        raise DataError("none of the images of a part can be read")
    handles = [files.entries[name] for name in names]
    source = lazy.Files(files.root, names, handles, files.read)
    return names, lazy.LazyImages.of(source, decoder), digests


def _decoded(
    files: opened.Files, names: list[str], decoder: decode.Decoder, seen: _Seen
) -> tuple[list[str], np.ndarray, list[bytes]]:
    wanted = set(names)
    order = [name for name in files.entries if name in wanted]
    decoded = decode.decode_all(seen.of(files.pick(names)), len(order), decoder)
    seen.failures += decoded.failures
    order = [order[row] for row in decoded.rows]
    if order == sorted(order):  # Sorting copies all pixels, so it is avoided.
        return order, decoded.pixels, decoded.digests
    rows = np.argsort(order)
    digests = [decoded.digests[row] for row in rows]
    return sorted(order), decoded.pixels[rows], digests
