"""Rules of a configuration: values of its fields, and how they fit together."""

import math
from collections.abc import Callable
from typing import Any, NoReturn

import ml_collections

from autodo_jax import models
from autodo_jax.augment import color, policies
from autodo_jax.augment.learned import OPERATIONS
from autodo_jax.config.features import is_solved
from autodo_jax.config.fields import default_config, flatten, get, joined_epochs
from autodo_jax.config.methods import (
    METHOD_FIELDS,
    METHODS,
    has_hyperparams,
)
from autodo_jax.data.sources import SOURCES
from autodo_jax.errors import ConfigError
from autodo_jax.models import pretrained


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError where a configuration lacks a field, or has one unknown."""
    known = flatten(default_config().to_dict())
    given = flatten(config.to_dict())
    for kind, names in (
        ("unknown", given.keys() - known),
        ("no", known.keys() - given),
    ):
        if names:
            listed = ", ".join(f"config.{name}" for name in sorted(names)[:5])
            raise ConfigError(
                f"the configuration has {kind} field {listed}",
                "begin with one of configs/, or with config_for",
            )


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks every field on its own and those that depend on each other.

    Raises:
      ConfigError: names the field, its value and what is expected.
    """
    for name, (holds, expected) in _RULES.items():
        value = get(config, name)
        if not (math.isfinite(value) and holds(value)):
            _refuse(name, value, expected)
    for name, choices in CHOICES.items():
        value = get(config, name)
        if value not in choices:
            _refuse(name, value, f"one of {', '.join(choices)}")
    _check_method(config)
    try:
        models.check(config.model)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from error
    pretrained.check(config.model)
    _check_images(config.data)
    _check_weights(config)
    _check_train_on(config)
    _check_operations(config)
    _check_head(config)
    learns = has_hyperparams(config.hyper) and not config.hyper.frozen
    if learns and config.hyper.start_epoch >= config.epochs:
        _refuse(
            "hyper.start_epoch",
            config.hyper.start_epoch,
            f"less than epochs={config.epochs}",
            "raise <config.epochs>",
            "learn nothing with <config.hyper.frozen=True>",
        )
    _check_guard(config)
    _check_joined(config)


def method_of(config: ml_collections.ConfigDict) -> str | None:
    """Returns the method whose fields a configuration has; None for a variant."""
    given = tuple(get(config, name) for name in METHOD_FIELDS)
    return next((name for name, fields in METHODS.items() if fields == given), None)


_AT_LEAST_1 = (lambda v: v >= 1, "a number >= 1")
_AT_LEAST_0 = (lambda v: v >= 0, "a number >= 0")
_POSITIVE = (lambda v: v > 0, "a number > 0")
_SHARE = (lambda v: 0 <= v <= 1, "a share in [0, 1]")
_PROPER_SHARE = (lambda v: 0 < v < 1, "a share in (0, 1)")
_SIZE = (
    lambda v: 0 < v < 1 or (v >= 1 and v == int(v)),
    "a share in (0, 1) or a number of points",
)
_SIZE_OR_NONE = (
    lambda v: 0 <= v < 1 or v == int(v) >= 1,
    "a share in (0, 1), a number of points, or 0 for none",
)
_PILLOW_PIXELS = 178_956_970  # the bound that Pillow has of its own
_DECAY = (lambda v: 0 <= v < 1, "a number in [0, 1)")

_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "seed": (lambda v: 0 <= v < 2**32, "an integer in [0, 2**32)"),
    "epochs": _AT_LEAST_1,
    "batch_size": _AT_LEAST_1,
    "eval_batch_size": _AT_LEAST_1,
    "num_devices": _AT_LEAST_0,
    "steps_per_dispatch": _AT_LEAST_0,
    "checkpoint_every": _AT_LEAST_0,
    "checkpoint_minutes": _AT_LEAST_0,
    "checkpoint_keep": _AT_LEAST_1,
    "watchdog_minutes": _AT_LEAST_0,
    "data.max_pixels": (
        lambda v: 1 <= v <= _PILLOW_PIXELS,
        f"a number of pixels in [1, {_PILLOW_PIXELS:,}]",
    ),
    "data.test_size": _SIZE_OR_NONE,
    "data.validation_size": _SIZE,
    "data.num_workers": _AT_LEAST_0,
    "data.max_train_points": _AT_LEAST_0,
    "data.max_test_points": _AT_LEAST_0,
    "data.imbalance_ratio": _AT_LEAST_1,
    "data.noise_ratio": _SHARE,
    "augment.num_ops": _AT_LEAST_0,
    "augment.rand_magnitude": (lambda v: 0 <= v <= 30, "a number in [0, 30]"),
    "augment.crop_size": _AT_LEAST_0,
    "augment.crop_padding": _AT_LEAST_0,
    "augment.erase_probability": _SHARE,
    "augment.magnitude": _POSITIVE,
    "augment.gate_probability": _PROPER_SHARE,
    "model.depth": _AT_LEAST_1,
    "model.width": _AT_LEAST_1,
    "model.hidden": _AT_LEAST_1,
    "task.learning_rate": _POSITIVE,
    "task.encoder_learning_rate": _POSITIVE,
    "task.momentum": _DECAY,
    "task.weight_decay": _AT_LEAST_0,
    "task.clip_norm": _AT_LEAST_0,
    "task.tolerance": _PROPER_SHARE,
    "task.prior_variance": _AT_LEAST_0,
    "task.joined_epochs": (
        lambda v: 0 <= v < 1 or v == int(v) >= 1,
        "a share in (0, 1), a number of epochs, or 0 for none",
    ),
    "task.joined_copies": _AT_LEAST_0,
    "task.plain_share": _SHARE,
    "task.logit_adjustment": _AT_LEAST_0,
    "task.joined_share": (lambda v: 0 <= v < 1, "a share in [0, 1)"),
    "hyper.start_epoch": _AT_LEAST_0,
    "hyper.learning_rate": _POSITIVE,
    "hyper.num_terms": _AT_LEAST_0,
    "hyper.step_size": _POSITIVE,
    "hyper.max_update": _AT_LEAST_0,
    "hyper.smoothing": _PROPER_SHARE,
    "guard.folds": (lambda v: v == 0 or v >= 2, "0, or a number >= 2"),
    "guard.expected_epochs": _AT_LEAST_0,
    "guard.patience": _AT_LEAST_0,
}

CHOICES = {
    "method": tuple(METHODS),
    "data.source": tuple(SOURCES),
    "data.resize": ("crop", "stretch"),
    "data.noise_kind": ("uniform", "pair"),
    "data.train_on": ("train", "validation", "both"),
    "data.outer_set": ("validation", "test", "train"),
    "augment.policy": policies.NAMES,
    "augment.policy_table": policies.TABLES,
    "model.name": models.NAMES,
    "model.stem": ("small", "imagenet"),
    "model.activation": tuple(models.ACTIVATIONS),
    "model.dtype": ("float32", "bfloat16"),
    "hyper.augment": ("per_point", "shared", "none"),
    "hyper.theta": ("head", "all"),
    "hyper.solver": ("neumann", "conjugate_gradient", "identity"),
    "hyper.on_divergence": ("first_term", "stop"),
}


def _refuse(name: str, value: Any, expected: str, *advice: str) -> NoReturn:
    raise ConfigError(f"config.{name} is {value!r}, expected {expected}", *advice)


def _check_method(config: ml_collections.ConfigDict) -> None:
    """Refuses a run that would be called by the name of another method.

    Fields that are not those of any method make a variant, which tables name.
    """
    found = method_of(config)
    if found not in (None, config.method):
        fields = ", ".join(f"{name}={get(config, name)!r}" for name in METHOD_FIELDS)
        raise ConfigError(
            f"config.method is {config.method!r}, but the fields that a method sets "
            f"are those of {found!r} ({fields})",
            f"choose a method by <method={config.method}>",
        )


def _check_train_on(config: ml_collections.ConfigDict) -> None:
    """Refuses clean points in the training of theta where others rely on them."""
    train_on = config.data.train_on
    if train_on == "train":
        return
    if has_hyperparams(config.hyper):
        _refuse("data.train_on", train_on, "train for a method that has Lambda")
    if config.data.outer_set != "validation":
        expected = f"train with data.outer_set={config.data.outer_set}"
        _refuse("data.train_on", train_on, expected)


def _check_weights(config: ml_collections.ConfigDict) -> None:
    """Refuses what does not go with weights that were trained before."""
    model = config.model
    if not model.weights:
        return
    if len(config.data.mean) != 3:
        _refuse(
            "data.mean", config.data.mean, "three numbers, of the channels of weights"
        )
    if not model.frozen_encoder:
        return
    if model.name == "resnet" and model.activation != "relu":
        expected = "relu, that of the weights, while the encoder is frozen"
        _refuse("model.activation", model.activation, expected)
    if config.hyper.theta != "head" and not is_solved(config):
        expected = "head, since the encoder is frozen"
        _refuse("hyper.theta", config.hyper.theta, expected)


def _check_head(config: ml_collections.ConfigDict) -> None:
    """Refuses what the solved head of constant features does not have, and others."""
    name = config.model.name
    if not is_solved(config):
        if config.data.source == "embeddings":
            _refuse("model.name", name, f"one of {', '.join(models.HEADS)}")
        if config.task.prior_variance:
            expected = (
                "0 of a head that is stepped, since its features change or are not "
                "those of given weights"
            )
            advice = "set <config.guard.folds=0> and <config.task.joined_epochs=0> too"
            given = config.task.prior_variance
            _refuse("task.prior_variance", given, expected, advice)
        return
    needed: dict[str, Any] = {
        "hyper.augment": "none",
        "augment.policy": "none",
        "hyper.solver": "conjugate_gradient",
        "hyper.symmetric_kl": False,  # The inner problem is convex without it.
        "hyper.start_epoch": 0,
    }
    if name in models.HEADS:
        needed |= {"hyper.theta": "all", "data.stream": False, "data.image_size": ()}
    for field, value in needed.items():
        given = get(config, field)
        if given != value:
            expected = f"{value!r} for constant features, where the head is solved"
            _refuse(field, given, expected, "use autodo, autodo_s or autodo_w")


def _check_guard(config: ml_collections.ConfigDict) -> None:
    """Refuses a guard without a clean set of its own, and one that does not fit."""
    guard, outer_set = config.guard, config.data.outer_set
    if guard.folds and outer_set != "validation":
        _refuse("guard.folds", guard.folds, f"0 with data.outer_set={outer_set}")
    if is_solved(config):
        return
    if guard.patience:
        _refuse("guard.patience", guard.patience, "0 of a network that is not solved")
    if guard.folds and not joined_epochs(config):
        expected = "0 without task.joined_epochs, which use the Lambda that it chooses"
        _refuse("guard.folds", guard.folds, expected)


def _check_joined(config: ml_collections.ConfigDict) -> None:
    """Refuses epochs in which clean points join that do not fit."""
    joined, outer_set = config.task.joined_epochs, config.data.outer_set
    if joined >= 1 and outer_set != "validation":
        _refuse("task.joined_epochs", joined, f"0 with data.outer_set={outer_set}")
    if is_solved(config):
        for name, usual in (
            ("task.joined_share", 0),
            ("task.joined_copies", 1),
            ("task.logit_adjustment", 0),
        ):
            if get(config, name) != usual:
                _refuse(name, get(config, name), f"{usual} of a head that is solved")
        return
    for name in ("task.joined_epochs", "task.joined_share", "task.logit_adjustment"):
        if get(config, name) and config.data.train_on != "train":
            _refuse(name, get(config, name), f"0 of {config.method}")
    learns = has_hyperparams(config.hyper) and not config.hyper.frozen
    first = config.hyper.start_epoch if learns else 0
    if joined and first + joined_epochs(config) >= config.epochs:
        _refuse("task.joined_epochs", joined, f"less than {config.epochs - first}")


def _check_images(data: ml_collections.ConfigDict) -> None:
    mean, std, size = data.mean, data.std, data.image_size
    if not mean or len(mean) != len(std):
        _refuse("data.std", std, f"one number a channel, as data.mean={mean}")
    if not all(value > 0 for value in std):
        _refuse("data.std", std, "numbers > 0")
    if size and (len(size) != 2 or min(size) < 1):
        _refuse("data.image_size", size, "(height, width) in pixels, or ()")


def _check_operations(config: ml_collections.ConfigDict) -> None:
    operations = config.augment.operations
    unknown = [name for name in operations if name not in OPERATIONS]
    if unknown or not operations or len(set(operations)) < len(operations):
        _refuse(
            "augment.operations", operations, f"distinct names of {tuple(OPERATIONS)}"
        )
    if len(config.data.mean) != 3 and not color.NEEDS_RGB.isdisjoint(operations):
        _refuse(
            "augment.operations",
            operations,
            f"none of {sorted(color.NEEDS_RGB)} for images without 3 channels",
        )
