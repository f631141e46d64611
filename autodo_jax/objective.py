"""L_t and L_v: where network, augmentation, soft labels and weights meet.

The losses of Eq. 5 take theta apart from the other parameters, with batch norm in
evaluation mode. Where theta is the head, the encoder's features are computed once.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from autodo_jax import losses
from autodo_jax._typing import PyTree
from autodo_jax.augment import learned, policies, standard
from autodo_jax.data.batches.batch import Batch
from autodo_jax.hyperparams import state as hyperparams

Rows = Mapping[str, chex.Array]
# (keys [B], images [B, H, W, C]) -> images
Augmentation = Callable[[chex.PRNGKey, chex.Array], chex.Array]
# (keys, images, gate logits [B, A], magnitude logits [B, A]) -> images
LearnedAugmentation = Callable[
    [chex.PRNGKey, chex.Array, chex.Array, chex.Array], chex.Array
]


def split_theta(
    params: Mapping[str, PyTree], theta: str
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """Returns (theta, the other parameters) of a network.

    Args:
      params: of a network whose linear head is named "head".
      theta: "head" or "all", the parameters Eq. 5 differentiates through.
    """
    chosen = {name: params[name] for name in params if theta in ("all", name)}
    others = {name: params[name] for name in params if name not in chosen}
    return chosen, others


@dataclasses.dataclass(frozen=True)
class Objective:
    """The losses of an experiment, pure functions of their arguments.

    Attributes:
      model: network with `features`, and `classify` to be given features; see `models`.
      mean, std: of each channel, of pixels in [0, 1].
      policy: augments uint8 images.
      standard: augments images in [0, 1]; it may crop them.
      learned: g_A, of images in [0, 1].
      crop_size: side of the centre crop that images without augmentation get, of
        `standard`'s crops; 0: none.
      symmetric_kl: the loss to soft labels; else KL(y^S || p).
      weight_decay: of the task optimizer, part of L_t.
      adjustment: added to the logits of train points in L_t, [C] (Menon et al., 2021,
        arXiv:2007.07314); (): none.
      num_train: N; points from N on, clean ones that have joined, are not adjusted.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    policy: Augmentation
    standard: Augmentation
    learned: LearnedAugmentation
    crop_size: int
    symmetric_kl: bool
    weight_decay: float
    adjustment: tuple[float, ...] = ()
    num_train: int = 0

    def task_loss(
        self,
        params: PyTree,
        batch_stats: PyTree,
        rows: Rows,
        batch: Batch,
        keys: chex.PRNGKey,
    ) -> tuple[chex.Array, PyTree]:
        """L_t of Algorithm 1, lines 5-8, in all parameters; batch norm in train mode.

        Weight decay is the task optimizer's. Returns (loss, new batch statistics).
        """
        logits, updated = self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            self.inputs(rows, batch.image, keys),
            train=True,
            mutable=["batch_stats"],
        )
        logits = self._adjusted(logits, batch.index)
        loss = jnp.mean(self.point_losses(logits, batch.label, rows))
        return loss, updated.get("batch_stats", {})

    def inner_loss(
        self,
        theta: PyTree,
        rows: Rows,
        others: PyTree,
        batch_stats: PyTree,
        batch: Batch,
        keys: chex.PRNGKey,
    ) -> chex.Array:
        """L_t of Eq. 5 (lines 15, 16, 18) in theta, weight decay included."""
        images = self.inputs(rows, batch.image, keys)
        logits = self._logits({**others, **theta}, batch_stats, images)
        logits = self._adjusted(logits, batch.index)
        loss = jnp.mean(self.point_losses(logits, batch.label, rows))
        return loss + losses.l2_penalty(theta, self.weight_decay)

    def outer_loss(
        self,
        theta: PyTree,
        rows: Rows,
        others: PyTree,
        batch_stats: PyTree,
        batch: Batch,
    ) -> chex.Array:
        """L_v (line 14): cross-entropy of a clean batch without augmentation.

        Args:
          batch: its `image` may be what `features` returned: while theta is the head,
            they stay what they are through all hyper steps of an epoch.
        """
        del rows  # L_v depends on them through theta only.
        logits = self.predict({**others, **theta}, batch_stats, batch.image)
        return jnp.mean(losses.cross_entropy(logits, batch.label))

    def predict(
        self, params: PyTree, batch_stats: PyTree, images: chex.Array
    ) -> chex.Array:
        """Logits [B, C] of uint8 images, or of features [B, D], in evaluation mode."""
        if images.ndim == 2:
            return self.model.apply({"params": params}, images, method="classify")
        return self._logits(params, batch_stats, self.clean_inputs(images))

    def features(
        self, params: PyTree, batch_stats: PyTree, images: chex.Array
    ) -> chex.Array:
        """Inputs of the head [B, D], in evaluation mode.

        Args:
          images: uint8, or what a `FeatureHead` is given for them, [B, D].
        """
        is_image = images.ndim > 2
        return self.model.apply(
            {"params": params, "batch_stats": batch_stats},
            self.clean_inputs(images) if is_image else images,
            train=False,
            method="features",
        )

    def inputs(self, rows: Rows, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
        """Augments uint8 images by policy, standard and g_A, and normalizes them."""
        policy_keys, standard_keys, learned_keys = jax.vmap(
            lambda key: tuple(jax.random.split(key, 3))
        )(keys)
        images = self.policy(policy_keys, images)
        images = self.standard(standard_keys, _to_float(images))
        if "gate" in rows:
            images = self.learned(learned_keys, images, rows["gate"], rows["magnitude"])
        return self.normalize(images)

    def clean_inputs(self, images: chex.Array) -> chex.Array:
        """Crops and normalizes uint8 images, without augmentation."""
        if self.crop_size:
            images = standard.center_crop(images, size=self.crop_size)
        return self.normalize(_to_float(images))

    def normalize(self, images: chex.Array) -> chex.Array:
        """Subtracts the mean and divides by the standard deviation of each channel."""
        mean, std = (
            jnp.array(value, images.dtype)[None, None, None]
            for value in (self.mean, self.std)
        )
        return (images - mean) / std

    def point_losses(
        self, logits: chex.Array, labels: chex.Array, rows: Rows
    ) -> chex.Array:
        """`w_i L_i` (Sec. 4.2), [B]; soft labels and weights where `rows` has them."""
        if "label" in rows:
            kl = losses.symmetric_kl if self.symmetric_kl else losses.kl_to_soft_labels
            values = kl(logits, hyperparams.log_soft_labels(rows["label"]))
        else:
            values = losses.cross_entropy(logits, labels)
        if "weight" in rows:
            values = hyperparams.loss_weights(rows["weight"]) * values
        return values

    def _adjusted(self, logits: chex.Array, index: chex.Array) -> chex.Array:
        if not self.adjustment:
            return logits
        is_train = jnp.expand_dims(index < self.num_train, -1)
        added = jnp.array([self.adjustment], logits.dtype)
        return logits + jnp.where(is_train, added, 0)

    def _logits(
        self, params: PyTree, batch_stats: PyTree, images: chex.Array
    ) -> chex.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        return self.model.apply(variables, images, train=False)


def create(
    config: ml_collections.ConfigDict,
    model: nn.Module,
    adjustment: tuple[float, ...] = (),
    num_train: int = 0,
) -> Objective:
    """Returns the losses of a validated configuration; see `Objective`."""
    augment, mean = config.augment, tuple(config.data.mean)
    return Objective(
        model=model,
        mean=mean,
        std=tuple(config.data.std),
        policy=functools.partial(
            policies.augment,
            policy=augment.policy,
            table=augment.policy_table,
            num_ops=augment.num_ops,
            magnitude=augment.rand_magnitude,
        ),
        standard=functools.partial(
            standard.augment,
            crop_size=augment.crop_size,
            crop_padding=augment.crop_padding,
            flip=augment.flip,
            erase_probability=augment.erase_probability,
            fill=mean,
        ),
        learned=functools.partial(
            learned.augment,
            operations=tuple(augment.operations),
            magnitude=augment.magnitude,
        ),
        crop_size=augment.crop_size,
        symmetric_kl=config.hyper.symmetric_kl,
        weight_decay=config.task.weight_decay,
        adjustment=adjustment,
        num_train=num_train,
    )


def logit_adjustment(
    strength: float, labels: np.ndarray, clean_labels: np.ndarray, num_classes: int
) -> tuple[float, ...]:
    """Returns what makes theta blind to how often the train set has each class, [C].

    It is `strength * log(share of train labels / share of clean labels)`, each class
    counted one point more. Without it, theta calls points of classes that are rarer
    than in the clean set another class too often.

    Args:
      strength: tau of Menon et al. (2021); 0: none, and the result is ().
      labels: as given, of the train points, [N].
      clean_labels: of the clean points, [M].
      num_classes: C.
    """
    if not strength:
        return ()
    train, clean = (
        (counts + 1) / (counts.sum() + num_classes)
        for counts in (
            np.bincount(each, minlength=num_classes) for each in (labels, clean_labels)
        )
    )
    return tuple((strength * np.log(train / clean)).tolist())


def _to_float(images: chex.Array) -> chex.Array:
    return images.astype(jnp.result_type(float)) / 255  # float64 with x64 enabled.
