"""Hypergradients by implicit differentiation, without any network or data set."""

from autodo_jax.implicit import curvature, preconditioners, solvers
from autodo_jax.implicit.decorators import (
    implicit_argmin,
    implicit_fixed_point,
    implicit_root,
)
from autodo_jax.implicit.gradient import HypergradInfo
from autodo_jax.implicit.hypergradient import (
    hypergrad,
    hypergrad_root,
    value_and_hypergrad,
    value_and_hypergrad_root,
)
from autodo_jax.implicit.many import hypergrads, value_and_hypergrads

__all__ = [
    "HypergradInfo",
    "curvature",
    "hypergrad",
    "hypergrad_root",
    "hypergrads",
    "implicit_argmin",
    "implicit_fixed_point",
    "implicit_root",
    "preconditioners",
    "solvers",
    "value_and_hypergrad",
    "value_and_hypergrad_root",
    "value_and_hypergrads",
]
