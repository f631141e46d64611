"""The configuration of a head on given features, which is solved."""

import ml_collections

from autodo_jax.config.methods import apply_method


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
    config.epochs = 20
    config.eval_batch_size = 4096
    config.num_devices = 1
    config.model.name = "linear"
    config.task.prior_variance = 1.0
    config.task.joined_epochs = 1
    config.hyper.theta = "all"
    config.hyper.start_epoch = 0
    config.hyper.learning_rate = 0.1
    config.hyper.solver = "conjugate_gradient"
    config.hyper.num_terms = 30
    config.hyper.symmetric_kl = False  # The inner problem is convex without it.
    config.guard.folds = 5
    config.guard.patience = 5
    apply_method(config, method)
    if config.method == "autodo":
        config.hyper.augment, config.augment.policy = "none", "none"
        config.augment.num_ops = 0
