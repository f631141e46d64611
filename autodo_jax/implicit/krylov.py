"""Conjugate gradients: for a positive definite A, and on the normal equations."""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, loops, tree
from autodo_jax.implicit.linear import (
    BoundedSolver,
    HashableOptions,
    Matvec,
    damp,
    transpose,
)


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


def solve_scaled(solver: BoundedSolver, matvec: Matvec, b: PyTree) -> Any:
    """Returns what the solver gives for `b / |b|`, its solution scaled back."""
    unit, b_norm = tree.normalize(b)
    x, info = solver.bounded(matvec, unit, 1.0)
    return tree.scale(b_norm, x), info


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
    residual along it and stops; its `ConjugateGradientInfo` says so. It also stops
    before an iterate whose rounding errors might make up for what its residual is below
    |b|, as they do where A is singular.

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
    pp: chex.Array  # p'p in the inverse norm of M
    path: chex.Array  # sum of the lengths of all steps, in that norm
    largest: chex.Array  # p'Ap / p'p, the largest so far
    negative: chex.Array  # bool: the curvature was negative
    stopped: chex.Array  # bool
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
        return solve_scaled(self, matvec, b)

    def bounded(
        self, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric = 1.0
    ) -> tuple[PyTree, ConjugateGradientInfo]:
        """Solves for a b of unit norm, to a tolerance relative to `tol_scale`."""
        matvec = damp(matvec, self.damping)
        threshold = tolerance(self.tol, b) * tol_scale
        precondition = self.preconditioner or (lambda v: v)

        def is_unfinished(state: _CGState) -> chex.Array:
            is_large = state.best_rr > threshold**2
            return (state.k < self.max_iters) & ~state.stopped & is_large

        def iterate(s: _CGState) -> _CGState:
            product = matvec(s.p)
            curvature = tree.vdot(s.p, product)
            negative = curvature <= 0
            largest = jnp.maximum(s.largest, jnp.abs(curvature) / tree.nonzero(s.pp))
            # Along a negative direction any step will do: smoothing finds its length.
            any_length = tree.nonzero(largest * jnp.sqrt(s.pp))
            length = jnp.where(negative, jnp.sqrt(s.best_rr), s.rz) / jnp.where(
                negative, any_length, curvature
            )
            x = tree.add_scaled(s.x, length, s.p)
            r = tree.add_scaled(s.r, -length, product)
            z = precondition(r)
            rz = tree.vdot(r, z)
            rr = tree.vdot(r, r) if self.preconditioner else rz
            ratio = rz / tree.nonzero(s.rz)
            share, best_rr = _smooth(rr, tree.vdot(s.best_r, r), s.best_rr)
            step = length * jnp.where(negative, share, 1)
            path = s.path + step * jnp.sqrt(s.pp)
            is_exact = jnp.sqrt(best_rr) + rounding * largest * path <= 1
            share = jnp.where(is_exact, share, 0)
            return _CGState(
                k=s.k + 1,
                x=x,
                r=r,
                p=tree.add_scaled(z, ratio, s.p),
                rz=rz,
                pp=rz + ratio**2 * s.pp,
                path=path,
                largest=largest,
                negative=negative,
                stopped=negative | ~is_exact,
                best=tree.interpolate(s.best, share, x),
                best_r=tree.interpolate(s.best_r, share, r),
                best_rr=jnp.where(is_exact, best_rr, s.best_rr),
            )

        z, zero = precondition(b), tree.zeros_like(b)
        rz, rr = tree.vdot(b, z), tree.vdot(b, b)
        # Of a path of length 1 along the largest eigenvalue, relative to |b|.
        rounding = 10 * tree.epsilon(b) / jnp.sqrt(tree.nonzero(rz))
        nothing = jnp.zeros_like(rz)
        start = _CGState(
            k=jnp.zeros((), jnp.int32),
            x=zero,
            r=b,
            p=z,
            rz=rz,
            pp=rz,
            path=nothing,
            largest=nothing,
            negative=jnp.array(False),
            stopped=jnp.array(False),
            best=zero,
            best_r=b,
            best_rr=rr,
        )
        end = loops.while_loop(is_unfinished, iterate, start)
        return end.best, ConjugateGradientInfo(
            end.k, jnp.sqrt(end.best_rr), end.negative
        )


def _smooth(
    rr: chex.Array, rs: chex.Array, ss: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """Returns the share c of r in the residual `s + c (r - s)`, and its square.

    1 where r is smaller than s, else the share of smallest residual. Takes `r'r`, `r's`
    and `s's`.
    """
    change = jnp.maximum(rr - 2 * rs + ss, 0)  # |r - s|^2
    is_smaller = rr < ss
    gain = jnp.where(change > 0, ss - rs, 0)
    share = jnp.where(is_smaller, 1, gain) / jnp.where(
        is_smaller, 1, tree.nonzero(change)
    )
    return share, jnp.where(is_smaller, rr, jnp.maximum(ss - share * gain, 0))


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
        return solve_scaled(self, matvec, b)

    def bounded(
        self, matvec: Matvec, b: PyTree, tol_scale: chex.Numeric = 1.0
    ) -> tuple[PyTree, NormalCGInfo]:
        """Solves for a b of unit norm, to a tolerance relative to `tol_scale`."""
        matvec = damp(matvec, self.damping)
        transposed = matvec if self.symmetric else transpose(matvec, b)
        threshold = tolerance(self.tol, b) * tol_scale
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
            length = ss / tree.nonzero(squared)
            x = tree.add_scaled(x, length, p)
            r = tree.add_scaled(r, -length, product)
            s = transposed(r)
            new_ss = tree.vdot(s, s)
            stretch = squared / tree.nonzero(tree.vdot(p, p))
            p = tree.add_scaled(s, new_ss / tree.nonzero(ss), p)
            largest = jnp.maximum(largest, stretch)
            return _NormalState(k + 1, x, r, s, p, tree.vdot(r, r), new_ss, largest)

        s, zero = transposed(b), tree.zeros_like(b)
        ss, rr = tree.vdot(s, s), tree.vdot(b, b)
        k = jnp.zeros((), jnp.int32)
        start = _NormalState(k, zero, b, s, s, rr, ss, jnp.zeros_like(rr))
        end = loops.while_loop(is_unfinished, iterate, start)
        return end.x, NormalCGInfo(end.k, jnp.sqrt(end.rr))
