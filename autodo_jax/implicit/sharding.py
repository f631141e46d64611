"""Which parameters are shards inside `jax.shard_map`, and what is refused there."""

from collections.abc import Callable
from typing import Any

import jax

from autodo_jax._typing import AxisName, PyTree
from autodo_jax.implicit import tree
from autodo_jax.implicit.linear import BoundedSolver, Solver
from autodo_jax.implicit.series import Identity


def parameter_axes(
    params: PyTree,
    axis_name: AxisName | None,
    param_axes: tuple | None,
    losses: Callable[[], list],
    solver: Solver,
) -> frozenset:
    """Returns the axes over whose shards inner products of parameters are summed.

    Args:
      params: as they come, before they are marked as varying over `axis_name`.
      axis_name: axes of the data, on which the parameters are copies.
      param_axes: what the caller says; None: the axes over which `params` vary.
      losses: () -> values of the losses at `params`, to see over what they vary.
      solver: must sum its inner products over shards.

    Raises:
      ValueError: parameters that may be shards or not: `jax.shard_map` does not say
        with `check_vma=False`, or the losses vary over the same axes.
      TypeError: a solver that does not know of shards.
    """
    manual = frozenset(jax.sharding.get_abstract_mesh().manual_axes)
    unnamed = manual - frozenset(_names(axis_name))
    if not unnamed or param_axes == ():
        return frozenset()
    if not all(map(_is_tracked, unnamed)):
        raise ValueError(
            f"`params` may be shards on the axes {sorted(unnamed)} of jax.shard_map, "
            "which does not say with check_vma=False; use check_vma=True for sharded "
            "parameters, or pass param_axes=() where each device holds them whole."
        )
    leaves = jax.tree.leaves(params)
    axes = frozenset().union(*map(tree.varying_axes, leaves)) & unnamed
    if param_axes is not None:
        axes &= frozenset(param_axes)
    for value in losses() if axes else ():
        if tree.varying_axes(value) & axes:
            raise ValueError(
                f"`params` vary over the axes {sorted(axes)} of jax.shard_map and so "
                "do the losses: sum or average the losses over these axes "
                "(jax.lax.psum, jax.lax.pmean) if the parameters are shards, or pass "
                "param_axes=() if each device solves a problem of its own."
            )
    if axes and not isinstance(solver, (BoundedSolver, Identity)):
        raise TypeError(
            f"`solver` must sum its inner products over the shards on {sorted(axes)}, "
            f"got {solver!r}; use solvers.conjugate_gradient, minres, normal_cg or "
            "neumann."
        )
    return axes


def _names(axis_name: Any) -> tuple:
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _is_tracked(name: AxisName) -> bool:
    return name in tree.varying_axes(jax.lax.axis_index(name))
