"""The systems of the hypergradient benchmark: ours, JAX peers and PyTorch peers.

Every system is a function `(problem, method, count) -> call`: `call()` computes the
hypergradient from scratch (right-hand side, solve, mixed term; nothing is kept between
calls but compiled code) with `count` products in the solve, waits for it, and returns
the leaves. A peer is imported when it is built, so one that is missing costs one row.

PyTorch losses are what a PyTorch user would write for the same formulas. The entries
called "hypertorch-style" and "tuned" are written here: hypertorch is not on PyPI.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np

from autodo_jax.implicit import hypergrad, solvers
from benchmarks import hypergrad_problems as problems

Build = Callable[[problems.Problem, str, int], Callable[[], Any]]


class System(NamedTuple):
    """A way to compute hypergradients."""

    name: str
    family: str  # "ours", "jax" or "torch"
    methods: tuple[str, ...]  # of "cg" and "neumann"
    build: Build
    known_wrong: Mapping[str, str] = MappingProxyType({})  # method -> why


def flatten(leaves: Any) -> np.ndarray:
    """Returns the result of a call as a flat vector, as `reference` does."""
    arrays = [leaf.detach() if hasattr(leaf, "detach") else leaf for leaf in leaves]
    return np.concatenate([np.asarray(leaf).ravel() for leaf in arrays])


def ours(problem, method, count):
    """This library, under jit."""
    solver: solvers.Solver
    if method == "cg":
        # A tolerance of 0: all iterations are done, as by the others.
        solver = solvers.conjugate_gradient(count, tol=0.0)
    else:
        solver = solvers.neumann(count, problem.step_size)

    def run(params, hparams, train, valid):
        return hypergrad(
            problems.inner_loss,
            problems.outer_loss,
            params,
            hparams,
            inner_args=(train,),
            outer_args=(valid,),
            solver=solver,
        )

    return _jax_call(run, problem)


def jaxopt(problem, method, count):
    """jaxopt's custom_root around a solver that has already finished, under jit."""
    peer = importlib.import_module("jaxopt")
    solve = functools.partial(peer.linear_solve.solve_cg, maxiter=count, tol=0.0)
    root = peer.implicit_diff.custom_root(jax.grad(problems.inner_loss), solve=solve)
    finished = root(lambda init, hparams, batch: init)

    def run(params, hparams, train, valid):
        def outer(lam):
            return problems.outer_loss(finished(params, lam, train), lam, valid)

        return jax.grad(outer)(hparams)

    return _jax_call(run, problem)


def _jax_call(run, problem):
    arguments = jax.device_put(
        (problem.params, problem.hparams, problem.train, problem.valid)
    )
    compiled = jax.jit(run)
    return lambda: jax.block_until_ready(compiled(*arguments))


class _Torch:
    """A problem as tensors, with the losses and gradients that the systems share."""

    def __init__(self, problem: problems.Problem, requires_grad: bool):
        self.torch = torch = importlib.import_module("torch")

        def batch(pair):
            return torch.tensor(pair[0]), torch.tensor(pair[1]).long()

        def tensor(leaf):
            return torch.tensor(leaf, requires_grad=requires_grad)

        self.params = tuple(map(tensor, problem.params))
        self.hparams = tuple(map(tensor, problem.hparams))
        self.train, self.valid = batch(problem.train), batch(problem.valid)

    def cross_entropy(self, params, batch):
        x, labels = batch
        for i in range(0, len(params), 2):
            x = self.torch.nn.functional.linear(x, params[i], params[i + 1])
            x = self.torch.tanh(x) if i + 2 < len(params) else x
        return self.torch.nn.functional.cross_entropy(x, labels)

    def inner_loss(self, params, hparams):
        pairs = zip(params, hparams, strict=True)
        penalty = sum((lam.exp() * w * w).sum() for w, lam in pairs)
        return self.cross_entropy(params, self.train) + penalty / 2

    def outer_loss(self, params, hparams):
        del hparams
        return self.cross_entropy(params, self.valid)

    def right_hand_side(self):
        return self.torch.autograd.grad(self.outer_loss(self.params, None), self.params)

    def inner_gradient(self):
        """Returns the gradient with its graph, which each product differentiates."""
        loss = self.inner_loss(self.params, self.hparams)
        return self.torch.autograd.grad(loss, self.params, create_graph=True)


def pypi_hypergrad(problem, method, count):
    """The package `hypergrad` of PyPI (moskomule)."""
    peer = importlib.import_module("hypergrad.approx_hypergrad")
    data = _Torch(problem, requires_grad=False)
    solve = {"cg": peer.conjugate_gradient, "neumann": peer.neumann}[method]
    rate = {"cg": 1.0, "neumann": problem.step_size}[method]

    def call():
        losses = data.inner_loss, data.outer_loss
        return solve(*losses, data.params, data.hparams, num_iters=count, lr=rate)

    return call


def betty(problem, method, count):
    """betty-ml's hypergradient functions, given the two problems that they need."""
    peer = importlib.import_module("betty.hypergradient")
    config = importlib.import_module("betty.configs").Config(
        type=method,
        cg_iterations=count,
        cg_alpha=1.0,
        neumann_iterations=count,
        neumann_alpha=problem.step_size,
    )
    data = _Torch(problem, requires_grad=True)
    upper = SimpleNamespace(trainable_parameters=lambda: data.hparams)
    lower = SimpleNamespace(
        paths=[],
        config=config,
        cur_batch=data.train,
        training_step_exec=lambda _: data.inner_loss(data.params, data.hparams),
        trainable_parameters=lambda: data.params,
        parameters=lambda: data.params,
    )

    def call():
        loss = data.outer_loss(data.params, data.hparams)
        return peer.get_grads(loss, [upper, lower, upper], retain_graph=False)

    return call


def torchopt(problem, method, count):
    """torchopt's custom_root around a solver that has already finished."""
    peer = importlib.import_module("torchopt")
    implicit = importlib.import_module("torchopt.diff.implicit")
    solve = {
        "cg": lambda: peer.linear_solve.solve_cg(maxiter=count, rtol=0.0, atol=0.0),
        "neumann": lambda: functools.partial(
            peer.linalg.ns, maxiter=count, alpha=problem.step_size
        ),
    }[method]()
    data = _Torch(problem, requires_grad=True)
    optimality = data.torch.func.grad(data.inner_loss)

    @implicit.custom_root(optimality, argnums=1, solve=solve)
    def finished(params, hparams):
        return params

    detached = tuple(leaf.detach() for leaf in data.params)

    def call():
        loss = data.outer_loss(finished(detached, data.hparams), data.hparams)
        return data.torch.autograd.grad(loss, data.hparams)

    return call


def hypertorch_style(problem, method, count):
    """hypertorch's method: the linear system of a gradient step, a fixed-point map.

    With `map(w) = w - a dL/dw` the matrix is `I - J' = a H`, and the mixed term is that
    of the map; conjugate gradients keep their last iterate, which hypertorch drops.
    """
    data = _Torch(problem, requires_grad=True)
    grad, rate = data.torch.autograd.grad, problem.step_size

    def call():
        b = data.right_hand_side()
        gradient = data.inner_gradient()
        mapped = [w - rate * g for w, g in zip(data.params, gradient, strict=True)]

        def transposed_jacobian(v):
            return grad(mapped, data.params, grad_outputs=v, retain_graph=True)

        if method == "cg":

            def matvec(v):
                pairs = zip(v, transposed_jacobian(v), strict=True)
                return [a - c for a, c in pairs]

            x = _torch_conjugate_gradient(matvec, b, count)
        else:
            x = [data.torch.zeros_like(leaf) for leaf in b]
            for _ in range(count + 1):
                pairs = zip(transposed_jacobian(x), b, strict=True)
                x = [a + c for a, c in pairs]
        return grad(mapped, data.hparams, grad_outputs=x)

    return call


def _torch_conjugate_gradient(matvec, b, num_iters):
    """Textbook conjugate gradients on lists of tensors."""
    x, r, p = [leaf.new_zeros(leaf.shape) for leaf in b], list(b), list(b)
    rr = sum((leaf * leaf).sum() for leaf in r)
    for _ in range(num_iters):
        image = matvec(p)
        alpha = rr / sum((u * v).sum() for u, v in zip(p, image, strict=True))
        x = [u + alpha * v for u, v in zip(x, p, strict=True)]
        r = [u - alpha * v for u, v in zip(r, image, strict=True)]
        new_rr = sum((leaf * leaf).sum() for leaf in r)
        p = [u + (new_rr / rr) * v for u, v in zip(r, p, strict=True)]
        rr = new_rr
    return x


def tuned_torch(problem, method, count):
    """Double backward through a graph built once; fused vector updates in place."""
    data = _Torch(problem, requires_grad=True)
    return lambda: _tuned(data, method, count, problem.step_size)


def _tuned(data, method, count, step_size):
    torch, grad = data.torch, data.torch.autograd.grad
    b = data.right_hand_side()
    gradient = data.inner_gradient()

    def matvec(v):
        return grad(gradient, data.params, grad_outputs=v, retain_graph=True)

    def dot(u, v):
        return sum(
            torch.dot(a.view(-1), c.reshape(-1)) for a, c in zip(u, v, strict=True)
        )

    if method == "neumann":
        power, x = torch._foreach_clone(b), torch._foreach_clone(b)
        for _ in range(count):
            torch._foreach_add_(power, matvec(power), alpha=-step_size)
            torch._foreach_add_(x, power)
        torch._foreach_mul_(x, -step_size)
        return grad(gradient, data.hparams, grad_outputs=x)
    x, r, p = torch._foreach_mul(b, 0), torch._foreach_clone(b), torch._foreach_clone(b)
    rr = dot(r, r)
    for _ in range(count):
        image = matvec(p)
        alpha = float(rr / dot(p, image))
        torch._foreach_add_(x, p, alpha=alpha)
        torch._foreach_add_(r, image, alpha=-alpha)
        new_rr = dot(r, r)
        torch._foreach_mul_(p, float(new_rr / rr))
        torch._foreach_add_(p, r)
        rr = new_rr
    torch._foreach_neg_(x)
    return grad(gradient, data.hparams, grad_outputs=x)


def compiled_torch(problem, method, count):
    """torch.compile of gradient and product by torch.func, same updates as `tuned`."""
    data = _Torch(problem, requires_grad=False)
    torch = data.torch
    both = torch.func.grad(data.inner_loss, argnums=(0, 1))

    def product(params, hparams, v):
        return torch.func.jvp(lambda w: both(w, hparams), (params,), (v,))[1]

    compiled = torch.compile(product)
    outer = torch.compile(torch.func.grad(lambda params: data.outer_loss(params, None)))

    def call():
        def matvec(v):
            return compiled(data.params, data.hparams, tuple(v))

        b = outer(data.params)
        if method == "cg":
            x = _torch_conjugate_gradient(lambda v: matvec(v)[0], b, count)
        else:
            power, x = list(b), torch._foreach_clone(b)
            for _ in range(count):
                power = torch._foreach_add(
                    power, matvec(power)[0], alpha=-problem.step_size
                )
                torch._foreach_add_(x, power)
            torch._foreach_mul_(x, problem.step_size)
        return torch._foreach_neg(matvec(x)[1])

    return call


BOTH = ("cg", "neumann")
_OLD_RESIDUAL = "builds its search direction from the old residual"

SYSTEMS = (
    System("ours", "ours", BOTH, ours),
    System("jaxopt custom_root", "jax", ("cg",), jaxopt),
    System("hypergrad (PyPI)", "torch", BOTH, pypi_hypergrad, {"cg": _OLD_RESIDUAL}),
    System("betty-ml", "torch", BOTH, betty, {"cg": _OLD_RESIDUAL}),
    System("torchopt custom_root", "torch", BOTH, torchopt),
    System("hypertorch-style", "torch", BOTH, hypertorch_style),
    System("PyTorch tuned", "torch", BOTH, tuned_torch),
    System("PyTorch compiled", "torch", BOTH, compiled_torch),
)
