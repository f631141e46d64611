"""Configurations of experiments: their fields, their methods, and their rules."""

from autodo_jax.config.features import is_solved, use_features, use_pretrained
from autodo_jax.config.fields import (
    MAY_CHANGE,
    default_config,
    flatten,
    joined_epochs,
    plain_epochs,
    to_fields,
    to_json,
)
from autodo_jax.config.methods import (
    CHOSEN_BY_METHOD,
    METHOD_FIELDS,
    METHODS,
    RIVALS,
    Method,
    apply_method,
    has_hyperparams,
)
from autodo_jax.config.rules import CHOICES, check_fields, method_of, validate

__all__ = [
    "CHOICES",
    "CHOSEN_BY_METHOD",
    "MAY_CHANGE",
    "METHODS",
    "METHOD_FIELDS",
    "RIVALS",
    "Method",
    "apply_method",
    "check_fields",
    "default_config",
    "flatten",
    "has_hyperparams",
    "is_solved",
    "joined_epochs",
    "method_of",
    "plain_epochs",
    "to_fields",
    "to_json",
    "use_features",
    "use_pretrained",
    "validate",
]
