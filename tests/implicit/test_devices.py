"""Four devices with a shard each give the numbers of one device with the whole batch.

Under pmap, named vmap and shard_map with and without replication checks, where
collectives go wrong in different ways, and under plain jit over sharded arrays.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from autodo_jax.implicit import (
    curvature,
    hypergrad,
    hypergrad_root,
    solvers,
    value_and_hypergrad,
    value_and_hypergrad_root,
)
from tests.implicit import problems
from tests.implicit.bank import assert_close
from tests.implicit.reference import run_once

NUM_DEVICES = 4
TOLERANCE = 1e-10
AXIS = "data"


def mesh():
    return jax.make_mesh(
        (NUM_DEVICES,),
        (AXIS,),
        (jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:4],
    )


def shards(tree):
    return jax.tree.map(lambda x: x.reshape(NUM_DEVICES, -1, *x.shape[1:]), tree)


def unstack(tree):
    """The first device's result, after all four have been found equal."""
    for leaf in jax.tree.leaves(tree):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
    return jax.tree.map(lambda x: x[0], tree)


def by_pmap(run, replicated, sharded):
    devices = jax.devices()[:NUM_DEVICES]
    mapped = jax.pmap(
        functools.partial(run, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(None, 0),
        devices=devices,
    )
    return unstack(run_once(mapped, replicated, shards(sharded)))


def by_vmap(run, replicated, sharded):
    mapped = jax.vmap(
        functools.partial(run, axis_name=AXIS), in_axes=(None, 0), axis_name=AXIS
    )
    return unstack(run_once(mapped, replicated, shards(sharded)))


def by_shard_map(run, replicated, sharded, check_vma):
    mapped = jax.shard_map(
        functools.partial(run, axis_name=AXIS),
        mesh=mesh(),
        in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
        out_specs=PartitionSpec(),
        check_vma=check_vma,
    )
    return run_once(mapped, replicated, sharded)


def by_sharded_arrays(run, replicated, sharded):
    split = jax.device_put(sharded, NamedSharding(mesh(), PartitionSpec(AXIS)))
    whole = jax.device_put(replicated, NamedSharding(mesh(), PartitionSpec()))
    return run_once(functools.partial(run, axis_name=None), whole, split)


TRACKED = "shard_map with replication checks"
WAYS: dict[str, Callable] = {
    "pmap": by_pmap,
    "vmap": by_vmap,
    TRACKED: functools.partial(by_shard_map, check_vma=True),
    "shard_map without": functools.partial(by_shard_map, check_vma=False),
    "sharded arrays": by_sharded_arrays,
}


def everything(replicated, sharded, axis_name):
    """P1b by each solver, curvature and option; the diagnostics as well."""
    problem = problems.scalar_ridge()
    (params, hparams, x0), (train, val) = replicated, sharded
    key = jax.random.key(0)

    def outputs(w, h, x, y):
        del h, y
        return x @ w

    def loss_on_outputs(predictions, w, h, x, y):
        del x
        penalty = 0.5 * jnp.exp(h["c"]) * jnp.sum(w**2)
        return 0.5 * jnp.mean((predictions - y) ** 2) + penalty

    def each_loss(w, h, x, y):
        del h
        return 0.5 * (x @ w - y) ** 2

    def run(function=value_and_hypergrad, inner=problem.inner, **options):
        options = {"inner_args": train, "outer_args": val, **options}
        value, grads, info = function(
            inner, problem.outer, params, hparams, axis_name=axis_name, **options
        )
        return value, grads, info._replace(aux=None)

    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x, x]), train)
    cg = solvers.conjugate_gradient(20)
    return {
        "conjugate_gradient": run(solver=cg),
        "auto": run(solver=solvers.neumann(9)),
        "nystrom": run(solver=solvers.nystrom(3, 0.5, key)),
        "warm start": run(solver=solvers.neumann(3, 0.2), x0=x0),
        "batches": run(solver=solvers.neumann(3, 0.2), inner_batches=batches),
        "gauss_newton": run(
            solver=cg, curvature=curvature.gauss_newton(outputs, loss_on_outputs)
        ),
        "fisher": run(
            solver=solvers.dense(), curvature=curvature.fisher(each_loss, damping=0.5)
        ),
        "root": run(
            value_and_hypergrad_root,
            jax.grad(problem.inner),
            solver=solvers.neumann(3, 0.2),
        ),
    }


def operands():
    params, hparams, train, val = problems.scalar_ridge().operands
    x0 = jnp.linspace(-1.0, 1.0, 6)
    # Off the minimum, where the norms in the diagnostics are not rounding errors.
    return (params + 0.1, hparams, x0), (train, val)


@functools.cache
def on_one_device():
    with jax.enable_x64(True):
        return run_once(functools.partial(everything, axis_name=None), *operands())


@pytest.mark.parametrize("way", WAYS)
def test_the_numbers_of_one_device(way, x64):
    expected = on_one_device()
    got = WAYS[way](everything, *operands())
    for name, (value, grads, info) in expected.items():
        assert_close(name, got[name][0], value, TOLERANCE)
        assert_close(name, got[name][1], grads, TOLERANCE)
        for field in ("inner_grad_norm", "residual_norm", "curvature", "rhs_norm"):
            one = np.asarray(getattr(info, field))
            np.testing.assert_allclose(
                getattr(got[name][2], field), one, rtol=1e-8, atol=1e-12
            )
        assert_close(name, got[name][2].solution, info.solution, TOLERANCE)


def test_the_reference_of_one_device(x64):
    """The yardstick above is itself right, at the minimum."""
    problem = problems.scalar_ridge()
    params, hparams, train, val = problem.operands
    got = WAYS["shard_map without"](
        lambda replicated, sharded, axis_name: value_and_hypergrad(
            problem.inner,
            problem.outer,
            *replicated,
            inner_args=sharded[0],
            outer_args=sharded[1],
            solver=solvers.dense(),
            axis_name=axis_name,
        )[1],
        (params, hparams),
        (train, val),
    )
    assert_close("dense", got, problem.reference, TOLERANCE)


@pytest.mark.parametrize("check_vma", [True, False])
def test_two_mapped_axes(check_vma, x64):
    """The mean over both axes of a 2 x 2 mesh; hparams that vary already."""
    problem = problems.scalar_ridge()
    params, hparams, train, val = problem.operands
    grid = jax.make_mesh(
        (2, 2), ("a", "b"), (jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:4]
    )

    def run(params, hparams, train, val):
        if check_vma:
            hparams = jax.tree.map(
                lambda x: jax.lax.pcast(x, "a", to="varying"), hparams
            )
        return value_and_hypergrad(
            problem.inner,
            problem.outer,
            params,
            hparams,
            inner_args=train,
            outer_args=val,
            solver=solvers.conjugate_gradient(20),
            axis_name=("a", "b"),
        )[1]

    both = PartitionSpec(("a", "b"))
    whole = PartitionSpec()
    mapped = jax.shard_map(
        run,
        mesh=grid,
        in_specs=(whole, whole, both, both),
        out_specs=whole,
        check_vma=check_vma,
    )
    got = run_once(mapped, params, hparams, train, val)
    assert_close("two axes", got, problem.reference, TOLERANCE)


def test_aux_stays_local(x64):
    problem = problems.scalar_ridge()
    params, hparams, train, val = problem.operands

    def outer(w, h, x, y):
        return problem.outer(w, h, x, y), x @ w

    def run(train, val):
        info = value_and_hypergrad(
            problem.inner,
            outer,
            params,
            hparams,
            inner_args=train,
            outer_args=val,
            solver=solvers.dense(),
            outer_has_aux=True,
            axis_name=AXIS,
        )[2]
        return info.aux

    mapped = jax.vmap(run, axis_name=AXIS)
    got = run_once(mapped, shards(train), shards(val))
    assert_close("aux", got.reshape(-1), val[0] @ params, TOLERANCE)


def test_each_device_its_own_rows(x64):
    """Weights of the train points in one table, of which a shard holds some rows."""
    problem = problems.weighted_least_squares()
    params, hparams, train, val = problem.operands

    def run(replicated, sharded, axis_name):
        params, table = replicated
        (x, y, rows), (val_x, val_y) = sharded

        def inner(w, table, x, y, rows):
            return problem.inner(w, table[rows], x, y)

        return value_and_hypergrad(
            inner,
            problem.outer,
            params,
            table,
            inner_args=(x, y, rows),
            outer_args=(val_x, val_y),
            solver=solvers.dense(),
            axis_name=axis_name,
        )[1]

    sharded = ((*train, jnp.arange(60)), val)
    got = WAYS["vmap"](run, (params, hparams), sharded)
    assert_close("rows", got, problem.reference, TOLERANCE)


@pytest.mark.parametrize(
    ("way", "solver"),
    [
        ("pmap", "cg"),
        ("vmap", "cg"),
        ("shard_map without", "cg"),
        ("shard_map without", "gmres"),
    ],
)
def test_solvers_of_jax_take_an_axis(way, solver, x64):
    """Not in a shard_map with replication checks: JAX's own rule for them fails there.

    `jax.lax.custom_linear_solve`, inside each of them, calls its result varying.
    """
    got = WAYS[way](*with_solver_of_jax(solver))
    assert_close(solver, got, problems.scalar_ridge().reference, 1e-4)


def test_solvers_of_jax_are_no_silent_mistake_with_replication_checks(x64):
    with pytest.raises(ValueError, match="replication"):
        WAYS[TRACKED](*with_solver_of_jax("cg"))


def with_solver_of_jax(name):
    problem = problems.scalar_ridge()
    params, hparams, train, val = problem.operands
    solver = getattr(jax.scipy.sparse.linalg, name)

    def run(replicated, sharded, axis_name):
        function, inner = (
            (hypergrad, problem.inner)
            if name == "cg"
            else (hypergrad_root, jax.grad(problem.inner))
        )
        return function(
            inner,
            problem.outer,
            *replicated,
            inner_args=sharded[0],
            outer_args=sharded[1],
            solver=solver,
            axis_name=axis_name,
        )

    return run, (params, hparams), (train, val)
