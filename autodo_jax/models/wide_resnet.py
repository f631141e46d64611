"""Wide residual networks (Zagoruyko and Komodakis, 2016) with CELU (App. A)."""

import chex
import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from autodo_jax.models.network import (
    Activation,
    Network,
    conv,
    linear_head,
    norm,
    widen,
)

_INIT = nn.initializers.he_normal()


def check_depth(depth: int) -> None:
    """Raises a ValueError unless `depth` is 6n + 4 with n >= 1."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(
            f"model.depth is {depth!r}, expected 6n + 4 with n >= 1: 10, 16, 28, ..."
        )


class _Block(nn.Module):
    """Pre-activation block of two 3x3 convolutions."""

    width: int
    stride: int
    activation: Activation
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        def norm_activate(y: chex.Array) -> chex.Array:
            y = norm(self.dtype, self.axis_name)(y, use_running_average=not train)
            return self.activation(y)

        def convolve(y: chex.Array, size: int, stride: int) -> chex.Array:
            layer = conv(self.width, size, stride, dtype=self.dtype, kernel_init=_INIT)
            return layer(y)

        y = norm_activate(x)
        if x.shape[-1] != self.width or self.stride != 1:
            x = convolve(y, 1, self.stride)
        y = convolve(y, 3, self.stride)
        return x + convolve(norm_activate(y), 3, 1)


class WideResNet(Network):
    """WRN-depth-width: three groups of `(depth - 4) / 6` blocks, linear head.

    Attributes:
      num_classes: C.
      depth: 6n + 4. Paper: 28.
      width: factor of the channels 16, 32, 64. Paper: 10.
      activation: after each batch norm; Eq. 4 needs a C^1 function.
      dtype: in which the encoder computes; parameters and head are float32.
      axis_name: mapped axis over which batches are split, if there is one.
    """

    num_classes: int
    depth: int = 28
    width: int = 10
    activation: Activation = nn.celu
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        check_depth(self.depth)
        self.stem = conv(16, 3, dtype=self.dtype, kernel_init=_INIT)
        self.blocks = [
            _Block(
                16 * 2**group * self.width,
                stride=2 if group > 0 and i == 0 else 1,
                activation=self.activation,
                dtype=self.dtype,
                axis_name=self.axis_name,
            )
            for group in range(3)
            for i in range((self.depth - 4) // 6)
        ]
        self.norm = norm(self.dtype, self.axis_name)
        self.head = linear_head(self.num_classes)

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, train=train)
        x = self.activation(self.norm(x, use_running_average=not train))
        return widen(x).mean(axis=(1, 2))
