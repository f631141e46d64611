"""What is known of the data of a run before it trains, in words."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.duplicates import Found

_CLASSES = 12  # that are listed
_LISTED = 20  # certain label errors that are listed
_RARE = 0.2  # share of the mean number of train images of a class
_FEW = 5  # train images of a class that are too few to learn it


class Summary(NamedTuple):
    """A table of two columns, and what will not work."""

    rows: tuple[tuple[str, str], ...]  # (subject, text)
    warnings: tuple[str, ...]
    certain_errors: tuple[str, ...]  # the same pixels under two labels
    # Their images: (id, label, other id, other label).
    conflicts: tuple[tuple[str, str, str, str], ...]

    def lines(self) -> Iterator[str]:
        """Yields it as lines for a screen."""
        for subject, text in self.rows:
            yield f"{subject}: {text}"
        for text in self.certain_errors[:_LISTED]:
            yield f"certain label error: {text}"
        if len(self.certain_errors) > _LISTED:
            yield f"and {len(self.certain_errors) - _LISTED:,} others"


def summarize(
    parts: SourceSplits, splits: tuple[Dataset, Dataset, Dataset], found: Found | None
) -> Summary:
    """Returns the summary of data whose labels are not changed yet.

    Args:
      parts: as the source gives them.
      splits: (train, validation, test), as they are used.
      found: duplicates; None where they are not known.
    """
    train, validation, test = splits
    rows = [
        ("images", _sizes(parts, splits)),
        ("classes", _classes(train)),
        *_rare(train),
        *parts.train.notes,
        *_duplicates(found),
    ]
    conflicts = tuple(found.conflicts) if found else ()
    errors = tuple(
        f"{one} is {first!r}, {other} is {second!r}, with the same pixels"
        for one, first, other, second in conflicts
    )
    warnings = tuple(_warnings(train, validation, test))
    return Summary(tuple(rows), warnings, errors, conflicts)


def _sizes(parts: SourceSplits, splits: Sequence[Dataset]) -> str:
    names = ("train", "validation", "test")
    texts = []
    for name, given, used in zip(names, parts, splits, strict=True):
        origin = " split off" if given is None and len(used.labels) else ""
        texts.append(f"{len(used.labels):,} {name}{origin}")
    text = ", ".join(texts)
    num_given = len(parts.train.labels)
    if num_given > len(splits[0].labels):
        text += (
            f"; of {num_given:,} given train images the {len(splits[0].labels):,} left "
            "in the train set are scored"
        )
    return text


def _classes(train: Dataset) -> str:
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    order = np.argsort(-counts, kind="stable")
    text = f"{len(counts):,}: "
    listed = [f"{train.class_names[label]} {counts[label]:,}" for label in order]
    if len(listed) > _CLASSES:
        half = _CLASSES // 2
        listed = [*listed[:half], "...", *listed[-half:]]
    return text + ", ".join(listed)


def _rare(train: Dataset) -> Iterator[tuple[str, str]]:
    counts = np.bincount(train.labels, minlength=len(train.class_names))
    rare = [
        f"{train.class_names[label]} {counts[label]:,}"
        for label in np.argsort(counts, kind="stable")
        if counts[label] < _RARE * counts.mean()
    ]
    if rare:
        more = f" and {len(rare) - _CLASSES} others" * (len(rare) > _CLASSES)
        yield (
            "rare classes",
            f"{', '.join(rare[:_CLASSES])}{more}, less than a fifth of the mean of "
            f"{counts.mean():,.0f}: more images of these help most",
        )


def _duplicates(found: Found | None) -> Iterator[tuple[str, str]]:
    if found is None:
        yield "duplicates", "not looked for, since the images are streamed"
        return
    if found.num_copies:
        yield (
            "duplicates",
            f"{found.num_copies:,} train images are copies of others; copies stay on "
            "one side of a split",
        )
    for part, other, ids in found.overlaps:
        yield (
            "duplicates",
            f"{len(ids):,} {part} images are in the {other} set too, {ids[0][0]} as "
            f"{ids[0][1]}",
        )


def _warnings(train: Dataset, validation: Dataset, test: Dataset) -> Iterator[str]:
    names = train.class_names
    counts = np.bincount(train.labels, minlength=len(names))
    few = [names[label] for label in np.flatnonzero(counts < _FEW)]
    if few:
        yield (
            f"{_named(few)} fewer than {_FEW} train images, too few to learn from or "
            "to tell wrong labels by"
        )
    if len(validation.labels) < len(names):
        yield (
            f"there are {len(validation.labels)} validation images for {len(names)} "
            "classes: what is learned of labels cannot be trusted"
        )
    else:
        clean = np.bincount(validation.labels, minlength=len(names))
        missing = [names[label] for label in np.flatnonzero(clean == 0)]
        if missing:
            yield f"{_named(missing)} no validation image"
    if not len(test.labels):
        yield "there is no test set: errors are those of the validation set alone"


def _named(classes: list[str]) -> str:
    listed = ", ".join(map(repr, classes[:5]))
    more = f" and {len(classes) - 5} others" * (len(classes) > 5)
    verb = "has" if len(classes) == 1 else "have"
    return f"the class{'es' * (len(classes) > 1)} {listed}{more} {verb}"
