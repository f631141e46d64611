"""AutoDO in JAX: learn how to augment, weigh and relabel each training image.

Three ways in: `python -m autodo_jax.main --config=configs/digits.py`;
`optimize_dataset`, which does the same to arrays; and the functions of `implicit`,
which know nothing of images. Numbers of equations, sections and lines refer to
"AutoDO: Robust AutoAugment for Biased Data with Label Noise via Scalable Probabilistic
Implicit Differentiation" (Gudovskiy et al., CVPR 2021).

    paper                                    file
    Eq. 3-5, implicit differentiation        implicit/hypergradient.py
    Eq. 4, derivative of the argmin          implicit/decorators.py
    Sec. 3.2, Neumann series                 implicit/series.py
    Eq. 7, Fisher information                implicit/curvature.py
    Sec. 4, Lambda, g_W and g_S              hyperparams/state.py
    Sec. 4.1, gates and magnitudes           augment/gates.py
    Eq. 8, affine operations of g_A          augment/affine.py, augment/learned.py
    Sec. 4.2, loss to soft labels            losses.py
    Sec. 5, policies it is compared with     augment/policies.py, augment/pil_ops.py
    L_t and L_v                              objective.py
    Algorithm 1                              train/loop.py, train/steps.py
    Sec. 5.1, split and distortions          data/split.py, data/distort.py
    App. A, numbers                          config/fields.py, train/state.py

Symbols:

    theta, params   parameters the inner problem solves for; in training the head
    lam, Lambda     hyperparameters (`hparams`); one row for each train point
    L_t, L_v        inner loss on train data, outer loss on validation data
    H, A            Hessian of L_t in theta; the matrix of the system that is solved
    T, a            number of products and step size of the Neumann series
    N, B, C         train points, points in a batch, classes
    E               epochs before the outer loop starts
    IR, NR          class imbalance ratio, label noise ratio
"""

from typing import TYPE_CHECKING, Any

from autodo_jax.errors import RunError
from autodo_jax.implicit import (
    HypergradInfo,
    curvature,
    hypergrad,
    hypergrad_root,
    hypergrads,
    implicit_argmin,
    implicit_fixed_point,
    implicit_root,
    preconditioners,
    solvers,
    value_and_hypergrad,
    value_and_hypergrad_root,
    value_and_hypergrads,
)
from autodo_jax.version import __version__
from autodo_jax.workdir.dataset_report import DatasetReport, load_dataset_report

if TYPE_CHECKING:
    from autodo_jax.api import OptimizedDataset, config_for, load_run, optimize_dataset

__all__ = [
    "DatasetReport",
    "HypergradInfo",
    "OptimizedDataset",
    "RunError",
    "__version__",
    "config_for",
    "curvature",
    "hypergrad",
    "hypergrad_root",
    "hypergrads",
    "implicit_argmin",
    "implicit_fixed_point",
    "implicit_root",
    "load_dataset_report",
    "load_run",
    "optimize_dataset",
    "preconditioners",
    "solvers",
    "value_and_hypergrad",
    "value_and_hypergrad_root",
    "value_and_hypergrads",
]


def __getattr__(name: str) -> Any:
    """Imports the modules that train on first use: they take seconds."""
    if name in ("OptimizedDataset", "config_for", "load_run", "optimize_dataset"):
        from autodo_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
