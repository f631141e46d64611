"""Conjugate gradients: for a positive definite A, and on the normal equations."""

import dataclasses
from typing import NamedTuple

import chex
import jax.numpy as jnp

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, loops, tree
from autodo_jax.implicit.linear import HashableOptions, Matvec, damp, transpose


class ConjugateGradientInfo(NamedTuple):
    """Outcome of a conjugate-gradient solve."""

    num_iters: chex.Array  # products used
    residual_norm: chex.Array  # |A x - b| / |b| by the recurrence
    negative_curvature: chex.Array  # True: stopped at a direction with p' A p <= 0


def check_options(
    max_iters: int,
    tol: float | None,
    damping: float,
    preconditioner: Matvec | None = None,
) -> None:
    """Raises a TypeError or ValueError for options that no Krylov solver takes."""
    checks.check_count("max_iters", max_iters, minimum=1)
    checks.check_nonnegative("damping", damping)
    if tol is not None:
        checks.check_nonnegative("tol", tol)
    if preconditioner is not None:
        checks.check_callable("preconditioner", preconditioner, "`v -> M v`")


def tolerance(tol: float | None, b: PyTree) -> chex.Numeric:
    """Returns `tol`, or where it is None ten times machine epsilon."""
    return 10 * tree.epsilon(b) if tol is None else tol


def conjugate_gradient(
    max_iters: int = 20,
    *,
    tol: float | None = None,
    damping: float = 0.0,
    preconditioner: Matvec | None = None,
) -> "ConjugateGradient":
    """Preconditioned conjugate gradients for a symmetric positive definite A.

    Takes at most `max_iters` products. The right-hand side is scaled to unit norm, so
    tiny gradients do not underflow; `b = 0` gives 0. Returns the iterate of smallest
    residual. Where b lies along small eigenvalues the residual of iterates may grow for
    long; such an iterate is not taken whole, but the point of smallest residual on the
    line to it (smoothing: Zhou and Walker, 1994). So the residual never grows, and is
    at most |b|. At a direction of negative curvature it takes the step of smallest
    residual along it and stops; its `ConjugateGradientInfo` says so.

    Args:
      max_iters: maximal number of iterations, >= 1.
      tol: stops at `|A x - b| <= tol * |b|`; None: ten times machine epsilon. As the
        solver of `hypergrad`, with `x0` too, b is the right-hand side of the system.
      damping: d >= 0, solves with `A + d I`.
      preconditioner: `v -> M v` with M symmetric positive definite, close to `A^-1`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> scales = jnp.array([1.0, 4.0])
      >>> solve = solvers.conjugate_gradient(5)
      >>> x, info = solve(lambda v: scales * v, jnp.array([1.0, 1.0]))
      >>> [round(float(value), 3) for value in x]
      [1.0, 0.25]
    """
    return ConjugateGradient(max_iters, tol, damping, preconditioner)


class _CGState(NamedTuple):
    k: chex.Array  # iteration
    x: PyTree
    r: PyTree  # residual
    p: PyTree  # direction
    rz: chex.Array  # r'Mr
    stopped: chex.Array  # bool: the curvature was negative
    best: PyTree  # of smallest residual
    best_r: PyTree
    best_rr: chex.Array


@dataclasses.dataclass(frozen=True, eq=False)
class ConjugateGradient(HashableOptions):
    """The solver that `conjugate_gradient` returns; see there."""

    max_iters: int
    tol: float | None
    damping: float
    preconditioner: Matvec | None

    def __post_init__(self) -> None:
        check_options(self.max_iters, self.tol, self.damping, self.preconditioner)

    def __call__(
        self, matvec: Matvec, b: PyTree
    ) -> tuple[PyTree, ConjugateGradientInfo]:
        return self.bounded(matvec, b)

    def bounded(
        self, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric | None = None
    ) -> tuple[PyTree, ConjugateGradientInfo]:
        """Solves with a tolerance relative to `tol_scale`; None: to |b|."""
        matvec = damp(matvec, self.damping)
        unit, b_norm = tree.normalize(b)
        threshold = tolerance(self.tol, b)
        if tol_scale is not None:
            threshold = threshold * tol_scale / _nonzero(b_norm)
        precondition = self.preconditioner or (lambda v: v)

        def is_unfinished(state: _CGState) -> chex.Array:
            is_large = state.best_rr > threshold**2
            return (state.k < self.max_iters) & ~state.stopped & is_large

        def iterate(state: _CGState) -> _CGState:
            k, x, r, p, rz, _, best, best_r, best_rr = state
            product = matvec(p)
            curvature = tree.vdot(p, product)
            negative = curvature <= 0
            # The step with the smallest residual, which may point backwards.
            shortest = tree.vdot(product, r) / _nonzero(tree.vdot(product, product))
            length = jnp.where(
                negative, shortest, rz / jnp.where(negative, 1, curvature)
            )
            x = tree.add_scaled(x, length, p)
            r = tree.add_scaled(r, -length, product)
            z = precondition(r)
            new_rz = tree.vdot(r, z)
            p = tree.add_scaled(z, new_rz / _nonzero(rz), p)
            change = tree.add_scaled(r, -1, best_r)
            share = -tree.vdot(best_r, change) / _nonzero(tree.vdot(change, change))
            share = jnp.where(tree.vdot(r, r) < best_rr, 1, share)
            best = tree.add_scaled(best, share, tree.add_scaled(x, -1, best))
            best_r = tree.add_scaled(best_r, share, change)
            rr = tree.vdot(best_r, best_r)
            return _CGState(k + 1, x, r, p, new_rz, negative, best, best_r, rr)

        z = precondition(unit)
        zero, rr = tree.zeros_like(unit), tree.vdot(unit, unit)
        start = _CGState(
            jnp.zeros((), jnp.int32),
            zero,
            unit,
            z,
            tree.vdot(unit, z),
            jnp.array(False),
            zero,
            unit,
            rr,
        )
        end = loops.while_loop(is_unfinished, iterate, start)
        info = ConjugateGradientInfo(end.k, jnp.sqrt(end.best_rr), end.stopped)
        return tree.scale(b_norm, end.best), info


class NormalCGInfo(NamedTuple):
    """Outcome of conjugate gradients on the normal equations."""

    num_iters: chex.Array  # iterations, of two products each, after a first product
    residual_norm: chex.Array  # |A x - b| / |b| by the recurrence


def normal_cg(
    max_iters: int = 20,
    *,
    tol: float | None = None,
    damping: float = 0.0,
    symmetric: bool = True,
) -> "NormalCG":
    """Conjugate gradients on `A'A x = A'b` (CGLS), for any A that is not singular.

    For a singular A it gives the least-squares solution of smallest norm. The residual
    never grows. Takes two products an iteration, and converges at a rate set by the
    square of the condition number: prefer `minres` where A is symmetric.

    Args:
      max_iters: maximal number of iterations, >= 1.
      tol: stops at `|A x - b| <= tol * |b|`; None: ten times machine epsilon.
      damping: d >= 0, solves with `A + d I`.
      symmetric: A' v is another product; False: by `jax.linear_transpose` of the
        product, as `hypergrad_root` and `implicit_root` need it.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import solvers
      >>> scales = jnp.array([1.0, -4.0])
      >>> x, info = solvers.normal_cg(5)(lambda v: scales * v, jnp.array([1.0, 1.0]))
      >>> [round(float(value), 3) for value in x]
      [1.0, -0.25]
    """
    return NormalCG(max_iters, tol, damping, symmetric)


class _NormalState(NamedTuple):
    k: chex.Array
    x: PyTree
    r: PyTree  # b - A x
    s: PyTree  # A' r
    p: PyTree  # direction
    rr: chex.Array
    ss: chex.Array
    largest: chex.Array  # |A p|^2 / |p|^2, the largest so far


@dataclasses.dataclass(frozen=True, eq=False)
class NormalCG(HashableOptions):
    """The solver that `normal_cg` returns; see there."""

    max_iters: int
    tol: float | None
    damping: float
    symmetric: bool

    def __post_init__(self) -> None:
        check_options(self.max_iters, self.tol, self.damping)

    def __call__(self, matvec: Matvec, b: PyTree) -> tuple[PyTree, NormalCGInfo]:
        return self.bounded(matvec, b)

    def bounded(
        self, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric | None = None
    ) -> tuple[PyTree, NormalCGInfo]:
        """Solves with a tolerance relative to `tol_scale`; None: to |b|."""
        matvec = damp(matvec, self.damping)
        transposed = matvec if self.symmetric else transpose(matvec, b)
        unit, b_norm = tree.normalize(b)
        threshold = tolerance(self.tol, b)
        if tol_scale is not None:
            threshold = threshold * tol_scale / _nonzero(b_norm)
        rounding = 10 * tree.epsilon(b)

        def is_unfinished(state: _NormalState) -> chex.Array:
            is_large = state.rr > threshold**2
            # Else the solution of least squares is reached.
            has_slope = state.ss > rounding**2 * state.largest * state.rr
            return (state.k < self.max_iters) & is_large & has_slope

        def iterate(state: _NormalState) -> _NormalState:
            k, x, r, s, p, _, ss, largest = state
            product = matvec(p)
            squared = tree.vdot(product, product)
            length = ss / _nonzero(squared)
            x = tree.add_scaled(x, length, p)
            r = tree.add_scaled(r, -length, product)
            s = transposed(r)
            new_ss = tree.vdot(s, s)
            stretch = squared / _nonzero(tree.vdot(p, p))
            p = tree.add_scaled(s, new_ss / _nonzero(ss), p)
            largest = jnp.maximum(largest, stretch)
            return _NormalState(k + 1, x, r, s, p, tree.vdot(r, r), new_ss, largest)

        s = transposed(unit)
        ss = tree.vdot(s, s)
        rr = tree.vdot(unit, unit)
        zero = tree.zeros_like(unit)
        k = jnp.zeros((), jnp.int32)
        start = _NormalState(k, zero, unit, s, s, rr, ss, jnp.zeros_like(rr))
        end = loops.while_loop(is_unfinished, iterate, start)
        return tree.scale(b_norm, end.x), NormalCGInfo(end.k, jnp.sqrt(end.rr))


def _nonzero(x: chex.Array) -> chex.Array:
    return jnp.where(x == 0, 1, x)
