"""What a hypergradient costs: no hidden forward pass, no memory that grows with T."""

import functools
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.implicit import curvature, hypergrad, loops, solvers

pytestmark = pytest.mark.full_compile

BATCH, WIDTH, CLASSES = 512, 128, 10


def three_layers():
    rng = np.random.default_rng(0)
    sizes = [(WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, CLASSES)]
    params = [
        jnp.asarray(rng.standard_normal(size) / np.sqrt(size[0]), jnp.float32)
        for size in sizes
    ]
    x = jnp.asarray(rng.standard_normal((BATCH, WIDTH)), jnp.float32)
    labels = jax.nn.one_hot(rng.integers(0, CLASSES, BATCH), CLASSES)
    return params, jnp.float32(-4.0), (x, labels)


def outer_loss(params, log_decay, x, labels):
    del log_decay
    for kernel in params[:-1]:
        x = jnp.tanh(x @ kernel)
    logits = x @ params[-1]
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=1))


def inner_loss(params, log_decay, x, labels):
    decay = sum(jnp.sum(kernel**2) for kernel in params)
    return outer_loss(params, log_decay, x, labels) + jnp.exp(log_decay) * decay


def neumann(num_terms):
    return solvers.neumann(num_terms, 0.01)


@functools.cache
def compiled(num_terms, mode="forward-over-reverse"):
    """A hypergradient by that many terms; None: by the identity."""
    solver = solvers.identity() if num_terms is None else neumann(num_terms)
    params, hparams, batch = three_layers()

    def run(params, hparams, batch):
        return hypergrad(
            inner_loss,
            outer_loss,
            params,
            hparams,
            inner_args=batch,
            outer_args=batch,
            solver=solver,
            curvature=curvature.hessian(mode),
        )

    return jax.jit(run).lower(params, hparams, batch).compile()


def hessian_vector_product(params, hparams, batch, v):
    return jax.jvp(lambda w: jax.grad(inner_loss)(w, hparams, *batch), (params,), (v,))[
        1
    ]


def seconds(function, *operands) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*operands))
    return time.perf_counter() - start


def test_a_term_costs_no_more_than_a_bare_product():
    """T = 20 against T = 1 and 19 jitted products: medians, taken in turns."""
    operands = three_layers()
    product = jax.jit(hessian_vector_product)
    short, long = compiled(1), compiled(20)
    times: dict[str, list[float]] = {"product": [], "short": [], "long": []}
    for _ in range(25):
        # 19 in a row, as inside the long solve, so that caches are as warm.
        times["product"].append(
            sum(seconds(product, *operands, operands[0]) for _ in range(19))
        )
        times["short"].append(seconds(short, *operands))
        times["long"].append(seconds(long, *operands))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["long"] / (medians["short"] + medians["product"])
    assert ratio <= 1.2, medians


def flops(program) -> float:
    return program.cost_analysis()["flops"]


@pytest.fixture
def unrolled(monkeypatch):
    """Terms in a row, as with convolutions: XLA counts the body of a loop once."""
    monkeypatch.setattr(loops, "_needs_unrolling", lambda body, state: True)


@pytest.mark.usefixtures("unrolled")
def test_work_per_term_is_that_of_a_shared_forward_pass():
    """Counted by XLA, where terms are unrolled: a term is a linearized gradient alone.

    A bare product does the primal gradient and its derivative; a term only the latter.
    """
    operands = three_layers()
    bare = jax.jit(hessian_vector_product).lower(*operands, operands[0]).compile()
    per_term = (flops(compiled(8)) - flops(compiled(2))) / 6
    assert per_term <= 0.75 * flops(bare)
    assert flops(compiled(1)) - flops(compiled(None)) <= flops(bare)


@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse"])
def test_memory_does_not_grow_with_the_number_of_terms(mode):
    def temporary(num_terms):
        return compiled(num_terms, mode).memory_analysis().temp_size_in_bytes

    # A loop, whose buffers are reused.
    assert temporary(200) == temporary(20) >= temporary(5)
    # Six more terms take less than half of one more vector between them.
    num_bytes = 4 * sum(kernel.size for kernel in three_layers()[0])
    assert temporary(8) - temporary(2) < num_bytes / 2


@pytest.mark.usefixtures("unrolled")
def test_terms_touch_the_head_only():
    """With the encoder in `inner_args` a term costs the head's product, no more.

    The encoder is hyperparameter-dependent but not parameter-dependent, as the paper's
    augmentation is: once for the system, never again for a term.
    """
    rng = np.random.default_rng(0)
    encoder, head, (x, labels) = (
        three_layers()[0][:2],
        jnp.asarray(rng.standard_normal((WIDTH, CLASSES)), jnp.float32),
        three_layers()[2],
    )

    def features(hparams, encoder, x):
        x = x * (1 + hparams)[None]
        for kernel in encoder:
            x = jnp.tanh(x @ kernel)
        return x

    def loss(head, hparams, encoder, x, labels):
        logits = features(hparams, encoder, x) @ head
        data_term = -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=1))
        return data_term + 0.01 * jnp.sum(head**2)

    def count(num_terms):
        def run(head, hparams, encoder, x, labels):
            args = (encoder, x, labels)
            return hypergrad(
                loss,
                loss,
                head,
                hparams,
                inner_args=args,
                outer_args=args,
                solver=neumann(num_terms),
            )

        operands = (head, jnp.zeros(WIDTH), encoder, x, labels)
        return flops(jax.jit(run).lower(*operands).compile())

    per_term = (count(5) - count(1)) / 4
    head_product = 2 * 2 * BATCH * WIDTH * CLASSES
    one_encoder = 2 * 2 * BATCH * WIDTH * WIDTH
    assert per_term <= 1.5 * head_product < 0.3 * one_encoder


def test_short_series_with_convolutions_are_unrolled(monkeypatch):
    """On CPU, where XLA runs convolutions inside loops many times slower."""

    def product(v):
        image = v[None, None]
        return jax.lax.conv(image, jnp.ones((1, 1, 3, 3)), (1, 1), "SAME")[0, 0]

    def loops_in(num_terms):
        solve = jax.jit(lambda b: solvers.neumann(num_terms, 0.1)(product, b))
        return solve.lower(jnp.ones((4, 4))).as_text().count("stablehlo.while")

    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert loops_in(5) == 0 < loops_in(9)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loops_in(5) == 1


COMPILED: dict[str, solvers.Solver] = {
    "neumann": solvers.neumann(20),
    "conjugate_gradient": solvers.conjugate_gradient(20),
    "minres": solvers.minres(20),
    "normal_cg": solvers.normal_cg(20),
}


@pytest.mark.parametrize(
    "name",
    ["minres"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("neumann", "conjugate_gradient", "normal_cg")
    ],
)
def test_programs_are_linear_in_the_number_of_leaves(name):
    """A sum over all leaves is not repeated in the program of each of them."""

    def size(num_leaves):
        leaves = [jnp.ones((3, 2)) for _ in range(num_leaves)]
        double = lambda v: [2 * leaf for leaf in v]  # noqa: E731
        solver = COMPILED[name]
        assert isinstance(solver, solvers.BoundedSolver)
        solve = jax.jit(lambda b: solver.bounded(double, b, 1.0))
        return str(solve.lower(leaves).compile().as_text()).count(" = ") / num_leaves

    assert size(20) < 1.05 * size(10)


@pytest.mark.parametrize(
    ("name", "expected"), [("neumann", 3), ("conjugate_gradient", 2), ("minres", 2)]
)
def test_products_in_the_program(name, expected):
    """One in the loop, one at the solution, and one of the power iteration."""

    def curved(inner_loss, params, hparams, inner_args):
        return jax.lax.erf_inv  # A primitive that nothing else has.

    def run(w):
        loss = lambda w, h: jnp.sum(w * h)  # noqa: E731
        return hypergrad(loss, loss, w, w, solver=COMPILED[name], curvature=curved)

    program = jax.jit(run).lower(jnp.ones(3)).as_text()
    assert program.count("chlo.erf_inv") == expected
