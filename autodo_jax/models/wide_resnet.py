"""Wide residual networks (Zagoruyko and Komodakis, 2016) with CELU (App. A)."""

from typing import Any

import chex
import flax.linen as nn
import jax.numpy as jnp


class _Block(nn.Module):
    """Pre-activation block of two 3x3 convolutions."""

    width: int
    stride: int
    dtype: Any

    @nn.compact
    def __call__(self, x: chex.Array, *, train: bool) -> chex.Array:
        def norm_celu(y):
            norm = nn.BatchNorm(momentum=0.9, dtype=self.dtype)
            return nn.celu(norm(y, use_running_average=not train))

        def conv(y, size, stride):
            return nn.Conv(
                self.width,
                (size, size),
                strides=stride,
                # Torch's padding: XLA's "SAME" pads a stride of 2 on one side only.
                padding=size // 2,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.he_normal(),
            )(y)

        y = norm_celu(x)
        if x.shape[-1] != self.width or self.stride != 1:
            x = conv(y, 1, self.stride)
        y = conv(y, 3, self.stride)
        return x + conv(norm_celu(y), 3, 1)


class WideResNet(nn.Module):
    """WRN-depth-width: three groups of `(depth - 4) / 6` blocks, linear head.

    Attributes:
      num_classes: C.
      depth: 6n + 4. Paper: 28.
      width: factor of the channels 16, 32, 64. Paper: 10.
      dtype: of the encoder's computation; parameters and head are float32.
    """

    num_classes: int
    depth: int = 28
    width: int = 10
    dtype: Any = jnp.float32

    def setup(self):
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(
                "`depth` must be 6n + 4 with n >= 1 (10, 16, 28, ...), got "
                f"{self.depth}."
            )
        self.stem = nn.Conv(
            16,
            (3, 3),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
        )
        self.blocks = [
            _Block(
                16 * 2**group * self.width,
                stride=2 if group > 0 and i == 0 else 1,
                dtype=self.dtype,
            )
            for group in range(3)
            for i in range((self.depth - 4) // 6)
        ]
        self.norm = nn.BatchNorm(momentum=0.9, dtype=self.dtype)
        self.head = nn.Dense(self.num_classes)

    def features(self, images: chex.Array, *, train: bool) -> chex.Array:
        """[B, H, W, C] -> [B, D], float32 or wider; `train`: uses batch statistics."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x, train=train)
        x = nn.celu(self.norm(x, use_running_average=not train))
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return x.mean(axis=(1, 2))

    def classify(self, features: chex.Array) -> chex.Array:
        """[B, D] -> [B, num_classes] logits: the head."""
        return self.head(features)

    def __call__(self, images: chex.Array, *, train: bool) -> chex.Array:
        return self.classify(self.features(images, train=train))
