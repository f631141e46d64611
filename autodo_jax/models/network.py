"""The contract of all networks, and the layers that they share.

Layers follow torch's conventions, so that published networks keep their numbers.
"""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp

Activation = Callable[[chex.Array], chex.Array]


class Network(nn.Module):
    """An encoder, `features`, and a linear head, `self.head`, made by `setup`."""

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        """[B, H, W, C] -> [B, D], float32 or wider; `train`: uses batch statistics."""
        raise NotImplementedError

    def classify(self, features: chex.Array) -> chex.Array:
        """[B, D] -> [B, num_classes] logits: the head."""
        return self.head(features)

    def __call__(self, images: chex.Array, *, train: bool) -> chex.Array:
        return self.classify(self.features(images, train=train))


def conv(
    channels: int,
    size: int,
    stride: int = 1,
    *,
    dtype: Any,
    kernel_init: nn.initializers.Initializer,
) -> nn.Conv:
    """A convolution without bias that pads `size // 2` pixels on each side."""
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        # XLA's "SAME" would pad a stride of 2 on one side only.
        padding=size // 2,
        use_bias=False,
        dtype=dtype,
        kernel_init=kernel_init,
    )


def norm(dtype: Any, axis_name: str | None) -> nn.BatchNorm:
    """Batch norm that keeps 0.9 of its running statistics a step (torch: 0.1 new).

    Its batch statistics are those of the whole batch, on all devices of `axis_name`.
    """
    return nn.BatchNorm(momentum=0.9, dtype=dtype, axis_name=axis_name)


def widen(x: chex.Array) -> chex.Array:
    """Returns x in float32, or wider where it is: what a head takes."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
