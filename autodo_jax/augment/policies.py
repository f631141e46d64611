"""Fixed policies: RandAugment, UniformAugment, Fast AutoAugment and DADA.

Pure functions of uint8 images [B, H, W, C], applied before the standard augmentation.
First the operations of each image are drawn, then they are applied to all images. For
Fast AutoAugment and DADA the sub-policies are the published ones.
"""

import functools
import importlib.resources
import json
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax.augment import pil_ops

NAMES = (
    "none",
    "randaugment",
    "randaugment_color",
    "uniform_augment",
    "fast_autoaugment",
    "dada",
)
# The data sets with published policies.
TABLES = ("svhn", "cifar10", "cifar100", "imagenet")

# The operations that AutoDO draws from, fewer than in the RandAugment paper.
# `randaugment_color` is for the methods with affine operations of their own.
_COLOR = ("Identity", "AutoContrast", "Equalize", "Invert", "Color", "Sharpness")
_AFFINE = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
_RANDAUGMENT = {"randaugment": _COLOR + _AFFINE, "randaugment_color": _COLOR}
_MAX_MAGNITUDE = 30
_FILES = {"fast_autoaugment": "faa.json", "dada": "dada.json"}

_INDEX = {name: index for index, name in enumerate(pil_ops.OPERATIONS)}
_IDENTITY = _INDEX["Identity"]
_UNIFORM = tuple(name for name in _INDEX if name != "Identity")
_LOW = np.array([op.low for op in pil_ops.OPERATIONS.values()])
_HIGH = np.array([op.high for op in pil_ops.OPERATIONS.values()])
_IS_SIGNED = np.array([op.is_signed for op in pil_ops.OPERATIONS.values()])


class Draw(NamedTuple):
    """The n operations of one image, in order; Identity in place of skipped ones."""

    index: chex.Array  # int32 [n], in the order of pil_ops.OPERATIONS
    value: chex.Array  # float32 [n], in the operation's unit, sign included
    place: chex.Array  # float32 [n, 2] in [0, 1), Cutout's centre


class SubPolicies(NamedTuple):
    """P pairs of operations; an image gets one of the pairs."""

    index: chex.Array  # int32 [P, 2], in the order of pil_ops.OPERATIONS
    probability: chex.Array  # float32 [P, 2], of the operation being applied
    value: chex.Array  # float32 [P, 2], in the operation's unit, before the random sign


@functools.cache
def load(policy: str, table: str) -> SubPolicies:
    """Returns the published sub-policies of `fast_autoaugment` or `dada`.

    Args:
      policy: `fast_autoaugment` or `dada`.
      table: one of `TABLES`.

    Raises:
      ValueError: an unknown table.
    """
    if table not in TABLES:
        raise ValueError(
            f"{policy} has no policy for {table!r}; use one of {', '.join(TABLES)}"
        )
    folder = importlib.resources.files("autodo_jax.augment") / "tables"
    found = json.loads((folder / _FILES[policy]).read_text("utf-8"))["policies"]
    pairs = found[table]
    if "ref" in pairs:
        pairs = found[pairs["ref"]]
    index = np.array([[_INDEX[name] for name, _, _ in pair] for pair in pairs])
    probability = np.array([[p for _, p, _ in pair] for pair in pairs])
    level = np.array([[level for _, _, level in pair] for pair in pairs])
    value = _LOW[index] + level * (_HIGH - _LOW)[index]
    return SubPolicies(
        index.astype(np.int32), probability.astype(np.float32), value.astype(np.float32)
    )


def draw_sub_policy(key: chex.PRNGKey, sub_policies: SubPolicies) -> Draw:
    """Draws a pair uniformly, then whether each of its operations is applied."""
    choice, opening, sign, *place = jax.random.uniform(key, (5, 2), jnp.float32)
    pair = _below(len(sub_policies.index), choice[0])
    index, probability, value = (jnp.asarray(rows)[pair] for rows in sub_policies)
    return Draw(
        jnp.where(opening < probability, index, _IDENTITY),
        _with_random_sign(sign, index, value),
        jnp.stack(place, -1),
    )


def _draw_operations(
    key: chex.PRNGKey,
    names: tuple[str, ...],
    num_ops: int,
    *,
    low: np.ndarray,
    span: np.ndarray,
) -> Draw:
    """Draws operations with replacement, their values in `low` to `low + span`."""
    # All numbers at once, because each draw is a loop of its own on CPUs.
    choice, level, sign, *place = jax.random.uniform(key, (5, num_ops), jnp.float32)
    known = jnp.array([_INDEX[name] for name in names], jnp.int32)
    index = known[_below(len(names), choice)]
    lows, spans = (jnp.asarray(bound, jnp.float32)[index] for bound in (low, span))
    return Draw(
        index,
        _with_random_sign(sign, index, lows + level * spans),
        jnp.stack(place, -1),
    )


def _draw_randaugment(
    key: chex.PRNGKey, names: tuple[str, ...], num_ops: int, magnitude: float
) -> Draw:
    low = np.where(_IS_SIGNED, 0, _LOW)
    span = (_HIGH - low) * magnitude / _MAX_MAGNITUDE
    return _draw_operations(key, names, num_ops, low=low, span=span)


def _draw_uniform_augment(key: chex.PRNGKey, num_ops: int) -> Draw:
    drawn_key, open_key = jax.random.split(key)
    drawn = _draw_operations(drawn_key, _UNIFORM, num_ops, low=_LOW, span=_HIGH - _LOW)
    opening, probability = jax.random.uniform(open_key, (2, num_ops), jnp.float32)
    index = jnp.where(opening < probability, drawn.index, _IDENTITY)
    return drawn._replace(index=index)


def _below(bound: int, uniform: chex.Array) -> chex.Array:
    """Turns draws from [0, 1) into integers from 0 to `bound - 1`."""
    return (uniform * bound).astype(jnp.int32)


def _with_random_sign(
    uniform: chex.Array, index: chex.Array, value: chex.Array
) -> chex.Array:
    is_negative = (uniform < 0.5) & jnp.asarray(_IS_SIGNED)[index]
    return jnp.where(is_negative, -value, value)


def draw(
    key: chex.PRNGKey, *, policy: str, table: str, num_ops: int, magnitude: float
) -> Draw:
    """Draws the operations of one image; the options are those of `augment`."""
    if policy in _FILES:
        return draw_sub_policy(key, load(policy, table))
    if policy in _RANDAUGMENT:
        return _draw_randaugment(key, _RANDAUGMENT[policy], num_ops, magnitude)
    if policy == "uniform_augment":
        return _draw_uniform_augment(key, num_ops)
    raise ValueError(f"unknown policy {policy!r}; use one of {', '.join(NAMES)}")


def drawable(policy: str, table: str) -> tuple[str, ...]:
    """Returns the operations that may be drawn; the options are those of `augment`."""
    if policy in _FILES:
        names = list(pil_ops.OPERATIONS)
        return tuple(names[i] for i in np.unique(load(policy, table).index))
    return _RANDAUGMENT.get(policy, _UNIFORM)


def apply(draws: Draw, images: chex.Array, names: tuple[str, ...]) -> chex.Array:
    """Applies the n operations of each image to it.

    Args:
      draws: of all images, with a leading axis of B.
      images: uint8 [B, H, W, C].
      names: operations that may be drawn, besides Identity.
    """
    apply_all = jax.vmap(functools.partial(pil_ops.apply, names=names))

    def apply_one(images: chex.Array, drawn: Draw) -> tuple[chex.Array, None]:
        return apply_all(drawn.index, images, drawn.value, drawn.place), None

    in_order = Draw(*(jnp.moveaxis(field, 1, 0) for field in draws))
    # In an unrolled loop XLA would fuse an operation into the next and compute its
    # pixels again each time they are read: five times slower on CPUs.
    return jax.lax.scan(apply_one, images, in_order)[0]


def augment(
    keys: chex.PRNGKey,
    images: chex.Array,
    *,
    policy: str,
    table: str,
    num_ops: int,
    magnitude: float,
) -> chex.Array:
    """Draws operations for each image with its own key, and applies them.

    Args:
      keys: [B] PRNG keys; an image's operations depend on its own key only.
      images: uint8 [B, H, W, C], C = 1 or 3.
      policy: one of `NAMES`; `none` returns the images.
      table: one of `TABLES`, for `fast_autoaugment` and `dada`; not used by others.
      num_ops: operations an image gets, for `randaugment`, `randaugment_color` and
        `uniform_augment`; the published sub-policies have two.
      magnitude: M in [0, 30] of `randaugment` and `randaugment_color`: the largest
        share of an operation's range, in thirtieths.

    Returns:
      Images like `images`.

    Raises:
      ValueError: an unknown policy or table.
    """
    if policy == "none":
        return images
    draw_one = functools.partial(
        draw, policy=policy, table=table, num_ops=num_ops, magnitude=magnitude
    )
    return apply(jax.vmap(draw_one)(keys), images, drawable(policy, table))
