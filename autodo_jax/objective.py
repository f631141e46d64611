"""L_t and L_v: where network, augmentation, soft labels and weights meet.

`theta` of Eq. 5 is the head, so its losses take the head's parameters apart from the
encoder, whose features they compute once with batch norm in evaluation mode.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from autodo_jax import losses
from autodo_jax.augment import learned, standard
from autodo_jax.data.pipeline import Batch
from autodo_jax.hyperparams import state as hyperparams

PyTree = Any
Rows = Mapping[str, chex.Array]


def split_head(params: Mapping[str, PyTree]) -> tuple[PyTree, dict[str, PyTree]]:
    """Returns (head, encoder) of a network's parameters."""
    encoder = {name: value for name, value in params.items() if name != "head"}
    return params["head"], encoder


@dataclasses.dataclass(frozen=True)
class Objective:
    """The losses of an experiment, pure functions of their arguments.

    Attributes:
      model: network with `features` and `classify`; see `models`.
      mean, std: of each channel, of pixels in [0, 1].
      standard: options of `augment.standard.augment`.
      learned: options of `augment.learned.augment`.
      symmetric_kl: the loss to soft labels; else KL(y^S || p).
      weight_decay: of the task optimizer, part of L_t.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    standard: Mapping[str, Any]
    learned: Mapping[str, Any]
    symmetric_kl: bool
    weight_decay: float

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
        loss = jnp.mean(self.point_losses(logits, batch.label, rows))
        return loss, updated["batch_stats"]

    def inner_loss(
        self,
        head: PyTree,
        rows: Rows,
        encoder: PyTree,
        batch_stats: PyTree,
        batch: Batch,
        keys: chex.PRNGKey,
    ) -> chex.Array:
        """L_t of Eq. 5 (lines 15, 16, 18) in the head, weight decay included."""
        images = self.inputs(rows, batch.image, keys)
        logits = self._logits(head, encoder, batch_stats, images)
        loss = jnp.mean(self.point_losses(logits, batch.label, rows))
        return loss + losses.l2_penalty(head, self.weight_decay)

    def outer_loss(
        self,
        head: PyTree,
        rows: Rows,
        encoder: PyTree,
        batch_stats: PyTree,
        batch: Batch,
    ) -> chex.Array:
        """L_v (line 14): cross-entropy of a clean batch without augmentation."""
        del rows  # L_v depends on them through theta only.
        images = self.normalize(_to_float(batch.image))
        logits = self._logits(head, encoder, batch_stats, images)
        return jnp.mean(losses.cross_entropy(logits, batch.label))

    def predict(
        self, params: PyTree, batch_stats: PyTree, images: chex.Array
    ) -> chex.Array:
        """Logits [B, C] of uint8 images [B, H, W, C], in evaluation mode."""
        head, encoder = split_head(params)
        return self._logits(
            head, encoder, batch_stats, self.normalize(_to_float(images))
        )

    def inputs(self, rows: Rows, images: chex.Array, keys: chex.PRNGKey) -> chex.Array:
        """Augments uint8 images, standard first, then g_A, and normalizes them."""
        split = jax.vmap(jax.random.split)(keys)
        images = standard.augment(
            split[:, 0], _to_float(images), fill=self.mean, **self.standard
        )
        if "gate" in rows:
            images = learned.augment(
                split[:, 1], images, rows["gate"], rows["magnitude"], **self.learned
            )
        return self.normalize(images)

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

    def _logits(self, head, encoder, batch_stats, images) -> chex.Array:
        features = self.model.apply(
            {"params": encoder, "batch_stats": batch_stats},
            images,
            train=False,
            method="features",
        )
        return self.model.apply({"params": {"head": head}}, features, method="classify")


def create(config: ml_collections.ConfigDict, model: nn.Module) -> Objective:
    """Returns the losses of a validated configuration."""
    augment = config.augment
    return Objective(
        model=model,
        mean=tuple(config.data.mean),
        std=tuple(config.data.std),
        standard={
            "crop_padding": augment.crop_padding,
            "flip": augment.flip,
            "erase_probability": augment.erase_probability,
        },
        learned={
            "operations": tuple(augment.operations),
            "magnitude": augment.magnitude,
            "temperature": augment.temperature,
        },
        symmetric_kl=config.hyper.symmetric_kl,
        weight_decay=config.task.weight_decay,
    )


def _to_float(images: chex.Array) -> chex.Array:
    return images.astype(jnp.result_type(float)) / 255  # float64 with x64 enabled.
