"""The inner problem of a head on given features: its points, its loss, its curvature.

Theta is all of the head. L_t is the mean over the points that take part, train points
by Lambda and clean ones as they are, plus the L2 penalty of the kernels. It is convex
for a linear head. The curvature is the Gauss-Newton matrix, which for a linear head is
the Hessian. Its products read all points, and are what a solve takes its time for: here
the matrices of theta are [out, in] (`transposed`), since the gradient of one that is
[in, out] takes a CPU three times as long.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from autodo_jax import losses
from autodo_jax._typing import PyTree
from autodo_jax.hyperparams import state as hyperparams
from autodo_jax.implicit import curvature, solvers
from autodo_jax.models.feature_head import FeatureHead
from autodo_jax.objective import Objective, Rows

_BLOCK = 16384  # rows of features in memory at a time
_RANK_TOL = 1e-6  # variance of an axis, relative to the largest, below which it is cut


class Points(NamedTuple):
    """The points of the problem on the device, by their coordinates on the axes."""

    train: chex.Array  # float32 [N, R]
    labels: chex.Array  # int32 [N]
    clean: chex.Array  # float32 [M, R]
    clean_labels: chex.Array  # int32 [M]
    moments: chex.Array  # [R], mean squares of the train points


class Part(NamedTuple):
    """How much each point takes part in a solve."""

    train: chex.Array  # [N], in {0, 1}
    clean: chex.Array  # [M], in {0, 1}


def transposed(theta: PyTree) -> PyTree:
    """Returns Flax's parameters in the layout of `Problem`, and the other way round."""
    return jax.tree.map(jnp.transpose, theta)


def blocks(features: Any) -> Iterator[np.ndarray]:
    """Yields features [<= 16384, D] in float32; they may be a memory map."""
    for start in range(0, len(features), _BLOCK):
        yield np.asarray(features[start : start + _BLOCK], np.float32)


def principal_axes(train: Any, clean: Any) -> dict[str, np.ndarray]:
    """Returns `mean` [D] and `axes` [D, R] of `FeatureHead`.

    The columns of `axes` are the principal axes of train and clean points together,
    divided by the deviations of the train points. Axes without variance are left out:
    no solution of a penalised problem lies along them, so R <= min(D, N + M). Constant
    features count for nothing.

    Args:
      train: [N, D] floats.
      clean: [M, D] floats.
    """
    total = sum(block.sum(0, dtype=np.float64) for block in blocks(train))
    mean = (total / len(train)).astype(np.float32)
    squares = sum(np.square(b - mean).sum(0, dtype=np.float64) for b in blocks(train))
    deviation = np.sqrt(squares / len(train)).astype(np.float32)
    varies = deviation > 1e-6 * max(float(deviation.max()), 1e-30)
    scale = np.where(varies, 1 / np.where(varies, deviation, 1), 0).astype(np.float32)

    def standardised() -> Iterator[np.ndarray]:
        for features in (train, clean):
            for block in blocks(features):
                yield (block - mean) * scale

    num_points, width = len(train) + len(clean), train.shape[1]
    if num_points < width:  # By the smaller of the two matrices of products.
        points = np.concatenate(list(standardised()))
        variances, vectors = np.linalg.eigh(points @ points.T)
        kept = variances > _RANK_TOL * variances[-1]
        axes = points.T @ (vectors[:, kept] / np.sqrt(variances[kept]))
    else:
        products = sum(block.T @ block for block in standardised())
        variances, vectors = np.linalg.eigh(products)
        axes = vectors[:, variances > _RANK_TOL * variances[-1]]
    return {"mean": mean, "axes": scale[:, None] * axes.astype(np.float32)}


def coordinates(features: Any, constants: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the coordinates of features [N, D] on the axes, float32 [N, R]."""
    mean, axes = constants["mean"], constants["axes"]
    found = np.empty((len(features), axes.shape[1]), np.float32)
    start = 0
    for block in blocks(features):
        found[start : start + len(block)] = (block - mean) @ axes
        start += len(block)
    return found


@dataclasses.dataclass(frozen=True)
class Problem:
    """L_t and L_v of a head, and the curvature of L_t, in a transposed theta.

    Attributes:
      objective: whose model is a `FeatureHead`.
      prior_variance: of a logit; 0: `objective.weight_decay` is the penalty.
    """

    objective: Objective
    prior_variance: float

    def logits(self, theta: PyTree, coordinates: chex.Array) -> chex.Array:
        """Logits [B, C] of coordinates [B, R]."""
        return self.objective.predict(transposed(theta), {}, coordinates)

    def inner_loss(
        self, theta: PyTree, rows: Rows, points: Points, part: Part
    ) -> chex.Array:
        """L_t of Eq. 1 over the points that take part."""
        outputs = self._outputs(theta, rows, points, part)
        return self._loss(outputs, theta, rows, points, part)

    def outer_loss(
        self, theta: PyTree, rows: Rows, points: Points, chosen: chex.Array
    ) -> chex.Array:
        """L_v of Eq. 2: the mean cross-entropy of the clean points with `chosen` 1."""
        del rows
        values = losses.cross_entropy(
            self.logits(theta, points.clean), points.clean_labels
        )
        return jnp.sum(chosen * values) / jnp.sum(chosen)

    @property
    def curvature(self) -> curvature.Curvature:
        """The Gauss-Newton matrix of `inner_loss`."""
        return curvature.gauss_newton(self._outputs, self._loss)

    def preconditioner(
        self, theta: PyTree, rows: Rows, points: Points, part: Part
    ) -> solvers.Matvec | None:
        """The diagonal of a linear head's curvature, were classes and axes apart.

        None for a hidden layer.
        """
        model = self.objective.model
        if not isinstance(model, FeatureHead) or model.hidden:
            return None
        outputs, weights = self._outputs(theta, rows, points, part), part.train
        if "weight" in rows:
            weights = weights * hyperparams.loss_weights(rows["weight"])
        curved: Any = 0.0
        for logits, counted in zip(outputs, (weights, part.clean), strict=True):
            p = jax.nn.softmax(logits)
            curved += counted @ (p * (1 - p))
        curved = curved / _count(part) + 1e-8  # Where a class is never predicted.
        kernel = curved[:, None] * points.moments[None] + self._penalty(points, part)
        diagonal = {"head": {"bias": curved, "kernel": kernel}}
        return lambda v: jax.tree.map(jnp.divide, v, diagonal)

    def _outputs(
        self, theta: PyTree, rows: Rows, points: Points, part: Part
    ) -> tuple[chex.Array, chex.Array]:
        del rows, part
        return self.logits(theta, points.train), self.logits(theta, points.clean)

    def _loss(
        self,
        outputs: tuple[chex.Array, chex.Array],
        theta: PyTree,
        rows: Rows,
        points: Points,
        part: Part,
    ) -> chex.Array:
        train = self.objective.point_losses(outputs[0], points.labels, rows)
        clean = losses.cross_entropy(outputs[1], points.clean_labels)
        total = jnp.sum(part.train * train) + jnp.sum(part.clean * clean)
        kernels = [leaf for leaf in jax.tree.leaves(theta) if leaf.ndim > 1]
        penalty = losses.l2_penalty(kernels, 1.0) * self._penalty(points, part)
        return total / _count(part) + penalty

    def _penalty(self, points: Points, part: Part) -> chex.Numeric:
        if not self.prior_variance:
            return self.objective.weight_decay
        # The mean squares sum to the number of features that vary.
        return jnp.sum(points.moments) / (self.prior_variance * _count(part))


def _count(part: Part) -> chex.Array:
    return optax.tree.sum(part)
