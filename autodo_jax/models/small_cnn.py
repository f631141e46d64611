"""A small convolutional network like LeNet, for images of 8 to 32 pixels."""

from collections.abc import Sequence

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from autodo_jax.models.network import (
    Activation,
    Network,
    convolve_patches,
    linear_head,
    norm,
    widen,
)


def check_widths(widths: Sequence[int]) -> None:
    """Raises a ValueError unless `widths` has a stage and each has a channel."""
    if not widths or min(widths) < 1:
        raise ValueError(
            f"model.widths is {widths!r}, expected channels >= 1, one number a stage"
        )


class SmallCNN(Network):
    """3x3 convolutions with batch norm and activation, linear head on all positions.

    The first stage keeps the resolution, each later one halves it.

    Attributes:
      num_classes: C.
      widths: channels of each stage.
      activation: after each batch norm; Eq. 4 needs a C^1 function.
      dtype: in which the encoder computes; parameters and head are float32.
      axis_name: mapped axis over which batches are split, if there is one.
    """

    num_classes: int
    widths: Sequence[int] = (32, 64, 64)
    activation: Activation = nn.celu
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        self.convs = [
            nn.Conv(
                width,
                (3, 3),
                strides=1 if stage == 0 else 2,
                use_bias=False,
                dtype=self.dtype,
                conv_general_dilated=convolve_patches,
            )
            for stage, width in enumerate(self.widths)
        ]
        self.norms = [norm(self.dtype, self.axis_name) for _ in self.widths]
        self.head = linear_head(self.num_classes)

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        x = images
        for conv, norm_ in zip(self.convs, self.norms, strict=True):
            x = self.activation(norm_(conv(x), use_running_average=not train))
        return widen(x.reshape(x.shape[0], -1))
