"""The problems of the hypergradient benchmark, and their answers in double precision.

A problem is a tanh network (no hidden layer: softmax regression) with an L2 penalty for
each parameter. The inner loss is the mean cross-entropy of a training batch plus
`sum exp(hparams) params^2 / 2`, the outer loss the mean cross-entropy of a validation
batch. Parameters are a flat tuple (weight, bias, weight, bias, ...), and `hparams` has
the same shapes. Weights are [out, in], the layout of torch.nn.Linear, which is the
faster one on CPU for JAX and PyTorch alike. The data are synthetic and seeded.

`reference` computes the hypergradient with numpy in float64, by derivatives written out
by hand, without any of the systems that are compared.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

Arrays = tuple[np.ndarray, ...]

# Conjugate gradients need a positive definite Hessian. A network does not have one at
# random parameters, and not quite at those trained with its own penalty. So the
# parameters are trained with a weaker penalty than that in the Hessian.
_TRAIN_STEPS = 300
_TRAIN_PENALTY = 0.25


@dataclasses.dataclass(frozen=True)
class Problem:
    """One benchmark problem at its trained point, as float32 numpy arrays."""

    name: str
    params: Arrays
    hparams: Arrays
    train: tuple[np.ndarray, np.ndarray]  # images [B, D], labels [B]
    valid: tuple[np.ndarray, np.ndarray]
    step_size: float  # of the Neumann series, 1 / lambda_max

    @property
    def size(self) -> int:
        """Number of parameters, and of hyperparameters."""
        return sum(leaf.size for leaf in self.params)


def softmax_regression(sizes=(784, 10), batch: int = 1000) -> Problem:
    """Softmax regression with an L2 penalty per coordinate."""
    return make_problem("softmax regression", sizes, batch, penalty=0.003)


def mlp(sizes=(784, 256, 256, 10), batch: int = 1000, penalty=0.02) -> Problem:
    """A network with two hidden layers and an L2 penalty per weight and bias."""
    return make_problem("MLP", sizes, batch, penalty)


def make_problem(name: str, sizes, batch: int, penalty: float) -> Problem:
    """Draws the data and penalties, trains the parameters, bounds the curvature."""
    rng = np.random.default_rng(0)
    train, valid = _two_batches(rng, sizes[0], sizes[-1], batch)
    start = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        scale = np.sqrt(1 / fan_in)
        start += [scale * rng.normal(size=(fan_out, fan_in)), np.zeros(fan_out)]
    hparams = tuple(
        np.log(penalty * rng.uniform(0.5, 2.0, leaf.shape)).astype(np.float32)
        for leaf in start
    )
    params = _train(tuple(leaf.astype(np.float32) for leaf in start), hparams, train)
    product = hessian_product(params, hparams, train)
    step_size = 1 / (1.05 * _largest_eigenvalue(product, params, rng))
    return Problem(name, params, hparams, train, valid, float(np.float32(step_size)))


def _two_batches(rng, num_features: int, num_classes: int, batch: int):
    """Draws overlapping classes in a subspace, plus noise, for a nontrivial task."""
    rank = min(num_features, 40)
    centers = rng.normal(size=(num_classes, rank))
    basis = rng.normal(size=(rank, num_features)) / np.sqrt(rank)

    def draw():
        labels = rng.integers(num_classes, size=batch)
        latent = centers[labels] + 1.5 * rng.normal(size=(batch, rank))
        noise = rng.normal(size=(batch, num_features))
        images = 0.1 * (latent @ basis + noise)
        return images.astype(np.float32), labels.astype(np.int32)

    return draw(), draw()


def cross_entropy(params, batch) -> jax.Array:
    """Mean cross-entropy of the network."""
    x, labels = batch
    for i in range(0, len(params), 2):
        x = x @ params[i].T + params[i + 1][None]
        x = jnp.tanh(x) if i + 2 < len(params) else x
    return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()


def inner_loss(params, hparams, batch) -> jax.Array:
    """Cross-entropy plus the penalties."""
    penalties = [
        jnp.vdot(jnp.exp(lam), w**2) for w, lam in zip(params, hparams, strict=True)
    ]
    return cross_entropy(params, batch) + sum(penalties) / 2


def outer_loss(params, hparams, batch) -> jax.Array:
    """Cross-entropy alone: no direct dependence on the hyperparameters."""
    del hparams
    return cross_entropy(params, batch)


def _train(params: Arrays, hparams: Arrays, batch) -> Arrays:
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, _TRAIN_STEPS))

    @jax.jit
    def step(params, state, hparams, batch):
        grads = jax.grad(inner_loss)(params, hparams, batch)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    weaker = jax.tree.map(lambda lam: lam + math.log(_TRAIN_PENALTY), hparams)
    state = optimizer.init(params)
    for _ in range(_TRAIN_STEPS):
        params, state = step(params, state, weaker, batch)
    return tuple(np.asarray(leaf) for leaf in params)


# Double precision from here on.


def _doubles(arrays) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in arrays]


def _forward(params, x):
    """Layer inputs, and the class probabilities."""
    inputs = [x]
    for i in range(0, len(params) - 2, 2):
        inputs.append(np.tanh(inputs[-1] @ params[i].T + params[i + 1]))
    logits = inputs[-1] @ params[-2].T + params[-1]
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return inputs, exps / exps.sum(axis=1, keepdims=True)


def _errors(probs, labels):
    return (probs - np.eye(probs.shape[1])[labels]) / len(labels)


def gradient(params: Arrays, batch) -> list[np.ndarray]:
    """Gradient of the cross-entropy, by backpropagation."""
    params = tuple(_doubles(params))
    inputs, probs = _forward(params, np.asarray(batch[0], np.float64))
    error = _errors(probs, batch[1])
    grads: list[np.ndarray] = []
    for layer in reversed(range(len(inputs))):
        grads = [error.T @ inputs[layer], error.sum(axis=0), *grads]
        error = (error @ params[2 * layer]) * (1 - inputs[layer] ** 2)
    return grads


def hessian_product(params: Arrays, hparams: Arrays, batch) -> Callable:
    """`v -> H v` of the inner loss: Pearlmutter's R-operator, tanh networks."""
    weights = _doubles(params)
    penalties = [np.exp(lam) for lam in _doubles(hparams)]
    inputs, probs = _forward(weights, np.asarray(batch[0], np.float64))
    layers = len(inputs)
    slopes = [1 - activation**2 for activation in inputs]
    # Derivatives of the loss in the pre-activations, and in the activations.
    errors, backs = [_errors(probs, batch[1])], [np.zeros(())]
    for i in reversed(range(1, layers)):
        backs.insert(1, errors[0] @ weights[2 * i])
        errors.insert(0, backs[1] * slopes[i])

    def product(v):
        tangents = [np.zeros_like(inputs[0])]
        for i in range(layers):
            logits = inputs[i] @ v[2 * i].T + v[2 * i + 1]
            logits = logits + tangents[i] @ weights[2 * i].T
            if i + 1 < layers:
                tangents.append(logits * slopes[i + 1])
        centered = logits - (probs * logits).sum(axis=1, keepdims=True)
        error = probs * centered / len(batch[1])
        out: list[np.ndarray] = []
        for i in reversed(range(layers)):
            kernel = error.T @ inputs[i] + errors[i].T @ tangents[i]
            out = [kernel, error.sum(axis=0), *out]
            if i:
                back = error @ weights[2 * i] + errors[i] @ v[2 * i]
                error = back * slopes[i] - 2 * backs[i] * inputs[i] * tangents[i]
        return [a + c * b for a, c, b in zip(out, penalties, v, strict=True)]

    return product


def _dot(a, b) -> float:
    return sum(float(np.vdot(x, y)) for x, y in zip(a, b, strict=True))


def _axpy(a, factor: float, b):
    return [x + factor * y for x, y in zip(a, b, strict=True)]


def _largest_eigenvalue(product, like, rng, num_steps: int = 30) -> float:
    v = [rng.normal(size=leaf.shape) for leaf in like]
    for _ in range(num_steps):
        v = [leaf / np.sqrt(_dot(v, v)) for leaf in v]
        v = product(v)
    return float(np.sqrt(_dot(v, v)))


def conjugate_gradient(product, b, num_iters: int):
    """Textbook conjugate gradients from zero, exactly `num_iters` products."""
    x, r, p = [np.zeros_like(leaf) for leaf in b], b, b
    for _ in range(num_iters):
        image = product(p)
        alpha = _dot(r, r) / _dot(p, image)
        x, new_r = _axpy(x, alpha, p), _axpy(r, -alpha, image)
        p = _axpy(new_r, _dot(new_r, new_r) / _dot(r, r), p)
        r = new_r
    return x


def neumann(product, b, num_terms: int, step_size: float):
    """`step_size * sum_{j=0..num_terms} (I - step_size H)^j b`."""
    power = total = b
    for _ in range(num_terms):
        power = _axpy(power, -step_size, product(power))
        total = _axpy(total, 1.0, power)
    return [step_size * leaf for leaf in total]


def reference(problem: Problem, method: str, count: int) -> tuple[np.ndarray, float]:
    """Returns the flat hypergradient of `count` products, and the relative residual."""
    product = hessian_product(problem.params, problem.hparams, problem.train)
    b = gradient(problem.params, problem.valid)
    if method == "cg":
        x = conjugate_gradient(product, b, count)
    else:
        x = neumann(product, b, count, problem.step_size)
    residual = _axpy(product(x), -1.0, b)
    mixed = [
        np.exp(lam) * w * leaf
        for lam, w, leaf in zip(
            _doubles(problem.hparams), _doubles(problem.params), x, strict=True
        )
    ]
    flat = -np.concatenate([leaf.ravel() for leaf in mixed])
    return flat, float(np.sqrt(_dot(residual, residual) / _dot(b, b)))
