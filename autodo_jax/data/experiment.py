"""The data of a run: loaded, split and distorted by the seed of its configuration."""

import dataclasses

import ml_collections
import numpy as np

from autodo_jax.data import distort, sources, split


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Three parts and what is known of the distortions, for the evaluation only."""

    splits: split.Splits  # the train set is distorted
    clean_labels: np.ndarray  # [N], of the train set before labels were drawn anew
    num_classes: int

    @property
    def is_flipped(self) -> np.ndarray:
        """[N] bool: train points whose given label is wrong."""
        return self.splits.train.labels != self.clean_labels


def load(config: ml_collections.ConfigDict) -> Experiment:
    """Returns the data of a validated configuration; same config, same points.

    Raises:
      ValueError: a class with too few points for the split.
    """
    dataset = sources.SOURCES[config.data.source]()
    num_classes = len(dataset.class_names)
    splits = split.stratified_split(
        dataset,
        test_fraction=config.data.test_fraction,
        validation_fraction=config.data.validation_fraction,
        seed=config.seed,
    )
    rng = np.random.default_rng(config.seed)
    train = distort.imbalance(
        splits.train, config.data.imbalance_ratio, num_classes, rng
    )
    noisy = distort.flip_labels(train.labels, config.data.noise_ratio, num_classes, rng)
    return Experiment(
        splits=splits._replace(train=train._replace(labels=noisy)),
        clean_labels=train.labels,
        num_classes=num_classes,
    )
