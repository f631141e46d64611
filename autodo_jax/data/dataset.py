"""Data sets as a source returns them.

Images are uint8 [N, H, W, C], or features of them, floats [N, D]; labels int32 [N] in
0..C-1.
"""

from typing import Any, NamedTuple

import numpy as np

from autodo_jax.data.images.lazy import LazyImages


class Dataset(NamedTuple):
    """Images with labels; `ids` identify the points across formats and machines."""

    # uint8 [N, H, W, C], lazy for data.stream; or features, floats [N, D]
    images: np.ndarray | LazyImages
    labels: np.ndarray  # int32 [N]
    ids: np.ndarray  # str [N]
    class_names: tuple[str, ...]
    # What its source says of it: (subject, text), as ("left out", "2 unreadable").
    notes: tuple[tuple[str, str], ...] = ()
    # Of the pixels as the files have them, where they were read: [N] of bytes.
    digests: np.ndarray | None = None

    def pixels(self) -> np.ndarray:
        """Returns the images in memory, uint8 [N, H, W, C]; or features [N, D]."""
        if isinstance(self.images, np.ndarray):
            return self.images
        return self.images.decode(np.arange(len(self.labels)))

    @property
    def has_features(self) -> bool:
        """True where the points are features instead of images."""
        return len(self.images.shape) == 2

    def take(self, index: np.ndarray) -> "Dataset":
        """Returns the points `index`, in its order."""
        return self._replace(
            images=self.images[index],
            labels=self.labels[index],
            ids=self.ids[index],
            digests=None if self.digests is None else self.digests[index],
        )

    def join(self, other: "Dataset") -> "Dataset":
        """Returns these points, then those of `other`, which has the same classes."""
        return self._replace(
            images=_join(self.images, other.images),
            labels=np.concatenate([self.labels, other.labels]),
            ids=np.concatenate([self.ids, other.ids]),
            digests=None,
        )


class SourceSplits(NamedTuple):
    """The parts that a source has; the others are split from `train`."""

    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None


def _join(first: Any, second: Any) -> Any:
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return first.join(second)
