"""Networks, each in two parts.

`features(images, train=...)`, the encoder, and `classify(features)`, the linear head,
whose parameters stand under "head": the theta of Eq. 5.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from autodo_jax.models.small_cnn import SmallCNN
from autodo_jax.models.wide_resnet import WideResNet

NAMES = ("small_cnn", "wide_resnet")


def create(config: Any, num_classes: int) -> nn.Module:
    """Returns the network of `config.model`: name, its sizes, dtype.

    Raises:
      ValueError: an unknown name.
    """
    dtype = jnp.dtype(config.dtype)
    if config.name == "small_cnn":
        return SmallCNN(num_classes, widths=tuple(config.widths), dtype=dtype)
    if config.name == "wide_resnet":
        return WideResNet(num_classes, config.depth, config.width, dtype=dtype)
    raise ValueError(f"`model.name` must be one of {NAMES}, got {config.name!r}.")
