"""Data sets as arrays.

Images are uint8 [N, H, W, C]; labels int32 [N] in 0..C-1.
"""

from typing import NamedTuple

import numpy as np
import sklearn.datasets


class Dataset(NamedTuple):
    """Images with labels; `ids` tells the points apart across formats and machines."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]
    ids: np.ndarray  # str [N]
    class_names: tuple[str, ...]

    def take(self, index: np.ndarray) -> "Dataset":
        """Returns the points `index`, in its order."""
        return self._replace(
            images=self.images[index], labels=self.labels[index], ids=self.ids[index]
        )


def load_digits() -> Dataset:
    """Returns scikit-learn's scans of handwritten digits: 1,797 images of 8x8x1."""
    digits = sklearn.datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return Dataset(
        images=images[..., None],
        labels=digits.target.astype(np.int32),
        ids=np.array([f"digits_{i:04d}" for i in range(len(images))]),
        class_names=tuple(str(name) for name in digits.target_names),
    )


SOURCES = {"digits": load_digits}
