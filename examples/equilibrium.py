"""An equilibrium model, whose output is the fixed point of its own layer.

Twelve cells form a ring, and each sees the one before it. One random cell is shown a
digit (0 to 3, an 8 x 8 image), the others nothing, and every cell has to name it. The
states z_i of the cells are the fixed point of

    z_i = tanh(W z_(i-1) + U x_i + b)

There is exactly one, because the rows of W are kept at an absolute sum of at most 0.95.

Optimality: `F(z, lam) = z - tanh(...) = 0` with lam = (W, U, b, C, d). Outer loss: the
cross-entropy of softmax(C z_i + d), mean over cells, which depends on lam through z and
directly. F is not a gradient and its Jacobian is not symmetric, so `hypergrad_root`
solves the transposed system. For comparison, the same model is stopped after K
applications of the layer and trained through them.

    python examples/equilibrium.py      # about 12 s on 2 CPU cores

It prints

    Cells that name the digit, in %, mean over 3 seeds
      stopped at K = 1   30.5
      stopped at K = 2   36.7
      stopped at K = 4   49.0
      equilibrium        95.7
    Gradient against 400 unrolled steps: 1.0e-15
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from autodo_jax import hypergrad_root, solvers

NUM_CELLS, WIDTH, NUM_CLASSES = 12, 32, 4
OPTIMIZER = optax.adam(3e-3)


def init(key):
    keys = jax.random.split(key, 3)
    normal = jax.random.normal
    return {
        "W": normal(keys[0], (WIDTH, WIDTH)) / np.sqrt(WIDTH),
        "U": normal(keys[1], (64, WIDTH)) / 8,
        "b": jnp.zeros(WIDTH),
        "C": normal(keys[2], (WIDTH, NUM_CLASSES)) / np.sqrt(WIDTH),
        "d": jnp.zeros(NUM_CLASSES),
    }


def layer(z, lam, x):
    """`x` [batch, cells, 64], `z` [batch, cells, width]."""
    w = lam["W"] * 0.95 / jnp.maximum(1, jnp.abs(lam["W"]).sum(0))
    return jnp.tanh(jnp.roll(z, 1, axis=1) @ w + x @ lam["U"] + lam["b"])


def optimality(z, lam, x):
    return z - layer(z, lam, x)


def outer_loss(z, lam, y):
    logits = z @ lam["C"] + lam["d"]
    labels = jnp.broadcast_to(y[:, None], logits.shape[:-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)


def iterate(lam, x, num_times):
    z = jnp.zeros((*x.shape[:-1], WIDTH))
    return jax.lax.fori_loop(0, num_times, lambda _, z: layer(z, lam, x), z)


def unrolled_gradient(lam, x, y, num_times):
    """Backpropagation through the iterations: memory grows with their number."""
    return jax.grad(lambda lam: outer_loss(iterate(lam, x, num_times), lam, y))(lam)


def implicit_gradient(lam, x, y, num_times):
    return hypergrad_root(
        optimality,
        outer_loss,
        iterate(lam, x, num_times),
        lam,
        inner_args=(x,),
        outer_args=(y,),
        solver=solvers.neumann(num_times, step_size=1.0),
    )


@functools.partial(jax.jit, static_argnames=("gradient", "num_times"))
def train_step(lam, state, x, y, gradient, num_times):
    updates, state = OPTIMIZER.update(gradient(lam, x, y, num_times), state)
    return optax.apply_updates(lam, updates), state


@functools.partial(jax.jit, static_argnames="num_times")
def accuracy(lam, x, y, num_times):
    logits = iterate(lam, x, num_times) @ lam["C"] + lam["d"]
    return 100 * jnp.mean(jnp.argmax(logits, -1) == y[:, None])


def show(rng, images):
    """Puts each image into one random cell of an empty ring."""
    x = np.zeros((len(images), NUM_CELLS, 64), np.float32)
    x[np.arange(len(images)), rng.integers(NUM_CELLS, size=len(images))] = images
    return x


def make_data(seed):
    x, y = load_digits(n_class=NUM_CLASSES, return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    return rng, (x[:500], y[:500]), (show(rng, x[500:]), y[500:])


def train(seed, gradient, num_times, num_steps):
    """Returns the test accuracy, and what `gradient_error` takes."""
    rng, (images, labels), test = make_data(seed)
    lam = init(jax.random.key(seed))
    state = OPTIMIZER.init(lam)
    for _ in range(num_steps):
        batch = rng.integers(len(labels), size=64)
        x, y = show(rng, images[batch]), labels[batch]
        lam, state = train_step(lam, state, x, y, gradient, num_times)
    return float(accuracy(lam, *test, num_times)), (lam, x, y)


def gradient_error(lam, x, y):
    """Compares the implicit gradient with that of many iterations, in float64."""
    with jax.enable_x64(True):
        lam, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (lam, x))
        implicit = jax.jit(implicit_gradient, static_argnums=3)(lam, x, y, 400)
        unrolled = jax.jit(unrolled_gradient, static_argnums=3)(lam, x, y, 400)
        difference = optax.tree.norm(optax.tree.sub(implicit, unrolled))
        return float(difference / optax.tree.norm(unrolled))


def main(num_seeds=3, num_steps=200, depths=(1, 2, 4)):
    results = {}
    for depth in depths:
        found = [
            train(seed, unrolled_gradient, depth, num_steps)[0]
            for seed in range(num_seeds)
        ]
        results[f"{depth}_layers"] = float(np.mean(found))
    runs = [train(s, implicit_gradient, 40, num_steps) for s in range(num_seeds)]
    results["equilibrium"] = float(np.mean([found for found, _ in runs]))
    results["gradient_error"] = max(gradient_error(*check) for _, check in runs)
    print(f"Cells that name the digit, in %, mean over {num_seeds} seeds")
    for depth in depths:
        print(f"  stopped at K = {depth}   {results[f'{depth}_layers']:.1f}")
    print(f"  equilibrium        {results['equilibrium']:.1f}")
    print(f"Gradient against 400 unrolled steps: {results['gradient_error']:.1e}")
    return results


if __name__ == "__main__":
    main()
