"""Wrong use is refused with the argument, what came and what was expected."""

import inspect
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import (
    curvature,
    hypergrad,
    hypergrad_root,
    implicit_argmin,
    solvers,
    value_and_hypergrad,
    value_and_hypergrad_root,
)

PARAMS = jnp.array([1.0, 2.0])
HPARAMS = jnp.array([0.5, -1.0])


def inner(w, h, *args):
    del args
    return jnp.sum((w - h) ** 2)


def outer(w, h, *args):
    del h, args
    return jnp.sum(w**2)


def optimality(w, h):
    return w - h


def run(
    function=hypergrad, inner=inner, outer=outer, params=PARAMS, hparams=HPARAMS, **kw
):
    return jax.eval_shape(lambda: function(inner, outer, params, hparams, **kw))


def as_is(matvec, b):
    del matvec
    return b


# name: (arguments of `run`, error, what its message must hold)
WRONG: dict[str, tuple[dict, type[Exception], tuple[str, ...]]] = {
    "inner loss with a vector": (
        {"inner": lambda w, h: (w - h) ** 2},
        ValueError,
        ("`inner_loss`", "scalar", "(2,)"),
    ),
    "outer loss with a vector": (
        {"outer": lambda w, h: w**2},
        ValueError,
        ("`outer_loss`", "scalar", "(2,)"),
    ),
    "outer loss with a pair": (
        {"outer": lambda w, h: (jnp.sum(w), w)},
        TypeError,
        ("`outer_loss`", "scalar", "outer_has_aux"),
    ),
    "outer loss without a pair": (
        {"outer_has_aux": True},
        TypeError,
        ("`outer_loss`", "pair", "outer_has_aux=True"),
    ),
    "aux beside a vector": (
        {"outer": lambda w, h: (w, w), "outer_has_aux": True},
        ValueError,
        ("`outer_loss`", "scalar", "(2,)"),
    ),
    "loss that is None": (
        {"inner": lambda w, h: None},
        TypeError,
        ("`inner_loss`", "scalar", "None"),
    ),
    "loss with an integer": (
        {"outer": lambda w, h: jnp.argmax(w)},
        TypeError,
        ("`outer_loss`", "float", "int"),
    ),
    "integer parameters": (
        {"params": {"w": jnp.arange(2)}},
        TypeError,
        ("`params`", "floating", "int32", "['w']"),
    ),
    "integer hyperparameters": (
        {"hparams": {"rows": jnp.arange(2)}},
        TypeError,
        ("`hparams`", "floating", "int32", "['rows']"),
    ),
    "a Python integer": (
        {"hparams": {"degree": 3}},
        TypeError,
        ("`hparams`", "floating", "int", "['degree']"),
    ),
    "complex parameters": (
        {"params": PARAMS + 1j},
        TypeError,
        ("`params`", "floating", "complex64"),
    ),
    "a key among the hyperparameters": (
        {"hparams": {"h": HPARAMS, "key": jax.random.key(0)}},
        TypeError,
        ("`hparams`", "key<", "inner_args"),
    ),
    "no hyperparameters": ({"hparams": {}}, ValueError, ("`hparams`", "no leaves")),
    "no parameters": ({"params": None}, ValueError, ("`params`", "no leaves")),
    "a string for a solver": (
        {"solver": "cg"},
        TypeError,
        ("`solver`", "callable", "'cg'"),
    ),
    "a string for a curvature": (
        {"curvature": "fisher"},
        TypeError,
        ("`curvature`", "callable", "'fisher'"),
    ),
    "a number for an inner loss": (
        {"inner": 1.0},
        TypeError,
        ("`inner_loss`", "callable", "1.0"),
    ),
    "a number for an outer loss": (
        {"outer": 1.0},
        TypeError,
        ("`outer_loss`", "callable", "1.0"),
    ),
    "solver with another structure": (
        {"solver": lambda matvec, b: {"x": b}},
        TypeError,
        ("`solver`", "structure", "{'x': *}"),
    ),
    "solver with another shape": (
        {"solver": lambda matvec, b: b[:1]},
        TypeError,
        ("`solver`", "shape", "(1,)", "(2,)"),
    ),
    "solver that returns nothing": (
        {"solver": lambda matvec, b: None},
        TypeError,
        ("`solver`", "structure", "None"),
    ),
    "warm start with another structure": (
        {"x0": (PARAMS,)},
        TypeError,
        ("`x0`", "structure", "(*,)"),
    ),
    "warm start with another shape": (
        {"x0": jnp.zeros(3)},
        TypeError,
        ("`x0`", "shape", "(3,)", "(2,)"),
    ),
    "an axis that is not bound": (
        {"axis_name": "batch"},
        ValueError,
        ("`axis_name`", "'batch'", "jax.pmap"),
    ),
    "axes that are not bound": (
        {"axis_name": ("a", "b")},
        ValueError,
        ("`axis_name`", "'b'", "jax.pmap"),
    ),
    "a lone array of arguments": (
        {"inner_args": PARAMS},
        TypeError,
        ("`inner_args`", "tuple", "(batch,)"),
    ),
    "a dict of arguments": (
        {"outer_args": {"x": PARAMS}},
        TypeError,
        ("`outer_args`", "tuple", "dict"),
    ),
    "a lone array of batches": (
        {"inner_batches": PARAMS, "solver": solvers.neumann(1, 0.1)},
        TypeError,
        ("`inner_batches`", "tuple", "(batch,)"),
    ),
    "too few batches": (
        {"inner_batches": (jnp.ones((3, 2)),), "solver": solvers.neumann(3, 0.1)},
        ValueError,
        ("`inner_batches`", "4 batches", "got 3"),
    ),
    "batches of two lengths": (
        {"inner_batches": (jnp.ones(3), jnp.ones(4)), "solver": solvers.neumann(2)},
        ValueError,
        ("`inner_batches`", "leading axis", "(3,), (4,)"),
    ),
    "batches without a leading axis": (
        {"inner_batches": (jnp.ones(()),), "solver": solvers.neumann(2)},
        ValueError,
        ("`inner_batches`", "leading axis"),
    ),
    "batches for conjugate gradients": (
        {"inner_batches": (jnp.ones(3),), "solver": solvers.conjugate_gradient(2)},
        TypeError,
        ("`inner_batches`", "solvers.neumann"),
    ),
    "a root with another structure": (
        {"function": hypergrad_root, "inner": lambda w, h: (w - h, w)},
        TypeError,
        ("`optimality_fn`", "structure", "`params`"),
    ),
    "a root with another shape": (
        {"function": hypergrad_root, "inner": lambda w, h: jnp.sum(w - h)},
        TypeError,
        ("`optimality_fn`", "shape", "()", "(2,)"),
    ),
    "a root that is not a function": (
        {"function": hypergrad_root, "inner": None},
        TypeError,
        ("`optimality_fn`", "callable", "None"),
    ),
    "per-example losses that are one": (
        {"curvature": curvature.fisher(inner)},
        ValueError,
        ("`per_example_losses`", "[N]", "()"),
    ),
    "a vector of a loss on outputs": (
        {"curvature": curvature.gauss_newton(lambda w, h: w, lambda out, w, h: out)},
        ValueError,
        ("`loss_on_outputs`", "scalar", "(2,)"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use(case):
    arguments, error, words = WRONG[case]
    with pytest.raises(error) as caught:
        run(**arguments)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


KEY = jax.random.key(0)
ANY: Any = None  # Wrong types on purpose.
neumann: Any = solvers.neumann
argmin: Any = implicit_argmin
hessian: Any = curvature.hessian
gauss_newton: Any = curvature.gauss_newton
fisher: Any = curvature.fisher
cg: Any = solvers.conjugate_gradient

WRONG_OPTIONS: list[tuple[partial, type[Exception], tuple[str, ...]]] = [
    (partial(neumann, 5, 0.0), ValueError, ("`step_size`", "positive", "0.0")),
    (partial(neumann, 5, -0.1), ValueError, ("`step_size`", "positive", "-0.1")),
    (partial(neumann, 5, jnp.zeros(())), ValueError, ("`step_size`", "positive")),
    (partial(neumann, 5, np.nan), ValueError, ("`step_size`", "nan")),
    (partial(neumann, 5, np.inf), ValueError, ("`step_size`", "inf")),
    (partial(neumann, 5, "best"), ValueError, ("`step_size`", "'best'", "'auto'")),
    (partial(neumann, 5, None), TypeError, ("`step_size`", "None", "'auto'")),
    (partial(neumann, 5, np.ones(2)), TypeError, ("`step_size`", "number")),
    (partial(neumann, -1), ValueError, ("`num_terms`", ">= 0", "-1")),
    (partial(neumann, 2.5), TypeError, ("`num_terms`", "integer", "2.5")),
    (
        partial(jax.eval_shape, lambda n: neumann(n, 0.1)(lambda v: v, n), 3),
        TypeError,
        ("`num_terms`", "trace time"),
    ),
    (partial(neumann, True), TypeError, ("`num_terms`", "integer", "True")),
    (partial(neumann, 1, damping=-1), ValueError, ("`damping`", ">= 0", "-1")),
    (partial(neumann, 1, damping="x"), TypeError, ("`damping`", "number", "'x'")),
    (partial(solvers.identity, 0.0), ValueError, ("`scale`", "positive", "0.0")),
    (partial(solvers.identity, "auto"), TypeError, ("`scale`", "number", "'auto'")),
    (partial(cg, 0), ValueError, ("`max_iters`", ">= 1", "0")),
    (partial(cg, 2, tol=-1), ValueError, ("`tol`", ">= 0", "-1")),
    (partial(cg, 2, preconditioner="lu"), TypeError, ("`preconditioner`", "'lu'")),
    (partial(solvers.nystrom, 0, 0.1, KEY), ValueError, ("`rank`", ">= 1", "0")),
    (partial(solvers.nystrom, 2, -1.0, KEY), ValueError, ("`damping`", "-1.0")),
    (partial(solvers.dense, damping=-0.5), ValueError, ("`damping`", "-0.5")),
    (partial(solvers.dense, damping=ANY), TypeError, ("`damping`", "None")),
    (
        partial(solvers.largest_eigenvalue, lambda v: v, PARAMS, num_steps=0),
        ValueError,
        ("`num_steps`", ">= 1", "0"),
    ),
    (partial(hessian, "forward"), ValueError, ("`mode`", "'forward'", "reverse")),
    (partial(hessian, damping=-1), ValueError, ("`damping`", ">= 0", "-1")),
    (
        partial(gauss_newton, "logits", inner),
        TypeError,
        ("`outputs_fn`", "callable", "'logits'"),
    ),
    (partial(fisher, None), TypeError, ("`per_example_losses`", "None")),
    (partial(argmin, 1), TypeError, ("`inner_loss`", "callable", "1")),
    (partial(argmin(inner), 1), TypeError, ("`solve`", "callable", "1")),
    (partial(argmin, inner, solver="cg"), TypeError, ("`solver`", "'cg'")),
    (partial(argmin, inner, curvature="gn"), TypeError, ("`curvature`", "'gn'")),
    (
        partial(argmin(inner)(lambda h: h), jnp.arange(2)),
        TypeError,
        ("`hparams`", "floating", "int32"),
    ),
    (
        partial(jax.jacrev(argmin(lambda w, h: w - h)(lambda h: h)), HPARAMS),
        ValueError,
        ("`inner_loss`", "scalar", "(2,)"),
    ),
]


@pytest.mark.parametrize("case", range(len(WRONG_OPTIONS)))
def test_wrong_options(case):
    make, error, words = WRONG_OPTIONS[case]
    with pytest.raises(error) as caught:
        make()
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_options_are_keyword_only():
    positional: Any = value_and_hypergrad
    with pytest.raises(TypeError, match="positional"):
        positional(inner, outer, PARAMS, HPARAMS, ())


@pytest.mark.parametrize(
    ("short", "full"),
    [(hypergrad, value_and_hypergrad), (hypergrad_root, value_and_hypergrad_root)],
)
def test_both_forms_take_the_same_arguments(short, full):
    """Names, defaults and annotations."""
    expected = inspect.signature(full).parameters
    assert dict(inspect.signature(short).parameters) == dict(expected)


def test_lists_of_arguments_pass():
    lists: dict[str, Any] = {"inner_args": [1.0], "outer_args": [2]}
    got = hypergrad(inner, outer, PARAMS, HPARAMS, **lists)
    np.testing.assert_allclose(got, 2 * PARAMS, rtol=1e-4)
