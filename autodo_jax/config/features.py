"""The configuration of a head on constant features, which is solved."""

import ml_collections

from autodo_jax import models
from autodo_jax.config.methods import METHODS, apply_method
from autodo_jax.models import pretrained

# Fields of the standard augmentation; where one is not 0, features change.
_STANDARD = ("crop_size", "crop_padding", "flip", "erase_probability")


def is_solved(config: ml_collections.ConfigDict) -> bool:
    """True where a head is solved, not stepped: its features are always the same.

    They are given, or those that a frozen encoder has of images without augmentation.
    """
    if config.model.name in models.HEADS:
        return True
    augment = config.augment
    changes = (
        *(augment[name] for name in _STANDARD),
        *(augment.policy != "none", config.hyper.augment != "none"),
    )
    return models.has_frozen_encoder(config.model) and not any(changes)


def use_features(config: ml_collections.ConfigDict, method: str | None = None) -> None:
    """Sets what differs for features in place of images; methods as `apply_method`.

    Twenty steps of Lambda at most, their number chosen on five folds of the clean set,
    which the last solve learns from as well. Features have no augmentation, so `autodo`
    learns weights and labels.

    Args:
      config: with all fields.
      method: a key of METHODS; None or "": `autodo`.

    Raises:
      ConfigError: an unknown method.
    """
    config.eval_batch_size = 4096
    config.model.name = "linear"
    config.hyper.theta = "all"
    _solve_head(config)
    config.task.prior_variance = 1.0
    config.task.joined_epochs = 1.0
    config.guard.folds = 5
    _apply_method(config, method)


def use_pretrained(
    config: ml_collections.ConfigDict, method: str | None = None
) -> None:
    """Sets what differs for photographs and a pretrained network, EfficientNet-Lite0.

    The head is solved as in `use_features`. With a method, or a field such as
    `augment.flip`, that augments images, each step runs the encoder; with
    `model.frozen_encoder=False`, each step trains it too.

    Args:
      config: with all fields.
      method: a key of METHODS; None or "": `autodo`, of weights and labels.

    Raises:
      ConfigError: an unknown method.
    """
    config.batch_size = 32
    config.eval_batch_size = 64
    config.data.image_size = (224, 224)
    config.data.mean = pretrained.MEAN
    config.data.std = pretrained.STD
    config.augment.crop_padding = 0
    config.augment.erase_probability = 0.0
    config.augment.policy_table = "imagenet"
    config.model.name = "efficientnet_lite0"
    config.model.weights = pretrained.IMAGENET
    config.model.depth, config.model.stem = 18, "imagenet"  # Of resnet, from a file,
    config.model.activation = "relu"  # which was trained with it.
    config.task.learning_rate = 1e-3  # Of steps: features are not standardised.
    _solve_head(config)
    # What only a solved head has follows the flags that leave it, and the method.
    _apply_method(config, method)
    chosen = METHODS[config.method]
    is_constant = config.augment.policy == config.hyper.augment == "none"
    solves = config.model.get_ref("frozen_encoder").to_int() * int(is_constant)
    for name in _STANDARD:  # 1 where it is 0, else 0
        solves = solves * (1 // (1 + config.augment.get_ref(name).to_float())).to_int()
    config.task.prior_variance = solves.to_float()
    config.task.joined_epochs = (solves * int(chosen.train_on == "train")).to_float()
    config.guard.folds = solves * 5
    config.guard.patience = solves * config.guard.patience


def _solve_head(config: ml_collections.ConfigDict) -> None:
    config.epochs = 20
    config.num_devices = 1
    config.hyper.start_epoch = 0
    config.hyper.learning_rate = 0.1
    config.hyper.solver = "conjugate_gradient"
    config.hyper.num_terms = 30
    config.hyper.symmetric_kl = False  # The inner problem is convex without it.
    config.guard.patience = 5


def _apply_method(config: ml_collections.ConfigDict, method: str | None) -> None:
    apply_method(config, method)
    if config.method == "autodo":
        config.hyper.augment, config.augment.policy = "none", "none"
        config.augment.num_ops = 0
