"""scikit-learn's scans of handwritten digits: part of the library, no download."""

import ml_collections
import numpy as np

from autodo_jax.data.dataset import Dataset, SourceSplits


def load(data: ml_collections.ConfigDict, seed: int) -> SourceSplits:
    """Returns 1,797 images of 8x8x1; the source has no test set of its own."""
    del data, seed
    import sklearn.datasets  # It takes a second to import.

    digits = sklearn.datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    train = Dataset(
        images=images[..., None],
        labels=digits.target.astype(np.int32),
        ids=np.array([f"digits_{i:04d}" for i in range(len(images))]),
        class_names=tuple(str(name) for name in digits.target_names),
    )
    return SourceSplits(train)
