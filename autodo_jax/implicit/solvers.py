"""Linear solvers: callables `(matvec, b) -> x` or `-> (x, info)` for `A x = b`.

`A` is symmetric unless a solver says otherwise. It is given only by its product
`matvec(v) = A v` on pytrees; `b` and `x` are pytrees of the same structure. Any such
callable can be passed to `hypergrad(solver=...)`, `jax.scipy.sparse.linalg.cg`, `gmres`
and `bicgstab` among them. Products are counted because each costs about two gradients
of the inner loss. Those given here are values: they compare, hash and pickle.
"""

from autodo_jax.implicit.direct import Dense, Nystrom, dense, nystrom
from autodo_jax.implicit.krylov import (
    ConjugateGradient,
    ConjugateGradientInfo,
    NormalCG,
    NormalCGInfo,
    conjugate_gradient,
    normal_cg,
)
from autodo_jax.implicit.linear import (
    BoundedSolver,
    Matvec,
    MatvecAt,
    Solver,
    StochasticSolver,
    damp,
    split_info,
)
from autodo_jax.implicit.minres import Minres, MinresInfo, minres
from autodo_jax.implicit.series import Identity, Neumann, identity, neumann
from autodo_jax.implicit.spectrum import (
    AUTO_NUM_STEPS,
    auto_step_size,
    largest_eigenvalue,
)

__all__ = [
    "AUTO_NUM_STEPS",
    "BoundedSolver",
    "ConjugateGradient",
    "ConjugateGradientInfo",
    "Dense",
    "Identity",
    "Matvec",
    "MatvecAt",
    "Minres",
    "MinresInfo",
    "Neumann",
    "NormalCG",
    "NormalCGInfo",
    "Nystrom",
    "Solver",
    "StochasticSolver",
    "auto_step_size",
    "conjugate_gradient",
    "damp",
    "dense",
    "identity",
    "largest_eigenvalue",
    "minres",
    "neumann",
    "normal_cg",
    "nystrom",
    "split_info",
]
