"""Linear solvers: callables `(matvec, b) -> x` or `-> (x, info)` for `A x = b`.

`A` is symmetric unless a solver says otherwise. It is given only by its product
`matvec(v) = A v` on pytrees; `b` and `x` are pytrees of the same structure. Any such
callable can be passed to `hypergrad(solver=...)`, `jax.scipy.sparse.linalg.cg`, `gmres`
and `bicgstab` among them. Products are counted because each costs about two gradients
of the inner loss.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, tree

Matvec = Callable[[PyTree], PyTree]
MatvecAt = Callable[[chex.Numeric], Matvec]  # j -> product j
Solver = Callable[[Matvec, PyTree], Any]


@runtime_checkable
class StochasticSolver(Protocol):
    """A solver that stays correct if each of its iterations has another matrix."""

    num_terms: int

    def stochastic(self, matvec_at: MatvecAt, b: PyTree) -> Any:
        """Solves with product j taken by `matvec_at(j)`, j = 0..num_terms-1."""


# Convolutions inside XLA loops are an order of magnitude slower on CPU, so short loops
# are unrolled.
_MAX_UNROLLED = 8
# Products of the power iteration of "auto", for `largest_eigenvalue`.
AUTO_NUM_STEPS = 16
_AUTO_MARGIN = 1.05


def neumann(
    num_terms: int = 5, step_size: chex.Numeric | str = "auto", damping: float = 0.0
) -> "Neumann":
    """Truncated Neumann series `x = a * sum_{j=0..num_terms} (I - a A)^j b` (Sec. 3.2).

    Takes `num_terms` products. Converges to `A^-1 b` iff `0 < a < 2 / lambda_max(A)`,
    at the rate `max |1 - a lambda|`. Equals the hypergradient through `num_terms + 1`
    unrolled steps of gradient descent with learning rate `a`.

    Args:
      num_terms: T >= 0. The paper uses 5.
      step_size: a > 0, a float or a traced scalar; `"auto"` takes `auto_step_size`
        after a power iteration (`AUTO_NUM_STEPS` more products). The paper's program
        uses 0.01.
      damping: d >= 0, solves with `A + d I`.

    Raises:
      ValueError: num_terms < 0, step_size <= 0, an unknown string, or damping < 0.
    """
    return Neumann(num_terms, step_size, damping)


def identity(scale: chex.Numeric = 1.0) -> "Neumann":
    """Scaling `x = scale * b` without a product: DARTS's T1-T2 estimator (Sec. 3.3)."""
    checks.check_positive("scale", scale)
    return Neumann(0, scale, 0.0)


@dataclasses.dataclass(frozen=True)
class Neumann:
    """The solver that `neumann` and `identity` return; see there."""

    num_terms: int
    step_size: chex.Numeric | str
    damping: float

    def __post_init__(self) -> None:
        checks.check_count("num_terms", self.num_terms, minimum=0)
        checks.check_nonnegative("damping", self.damping)
        if not (isinstance(self.step_size, str) and self.step_size == "auto"):
            checks.check_positive("step_size", self.step_size, hint=" or 'auto'")

    def __call__(self, matvec: Matvec, b: PyTree) -> PyTree:
        matvec = damp(matvec, self.damping)
        step = self._step(matvec, b)
        start = tree.scale(step, b)

        # Written as gradient descent on the quadratic, which keeps one vector only.
        def descend(_: chex.Numeric, x: PyTree) -> PyTree:
            x_minus = tree.add_scaled(x, -step, matvec(x))
            return optax.tree.add(x_minus, start)

        return _repeat(self.num_terms, descend, start)

    def stochastic(self, matvec_at: MatvecAt, b: PyTree) -> PyTree:
        """The series with product j taken by `matvec_at(j)`, j = 0..num_terms-1.

        Term j + 1 is `(I - a A_j)` times term j. With independent unbiased products the
        sum is unbiased for the truncated series, which no Krylov method is. The step
        size `"auto"` is that of `matvec_at(num_terms)`.
        """
        step = self._step(damp(matvec_at(self.num_terms), self.damping), b)

        def add_term(
            j: chex.Numeric, carry: tuple[PyTree, PyTree]
        ) -> tuple[PyTree, PyTree]:
            total, term = carry
            product = damp(matvec_at(j), self.damping)(term)
            term = tree.add_scaled(term, -step, product)
            return optax.tree.add(total, term), term

        total, _ = _repeat(self.num_terms, add_term, (b, b))
        return tree.scale(step, total)

    def _step(self, matvec: Matvec, like: PyTree) -> chex.Numeric:
        if not isinstance(self.step_size, str):
            return self.step_size
        largest = largest_eigenvalue(matvec, like, num_steps=AUTO_NUM_STEPS)
        return auto_step_size(largest)


class ConjugateGradientInfo(NamedTuple):
    """Outcome of a conjugate-gradient solve."""

    num_iters: chex.Array  # products used
    residual_norm: chex.Array  # |A x - b| / |b| by the recurrence
    negative_curvature: chex.Array  # True: stopped at a direction with p' A p <= 0


# Iteration, x, residual, direction, r'Mr, r'r, and whether the curvature was negative.
_CGState = tuple[chex.Array, PyTree, PyTree, PyTree, chex.Array, chex.Array, chex.Array]


def conjugate_gradient(
    max_iters: int = 20,
    *,
    tol: float | None = None,
    damping: float = 0.0,
    preconditioner: Matvec | None = None,
) -> Solver:
    """Preconditioned conjugate gradients for a symmetric positive definite A.

    Takes at most `max_iters` products. The right-hand side is scaled to unit norm, so
    tiny gradients do not underflow; `b = 0` gives 0. At a direction of negative
    curvature it stops and returns the iterate so far (in the first iteration the
    preconditioned right-hand side); its `ConjugateGradientInfo` says so.

    Args:
      max_iters: maximal number of iterations, >= 1.
      tol: stops at `|A x - b| <= tol * |b|`; None: ten times machine epsilon.
      damping: d >= 0, solves with `A + d I`.
      preconditioner: `v -> M v` with M symmetric positive definite, close to `A^-1`.
    """
    checks.check_count("max_iters", max_iters, minimum=1)
    checks.check_nonnegative("damping", damping)
    if tol is not None:
        checks.check_nonnegative("tol", tol)
    if preconditioner is not None:
        checks.check_callable("preconditioner", preconditioner, "`v -> M v`")
    precondition = preconditioner or (lambda v: v)

    def solve(matvec: Matvec, b: PyTree) -> tuple[PyTree, ConjugateGradientInfo]:
        matvec = damp(matvec, damping)
        unit, b_norm = tree.normalize(b)
        dtype = b_norm.dtype
        threshold = 10 * jnp.finfo(dtype).eps if tol is None else tol

        def is_unfinished(state: _CGState) -> chex.Array:
            k, _, _, _, _, rr, stopped = state
            return (k < max_iters) & ~stopped & (rr > threshold**2)

        def iterate(state: _CGState) -> _CGState:
            k, x, r, p, rz, _, _ = state
            product = matvec(p)
            curvature = optax.tree.vdot(p, product)
            negative = curvature <= 0
            # No step where the curvature is negative, except at the first iteration.
            safe = jnp.where(negative, 1, curvature)
            x_step = jnp.where(negative, jnp.where(k == 0, 1, 0), rz / safe)
            r_step = jnp.where(negative, 0, rz / safe)
            x = tree.add_scaled(x, x_step, p)
            r = tree.add_scaled(r, -r_step, product)
            z = precondition(r)
            new_rz = optax.tree.vdot(r, z)
            p = tree.add_scaled(z, new_rz / jnp.where(rz == 0, 1, rz), p)
            return k + 1, x, r, p, new_rz, optax.tree.vdot(r, r), negative

        z = precondition(unit)
        start = (
            jnp.zeros((), jnp.int32),
            optax.tree.zeros_like(unit),
            unit,
            z,
            optax.tree.vdot(unit, z),
            optax.tree.vdot(unit, unit),
            jnp.array(False),
        )
        k, x, _, _, _, rr, stopped = jax.lax.while_loop(is_unfinished, iterate, start)
        return tree.scale(b_norm, x), ConjugateGradientInfo(k, jnp.sqrt(rr), stopped)

    return solve


def nystrom(rank: int, damping: float, key: chex.PRNGKey) -> Solver:
    """Solves with `A_rank + damping I`, A_rank the randomized Nystrom approximation.

    `A_rank = Y (Q' Y)^+ Y'` with `Y = A Q` for a random orthonormal Q of `rank`
    columns. Takes `rank` products (one batch of them) and the memory of `rank` copies
    of the parameters. Worthwhile only if A is close to a matrix of low rank plus
    `damping I`; exact at full rank. For `damping=0` directions outside the range of
    A_rank are dropped.

    Args:
      rank: number of columns, >= 1; at most the number of parameters is used.
      damping: d >= 0, part of the system that is solved.
      key: of the random test matrix.
    """
    checks.check_count("rank", rank, minimum=1)
    checks.check_nonnegative("damping", damping)

    def solve(matvec: Matvec, b: PyTree) -> PyTree:
        flat_b, unravel = ravel_pytree(b)
        columns = min(rank, flat_b.size)
        test = jax.random.normal(key, (flat_b.size, columns), flat_b.dtype)
        q, _ = jnp.linalg.qr(test)

        def flat_matvec(v: chex.Array) -> chex.Array:
            return ravel_pytree(matvec(unravel(v)))[0]

        y = jax.vmap(flat_matvec, in_axes=1, out_axes=1)(q)
        core = q.T @ y
        basis, r = jnp.linalg.qr(y)
        inverse_core = jnp.linalg.pinv((core + core.T) / 2, hermitian=True)
        values, vectors = jnp.linalg.eigh(r @ inverse_core @ r.T)
        u = basis @ vectors
        along = u.T @ flat_b
        # Eigenvalues that are zero up to rounding count as outside the range.
        floor = jnp.finfo(values.dtype).eps * columns * jnp.max(jnp.abs(values))
        in_range = jnp.abs(values) > floor
        shifted = jnp.where(in_range, values + damping, 1)
        x = u @ jnp.where(in_range, along / shifted, 0)
        if not _is_zero(damping):
            x = x + (flat_b - u @ jnp.where(in_range, along, 0)) / damping
        return unravel(x)

    return solve


def dense(damping: float = 0.0) -> Solver:
    """Materialises `A + damping I` and solves by LU; A need not be symmetric.

    Takes one product and one row of memory per parameter: for tests and small heads.
    """
    checks.check_nonnegative("damping", damping)

    def solve(matvec: Matvec, b: PyTree) -> PyTree:
        flat_b, unravel = ravel_pytree(b)

        def column(v: chex.Array) -> chex.Array:
            return ravel_pytree(damp(matvec, damping)(unravel(v)))[0]

        eye = jnp.eye(flat_b.size, dtype=flat_b.dtype)
        matrix = jax.vmap(column, out_axes=1)(eye)
        return unravel(jnp.linalg.solve(matrix, flat_b))

    return solve


def largest_eigenvalue(
    matvec: Matvec, like: PyTree, key: chex.PRNGKey | None = None, num_steps: int = 20
) -> chex.Array:
    """Estimates the largest |eigenvalue| of a symmetric A by power iteration.

    The estimate is the norm of a product with a unit vector and so a lower bound,
    usually within a few percent after 20 steps. Takes `num_steps` products.

    Args:
      matvec: `v -> A v`.
      like: pytree with the shapes of v.
      key: of the random start; None: a fixed one.
      num_steps: number of products, >= 1.
    """
    checks.check_count("num_steps", num_steps, minimum=1)
    key = jax.random.key(0) if key is None else key
    like = tree.promote(jax.tree.map(jnp.asarray, like))
    start = optax.tree.random_like(key, like, jax.random.normal)

    def step(
        _: chex.Numeric, carry: tuple[PyTree, chex.Array]
    ) -> tuple[PyTree, chex.Array]:
        return tree.normalize(matvec(carry[0]))

    carry = tree.normalize(start)
    return _repeat(num_steps, step, carry)[1]


def auto_step_size(largest: chex.Numeric) -> chex.Array:
    """Returns the step size "auto" of the Neumann series: `1 / (1.05 * largest)`.

    Power iteration approaches the largest eigenvalue from below, so the inverse of its
    estimate is longer than `1 / lambda_max`. The margin of 5 % makes up for that.

    Args:
      largest: estimate of the largest eigenvalue, such as `largest_eigenvalue` returns
        after `AUTO_NUM_STEPS` products. For an estimate that is not positive, as
        for A = 0, the step is 1.
    """
    bound = _AUTO_MARGIN * largest
    return 1 / jnp.where(bound > 0, bound, 1)


def split_info(returned: Any, b: PyTree) -> tuple[PyTree, Any]:
    """Splits a solver's result, x or (x, info), into (x, info); info may be None.

    Raises:
      TypeError: x does not have the structure and shapes of `b`.
    """
    structure: Any = jax.tree.structure(returned)
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    x, info = returned, None
    if is_pair and structure != jax.tree.structure(b):
        x, info = returned
    checks.check_like("The result of `solver`", x, "its right-hand side", b)
    return x, info


def damp(matvec: Matvec, damping: chex.Numeric) -> Matvec:
    """Returns the product with `A + damping I`."""
    if _is_zero(damping):
        return matvec
    return lambda v: tree.add_scaled(matvec(v), damping, v)


def _repeat(num_times: int, body: Callable, state: PyTree) -> PyTree:
    """Runs `lax.fori_loop` over 0..num_times-1, unrolled if it is short."""
    if num_times > _MAX_UNROLLED:
        return jax.lax.fori_loop(0, num_times, body, state)
    for i in range(num_times):
        state = body(i, state)
    return state


def _is_zero(damping: Any) -> bool:
    return isinstance(damping, (int, float)) and damping == 0
