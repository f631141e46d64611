"""Newton's method with conjugate gradients, for inner problems that are solved."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import PyTree
from autodo_jax.implicit import solvers

_FORCING = 0.1  # residual of each Newton system, relative
_LAST_FORCING = 0.01  # the least, of a step that is to be the last
_SLOPE = 1e-4  # share of the predicted decrease that a step must bring
_SMALLEST = 2.0**-10  # step length
_ROUNDING = 1e-6  # relative error of a float32 loss


class Minimum(NamedTuple):
    """The outcome of `minimize`; scalars but for the parameters."""

    theta: PyTree
    loss: chex.Array
    grad_norm: chex.Array
    limit: chex.Array  # of the gradient's norm
    num_steps: chex.Array  # Newton steps
    num_products: chex.Array  # with the curvature, in all


def minimize(
    loss: Callable[[PyTree], chex.Array],
    curvature: Callable[[PyTree], tuple[solvers.Matvec, solvers.Matvec | None]],
    theta: PyTree,
    *,
    tolerance: float,
    start_norm: chex.Numeric = 0.0,
    max_steps: int = 30,
    max_products: int = 30,
) -> Minimum:
    """Returns parameters where the gradient's norm is `tolerance * start_norm` at most.

    Each step solves the Newton system by preconditioned conjugate gradients to a
    residual of a tenth, or to a smaller one, a hundredth at least, that makes the step
    the last; and is halved until the loss falls by enough (Armijo). It ends earlier,
    with a larger norm, after `max_steps`, or where no step brings the loss down.

    Args:
      loss: of the parameters; convex, or with a positive semi-definite `curvature`.
      curvature: `theta -> (matvec, preconditioner or None)`.
      theta: pytree to start from.
      tolerance: > 0.
      start_norm: a norm of the gradient; 0: that at `theta`.
      max_steps: Newton steps at most.
      max_products: products of each step at most.
    """
    value_and_grad = jax.value_and_grad(loss)
    value, grad = value_and_grad(theta)
    limit = tolerance * jnp.where(start_norm > 0, start_norm, optax.tree.norm(grad))

    class State(NamedTuple):
        theta: PyTree
        value: chex.Array
        grad: PyTree
        steps: chex.Array
        products: chex.Array
        stuck: chex.Array

    def is_unfinished(state: State) -> chex.Array:
        is_far = optax.tree.norm(state.grad) > limit
        return is_far & (state.steps < max_steps) & ~state.stuck

    def step(state: State) -> State:
        matvec, precondition = curvature(state.theta)
        solver = solvers.conjugate_gradient(
            max_products, tol=1.0, preconditioner=precondition
        )
        norm = optax.tree.norm(state.grad)
        unit = optax.tree.scale(1 / norm, state.grad)
        needed = limit / (2 * norm)
        forcing = jnp.where(
            needed < _LAST_FORCING, _FORCING, jnp.minimum(needed, _FORCING)
        )
        direction, info = solver.bounded(matvec, unit, forcing)
        direction = optax.tree.scale(norm, direction)
        slope = optax.tree.vdot(state.grad, direction)

        def at(length: chex.Array) -> tuple[chex.Array, PyTree, chex.Array, PyTree]:
            moved = optax.tree.add_scale(state.theta, -length, direction)
            return length, moved, *value_and_grad(moved)

        def is_too_long(tried: tuple) -> chex.Array:
            length, _, value, _ = tried
            enough = state.value - _SLOPE * length * slope
            slack = _ROUNDING * jnp.abs(state.value)
            return ~(value <= enough + slack) & (length > _SMALLEST)

        length, moved, value, grad = jax.lax.while_loop(
            is_too_long, lambda tried: at(tried[0] / 2), at(jnp.ones_like(state.value))
        )
        return State(
            moved,
            value,
            grad,
            state.steps + 1,
            state.products + info.num_iters,
            length <= _SMALLEST,
        )

    zero = jnp.zeros((), jnp.int32)
    start = State(theta, value, grad, zero, zero, jnp.zeros((), bool))
    end = jax.lax.while_loop(is_unfinished, step, start)
    norm = optax.tree.norm(end.grad)
    return Minimum(end.theta, end.value, norm, limit, end.steps, end.products)
