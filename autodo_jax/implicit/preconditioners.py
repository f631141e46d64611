"""Preconditioners of conjugate gradients and MINRES: `v -> M v`, M close to `A^-1`.

Each is symmetric positive definite whatever the numbers it is made of, so that a poor
estimate costs iterations and nothing else. They are pytrees (`jax.tree_util.Partial`):
return one from a jitted function, keep it over many solves, pass it to another, and
make the solver there.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from autodo_jax._typing import PyTree
from autodo_jax.implicit import checks, loops, tree
from autodo_jax.implicit.linear import Matvec


def hutchinson(
    matvec: Matvec, like: PyTree, key: chex.PRNGKey, num_products: int = 16
) -> PyTree:
    """Estimates the diagonal of A: the mean of `z * A z` over random signs z.

    Unbiased (Bekas, Kokiopoulou and Saad, 2007); exact from one product if A is
    diagonal. The error of an entry is about the norm of the rest of its row, divided
    by the square root of the number of products.

    Args:
      matvec: `v -> A v`, such as a curvature returns it.
      like: pytree with the shapes of v.
      key: of the signs.
      num_products: number of products, >= 1.

    Returns:
      A pytree like `like`, of float32 or wider: the argument of `diagonal`.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from autodo_jax import preconditioners
      >>> scales = jnp.array([1.0, 4.0])
      >>> preconditioners.hutchinson(
      ...     lambda v: scales * v, jnp.ones(2), jax.random.key(0), num_products=1
      ... ).tolist()
      [1.0, 4.0]
    """
    checks.check_count("num_products", num_products, minimum=1)
    like = tree.promote(jax.tree.map(jnp.asarray, like))

    def add_probe(i: chex.Numeric, total: PyTree) -> PyTree:
        signs = optax.tree.random_like(
            jax.random.fold_in(key, i), like, jax.random.rademacher
        )
        signs = tree.cast_like(signs, like)
        product = matvec(signs)
        return jax.tree.map(lambda t, z, y: t + z * y, total, signs, product)

    total = loops.repeat(num_products, add_probe, tree.zeros_like(like))
    return tree.scale(1 / num_products, total)


def diagonal(estimate: PyTree, damping: chex.Numeric) -> Matvec:
    """Returns `v -> v / (|D| + damping)`.

    Args:
      estimate: D, a pytree like the parameters: of `hutchinson`, the mean of squared
        gradients (Fisher information), or penalties that are known.
      damping: d > 0, of the size of the smallest eigenvalue that is sure, such as the
        weight decay.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import preconditioners
      >>> precondition = preconditioners.diagonal(jnp.array([0.75, 3.75]), damping=0.25)
      >>> precondition(jnp.ones(2)).tolist()
      [1.0, 0.25]
    """
    checks.check_positive("damping", damping)
    parts = jax.tree.map(lambda d: jnp.abs(d) + damping, estimate)
    return jax.tree_util.Partial(_divide, parts)


class Factors(NamedTuple):
    """Positive semi-definite matrices of one dense layer, see `kronecker`."""

    a: chex.Array  # [in, in]
    b: chex.Array  # [out, out]


def kronecker(factors: PyTree, damping: chex.Numeric) -> Matvec:
    """Returns the product with `(A x B + damping I)^-1` of each dense layer.

    For a layer `y = x W`, with W of shape [in, out], the Gauss-Newton matrix of a mean
    over N points is about the Kronecker product of `A = X'X / N`, X the inputs of the
    layer, and `B = G'G N`, G the derivatives of the mean loss in y for labels drawn
    from the model (K-FAC: Martens and Grosse, 2015). Takes an eigendecomposition of
    each factor once.

    Args:
      factors: a pytree like the parameters, with `Factors(A, B)` in place of each W,
        and in place of each other leaf an estimate of its diagonal.
      damping: d > 0, as for `diagonal`.

    Raises:
      ValueError: matrices that are not square, or damping <= 0.

    Examples:
      >>> import jax.numpy as jnp
      >>> from autodo_jax import preconditioners
      >>> factors = preconditioners.Factors(jnp.eye(2), 3.0 * jnp.eye(1))
      >>> precondition = preconditioners.kronecker({"kernel": factors}, damping=1.0)
      >>> precondition({"kernel": jnp.ones((2, 1))})["kernel"].ravel().tolist()
      [0.25, 0.25]
    """
    checks.check_positive("damping", damping)

    def part(leaf: Any) -> Any:
        if isinstance(leaf, Factors):
            return _spectrum(*leaf, damping)
        return jnp.abs(leaf) + damping

    is_layer = lambda x: isinstance(x, Factors)  # noqa: E731
    parts = jax.tree.map(part, factors, is_leaf=is_layer)
    return jax.tree_util.Partial(_divide, parts)


class _Spectrum(NamedTuple):
    """Eigenvectors of A and of B, and the eigenvalues of `A x B + damping I`."""

    of_a: chex.Array
    of_b: chex.Array
    values: chex.Array


def _spectrum(a: chex.Array, b: chex.Array, damping: chex.Numeric) -> _Spectrum:
    for factor in (a, b):
        if factor.shape[0] != factor.shape[1]:
            raise ValueError(
                f"`Factors` must be two square matrices, got shape {factor.shape}."
            )
    values_a, of_a = jnp.linalg.eigh(a)
    values_b, of_b = jnp.linalg.eigh(b)
    # Eigenvalues of zero may come out below it.
    values = jnp.maximum(values_a, 0)[:, None] * jnp.maximum(values_b, 0)[None]
    return _Spectrum(of_a, of_b, values + damping)


def _divide(parts: PyTree, v: PyTree) -> PyTree:
    def divide(part: Any, leaf: chex.Array) -> chex.Array:
        if not isinstance(part, _Spectrum):
            return (leaf / part).astype(leaf.dtype)
        turned = part.of_a.T @ leaf @ part.of_b
        return (part.of_a @ (turned / part.values) @ part.of_b.T).astype(leaf.dtype)

    is_spectrum = lambda x: isinstance(x, _Spectrum)  # noqa: E731
    return jax.tree.map(divide, parts, v, is_leaf=is_spectrum)
