"""`implicit_root`, `implicit_fixed_point`, and the calls that all decorators take."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from autodo_jax import (
    implicit_argmin,
    implicit_fixed_point,
    implicit_root,
    solvers,
)
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once


def frozen(solve):
    def run(*args):
        return jax.lax.stop_gradient(solve(*args))

    return run


def equilibrium(kind, **options):
    """P8 as a root and as a fixed point; F = z - f(z)."""
    problem = problems.equilibrium()
    if kind == "root":
        make = functools.partial(implicit_root, problem.inner)
    else:
        make = functools.partial(
            implicit_fixed_point, lambda z, *args: z - problem.inner(z, *args)
        )
    return problem, make(**options)(frozen(problem.solve))


@pytest.mark.parametrize("kind", ["root", "fixed point"])
def test_maps_without_symmetry(kind, x64):
    """Both modes, and second derivatives: those of 200 unrolled steps."""
    problem, solve = equilibrium(kind)
    _, hparams, args, outer_args = problem.operands

    def total(solve, h):
        return problem.outer(solve(h, *args), h, *outer_args)

    got = run_once(jax.grad(functools.partial(total, solve)), hparams)
    assert_close("reverse", got, problem.reference, 1e-9)
    direction = jax.tree.map(jnp.cos, hparams)
    _, along = run_once(
        lambda h: jax.jvp(functools.partial(total, solve), (h,), (direction,)), hparams
    )
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(direction), strict=True)
    flat = sum(np.vdot(a, b) for a, b in pairs)
    np.testing.assert_allclose(along, flat, rtol=1e-9)

    def second(solve):
        return jax.grad(
            lambda h: jax.jvp(functools.partial(total, solve), (h,), (direction,))[1]
        )

    expected = run_once(second(problem.solve), hparams)
    assert_close("second", run_once(second(solve), hparams), expected, 1e-8)


@pytest.mark.parametrize(
    "solver",
    [
        solvers.dense(),
        solvers.neumann(150, step_size=1.0),
        functools.partial(jax.scipy.sparse.linalg.gmres, tol=1e-12),
        jax.scipy.sparse.linalg.bicgstab,
    ],
    ids=["dense", "neumann", "gmres", "bicgstab"],
)
def test_solvers_of_a_root(solver, x64):
    problem, solve = equilibrium("root", solver=solver)
    _, hparams, args, outer_args = problem.operands
    got = run_once(
        jax.grad(lambda h: problem.outer(solve(h, *args), h, *outer_args)), hparams
    )
    assert_close("grad", got, problem.reference, 1e-4)


def test_roots_in_closed_form_under_vmap(x64):
    """Square roots by Newton's method: d sqrt(h) = 1 / (2 sqrt(h)), and so on."""

    @implicit_root(lambda w, h: w**2 - h)
    def root(h):
        return jax.lax.while_loop(
            lambda w: jnp.any(jnp.abs(w**2 - h) > 1e-13),
            lambda w: (w + h / w) / 2,
            jnp.ones_like(h),
        )

    h = jnp.array([0.3, 2.0, 7.5])
    first, second, third = (
        run_once(jax.vmap(f), h)
        for f in (
            jax.grad(root),
            jax.grad(jax.grad(root)),
            jax.jacfwd(jax.grad(jax.jacfwd(root))),
        )
    )
    np.testing.assert_allclose(first, 0.5 * h**-0.5, rtol=1e-9)
    np.testing.assert_allclose(second, -0.25 * h**-1.5, rtol=1e-9)
    np.testing.assert_allclose(third, 0.375 * h**-2.5, rtol=1e-9)


@pytest.mark.parametrize("diagonal", [(2.0, -1.0), (-3.0, 0.5, 4.0)])
def test_saddles(diagonal, x64):
    """`sum(d w^2) / 2 - w'l` is stationary at `l / d`: the Jacobian is diag(1 / d)."""
    d = jnp.array(diagonal)
    solve = implicit_argmin(lambda w, h: 0.5 * jnp.sum(d * w**2) - w @ h)(
        lambda h: h / d
    )
    got = run_once(jax.jacrev(solve), jnp.ones(d.size))
    assert_close("jacobian", got, np.diag(1 / np.asarray(d)), 1e-10)


def test_singular_hessians_take_the_smallest_change(x64):
    """Underdetermined least squares: the Jacobian of pinv(X) h is pinv(X)."""
    x = np.random.default_rng(0).standard_normal((3, 6))
    solve = implicit_argmin(lambda w, h: 0.5 * jnp.sum((x @ w - h) ** 2))(
        lambda h: np.linalg.pinv(x) @ h
    )
    for transform in (jax.jacrev, jax.jacfwd):
        got = run_once(transform(solve), jnp.ones(3))
        assert_close("jacobian", got, np.linalg.pinv(x), 1e-8)


@pytest.mark.parametrize("scale", [1e-8, 1e-30])
def test_small_cotangents(scale):
    """A solver with an absolute tolerance gets a right-hand side of unit norm."""
    solve = implicit_argmin(
        lambda w, h: jnp.sum((w - 3 * h) ** 2), solver=jax.scipy.sparse.linalg.gmres
    )(lambda h: 3 * h)
    gradient = jax.grad(lambda h, scale: scale * jnp.sum(solve(h)))
    got = run_once(gradient, jnp.ones(4), jnp.float32(scale))
    np.testing.assert_allclose(got / scale, 3.0, rtol=1e-5)


def test_python_scalars():
    solve = implicit_argmin(lambda w, h: (w - 3 * h) ** 2)(lambda h: 3 * h)
    np.testing.assert_allclose(jax.grad(solve)(1.0), 3.0, rtol=1e-6)
    root = implicit_root(lambda w, h: w - jnp.sin(h))(lambda h: jnp.sin(h))
    np.testing.assert_allclose(jax.grad(root)(0.5), np.cos(0.5), rtol=1e-5)
    assert solve(2.0) == 6.0


def test_closures_over_values_that_are_differentiated(x64):
    """The argmin of (w - sin(c) h)^2, c captured, under jit and vmap too."""

    def outer(c, h):
        @implicit_argmin(lambda w, h: jnp.sum((w - jnp.sin(c) * h) ** 2))
        def solve(h):
            # A loop that reverse mode cannot enter, and that sees c as well.
            return jax.lax.while_loop(
                lambda w: jnp.any(jnp.abs(w - jnp.sin(c) * h) > 1e-12),
                lambda w: (w + jnp.sin(c) * h) / 2,
                jnp.zeros_like(h),
            )

        return jnp.sum(solve(h) ** 2)

    c, h = jnp.array(0.7), jnp.array([1.0, -2.0])
    expected = 2 * np.sin(0.7) * np.cos(0.7) * 5, 2 * np.sin(0.7) ** 2 * h
    for gradient in (jax.grad(outer, (0, 1)), jax.jit(jax.grad(outer, (0, 1)))):
        got = gradient(c, h)
        assert_close("gradient", got, expected, 1e-9)
    inner_jit = jax.grad(lambda c: jax.jit(outer)(c, h))
    np.testing.assert_allclose(inner_jit(c), expected[0], rtol=1e-9)
    rows = jax.vmap(jax.grad(outer), (0, None))(jnp.stack([c, 2 * c]), h)
    np.testing.assert_allclose(rows, 5 * np.sin(2 * np.array([0.7, 1.4])), rtol=1e-9)
    np.testing.assert_allclose(
        jax.grad(jax.grad(outer))(c, h), 10 * np.cos(1.4), rtol=1e-9
    )


def test_a_solver_in_numpy(x64):
    """It needs not be traceable outside of jit."""

    @implicit_argmin(lambda w, h: jnp.sum(0.5 * w**2 * jnp.exp(h) - w))
    def solve(h):
        return np.exp(-np.asarray(h))

    h = jnp.array([0.1, -0.4])
    np.testing.assert_allclose(
        jax.grad(lambda h: jnp.sum(solve(h)))(h), -np.exp(-h), rtol=1e-9
    )


def test_auxiliary_output(x64):
    """Its derivative is zero, whatever it depends on."""

    @implicit_argmin(lambda w, h: jnp.sum((w - 2 * h) ** 2), has_aux=True)
    def solve(h):
        return 2 * h, {"steps": 3, "loss": jnp.sum(h), "name": "exact"}

    def total(h):
        w, aux = solve(h)
        return jnp.sum(w) + 10 * aux["loss"], aux

    grads, aux = jax.grad(total, has_aux=True)(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(grads, 2.0, rtol=1e-9)
    assert aux["steps"] == 3 and aux["name"] == "exact" and aux["loss"] == 3.0


def power(x, exponent=2):
    return x**exponent


def test_static_arguments_and_keywords(x64):
    """Both get them; a keyword that only the solver has goes to it alone."""

    @implicit_argmin(
        lambda w, h, act, mode, none, *, shift: jnp.sum((w - act(h) * shift) ** 2)
    )
    def solve(h, act, mode, none, *, shift, num_steps=1):
        assert mode == "exact" and none is None and num_steps == 7
        return act(h) * shift

    h, shift = jnp.array([1.0, 2.0]), jnp.array(3.0)

    @jax.jit
    def gradients(h, shift):
        def total(h, shift):
            w = solve(h, power, "exact", None, shift=shift, num_steps=7)
            return jnp.sum(w)

        return jax.grad(total, (0, 1))(h, shift)

    assert_close("gradients", gradients(h, shift), (6 * h, jnp.array(5.0)), 1e-9)
    named = implicit_root(lambda w, h, scale: w - scale * h)(lambda h, scale: scale * h)
    got = jax.grad(lambda h: named(scale=4.0, h=h))(jnp.array(2.0))
    np.testing.assert_allclose(got, 4.0, rtol=1e-9)


class Ridge:
    """Both ways of use in a class."""

    def __init__(self, strength):
        self.strength = strength

    def loss(self, w, h):
        return jnp.sum((w - h) ** 2) + self.strength * jnp.sum(w**2)

    @implicit_argmin(loss)
    def decorated(self, h):
        return h / (1 + self.strength)

    def inside(self, h):
        return implicit_argmin(self.loss)(self.plain)(h)

    def plain(self, h):
        return h / (1 + self.strength)


@pytest.mark.parametrize("name", ["decorated", "inside"])
def test_methods(name, x64):
    model = Ridge(3.0)
    got = jax.grad(lambda h: jnp.sum(getattr(model, name)(h)))(jnp.ones(2))
    np.testing.assert_allclose(got, 0.25, rtol=1e-9)
    by_strength = jax.grad(lambda s: jnp.sum(getattr(Ridge(s), name)(jnp.ones(2))))
    np.testing.assert_allclose(by_strength(3.0), -2 / 16, rtol=1e-9)


@pytest.mark.parametrize("kind", ["argmin", "root"])
@pytest.mark.parametrize("check_vma", [True, False])
def test_axis_name(kind, check_vma, x64):
    """Losses that are means over the shards of four devices: ridge on all data."""
    problem = problems.scalar_ridge()
    _, hparams, train, val = problem.operands
    whole = problem.solve(hparams, *train)
    if kind == "argmin":
        make = functools.partial(implicit_argmin, problem.inner)
    else:
        make = functools.partial(implicit_root, jax.grad(problem.inner))
    solve = make(axis_name="data")(lambda h, x, y: whole)

    def on_each_device(h, train, val):
        if check_vma:  # Else the derivative is a sum over the devices already.
            h = jax.lax.pcast(h, "data", to="varying")

        def total(h):
            return problem.outer(solve(h, *train), h, *val)

        return jax.lax.pmean(jax.grad(total)(h), "data")

    mesh = jax.make_mesh(
        (4,), ("data",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:4]
    )
    spec = PartitionSpec
    sharded = jax.shard_map(
        on_each_device,
        mesh=mesh,
        in_specs=(spec(), spec("data"), spec("data")),
        out_specs=spec(),
        check_vma=check_vma,
    )
    got = run_once(jax.jit(sharded), hparams, train, val)
    assert_close("grads", got, problem.reference, 1e-9)


@pytest.mark.parametrize(
    ("solve", "words"),
    [
        (lambda h: (1 + 1j) * h, ("`solve`", "complex64", "real and imaginary")),
        (lambda h: {"w": jnp.arange(2)}, ("`solve`", "int32", "['w']", "has_aux")),
        (lambda h: None, ("`solve`", "none")),
    ],
)
@pytest.mark.parametrize("make", [implicit_argmin, implicit_root, implicit_fixed_point])
def test_params_that_are_refused(make, solve, words):
    with pytest.raises(TypeError) as caught:
        make(lambda w, h: w)(solve)(jnp.ones(2))
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


@pytest.mark.parametrize("make", [implicit_root, implicit_fixed_point])
def test_functions_that_are_refused(make):
    with pytest.raises(TypeError, match="callable, got 'gmres'"):
        make(lambda w, h: w, solver="gmres")
    with pytest.raises(TypeError, match="callable, got 3"):
        make(3)
    with pytest.raises(TypeError, match=r"shapes of `params`.*\(\).*\(2,\)"):
        make(lambda w, h: jnp.sum(w))(lambda h: h)(jnp.ones(2))
    with pytest.raises(TypeError, match=r"pair \(params, aux\)"):
        make(lambda w, h: w, has_aux=True)(lambda h: h)(jnp.ones(2))
    with pytest.raises(TypeError, match="hyperparameters first"):
        make(lambda w, h: w)(lambda h: h)()
