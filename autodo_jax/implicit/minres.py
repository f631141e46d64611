"""MINRES: symmetric systems that may be indefinite or singular."""

import dataclasses
from typing import NamedTuple

import chex
import jax.numpy as jnp

from autodo_jax._typing import PyTree
from autodo_jax.implicit import loops, tree
from autodo_jax.implicit.krylov import check_options, solve_scaled, tolerance
from autodo_jax.implicit.linear import HashableOptions, Matvec, damp


class MinresInfo(NamedTuple):
    """Outcome of a MINRES solve."""

    num_iters: chex.Array  # products used
    residual_norm: chex.Array  # |A x - b| / |b| by the recurrence, in the norm of M


def minres(
    max_iters: int = 20,
    *,
    tol: float | None = None,
    damping: float = 0.0,
    preconditioner: Matvec | None = None,
) -> "Minres":
    """The minimal residual method (Paige and Saunders, 1975) for a symmetric A.

    Right on indefinite systems (saddle points); on singular ones that have a solution
    it gives the one of smallest norm, and on those that have none a solution of least
    squares. Takes at most `max_iters` products. The residual never grows; `b = 0`
    gives 0.

    Args:
      max_iters: maximal number of iterations, >= 1.
      tol: stops at `|A x - b| <= tol * |b|`; None: ten times machine epsilon.
      damping: d >= 0, solves with `A + d I`.
      preconditioner: `v -> M v` with M symmetric positive definite, close to `|A|^-1`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> scales = jnp.array([1.0, -4.0])
      >>> x, info = solvers.minres(5)(lambda v: scales * v, jnp.array([1.0, 1.0]))
      >>> [round(float(value), 3) for value in x]
      [1.0, -0.25]
    """
    return Minres(max_iters, tol, damping, preconditioner)


class _State(NamedTuple):
    """Names as in the paper: a Lanczos process and the QR factors of its matrix."""

    k: chex.Array
    x: PyTree
    r1: PyTree  # Lanczos vectors, before M
    r2: PyTree
    y: PyTree  # M r2
    w1: PyTree  # directions
    w2: PyTree
    beta: chex.Array  # |r2| in the norm of M
    old_beta: chex.Array
    dbar: chex.Array
    epsilon: chex.Array
    phibar: chex.Array  # |b - A x|
    cos: chex.Array
    sin: chex.Array
    a_squared: chex.Array  # squared Frobenius norm of the Lanczos matrix
    stopped: chex.Array  # bool: the residual cannot become smaller


@dataclasses.dataclass(frozen=True, eq=False)
class Minres(HashableOptions):
    """The solver that `minres` returns; see there."""

    max_iters: int
    tol: float | None
    damping: float
    preconditioner: Matvec | None

    def __post_init__(self) -> None:
        check_options(self.max_iters, self.tol, self.damping, self.preconditioner)

    def __call__(self, matvec: Matvec, b: PyTree) -> tuple[PyTree, MinresInfo]:
        return solve_scaled(self, matvec, b)

    def bounded(
        self, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric = 1.0
    ) -> tuple[PyTree, MinresInfo]:
        """Solves for a b of unit norm, to a tolerance relative to `tol_scale`."""
        matvec = damp(matvec, self.damping)
        threshold = tolerance(self.tol, b) * tol_scale
        precondition = self.preconditioner or (lambda v: v)
        start = _start(b, precondition)
        beta1 = start.beta

        def is_unfinished(state: _State) -> chex.Array:
            is_large = state.phibar > threshold * beta1
            return (state.k < self.max_iters) & ~state.stopped & is_large

        def iterate(state: _State) -> _State:
            return _iterate(state, matvec, precondition)

        end = loops.while_loop(is_unfinished, iterate, start)
        return end.x, MinresInfo(end.k, end.phibar / tree.nonzero(beta1))


def _start(unit: PyTree, precondition: Matvec) -> _State:
    y, zero = precondition(unit), tree.zeros_like(unit)
    beta = jnp.sqrt(jnp.maximum(tree.vdot(unit, y), 0))
    nothing = jnp.zeros_like(beta)
    return _State(
        k=jnp.zeros((), jnp.int32),
        x=zero,
        r1=zero,
        r2=unit,
        y=y,
        w1=zero,
        w2=zero,
        beta=beta,
        old_beta=nothing,
        dbar=nothing,
        epsilon=nothing,
        phibar=beta,
        cos=-jnp.ones_like(beta),
        sin=nothing,
        a_squared=nothing,
        stopped=beta == 0,
    )


def _iterate(s: _State, matvec: Matvec, precondition: Matvec) -> _State:
    # Lanczos: the next row of the tridiagonal matrix.
    v = tree.scale(1 / tree.nonzero(s.beta), s.y)
    product = matvec(v)
    product = tree.add_scaled(product, -s.beta / tree.nonzero(s.old_beta), s.r1)
    alpha = tree.vdot(v, product)
    r3 = tree.add_scaled(product, -alpha / tree.nonzero(s.beta), s.r2)
    y = precondition(r3)
    beta = jnp.sqrt(jnp.maximum(tree.vdot(r3, y), 0))
    a_squared = s.a_squared + alpha**2 + 2 * beta**2
    # QR: the last rotation on the new column, and the next one.
    delta = s.cos * s.dbar + s.sin * alpha
    gbar = s.sin * s.dbar - s.cos * alpha
    dbar = -s.cos * beta
    gamma = jnp.sqrt(gbar**2 + beta**2)
    rounding = 100 * tree.epsilon(v) * jnp.sqrt(a_squared)
    # |A r| / |r|: at zero x solves the least squares, and the next step may be 0 / 0.
    is_least = jnp.sqrt(gbar**2 + dbar**2) <= rounding
    cos, sin = gbar / tree.nonzero(gamma), beta / tree.nonzero(gamma)
    phi, phibar = cos * s.phibar, sin * s.phibar
    # 0 at a least residual, so that x stays.
    inverse = jnp.where(is_least, 0, 1) / tree.nonzero(gamma)
    w = tree.add_scaled(tree.scale(inverse, v), -s.epsilon * inverse, s.w1)
    w = tree.add_scaled(w, jnp.where(is_least, 0, -delta) / tree.nonzero(gamma), s.w2)
    x = tree.add_scaled(s.x, phi, w)
    return _State(
        k=s.k + 1,
        x=x,
        r1=s.r2,
        r2=r3,
        y=y,
        w1=s.w2,
        w2=w,
        beta=beta,
        old_beta=s.beta,
        dbar=dbar,
        epsilon=s.sin * beta,
        phibar=jnp.where(is_least, s.phibar, phibar),
        cos=cos,
        sin=sin,
        a_squared=a_squared,
        stopped=is_least | (beta <= rounding),
    )
