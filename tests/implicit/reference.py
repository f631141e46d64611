"""What a problem of the bank is, and the yardsticks: errors and Newton's method."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Problem:
    """One bilevel problem with its solution; arrays in numpy's double precision."""

    inner: Callable  # (params, hparams, *inner_args) -> scalar
    outer: Callable  # (params, hparams, *outer_args) -> scalar
    params: PyTree  # where the gradient of `inner` (or the root function) is zero
    hparams: PyTree
    inner_args: tuple
    outer_args: tuple
    reference: PyTree  # dL_v/dhparams
    hessian: np.ndarray  # of `inner` in the flat params, at the solution
    solve: Callable  # (hparams, *inner_args) -> params, differentiable

    @property
    def eigenvalues(self) -> np.ndarray:
        return np.linalg.eigvalsh(self.hessian)

    @property
    def operands(self) -> tuple:
        """`(params, hparams, inner_args, outer_args)` in JAX's current precision."""
        return jax.tree.map(
            jnp.asarray, (self.params, self.hparams, self.inner_args, self.outer_args)
        )


def relative_error(got: PyTree, expected: PyTree) -> float:
    """`|got - expected| / |expected|` over all leaves, in double precision."""
    structures: list[Any] = [jax.tree.structure(x) for x in (got, expected)]
    assert structures[0] == structures[1]
    pairs = list(zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True))
    assert all(np.shape(a) == np.shape(b) for a, b in pairs)
    a, b = (
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in side])
        for side in zip(*pairs, strict=True)
    )
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def run_once(function: Callable, *operands: Any) -> Any:
    """`function(*operands)`, compiled."""
    mapped: Any = function if hasattr(function, "lower") else jax.jit(function)
    return mapped(*operands)


def newton(loss: Callable, start: PyTree, num_steps: int) -> PyTree:
    """Minimises `loss` by Newton steps that reverse mode can pass through."""
    flat, unravel = ravel_pytree(start)

    def flat_loss(w):
        return loss(unravel(w))

    def step(w, _):
        direction = jnp.linalg.solve(jax.hessian(flat_loss)(w), jax.grad(flat_loss)(w))
        return w - direction, None

    return unravel(jax.lax.scan(step, flat, None, length=num_steps)[0])
