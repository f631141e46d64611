"""EfficientNet-Lite0 (Tan and Le, 2019; without squeeze and excitation, with ReLU6).

ReLU6 is not continuously differentiable, as Eq. 4 asks of a network: the implicit
function theorem then concerns the head alone, while the encoder is frozen. With
"SAME" padding and the epsilon of its batch norms, 1e-3, it is TensorFlow's network.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from autodo_jax.models.network import Network, linear_head, widen


class _Stage(NamedTuple):
    """Blocks of one width; the first has the stride."""

    num_blocks: int
    size: int  # of the depthwise kernel
    stride: int
    expansion: int  # channels between the two 1x1 convolutions, of those before
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM, _WIDTH = 32, 1280
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def convolve_depthwise(
    images: chex.Array,
    kernel: chex.Array,
    window_strides: Sequence[int],
    padding: str,
    **_: Any,
) -> chex.Array:
    """Convolves each channel by itself, on CPUs as a sum of shifted images.

    There XLA's grouped convolutions are many times slower. What counts is the platform
    that the program is compiled for.

    Args:
      images: [B, H, W, C].
      kernel: [height, width, 1, C].
      window_strides: along height and width.
      padding: as of `jax.lax.padtype_to_pads`.
    """
    strides, size = tuple(window_strides), kernel.shape[:2]

    def shift(images: chex.Array, kernel: chex.Array) -> chex.Array:
        pads = jax.lax.padtype_to_pads(images.shape[1:3], size, strides, padding)
        padded = jnp.pad(images, ((0, 0), *pads, (0, 0)))
        ends = [
            extent - window + 1
            for extent, window in zip(padded.shape[1:3], size, strict=True)
        ]
        total: Any = 0.0
        for top in range(size[0]):
            for left in range(size[1]):
                shifted = padded[
                    :,
                    top : top + ends[0] : strides[0],
                    left : left + ends[1] : strides[1],
                ]
                total += shifted * kernel[top, left, 0][None, None, None]
        return total

    def convolve(images: chex.Array, kernel: chex.Array) -> chex.Array:
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            strides,
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=images.shape[-1],
        )

    return jax.lax.platform_dependent(images, kernel, cpu=shift, default=convolve)


class _Block(nn.Module):
    """1x1 to more channels, depthwise, 1x1 to fewer; a shortcut between like shapes."""

    size: int
    stride: int
    expansion: int
    channels: int
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        width = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = _pointwise(width, self.dtype, "expand")(y)
            y = _norm(self.dtype, self.axis_name, "expand_norm")(y, not train)
            y = nn.relu6(y)
        y = nn.Conv(
            width,
            (self.size, self.size),
            strides=self.stride,
            feature_group_count=width,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_INIT,
            conv_general_dilated=convolve_depthwise,
            name="depthwise",
        )(y)
        y = _norm(self.dtype, self.axis_name, "depthwise_norm")(y, not train)
        y = nn.relu6(y)
        y = _pointwise(self.channels, self.dtype, "project")(y)
        y = _norm(self.dtype, self.axis_name, "project_norm")(y, not train)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(Network):
    """A stem, 16 blocks, a 1x1 convolution to 1,280 channels, linear head.

    Attributes:
      num_classes: C.
      dtype: in which the encoder computes; parameters and head are float32.
      axis_name: mapped axis over which batches are split, if there is one.
    """

    num_classes: int
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        self.stem = nn.Conv(
            _STEM,
            (3, 3),
            strides=2,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=_INIT,
        )
        self.stem_norm = _norm(self.dtype, self.axis_name)
        self.blocks = [
            _Block(
                stage.size,
                stage.stride if i == 0 else 1,
                stage.expansion,
                stage.channels,
                self.dtype,
                self.axis_name,
            )
            for stage in _STAGES
            for i in range(stage.num_blocks)
        ]
        self.last = _pointwise(_WIDTH, self.dtype)
        self.last_norm = _norm(self.dtype, self.axis_name)
        self.head = linear_head(self.num_classes)

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        x = nn.relu6(self.stem_norm(self.stem(images), not train))
        for block in self.blocks:
            x = block(x, train=train)
        x = nn.relu6(self.last_norm(self.last(x), not train))
        return widen(x).mean(axis=(1, 2))


def torch_layer(path: Sequence[str]) -> str:
    """Returns the name of a layer in the published weights, by its path in Flax."""
    if path[0].startswith("blocks_"):
        block, layer = path
        return f"_blocks.{block.removeprefix('blocks_')}.{_BLOCK_NAMES[layer]}"
    return _NAMES[path[0]]


_NAMES = {
    "stem": "_conv_stem",
    "stem_norm": "_bn0",
    "last": "_conv_head",
    "last_norm": "_bn1",
    "head": "_fc",
}
_BLOCK_NAMES = {
    "expand": "_expand_conv",
    "expand_norm": "_bn0",
    "depthwise": "_depthwise_conv",
    "depthwise_norm": "_bn1",
    "project": "_project_conv",
    "project_norm": "_bn2",
}


def _pointwise(channels: int, dtype: DTypeLike, name: str | None = None) -> nn.Conv:
    return nn.Conv(
        channels, (1, 1), use_bias=False, dtype=dtype, kernel_init=_INIT, name=name
    )


def _norm(
    dtype: DTypeLike, axis_name: str | None, name: str | None = None
) -> nn.BatchNorm:
    return nn.BatchNorm(
        momentum=0.9, epsilon=1e-3, dtype=dtype, axis_name=axis_name, name=name
    )
