"""g_A: the learned augmentation of each point (Sec. 4.1, Eq. 8)."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from autodo_jax.augment import affine, color, gates

OPERATIONS = {**affine.OPERATIONS, **color.OPERATIONS}


def augment(
    keys: chex.PRNGKey,
    images: chex.Array,
    gate_logits: chex.Array,
    magnitude_logits: chex.Array,
    *,
    operations: Sequence[str],
    magnitude: float = 10.0,
    temperature: float = 1.0,
) -> chex.Array:
    """Draws gates and magnitudes for each image and applies the operations.

    The affine operations come first, as one map and one resampling, then the colour
    operations, both in the order given. A closed gate skips its operation.
    Differentiable in the logits (straight-through in the gates).

    Args:
      keys: [B] PRNG keys, one for each point, so that its draw does not depend on the
        batch or the device it is in.
      images: [B, H, W, C] in [0, 1].
      gate_logits: lambda^Ab, [B, A].
      magnitude_logits: lambda^Am, [B, A].
      operations: names of the A operations, keys of `OPERATIONS`, each at most once.
      magnitude: M, which scales all ranges as M / 10.
      temperature: of the relaxed gates.

    Returns:
      Images like `images`.
    """
    mean = jnp.array([OPERATIONS[name].mean for name in operations], images.dtype)
    unit = jnp.array([OPERATIONS[name].range for name in operations], images.dtype)

    def draw(
        key: chex.PRNGKey, gate_row: chex.Array, magnitude_row: chex.Array
    ) -> tuple[chex.Array, chex.Array]:
        gate_key, magnitude_key = jax.random.split(key)
        return (
            gates.sample_gates(gate_key, gate_row, temperature=temperature),
            gates.sample_magnitudes(
                magnitude_key, magnitude_row, mean=mean, unit=unit * (magnitude / 10)
            ),
        )

    opened, drawn = jax.vmap(draw)(keys, gate_logits, magnitude_logits)
    is_affine = [name in affine.OPERATIONS for name in operations]
    first = [a for a, kind in enumerate(is_affine) if kind]
    then = [a for a, kind in enumerate(is_affine) if not kind]
    if first:
        # At its mean an operation is the identity, so a closed gate means the mean.
        gated = mean[None] + opened * (drawn - mean[None])
        pull_map = affine.compose(
            [operations[a] for a in first],
            gated[:, jnp.array(first)],
            images.shape[1:3],
        )
        images = affine.resample(images, pull_map)
    if then:
        chosen = jnp.array(then)
        images = color.apply(
            [operations[a] for a in then], images, opened[:, chosen], drawn[:, chosen]
        )
    return images
