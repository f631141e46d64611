"""Parameters sharded over eight devices give the numbers of one device.

On meshes with explicit axes (the default of `jax.make_mesh`), with automatic ones, and
inside `jax.shard_map`, where inner products are summed over the shards or refused.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from autodo_jax.implicit import solvers, value_and_hypergrad
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once

ITERATIVE: dict[str, solvers.Solver] = {
    "neumann": solvers.neumann(12),
    "short neumann": solvers.neumann(2),
    "identity": solvers.identity(0.5),
    "conjugate_gradient": solvers.conjugate_gradient(9),
    "minres": solvers.minres(9),
    "normal_cg": solvers.normal_cg(9),
}
DIRECT: dict[str, solvers.Solver] = {
    "nystrom": solvers.nystrom(40, 0.1, jax.random.key(0)),
    "dense": solvers.dense(),
}
SPECS = {"kernel": P(None, "model"), "bias": P("model"), "scale": P()}


def operands():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 8))
    params = {
        "kernel": jnp.asarray(rng.standard_normal((4, 8))),
        "bias": jnp.zeros(8),
        "scale": jnp.array(1.5),
    }
    return params, jnp.array(-1.0), jnp.asarray(x), jnp.asarray(y)


def inner(w, h, x, y, total=lambda value: value):
    """`total` sums what each device holds of the outputs."""
    out = x @ w["kernel"] + w["bias"][None]
    squares = jnp.sum((out - y) ** 2) / 20
    decay = jnp.sum(w["kernel"] ** 2) + jnp.sum(w["bias"] ** 2)
    own = 0.5 * (squares + jnp.exp(h) * decay) + 0.01 * jnp.sum(out) * w["scale"]
    return total(own) + jnp.cosh(w["scale"])


def outer(w, h, x, y, total=lambda value: value):
    del h, y
    return total(jnp.sum(jnp.cos(x @ w["kernel"]))) + w["scale"] ** 2


def run(solver, params, h, x, y, total=None, **options):
    of_inner, of_outer = (
        functools.partial(f, total=total) if total else f for f in (inner, outer)
    )
    _, grads, info = value_and_hypergrad(
        of_inner,
        of_outer,
        params,
        h,
        solver=solver,
        inner_args=(x, y),
        outer_args=(x, y),
        **options,
    )
    return grads, info._replace(aux=None, solver_info=None)


def mesh(kind=AxisType.Explicit):
    return jax.make_mesh((8,), ("model",), (kind,))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_sharded_arrays(kind):
    """All solvers in one program; the iterative ones gather no parameter."""
    with jax.enable_x64(True):
        whole = operands()
        expected = {
            name: run_once(functools.partial(run, solver), *whole)
            for name, solver in (ITERATIVE | DIRECT).items()
        }
        with jax.set_mesh(mesh(kind)):
            params, h, x, y = whole
            place = lambda a, spec: jax.device_put(a, NamedSharding(mesh(kind), spec))  # noqa: E731
            sharded = (
                {name: place(leaf, SPECS[name]) for name, leaf in params.items()},
                h,
                place(x, P()),
                place(y, P(None, "model")),
            )

            def all_of(solvers, *operands):
                return {name: run(s, *operands) for name, s in solvers.items()}

            program = jax.jit(functools.partial(all_of, ITERATIVE))
            compiled = program.lower(*sharded).compile()
            assert "all-gather" not in str(compiled.as_text())
            got = compiled(*sharded) | run_once(
                functools.partial(all_of, DIRECT), *sharded
            )
    for name, (grads, info) in expected.items():
        assert_close(name, np.asarray(got[name][0]), grads, 1e-9)
        for field in ("residual_norm", "curvature", "rhs_norm", "inner_grad_norm"):
            np.testing.assert_allclose(
                getattr(got[name][1], field),
                getattr(info, field),
                1e-7,
                1e-9,
                err_msg=name,
            )


def by_shard_map(one, check_vma=True):
    return jax.shard_map(
        one,
        mesh=mesh(AxisType.Auto),
        in_specs=(SPECS, P(), P(), P(None, "model")),
        out_specs=P(),
        check_vma=check_vma,
    )


@pytest.mark.parametrize("name", [n for n in ITERATIVE if "short" not in n])
def test_shards_inside_shard_map(name, x64):
    """Exact solvers agree with one device; the series has its own random start."""

    def one(params, h, x, y):
        total = functools.partial(jax.lax.psum, axis_name="model")
        grads, info = run(ITERATIVE[name], params, h, x, y, total)
        return grads, info._replace(solution=None)

    got, info = run_once(jax.jit(by_shard_map(one)), *operands())
    expected, whole = run_once(functools.partial(run, ITERATIVE[name]), *operands())
    tolerance = 1e-3 if name == "neumann" else 1e-9
    assert_close("grads", got, expected, tolerance)
    for field in ("rhs_norm", "inner_grad_norm", "direct_norm"):
        np.testing.assert_allclose(getattr(info, field), getattr(whole, field), 1e-9)
    np.testing.assert_allclose(
        info.residual_norm, whole.residual_norm, 30 * tolerance, 1e-9
    )


def trace(one, **options):
    return jax.eval_shape(by_shard_map(one, **options), *operands())


def test_shards_that_are_refused():
    def local(solver, total, params, h, x, y, **options):
        grads, _ = run(solver, params, h, x, y, total, **options)
        return jax.lax.psum(grads, "model")

    total = functools.partial(jax.lax.psum, axis_name="model")
    cg = solvers.conjugate_gradient()
    with pytest.raises(ValueError, match=r"vary over.*'model'.*psum.*param_axes=\(\)"):
        trace(functools.partial(local, cg, None))
    with pytest.raises(ValueError, match=r"'model'.*check_vma=False.*param_axes=\(\)"):
        trace(functools.partial(local, cg, total), check_vma=False)
    with pytest.raises(TypeError, match=r"`solver` must sum.*'model'.*Dense"):
        trace(functools.partial(local, solvers.dense(), total))


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_problem_of_its_own_on_each_device(check_vma, x64):
    diagonals = jnp.arange(1.0, 25.0).reshape(8, 3)

    def one(diagonal):
        grads, _ = run_diagonal(diagonal[0])
        return grads[None]

    def run_diagonal(diagonal):
        _, grads, info = value_and_hypergrad(
            lambda w, h, d: 0.5 * jnp.sum(d * w**2) - w @ h,
            lambda w, h: jnp.sum(w),
            diagonal,
            diagonal,
            inner_args=(diagonal,),
            solver=solvers.dense(),
            param_axes=(),
        )
        return grads, info

    mapped = jax.shard_map(
        one,
        mesh=mesh(AxisType.Auto),
        in_specs=P("model"),
        out_specs=P("model"),
        check_vma=check_vma,
    )
    got = run_once(jax.jit(mapped), diagonals)
    assert_close("grads", got, 1 / np.asarray(diagonals), 1e-9)
