"""Colour operations of g_A, from dm-pix; not part of the paper's list.

Images are float arrays [B, H, W, C] in [0, 1], before and after. `Operation.apply`
takes one image [H, W, C] and a scalar magnitude.
"""

from collections.abc import Sequence

import chex
import dm_pix
import jax
import jax.numpy as jnp

from autodo_jax.augment.affine import Operation

# Factors of zero or less have no meaning; Gaussian magnitudes reach them in their tail.
_MIN_FACTOR = 0.1


def _positive(factor: chex.Array) -> chex.Array:
    return jnp.maximum(factor, _MIN_FACTOR)


def _gamma(image: chex.Array, gamma: chex.Array) -> chex.Array:
    # The derivative of x**gamma at x = 0 is not finite.
    return dm_pix.adjust_gamma(jnp.maximum(image, 1e-6), _positive(gamma))


OPERATIONS = {
    "brightness": Operation(dm_pix.adjust_brightness, 0.0, 0.3),
    "contrast": Operation(
        lambda image, m: dm_pix.adjust_contrast(image, _positive(m)), 1.0, 0.5
    ),
    "saturation": Operation(
        lambda image, m: dm_pix.adjust_saturation(image, _positive(m)), 1.0, 0.5
    ),
    "hue": Operation(dm_pix.adjust_hue, 0.0, 0.1),
    "gamma": Operation(_gamma, 1.0, 0.5),
}

# Defined for three colour channels only.
NEEDS_RGB = frozenset({"saturation", "hue"})


def apply(
    names: Sequence[str], images: chex.Array, gates: chex.Array, magnitudes: chex.Array
) -> chex.Array:
    """Applies the operations in the order of `names`, each if its gate is open.

    Args:
      names: keys of `OPERATIONS`.
      images: [B, H, W, C] in [0, 1].
      gates: [B, len(names)], 0 or 1 with a straight-through gradient.
      magnitudes: [B, len(names)].
    """
    for a, name in enumerate(names):
        changed = jax.vmap(OPERATIONS[name].apply)(images, magnitudes[:, a])
        gate = gates[:, a, None, None, None]
        images = images + gate * (jnp.clip(changed, 0, 1) - images)
    return images
