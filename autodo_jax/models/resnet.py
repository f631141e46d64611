"""Residual networks (He et al., 2016), with CELU (App. A).

With ReLU they are those of torchvision, including the padding, the initialization, and
the stride of a bottleneck in its 3x3 convolution ("v1.5").
"""

from collections.abc import Callable, Sequence

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

# Blocks of each group, by depth; those of depth 50 are bottlenecks.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
STEMS = ("imagenet", "small")

_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def check_depth(depth: int) -> None:
    """Raises a ValueError unless `depth` is a key of `DEPTHS`."""
    if depth not in DEPTHS:
        raise ValueError(
            f"model.depth is {depth!r}, expected one of {(*DEPTHS,)} for resnet"
        )


class _Block(nn.Module):
    """Two 3x3 convolutions, or a 3x3 between two 1x1, with a shortcut."""

    width: int
    stride: int
    bottleneck: bool
    activation: Activation
    dtype: DTypeLike
    axis_name: str | None

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        def conv_norm(
            y: chex.Array, channels: int, size: int, stride: int
        ) -> chex.Array:
            layer = conv(channels, size, stride, dtype=self.dtype, kernel_init=_INIT)
            norm_ = norm(self.dtype, self.axis_name)
            return norm_(layer(y), use_running_average=not train)

        if self.bottleneck:
            channels = 4 * self.width
            y = self.activation(conv_norm(x, self.width, 1, 1))
            y = self.activation(conv_norm(y, self.width, 3, self.stride))
            y = conv_norm(y, channels, 1, 1)
        else:
            channels = self.width
            y = self.activation(conv_norm(x, channels, 3, self.stride))
            y = conv_norm(y, channels, 3, 1)
        if x.shape[-1] != channels or self.stride != 1:
            x = conv_norm(x, channels, 1, self.stride)
        return self.activation(x + y)


class ResNet(Network):
    """ResNet-depth: a stem, four groups of blocks, linear head.

    Attributes:
      num_classes: C.
      depth: 18 (paper), 34 or 50.
      stem: "imagenet", 7x7 of stride 2 and a 3x3 max pool of stride 2, which is not
        C^1; or "small", 3x3 of stride 1, for images of 32 pixels.
      activation: after each batch norm or sum; Eq. 4 needs a C^1 function.
      dtype: in which the encoder computes; parameters and head are float32.
      axis_name: mapped axis over which batches are split, if there is one.
    """

    num_classes: int
    depth: int = 18
    stem: str = "imagenet"
    activation: Activation = nn.celu
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    def setup(self) -> None:
        check_depth(self.depth)
        if self.stem not in STEMS:
            raise ValueError(f"`stem` must be one of {STEMS}, got {self.stem!r}.")
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        self.conv = conv(64, size, stride, dtype=self.dtype, kernel_init=_INIT)
        self.norm = norm(self.dtype, self.axis_name)
        self.blocks = [
            _Block(
                64 * 2**group,
                stride=2 if group > 0 and i == 0 else 1,
                bottleneck=self.depth >= 50,
                activation=self.activation,
                dtype=self.dtype,
                axis_name=self.axis_name,
            )
            for group, num_blocks in enumerate(DEPTHS[self.depth])
            for i in range(num_blocks)
        ]
        self.head = linear_head(self.num_classes)

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        x = self.conv(images)
        x = self.activation(self.norm(x, use_running_average=not train))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for block in self.blocks:
            x = block(x, train=train)
        return widen(x).mean(axis=(1, 2))


def torch_layers(depth: int) -> Callable[[Sequence[str]], str]:
    """Returns path in Flax -> the name of the layer for torchvision and timm."""
    places = [
        f"layer{group + 1}.{i}"
        for group, num_blocks in enumerate(DEPTHS[depth])
        for i in range(num_blocks)
    ]
    last = 3 if depth >= 50 else 2  # convolutions of a block; the next is its shortcut
    kinds = {"Conv": ("conv", "0"), "BatchNorm": ("bn", "1")}

    def name_of(path: Sequence[str]) -> str:
        if not path[0].startswith("blocks_"):
            return {"conv": "conv1", "norm": "bn1", "head": "fc"}[path[0]]
        place = places[int(path[0].removeprefix("blocks_"))]
        kind, number = path[1].split("_")
        layer, in_shortcut = kinds[kind]
        if int(number) == last:
            return f"{place}.downsample.{in_shortcut}"
        return f"{place}.{layer}{int(number) + 1}"

    return name_of
