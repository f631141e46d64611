"""Curvatures: the Hessian of the inner loss in Eq. 5, and approximations of it.

A curvature is a callable `(inner_loss, params, hparams, inner_args) -> matvec`; its
product must be symmetric and linear. `hypergrad` takes the mixed derivative from the
inner loss itself, whatever the curvature.
"""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks
from autodo_jax.implicit.finite_difference import FiniteDifference, finite_difference
from autodo_jax.implicit.linear import Matvec, damp

__all__ = [
    "Curvature",
    "FiniteDifference",
    "Hessian",
    "finite_difference",
    "fisher",
    "gauss_newton",
    "hessian",
]

Curvature = Callable[[Callable, PyTree, PyTree, tuple], Matvec]

_MODES = ("forward-over-reverse", "reverse-over-reverse")


def hessian(mode: str = "forward-over-reverse", damping: float = 0.0) -> "Hessian":
    """The Hessian of the inner loss in the parameters, plus `damping` times I.

    Args:
      mode: `"forward-over-reverse"` (a jvp of the gradient, the cheapest), or
        `"reverse-over-reverse"` (a vjp of it) for losses with a `jax.custom_vjp`, which
        has no forward mode.
      damping: d >= 0.

    Raises:
      ValueError: an unknown mode.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import curvature
      >>> loss = lambda w, lam, x: jnp.sum((x @ w) ** 2) + lam * jnp.sum(w**2)
      >>> w, lam, x = jnp.ones(2), 3.0, jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> matvec = curvature.hessian()(loss, w, lam, (x,))
      >>> [round(float(value), 2) for value in matvec(jnp.ones(2))]
      [8.0, 14.0]
    """
    return Hessian(mode, damping)


@dataclasses.dataclass(frozen=True)
class Hessian:
    """The curvature that `hessian` returns; see there."""

    mode: str
    damping: float

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise ValueError(f"`mode` must be one of {_MODES}, got {self.mode!r}.")
        checks.check_nonnegative("damping", self.damping)

    def __call__(
        self, inner_loss: Callable, params: PyTree, hparams: PyTree, inner_args: tuple
    ) -> Matvec:
        def gradient(theta: PyTree) -> PyTree:
            return jax.grad(inner_loss)(theta, hparams, *inner_args)

        # Linearized once, so that all products share the forward pass.
        if self.mode == "forward-over-reverse":
            _, product = jax.linearize(gradient, params)
        else:
            _, pullback = jax.vjp(gradient, params)
            product = lambda v: pullback(v)[0]  # noqa: E731
        return damp(product, self.damping)


def gauss_newton(
    outputs_fn: Callable, loss_on_outputs: Callable, damping: float = 0.0
) -> Curvature:
    """Generalized Gauss-Newton matrix: the Hessian with the outputs linearized.

    `J' (d2 loss / d outputs2) J`, and where `loss_on_outputs` depends on the parameters
    directly (weight decay) its second derivatives in them too. Positive semi-definite
    where the loss is convex in the outputs.

    Args:
      outputs_fn: `(params, hparams, *inner_args) -> outputs`, any pytree.
      loss_on_outputs: `(outputs, params, hparams, *inner_args) -> scalar`; on
        the outputs of `outputs_fn` it must equal the inner loss.
      damping: d >= 0, adds d I.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import curvature
      >>> loss = lambda w, lam, x: jnp.sum((x @ w) ** 2) + lam * jnp.sum(w**2)
      >>> w, lam, x = jnp.ones(2), 3.0, jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> gauss_newton = curvature.gauss_newton(
      ...     lambda w, lam, x: x @ w,
      ...     lambda out, w, lam, x: jnp.sum(out**2) + lam * jnp.sum(w**2),
      ... )
      >>> matvec = gauss_newton(loss, w, lam, (x,))
      >>> [round(float(value), 2) for value in matvec(jnp.ones(2))]
      [8.0, 14.0]
    """
    checks.check_callable("outputs_fn", outputs_fn, "see the docstring")
    checks.check_callable("loss_on_outputs", loss_on_outputs, "see the docstring")
    checks.check_nonnegative("damping", damping)
    loss_on_outputs = checks.scalar_loss("loss_on_outputs", loss_on_outputs)

    def curvature(
        inner_loss: Callable, params: PyTree, hparams: PyTree, inner_args: tuple
    ) -> Matvec:
        del inner_loss
        outputs, pushforward = jax.linearize(
            lambda theta: outputs_fn(theta, hparams, *inner_args), params
        )

        def gradient(offset: PyTree) -> PyTree:
            # By the offset from params, because a linearized function takes tangents.
            def loss(delta: PyTree) -> chex.Array:
                linearized = optax.tree.add(outputs, pushforward(delta))
                theta = optax.tree.add(params, delta)
                return loss_on_outputs(linearized, theta, hparams, *inner_args)

            return jax.grad(loss)(offset)

        _, product = jax.linearize(gradient, optax.tree.zeros_like(params))
        return damp(product, damping)

    return curvature


def fisher(per_example_losses: Callable, damping: float = 0.0) -> Curvature:
    """Empirical Fisher information `sum_i u_i u_i' / N` (Eq. 7, App. C).

    `u_i` is the gradient of the i-th loss in the parameters. Positive semi-definite;
    equal to the Hessian in expectation where the model fits the labels.

    Args:
      per_example_losses: `(params, hparams, *inner_args) -> [N]` losses whose mean is
        the data term of the inner loss.
      damping: d >= 0, adds d I (the weight decay, for example).

    Raises:
      ValueError: losses that are not a vector.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import curvature
      >>> loss = lambda w, lam, x: jnp.mean(0.5 * (x @ w) ** 2)
      >>> w, lam, x = jnp.ones(2), 3.0, jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> fisher = curvature.fisher(lambda w, lam, x: 0.5 * (x @ w) ** 2)
      >>> matvec = fisher(loss, w, lam, (x,))  # u = [1, 0] and [0, 4]
      >>> [round(float(value), 2) for value in matvec(jnp.ones(2))]
      [0.5, 8.0]
    """
    checks.check_callable("per_example_losses", per_example_losses, "returning [N]")
    checks.check_nonnegative("damping", damping)

    def curvature(
        inner_loss: Callable, params: PyTree, hparams: PyTree, inner_args: tuple
    ) -> Matvec:
        del inner_loss
        losses, pushforward = jax.linearize(
            lambda theta: per_example_losses(theta, hparams, *inner_args), params
        )
        if jnp.ndim(losses) != 1:
            raise ValueError(
                "`per_example_losses` must return an array of shape [N], got "
                f"{jnp.shape(losses)}."
            )
        pullback = jax.linear_transpose(pushforward, params)

        def product(v: PyTree) -> PyTree:
            return pullback(pushforward(v) / losses.size)[0]

        return damp(product, damping)

    return curvature
