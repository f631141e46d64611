"""One ridge penalty per feature, learned on a validation set.

Inner loss, minimized in the coefficients w for given log penalties lam:

    L_t(w, lam) = |X w - y|^2 / (2 n) + 1/2 sum_j exp(lam_j) w_j^2

Outer loss: `L_v(w) = |X_v w - y_v|^2 / (2 m)`. There are 40 training points and 30
features, of which 6 matter. The inner minimum has a closed form, so the hypergradient
is checked against the derivative through it.

    python examples/ridge_penalties.py      # about 4 s on 2 CPU cores

It prints

    Test error (noise alone is 1), mean over 5 seeds
      least squares              3.63
      best shared penalty        2.02
      learned penalties          1.19
    Hypergradient against the closed form: 1.2e-14
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from autodo_jax import hypergrad, solvers

NUM_FEATURES, NUM_RELEVANT = 30, 6


def inner_loss(w, lam, x, y):
    return 0.5 * jnp.mean((x @ w - y) ** 2) + 0.5 * jnp.sum(jnp.exp(lam) * w**2)


def outer_loss(w, lam, x, y):
    del lam  # No direct term.
    return 0.5 * jnp.mean((x @ w - y) ** 2)


def fit(lam, x, y):
    """Returns the minimizer of the inner loss, in closed form."""
    return jnp.linalg.solve(x.T @ x / len(y) + jnp.diag(jnp.exp(lam)), x.T @ y / len(y))


@jax.jit
def implicit_gradient(lam, train, valid):
    return hypergrad(
        inner_loss,
        outer_loss,
        fit(lam, *train),
        lam,
        inner_args=train,
        outer_args=valid,
        solver=solvers.conjugate_gradient(2 * NUM_FEATURES),
    )


@jax.jit
def closed_form_gradient(lam, train, valid):
    return jax.grad(lambda lam: outer_loss(fit(lam, *train), lam, *valid))(lam)


def make_data(seed, sizes):
    rng = np.random.default_rng(seed)
    w = np.zeros(NUM_FEATURES)
    w[:NUM_RELEVANT] = rng.normal(size=NUM_RELEVANT)
    splits = []
    for size in sizes:
        x = rng.normal(size=(size, NUM_FEATURES))
        y = x @ w + rng.normal(size=size)
        splits.append((jnp.asarray(x), jnp.asarray(y)))
    return splits


def test_error(lam, train, test):
    return float(jnp.mean((test[0] @ fit(lam, *train) - test[1]) ** 2))


def run(seed, outer_steps):
    train, valid, test = make_data(seed, sizes=(40, 100, 5000))
    shared = [jnp.full(NUM_FEATURES, c) for c in np.linspace(-6.0, 3.0, 37)]
    losses = [float(outer_loss(fit(lam, *train), lam, *valid)) for lam in shared]
    lam = best_shared = shared[int(np.argmin(losses))]

    optimizer = optax.adam(0.1)
    state = optimizer.init(lam)
    errors = []
    for _ in range(outer_steps):
        grads = implicit_gradient(lam, train, valid)
        exact = closed_form_gradient(lam, train, valid)
        errors.append(float(jnp.linalg.norm(grads - exact) / jnp.linalg.norm(exact)))
        updates, state = optimizer.update(grads, state)
        lam = optax.apply_updates(lam, updates)
    return {
        "least_squares": test_error(jnp.full(NUM_FEATURES, -20.0), train, test),
        "shared_penalty": test_error(best_shared, train, test),
        "learned_penalties": test_error(lam, train, test),
        "gradient_error": max(errors),
    }


def main(num_seeds=5, outer_steps=100):
    # The gradients that are compared vanish towards the end, so float64 is needed.
    with jax.enable_x64(True):
        runs = [run(seed, outer_steps) for seed in range(num_seeds)]
    results = {name: float(np.mean([r[name] for r in runs])) for name in runs[0]}
    results["gradient_error"] = max(r["gradient_error"] for r in runs)
    print(f"Test error (noise alone is 1), mean over {num_seeds} seeds")
    print(f"  least squares              {results['least_squares']:.2f}")
    print(f"  best shared penalty        {results['shared_penalty']:.2f}")
    print(f"  learned penalties          {results['learned_penalties']:.2f}")
    print(f"Hypergradient against the closed form: {results['gradient_error']:.1e}")
    return results


if __name__ == "__main__":
    main()
