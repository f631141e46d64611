"""Checks of the arguments of the public functions.

Errors say what was passed and what was expected. The checks read shapes, dtypes and
structures only, so they cost nothing under `jit`.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from autodo_jax._typing import PyTree


def check_callable(name: str, value: Any, hint: str) -> None:
    """Raises a TypeError unless `value` can be called."""
    if not callable(value):
        raise TypeError(f"`{name}` must be a callable, got {value!r}; {hint}.")


def check_floating(name: str, tree: PyTree) -> None:
    """Raises a TypeError for leaves that are not floating, a ValueError for none."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError(f"`{name}` has no leaves, expected a pytree of arrays.")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, float):
            continue
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = type(leaf).__name__ if dtype is None else dtype
            where = f"{name}{jax.tree_util.keystr(path)}"
            raise TypeError(
                f"`{name}` must hold floating-point arrays only, got {got} at {where}; "
                "pass integers and keys as inner_args or outer_args."
            )


def check_params(params: PyTree) -> None:
    """Raises a TypeError unless a solver's result holds floating arrays only."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise TypeError("`solve` must return the params, a pytree of arrays, got none.")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None) or jnp.result_type(type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            where = f"params{jax.tree_util.keystr(path)}"
            raise TypeError(
                f"`solve` must return floating-point params only, got {dtype} at "
                f"{where}; return other results as aux with has_aux=True, and complex "
                "params as their real and imaginary parts."
            )


def split_aux(returned: Any) -> tuple[PyTree, PyTree]:
    """Splits (params, aux); a TypeError if a solver returns no pair."""
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise TypeError(
            "`solve` must return a pair (params, aux) with has_aux=True, got "
            f"{type(returned).__name__}."
        )
    return returned


def is_method(function: Callable) -> bool:
    """Returns True of a function whose first parameter is named `self`."""
    return next(iter(_parameters(function)), None) == "self"


def takes(function: Callable, name: str) -> bool:
    """Returns True if `function` has a keyword `name`, or may have any."""
    parameters = _parameters(function)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return not parameters or takes_any or name in parameters


def hparams_first(
    solve: Callable, owner: tuple, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    """Moves the hyperparameters, where they come as a keyword, to the front of args."""
    if args:
        return args, kwargs
    names = list(_parameters(solve))[len(owner) :]
    if not names or names[0] not in kwargs:
        raise TypeError(
            f"`{getattr(solve, '__name__', 'solve')}` takes the hyperparameters first, "
            "got no positional argument."
        )
    rest = {name: value for name, value in kwargs.items() if name != names[0]}
    return (kwargs[names[0]],), rest


def _parameters(function: Callable) -> Any:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # Of a builtin.
        return {}


def scalar_loss(
    name: str, loss: Callable, has_aux: bool = False, aux_option: str = ""
) -> Callable:
    """Wraps `loss` to raise a TypeError or ValueError unless it returns a scalar."""

    hint = f"; with auxiliary output pass {aux_option}=True" if aux_option else ""

    def checked(*args: Any, **kwargs: Any) -> chex.Array | tuple[chex.Array, PyTree]:
        returned = loss(*args, **kwargs)
        if has_aux and not (isinstance(returned, tuple) and len(returned) == 2):
            raise TypeError(
                f"`{name}` must return a pair (scalar, aux) with {aux_option}=True, "
                f"got {type(returned).__name__}."
            )
        value = returned[0] if has_aux else returned
        if len(jax.tree.leaves(value)) != 1 or isinstance(value, (tuple, list, dict)):
            raise TypeError(
                f"`{name}` must return a scalar array, got "
                f"{jax.tree.structure(value)}{hint}."
            )
        value = jnp.asarray(value)
        if value.shape != ():
            raise ValueError(
                f"`{name}` must return a scalar, got an array of shape {value.shape}; "
                "take the mean over the batch."
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise TypeError(f"`{name}` must return a float, got {value.dtype}.")
        return (value, returned[1]) if has_aux else value

    return checked


def check_like(name: str, tree: PyTree, like_name: str, like: PyTree) -> None:
    """Raises a TypeError unless `tree` has the structure and shapes of `like`."""
    structure: Any = jax.tree.structure(tree)
    expected: Any = jax.tree.structure(like)
    if structure != expected:
        raise TypeError(
            f"{name} must have the structure of {like_name}, got {structure}, "
            f"expected {expected}."
        )
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(like), strict=True
    )
    for (path, leaf), other in pairs:
        if jnp.shape(leaf) != jnp.shape(other):
            raise TypeError(
                f"{name} must have the shapes of {like_name}, got {jnp.shape(leaf)} at "
                f"{jax.tree_util.keystr(path) or 'its only leaf'}, expected "
                f"{jnp.shape(other)}."
            )


def check_count(name: str, value: Any, minimum: int) -> None:
    """Raises a TypeError unless `value` is an integer, a ValueError below `minimum`."""
    static = not isinstance(value, (bool, jax.core.Tracer))
    if not (static and hasattr(value, "__index__")):
        raise TypeError(
            f"`{name}` must be an integer >= {minimum} known at trace time, got "
            f"{value!r}."
        )
    if value < minimum:
        raise ValueError(f"`{name}` must be an integer >= {minimum}, got {value}.")


def check_nonnegative(name: str, value: Any) -> None:
    """Raises a TypeError or ValueError unless `value` is a finite number >= 0.

    Traced numbers pass.
    """
    if _check_number(name, value, "a number >= 0") and not 0 <= value < math.inf:
        raise ValueError(f"`{name}` must be a number >= 0, got {value}.")


def check_positive(name: str, value: Any, hint: str = "") -> None:
    """Raises a TypeError or ValueError unless `value` is a finite number > 0.

    Traced numbers pass.
    """
    expected = f"a positive number{hint}"
    if isinstance(value, str) and hint:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}.")
    if _check_number(name, value, expected) and not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be {expected}, got {value}.")


def _check_number(name: str, value: Any, expected: str) -> bool:
    """Raises a TypeError unless `value` is a real scalar; returns False if traced."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    dtype = getattr(value, "dtype", jnp.dtype(bool))
    is_scalar = jnp.issubdtype(dtype, jnp.number) and jnp.shape(value) == ()
    if not (is_number or is_scalar) or jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` must be {expected}, got {value!r}.")
    return not isinstance(value, jax.core.Tracer)


def check_arguments(name: str, value: Any) -> None:
    """Raises a TypeError unless `value` is a tuple or list.

    A single array is refused because its rows would be taken for the arguments.
    """
    if not isinstance(value, (tuple, list)):
        raise TypeError(
            f"`{name}` must be a tuple of arguments, got {type(value).__name__}; "
            f"write {name}=(batch,) for a single one."
        )


def check_axis_name(axis_name: Any) -> None:
    """Raises a ValueError unless `axis_name`, or each name of a tuple, is mapped."""
    if axis_name is None:
        return
    try:
        jax.lax.axis_index(axis_name)
    except NameError:
        raise ValueError(
            f"`axis_name` must name an axis mapped around this call, got {axis_name!r},"
            " which is not bound; map the function with jax.pmap, jax.shard_map or "
            "jax.vmap(axis_name=...), or leave axis_name=None."
        ) from None


def leading_axis(name: str, tree: PyTree) -> int:
    """Returns the length of the leaves' first axes; a ValueError if they differ."""
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            f"`{name}` must hold arrays with one common leading axis (a batch per "
            f"product), got leading axes {sorted(lengths)}."
        )
    return lengths.pop()[0]


def depends_on_input(linear_function: Callable, example: PyTree) -> bool:
    """Returns False if `linear_function` is zero by the structure of its program.

    A linear function whose outputs do not depend on its input is zero. No number is
    looked at, so a derivative that happens to vanish is not taken for a missing one.
    """
    jaxpr = jax.make_jaxpr(linear_function)(example).jaxpr
    reached = set(jaxpr.invars)
    for equation in jaxpr.eqns:
        if any(var in reached for var in equation.invars if not _is_literal(var)):
            reached.update(equation.outvars)
    return any(not _is_literal(var) and var in reached for var in jaxpr.outvars)


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")
