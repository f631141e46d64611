"""The data of a run: loaded, split and distorted as its configuration and seed say."""

import dataclasses
import hashlib

import ml_collections
import numpy as np

from autodo_jax.data import checks, distort, duplicates, sources, split, summary
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.sources import folder, tfds
from autodo_jax.data.summary import Summary


@dataclasses.dataclass(frozen=True)
class RunData:
    """The three parts, and the clean labels, which only the evaluation uses.

    The train set is the one that is described, whether or not theta learns from it.
    """

    splits: split.Splits  # the train set is distorted
    fit: Dataset  # where theta learns: usually the train set
    clean_labels: np.ndarray  # [N], of the train set before labels were changed
    num_classes: int
    is_named: bool  # the ids name files or points of a data set, not positions
    summary: Summary  # of the data before labels were changed
    encoder: str = ""  # what constant features depend on but for the images

    @property
    def is_flipped(self) -> np.ndarray:
        """[N] bool: train points whose given label is wrong."""
        return self.splits.train.labels != self.clean_labels

    def fingerprint(self) -> str:
        """Returns a digest of the points' ids and labels, in their order.

        If the points have no names, the pixels are included.
        """
        digest = hashlib.sha256(self.encoder.encode())
        for part in self.splits:
            pixels = () if self.is_named else (part.pixels(),)
            for array in (part.labels, part.ids, *pixels):
                digest.update(array.tobytes())
        return digest.hexdigest()


def load(config: ml_collections.ConfigDict) -> RunData:
    """Returns the data of a validated configuration; same config, same points.

    Raises:
      DataError: data that is absent or cannot be used; a class with too few points.
    """
    return create(config, sources.SOURCES[config.data.source](config.data, config.seed))


def describe(config: ml_collections.ConfigDict) -> RunData:
    """Returns what `load` does, to be looked at: the pixels of folders are not kept.

    Raises:
      DataError: as `load`, of all images, also where it would stream them.
    """
    if config.data.source != "folder":
        return load(config)
    parts = folder.load(config.data, config.seed, keep_pixels=False)
    return create(config, parts)


def create(config: ml_collections.ConfigDict, parts: SourceSplits) -> RunData:
    """Splits and distorts points as configured.

    Lambda is learned from a clean, separate validation set. In ablations of the paper,
    it is learned from the test set instead (`data.outer_set` "test", Table 5), or all
    points are distorted train points, and validation batches are drawn from them too
    ("train", Table 6).

    Raises:
      DataError: points that cannot be used; a class with too few.
    """
    data = config.data
    checks.check(parts, channels=len(data.mean))
    found = duplicates.find(parts)
    # Published data sets are taken as they are; what they share is said.
    if found is not None and not data.allow_overlap and data.source not in tfds.NAMES:
        duplicates.refuse_overlaps(parts, found.overlaps)
    num_classes = len(parts.train.class_names)
    train, validation, test = split.stratified_split(
        parts,
        test_size=data.test_size,
        validation_size=data.validation_size,
        seed=config.seed,
        copies=None if found is None else found.copies,
    )
    described = summary.summarize(parts, (train, validation, test), found)
    if data.outer_set == "train":
        train = train.join(validation)
    rng = np.random.default_rng(config.seed)
    train = distort.imbalance(train, data.imbalance_ratio, num_classes, rng)
    checks.check_classes(
        "train", train, "lower <config.data.imbalance_ratio>", "add some"
    )
    noisy = distort.flip_labels(
        train.labels, data.noise_ratio, num_classes, rng, data.noise_kind
    )
    clean_labels, train = train.labels, train._replace(labels=noisy)
    outer_sets = {"validation": validation, "test": test, "train": train}
    fit = validation if data.train_on == "validation" else train
    if data.train_on == "both":
        fit = train.join(validation)
    return RunData(
        splits=split.Splits(train, outer_sets[data.outer_set], test),
        fit=fit,
        clean_labels=clean_labels,
        num_classes=num_classes,
        is_named=data.source not in ("arrays", "embeddings"),
        summary=described,
    )
