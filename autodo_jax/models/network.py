"""The interface of all networks, and the layers that they share.

Layers follow torch's conventions, so that published networks behave as published.
"""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Activation = Callable[[chex.Array], chex.Array]


class Network(nn.Module):
    """An encoder, `features`, and a linear head, `self.head`, created by `setup`."""

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        """Maps images [B, H, W, C] to features [B, D], float32 or wider.

        With `train`, batch norm uses the statistics of the batch.
        """
        raise NotImplementedError

    def classify(self, features: chex.Array) -> chex.Array:
        """Maps features [B, D] to logits [B, num_classes]: the head."""
        return self.head(features)

    def __call__(self, images: chex.Array, *, train: bool) -> chex.Array:
        return self.classify(self.features(images, train=train))


def conv(
    channels: int,
    size: int,
    stride: int = 1,
    *,
    dtype: DTypeLike,
    kernel_init: nn.initializers.Initializer,
) -> nn.Conv:
    """Returns a convolution without bias that pads `size // 2` pixels on each side."""
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


def convolve_patches(
    images: chex.Array,
    kernel: chex.Array,
    window_strides: Sequence[int],
    padding: str,
    **_: Any,
) -> chex.Array:
    """Computes `jax.lax.conv_general_dilated`, on CPUs as one product of matrices.

    On CPUs the gradients of XLA's convolutions are slow. Not for wide layers of large
    images, where creating the patches costs more than it saves. What counts is the
    platform that the program is compiled for, not the default one of the host.

    Args:
      images: [B, H, W, C].
      kernel: [height, width, C, C'].
      window_strides: along height and width.
      padding: as of `jax.lax.padtype_to_pads`.
    """
    strides = tuple(window_strides)

    def multiply(images: chex.Array, kernel: chex.Array) -> chex.Array:
        return _multiply_patches(images, kernel, strides, padding)

    def convolve(images: chex.Array, kernel: chex.Array) -> chex.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            images, kernel, strides, padding, dimension_numbers=numbers
        )

    return jax.lax.platform_dependent(images, kernel, cpu=multiply, default=convolve)


def _multiply_patches(
    images: chex.Array,
    kernel: chex.Array,
    strides: tuple[int, ...],
    padding: str,
) -> chex.Array:
    size = kernel.shape[:2]
    pads = jax.lax.padtype_to_pads(images.shape[1:3], size, strides, padding)
    padded = jnp.pad(images, ((0, 0), *pads, (0, 0)))
    height, width = (
        (extent - window) // stride + 1
        for extent, window, stride in zip(padded.shape[1:3], size, strides, strict=True)
    )
    patches = [
        padded[
            :,
            top : top + (height - 1) * strides[0] + 1 : strides[0],
            left : left + (width - 1) * strides[1] + 1 : strides[1],
        ]
        for top in range(size[0])
        for left in range(size[1])
    ]
    rows = jnp.concatenate(patches, -1).reshape(-1, kernel[..., 0].size)
    outputs = rows @ kernel.reshape(-1, kernel.shape[-1])
    return outputs.reshape(-1, height, width, kernel.shape[-1])


def norm(dtype: DTypeLike, axis_name: str | None) -> nn.BatchNorm:
    """Returns a batch norm that keeps 0.9 of its running statistics in each step.

    (torch calls this a momentum of 0.1.) Its batch statistics are those of the whole
    batch, over all devices of `axis_name`.
    """
    return nn.BatchNorm(momentum=0.9, dtype=dtype, axis_name=axis_name)


def linear_head(num_classes: int) -> nn.Dense:
    """Returns the last layer, in full float32 precision on all platforms.

    Eq. 5 is solved in its parameters: at the default precision of TPUs and of recent
    GPUs, its products would round to half precision, and the residuals with them.
    """
    return nn.Dense(num_classes, precision=jax.lax.Precision.HIGHEST)


def widen(x: chex.Array) -> chex.Array:
    """Returns x in float32, or in its own dtype if wider, as a head takes it."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
