"""Networks, each in two parts.

`features(images, train=...)`, the encoder, and `classify(features)`, the linear head,
whose parameters are those named "head": the theta of Eq. 5.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from autodo_jax.models import pretrained, resnet, small_cnn, wide_resnet
from autodo_jax.models.efficientnet_lite0 import EfficientNetLite0
from autodo_jax.models.feature_head import FeatureHead
from autodo_jax.models.network import Activation, Network
from autodo_jax.models.resnet import ResNet
from autodo_jax.models.small_cnn import SmallCNN
from autodo_jax.models.wide_resnet import WideResNet

# The last two are heads, of features that are given in place of images.
NAMES = (
    *("small_cnn", "wide_resnet", "resnet", "efficientnet_lite0"),
    *("linear", "hidden_layer"),
)
HEADS = ("linear", "hidden_layer")
# All but ReLU are continuously differentiable, which Eq. 4 needs.
ACTIVATIONS: dict[str, Activation] = {
    "celu": nn.celu,
    "gelu": nn.gelu,
    "relu": nn.relu,
    "silu": nn.silu,
    "softplus": nn.softplus,
}


def check(config: Any) -> None:
    """Checks the sizes of a network without creating it.

    Widths are checked for every network, the depth for those that use it.

    Args:
      config: config.model.

    Raises:
      ValueError: a depth that the network does not have, no stage, or one without
        channels. The text begins with the field: "model.depth is 17, expected ...".
    """
    if config.name == "wide_resnet":
        wide_resnet.check_depth(config.depth)
    if config.name == "resnet":
        resnet.check_depth(config.depth)
    small_cnn.check_widths(config.widths)


def has_frozen_encoder(config: Any) -> bool:
    """True where config.model has an encoder that is frozen, with given weights."""
    return bool(config.weights and config.frozen_encoder)


def create(config: Any, num_classes: int, axis_name: str | None = None) -> Network:
    """Returns the network of `config.model`: name, its sizes, activation, dtype.

    With a frozen encoder it is a `FeatureHead` on it.

    Args:
      config: config.model.
      num_classes: C.
      axis_name: mapped axis over which batches are split; batch norm averages over it.

    Raises:
      ValueError: an unknown name of a network or an activation.
    """
    if config.activation not in ACTIVATIONS:
        raise ValueError(
            f"`model.activation` must be one of {(*ACTIVATIONS,)}, got "
            f"{config.activation!r}."
        )
    if config.name in HEADS:
        hidden = config.hidden if config.name == "hidden_layer" else 0
        return FeatureHead(num_classes, hidden, ACTIVATIONS[config.activation])
    network = _network(config, num_classes, axis_name)
    if has_frozen_encoder(config):
        return FeatureHead(num_classes, encoder=network)
    return network


def initial_variables(config: Any, num_classes: int) -> dict[str, Any]:
    """Returns the variables that the network of `create` does not begin at random.

    Args:
      config: config.model.
      num_classes: C.

    Returns:
      "params" and "batch_stats", on the host; nothing without weights.

    Raises:
      ConfigError: weights that are absent, cannot be read, or do not fit.
    """
    if not config.weights:
        return {}
    found = pretrained.load(config, _network(config, num_classes, None))
    if not has_frozen_encoder(config):
        return found
    found["params"].pop("head", None)
    return {"batch_stats": {"encoder": found}}


def _network(config: Any, num_classes: int, axis_name: str | None) -> Network:
    """Returns the network that weights are of."""
    options: dict[str, Any] = {
        "activation": ACTIVATIONS[config.activation],
        "dtype": jnp.dtype(config.dtype),
        "axis_name": axis_name,
    }
    if config.name == "small_cnn":
        return SmallCNN(num_classes, tuple(config.widths), **options)
    if config.name == "wide_resnet":
        return WideResNet(num_classes, config.depth, config.width, **options)
    if config.name == "resnet":
        return ResNet(num_classes, config.depth, config.stem, **options)
    if config.name == "efficientnet_lite0":
        del options["activation"]
        return EfficientNetLite0(num_classes, **options)
    raise ValueError(f"`model.name` must be one of {NAMES}, got {config.name!r}.")
