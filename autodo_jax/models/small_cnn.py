"""A small convolutional network for images of 8 to 32 pixels."""

from collections.abc import Sequence
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp


class SmallCNN(nn.Module):
    """3x3 convolutions with batch norm and CELU, linear head on all positions.

    The first stage keeps the resolution, each further one halves it.

    Attributes:
      num_classes: C.
      widths: channels of each stage.
      dtype: of the encoder's computation; parameters and head are float32.
    """

    num_classes: int
    widths: Sequence[int] = (32, 64, 64)
    dtype: Any = jnp.float32

    def setup(self):
        self.convs = [
            nn.Conv(
                width,
                (3, 3),
                strides=1 if stage == 0 else 2,
                use_bias=False,
                dtype=self.dtype,
            )
            for stage, width in enumerate(self.widths)
        ]
        self.norms = [nn.BatchNorm(momentum=0.9, dtype=self.dtype) for _ in self.widths]
        self.head = nn.Dense(self.num_classes)

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        """[B, H, W, C] -> [B, D], float32 or wider; `train`: uses batch statistics."""
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.celu(norm(conv(x), use_running_average=not train))
        x = x.reshape(len(x), -1)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def classify(self, features: chex.Array) -> chex.Array:
        """[B, D] -> [B, num_classes] logits: the head."""
        return self.head(features)

    def __call__(self, images: chex.Array, *, train: bool) -> chex.Array:
        return self.classify(self.features(images, train=train))
