"""A user's own network: the contract it has to fulfil, and a name for it."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from autodo_jax._typing import PyTree
from autodo_jax.errors import ModelError


def validate_model(
    model: nn.Module, image_shape: tuple[int, ...], num_classes: int, axis: str
) -> PyTree:
    """Refuses a network that does not fulfil the contract of `optimize_dataset`.

    Args:
      model: a user's network.
      image_shape: (H, W, channels) as the network gets them.
      num_classes: C.
      axis: name of the mapped axis over which devices share a batch.

    Returns:
      The shapes of its variables.

    Raises:
      ModelError: says which part of the contract does not hold.
    """
    images = jnp.zeros((2, *image_shape))
    if not callable(getattr(model, "features", None)):
        raise ModelError(
            "`model` has no method features(images, *, train), the inputs of its head"
        )
    try:
        variables, logits, features = jax.eval_shape(_trial(model, axis), images)
    except Exception as error:  # Whatever the user's code raises.
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"`model` cannot be applied to images {images.shape}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    others = variables.keys() - {"params", "batch_stats"}
    if others:
        raise ModelError(
            f"`model` has variables of the kind {', '.join(sorted(others))}; expected "
            '"params" and "batch_stats" alone'
        )
    if set(variables["params"].get("head", ())) - {"bias"} != {"kernel"}:
        raise ModelError(
            "`model` has no nn.Dense named `head` at its top level, the theta of Eq. 5 "
            f"(its parts are {', '.join(sorted(variables['params']))})"
        )
    kernel = variables["params"]["head"]["kernel"].shape
    if logits.shape != (2, num_classes) or features.shape != (2, kernel[0]):
        raise ModelError(
            f"`model` maps images {images.shape} to {logits.shape} and features "
            f"{features.shape}, expected (2, {num_classes}), for the classes of the "
            f"labels, and (2, {kernel[0]}), for its head"
        )
    return variables


def fingerprint(model: nn.Module, variables: PyTree) -> str:
    """Returns a name that is the same for the same network in later processes.

    Args:
      model: a network.
      variables: its variables, or their shapes.
    """
    without_addresses = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    shapes = jax.tree.map(lambda leaf: leaf.shape, variables)
    digest = hashlib.sha256(f"{without_addresses} {shapes}".encode()).hexdigest()
    return f"{type(model).__name__} {digest[:12]}"


def _trial(model: nn.Module, axis: str) -> Callable:
    def train(params: PyTree, others: dict[str, PyTree], images: jax.Array) -> PyTree:
        variables = {"params": params, **others}
        return model.apply(variables, images, train=True, mutable=list(others))

    def apply(images: jax.Array) -> tuple[PyTree, Any, Any]:
        variables = model.init(jax.random.key(0), images, train=False)
        logits = model.apply(variables, images, train=False)
        features = model.apply(variables, images, train=False, method="features")
        others = {name: variables[name] for name in variables if name != "params"}
        jax.vmap(train, (None, None, 0), axis_name=axis)(
            variables["params"], others, images[None]
        )
        return variables, logits, features

    return apply
