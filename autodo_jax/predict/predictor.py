"""A trained network as a function of images."""

import dataclasses
import functools
import pickle
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from autodo_jax.data.sources import arrays
from autodo_jax.errors import DataError
from autodo_jax.objective import Objective
from autodo_jax.predict import pickling


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """Maps images to probabilities; picklable where the network is.

    Attributes:
      objective: of the run; crops and normalizes as its evaluation does.
      variables: "params" and "batch_stats" of the network, on the host.
      image_shape: (H, W, channels) of the run's images, or (D,) of its features.
      batch_size: images that are in the network at once.
    """

    objective: Objective
    variables: dict[str, Any]
    image_shape: tuple[int, ...]
    batch_size: int

    def __call__(self, images: Any) -> np.ndarray:
        """Returns the probability of each class, float32 [N, C].

        Args:
          images: [N, H, W] or [N, H, W, channels], uint8 or floating in [0, 1]; or
            features [N, D], where the run had them.

        Raises:
          DataError: images of another kind or shape.
        """
        pixels = arrays.to_points("given", images)
        if pixels.shape[1:] != self.image_shape:
            raise DataError(
                f"the given points have shape {pixels.shape[1:]} each, expected "
                f"{self.image_shape} as those of the train set"
            )
        size = self.batch_size
        batches = [pixels[i : i + size] for i in range(0, len(pixels), size)]
        params, batch_stats = self.variables["params"], self.variables["batch_stats"]
        return np.concatenate(
            [self._probabilities(params, batch_stats, batch) for batch in batches]
        )

    @functools.cached_property
    def _probabilities(self) -> Callable:
        predict = jax.jit(self.logits)
        return lambda *arguments: jax.nn.softmax(predict(*arguments))

    def logits(self, params: Any, batch_stats: Any, points: jax.Array) -> jax.Array:
        """Returns logits [N, C] of uint8 images, or of features; can be traced."""
        if len(self.image_shape) == 1:
            points = self.objective.features(params, batch_stats, points)
        return self.objective.predict(params, batch_stats, points)

    def __reduce__(self) -> tuple:
        fields = [getattr(self, field.name) for field in dataclasses.fields(self)]
        return _restored, (pickling.dumps(fields),)  # nothing compiled


def _restored(fields: bytes) -> Predictor:
    return Predictor(*pickle.loads(fields))
