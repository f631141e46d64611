"""What a frozen encoder has of the images of a run: computed once, and kept."""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import numpy as np

from autodo_jax.data.dataset import Dataset
from autodo_jax.models import pretrained
from autodo_jax.objective import Objective
from autodo_jax.workdir import feature_store
from autodo_jax.workdir.feature_store import FeatureStore

_BATCH = 32  # images in the encoder at once
_BLOCK = 1024  # images that are decoded, and kept, at once
_SECONDS = 10.0  # between two lines about the progress

Say = Callable[[str], Any]


class Encoder:
    """Features of uint8 images by a frozen encoder, cropped and normalized as a run's.

    Attributes:
      digest: of all that the features depend on but for the images.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        objective: Objective,
        variables: dict[str, Any],
    ):
        """Args: of the run; whose model is a `FeatureHead`; its "encoder" in them."""
        self.digest = repr(
            (
                *(config.model.name, config.model.depth, config.model.stem),
                *(config.model.activation, config.model.dtype),
                *(tuple(config.data.mean), tuple(config.data.std)),
                config.augment.crop_size,
                pretrained.digest(variables),
            )
        )
        self._variables = jax.device_put({"encoder": variables})
        self._features = jax.jit(functools.partial(objective.features, {}))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Returns float32 [N, D] of images [N, H, W, channels]."""
        found = []
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            rest = _BATCH - len(batch)  # One shape, one program.
            padded = np.pad(batch, ((0, rest), (0, 0), (0, 0), (0, 0)))
            values = self._features(self._variables, padded)
            found.append(np.asarray(values, np.float32)[: len(batch)])
        return np.concatenate(found)

    def of(
        self,
        points: Dataset,
        store: FeatureStore | None = None,
        say: Say = lambda text: None,
    ) -> np.ndarray:
        """Returns the features of all images of a part, float32 [N, D].

        Args:
          points: with images; streamed ones are decoded block by block.
          store: of this encoder; takes what it knows, and keeps the others.
          say: is told how far it is, in a line.

        Raises:
          WriteError: the store cannot be written.
          DataError: streamed images that cannot be read.
        """
        num_points = len(points.labels)
        found: np.ndarray | None = None
        said = began = time.monotonic()
        num_computed = 0
        for start in range(0, num_points, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, num_points))
            images = points.take(rows).pixels()
            values, is_known = self._block(images, store)
            if found is None:
                found = np.empty((num_points, values.shape[1]), np.float32)
            found[rows] = values
            num_computed += int(np.sum(~is_known))
            now = time.monotonic()
            if num_computed and now - said > _SECONDS:
                said = now
                say(
                    f"features of {rows[-1] + 1:,} of {num_points:,} images, "
                    f"{num_computed / (now - began):.0f} a second"
                )
        return np.zeros((0, 0), np.float32) if found is None else found

    def _block(
        self, images: np.ndarray, store: FeatureStore | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns features [B, D], and where they were known [B]."""
        if store is None:
            return self.features(images), np.zeros(len(images), bool)
        keys = feature_store.digests(images)
        known = store.find(keys)
        missing = np.array([key not in known for key in map(bytes, keys)])
        # Copies of an image are computed once.
        _, first = np.unique(keys, axis=0, return_index=True)
        new = np.intersect1d(first, np.flatnonzero(missing))
        if len(new):
            computed = self.features(images[new])
            store.add(keys[new], computed)
            known |= dict(zip(map(bytes, keys[new]), computed, strict=True))
        return np.stack([known[bytes(key)] for key in keys]), ~missing


def open_store(workdir: pathlib.Path | None, encoder: Encoder) -> FeatureStore | None:
    """Returns the store beside a workdir; None for no workdir."""
    if workdir is None:
        return None
    return feature_store.opened(workdir, encoder.digest)
