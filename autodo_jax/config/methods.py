"""The rows of the paper's tables as fields of a configuration."""

from collections.abc import Mapping
from typing import NamedTuple

import ml_collections

from autodo_jax.errors import ConfigError


class Method(NamedTuple):
    """The fields in which the rows of the paper's tables differ."""

    policy: str  # augment.policy
    augment: str = "none"  # hyper.augment
    weights: bool = False  # hyper.weights
    soft_labels: bool = False  # hyper.soft_labels
    train_on: str = "train"  # data.train_on


METHOD_FIELDS = (
    "augment.policy",
    "hyper.augment",
    "hyper.weights",
    "hyper.soft_labels",
    "data.train_on",
)

METHODS = {
    "baseline": Method("none"),
    # Its rivals, which see the clean validation set too.
    "clean_only": Method("none", train_on="validation"),
    "joined": Method("none", train_on="both"),
    "randaugment": Method("randaugment"),
    "uniform_augment": Method("uniform_augment"),
    "fast_autoaugment": Method("fast_autoaugment"),
    "dada": Method("dada"),
    "autodo_shared": Method("randaugment_color", "shared"),  # lambda_ASHA
    "autodo_a": Method("randaugment_color", "per_point"),  # lambda_A
    "autodo_aw": Method("randaugment_color", "per_point", True),  # lambda_A,W
    "autodo_w": Method("none", "none", True),  # lambda_W
    "autodo_s": Method("none", "none", False, True),  # lambda_S
    "autodo": Method("randaugment_color", "per_point", True, True),  # lambda_A,W,S
}


# Fields whose values a configuration may choose by the method.
CHOSEN_BY_METHOD = (
    "augment.num_ops",
    "task.joined_epochs",
    "task.joined_share",
    "task.logit_adjustment",
)

RIVALS = ("clean_only", "joined")  # methods that only learn from the clean set too

# Operations that the policies which draw them give each image.
_NUM_OPS = {"randaugment": 3, "randaugment_color": 1, "uniform_augment": 2}


def apply_method(
    config: ml_collections.ConfigDict,
    method: str | None,
    *,
    num_ops: Mapping[str, int] | None = None,
    joined_epochs: float | None = None,
    joined_share: float | None = None,
    logit_adjustment: float | None = None,
) -> None:
    """Sets the fields of a row of the paper's tables; None or "": `autodo`.

    Args:
      config: its METHOD_FIELDS, `method` and CHOSEN_BY_METHOD are set.
      method: a key of METHODS.
      num_ops: `augment.num_ops` by policy, where it is not the usual number.
      joined_epochs: `task.joined_epochs` of methods that have Lambda, 0 for others;
        None: as it is.
      joined_share: `task.joined_share`, likewise.
      logit_adjustment: `task.logit_adjustment`, likewise.

    Raises:
      ConfigError: an unknown method.
    """
    method = method or "autodo"
    if method not in METHODS:
        raise ConfigError(
            f"unknown method {method!r}", f"use one of {', '.join(METHODS)}"
        )
    config.method = method
    for name, value in zip(METHOD_FIELDS, METHODS[method], strict=True):
        section, field = name.split(".")
        config[section][field] = value
    config.augment.num_ops = (_NUM_OPS | dict(num_ops or {})).get(
        config.augment.policy, 0
    )
    learns = has_hyperparams(METHODS[method])
    for field, value in (
        ("joined_epochs", joined_epochs),
        ("joined_share", joined_share),
        ("logit_adjustment", logit_adjustment),
    ):
        if value is not None:
            config.task[field] = value if learns else 0.0


def has_hyperparams(hyper: ml_collections.ConfigDict | Method) -> bool:
    """True where any sub-model is in use, so that Lambda is not empty."""
    return hyper.augment != "none" or hyper.weights or hyper.soft_labels
