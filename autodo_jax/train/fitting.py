"""Whether the data of a run fit its configuration."""

import jax
import ml_collections

from autodo_jax import config as config_lib
from autodo_jax import models
from autodo_jax.data.run_data import RunData
from autodo_jax.errors import RunError


def wrong_model(config: ml_collections.ConfigDict, data: RunData) -> RunError:
    """Returns the error of images for a head, or of features for a network."""
    name, heads = config.model.name, " or ".join(models.HEADS)
    if data.splits.train.has_features:
        return RunError(
            f"config.model.name is {name!r}, but the points are features, which have "
            f"no images; expected {heads}",
            "begin with configs/embeddings.py, or with config_for",
        )
    return RunError(
        f"config.model.name is {name!r}, a head of given features, but the points are "
        "images",
        "pass another <config.model.name>",
    )


def check_sizes(config: ml_collections.ConfigDict, data: RunData) -> None:
    """Raises RunError for too few points for a batch, or too small images."""
    train, validation, _ = data.splits
    if config.batch_size > len(train.labels) and not config_lib.is_solved(config):
        raise RunError(
            f"config.batch_size is {config.batch_size}, but there are only "
            f"{len(train.labels)} train and {len(validation.labels)} validation points",
            f"pass <config.batch_size={len(train.labels)}> or less",
        )
    if train.has_features:
        return
    height, width = train.images.shape[1:3]
    if min(height, width) < config.augment.crop_size:
        raise RunError(
            f"images of {height}x{width} pixels are smaller than "
            f"config.augment.crop_size={config.augment.crop_size}",
            "lower it",
            "resize them by <config.data.image_size=(HEIGHT, WIDTH)>",
        )


def usable_devices(
    config: ml_collections.ConfigDict, data: RunData, num_devices: int
) -> int:
    """Returns as many devices as the smallest part has points for, if they are free.

    Raises:
      RunError: more are asked for, or several processes need theirs.
    """
    most = min(len(data.splits.validation.labels), len(data.fit.labels))
    if num_devices <= most:
        return num_devices
    if config.num_devices or jax.process_count() > 1:
        raise RunError(
            f"there are only {most} validation points for {num_devices} devices",
            f"pass <config.num_devices={most}> or less",
            "add some",
        )
    sizes = range(1, most + 1)
    return max(size for size in sizes if config.batch_size % size == 0)
