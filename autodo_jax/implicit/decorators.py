"""Derivatives of solvers by the implicit function theorem: argmin, root, fixed point.

Property that must hold: the solver ends where `F(params, hparams, *args) = 0`, F the
gradient of the inner loss for an argmin. Then `d params = -[d_params F]^-1 d F` (Eq. 4)
whatever the algorithm inside, at a memory cost that does not grow with its steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax

from autodo_jax._typing import AxisName, PyTree
from autodo_jax.implicit import checks
from autodo_jax.implicit.attach import Problem, attach_derivative
from autodo_jax.implicit.curvature import Curvature, hessian
from autodo_jax.implicit.krylov import normal_cg
from autodo_jax.implicit.linear import Solver
from autodo_jax.implicit.minres import minres


def implicit_argmin(
    inner_loss: Callable,
    solver: Solver | None = None,
    curvature: Curvature | None = None,
    *,
    has_aux: bool = False,
    axis_name: AxisName | None = None,
) -> Callable[[Callable], Callable]:
    """Decorates `solve(hparams, *args) -> params` with derivatives of the argmin.

    Property that must hold: `d_params inner_loss(solve(h, *args), h, *args) = 0`.
    Stationary points that are not minima (saddles) are right too with the default
    solver, and where the Hessian is singular the change of smallest norm is taken.

    Derivatives flow to `hparams`, to each array among the other arguments and to what
    `inner_loss` closes over, never through the steps of `solve`: forward and reverse
    mode, jacfwd, jacrev, vmap and higher derivatives. Arguments that are not arrays
    (None, strings, functions) and keywords are passed on, keywords that `inner_loss`
    does not take to `solve` alone. In a class, where `solve` begins with `self`,
    `inner_loss` may begin with `self` as well.

    Args:
      inner_loss: `(params, hparams, *args) -> scalar`, which `solve` minimizes.
      solver: solver of the linear system, which is symmetric in both modes; None:
        `solvers.minres(100)`.
      curvature: approximation of the Hessian; None: the Hessian itself.
      has_aux: `solve` returns `(params, aux)`, and so does the decorated function; the
        derivative of `aux` is zero.
      axis_name: mapped axis (or tuple of axes) on which `inner_loss` is a local mean,
        as for `hypergrad`; `params` and `hparams` are copies.

    Raises:
      TypeError: an argument that is not callable, at decoration; leaves of `hparams`
        or of the params that are not floating (complex ones too), at the call.
      ValueError: an inner loss that is not scalar.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from autodo_jax import implicit_argmin
      >>> @implicit_argmin(lambda w, lam: jnp.sum((w - lam**2) ** 2))
      ... def solve(lam):
      ...     return jax.lax.stop_gradient(lam**2)  # any solver
      >>> grads = jax.grad(lambda lam: jnp.sum(solve(lam)))(jnp.array([1.0, 2.0]))
      >>> [round(float(grad), 3) for grad in grads]
      [2.0, 4.0]
    """
    checks.check_callable("inner_loss", inner_loss, "see the docstring")
    solver = minres(100) if solver is None else solver
    checks.check_callable("solver", solver, "such as solvers.minres()")
    curvature = hessian() if curvature is None else curvature
    checks.check_callable("curvature", curvature, "such as curvature.hessian()")
    problem = Problem(
        checks.scalar_loss("inner_loss", inner_loss), curvature, solver, axis_name
    )
    return functools.partial(_decorate, problem, inner_loss, has_aux)


def implicit_root(
    optimality_fn: Callable,
    solver: Solver | None = None,
    *,
    has_aux: bool = False,
    axis_name: AxisName | None = None,
) -> Callable[[Callable], Callable]:
    """Decorates `solve(hparams, *args) -> params` with derivatives of a root.

    Property that must hold: `optimality_fn(solve(h, *args), h, *args) = 0`. The
    function need not be a gradient: its Jacobian A may have no symmetry. Forward mode
    solves with A, reverse mode with its transpose.

    Args:
      optimality_fn: `(params, hparams, *args) ->` a pytree like the params.
      solver: solver for a general A, of which only products are known; None:
        `solvers.normal_cg(100, symmetric=False)`. `jax.scipy.sparse.linalg.gmres` and
        `bicgstab` fit, and `solvers.dense()`.
      has_aux, axis_name: as for `implicit_argmin`, and so are the arguments of the
        decorated function.

    Raises:
      TypeError: as `implicit_argmin`; also if the value of `optimality_fn` does not
        have the structure and shapes of the params.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from autodo_jax import implicit_root, solvers
      >>> @implicit_root(lambda root, square: root**2 - square, solvers.dense())
      ... def square_root(square):
      ...     return jnp.sqrt(square)
      >>> float(jax.grad(square_root)(4.0))
      0.25
    """
    checks.check_callable("optimality_fn", optimality_fn, "see the docstring")
    problem = _root_problem(optimality_fn, solver, axis_name)
    return functools.partial(_decorate, problem, optimality_fn, has_aux)


def implicit_fixed_point(
    fn: Callable,
    solver: Solver | None = None,
    *,
    has_aux: bool = False,
    axis_name: AxisName | None = None,
) -> Callable[[Callable], Callable]:
    """Decorates `solve(hparams, *args) -> params` with derivatives of a fixed point.

    Property that must hold: `fn(p, h, *args) = p` at `p = solve(h, *args)`. It is the
    root of `p - fn(p, h, *args)`.

    Args:
      fn: `(params, hparams, *args) -> params`.
      solver: as for `implicit_root`; for a contraction also
        `solvers.neumann(T, step_size=1.0)`.
      has_aux, axis_name: as for `implicit_argmin`, and so are the arguments of the
        decorated function.

    Raises:
      TypeError: as `implicit_root`.

    Examples:
      >>> import jax
      >>> from autodo_jax import implicit_fixed_point, solvers
      >>> @implicit_fixed_point(lambda z, b: 0.5 * z + b, solvers.dense())
      ... def settle(b):
      ...     return 2 * b  # where z = 0.5 z + b
      >>> float(jax.grad(settle)(1.0))
      2.0
    """
    checks.check_callable("fn", fn, "see the docstring")

    @functools.wraps(fn)
    def optimality_fn(*args: Any, **kwargs: Any) -> PyTree:
        params = args[1] if checks.is_method(fn) else args[0]
        value = fn(*args, **kwargs)
        checks.check_like("The value of `fn`", value, "`params`", params)
        return jax.tree.map(_difference, params, value)

    problem = _root_problem(optimality_fn, solver, axis_name)
    return functools.partial(_decorate, problem, fn, has_aux)


def _difference(x: chex.Array, y: chex.Array) -> chex.Array:
    return x - y


def _root_problem(
    optimality_fn: Callable, solver: Solver | None, axis_name: AxisName | None
) -> Problem:
    solver = normal_cg(100, symmetric=False) if solver is None else solver
    checks.check_callable("solver", solver, "such as solvers.normal_cg()")
    return Problem(optimality_fn, None, solver, axis_name)


def _decorate(
    problem: Problem, function: Callable, has_aux: bool, solve: Callable
) -> Callable:
    """Returns `solve` with the derivatives of `problem`; `function` is the user's."""
    checks.check_callable("solve", solve, "decorate a function of hparams")
    solve_in_class, function_in_class = map(checks.is_method, (solve, function))

    @functools.wraps(solve)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        owner: tuple = ()
        if solve_in_class:
            owner, args = args[:1], args[1:]
        args, kwargs = checks.hparams_first(solve, owner, args, kwargs)
        checks.check_axis_name(problem.axis_name)
        checks.check_floating("hparams", args[0])
        fixed_args, fixed_kwargs = jax.tree.map(_without_derivative, (args, kwargs))
        returned = solve(*owner, *fixed_args, **fixed_kwargs)
        params, aux = checks.split_aux(returned) if has_aux else (returned, None)
        checks.check_params(params)
        known = {k: v for k, v in kwargs.items() if checks.takes(function, k)}
        bound = problem.function
        if function_in_class:
            bound = functools.partial(_with_owner, bound, *owner)
        params = attach_derivative(
            problem._replace(function=bound), params, args[0], args[1:], known
        )
        if has_aux:
            return params, jax.tree.map(_without_derivative, aux)
        return params

    return wrapper


def _with_owner(function: Callable, owner: Any, *args: Any, **kwargs: Any) -> Any:
    return function(owner, *args, **kwargs)


def _without_derivative(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if isinstance(leaf, jax.Array) else leaf
