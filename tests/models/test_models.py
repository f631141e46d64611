"""One contract for all networks: encoder and head, dtype, batch norm, activation."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import scipy.signal
import scipy.special

from autodo_jax import models
from autodo_jax.models.network import Network, convolve_patches
from tests.models import random_variables

SMALL: dict[str, dict[str, Any]] = {
    "efficientnet_lite0": {},
    "resnet": {"depth": 18, "stem": "small"},
    "small_cnn": {"widths": (4, 8)},
    "wide_resnet": {"depth": 10, "width": 1},
}
# One takes long to compile; test_pretrained.py has it in the fast suite too.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if "efficient" in name else name
    for name in SMALL
]


def create(name, **fields):
    defaults = {"depth": 10, "width": 1, "widths": (4,), "stem": "small"}
    defaults |= {"weights": "", "frozen_encoder": True}
    defaults |= {"name": name, "activation": "celu", "dtype": "float32"}
    config = ml_collections.ConfigDict(defaults | SMALL.get(name, {}) | fields)
    return models.create(config, num_classes=5)


def draw_images(batch, channels, size=8):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.normal(size=(batch, size, size, channels)), jnp.float32)


def test_every_network_is_held_to_the_contract():
    assert set(SMALL) == set(models.NAMES) - set(models.HEADS)


@pytest.mark.parametrize("name", NAMES)
def test_encoder_and_head_make_the_network(name):
    model = create(name)
    images = draw_images(4, 3)
    variables = random_variables(model, 8, 8, 3)
    params = dict(variables["params"])
    head = params.pop("head")

    @jax.jit
    def run(variables, params, images):
        encoder = variables | {"params": params}
        features = model.apply(encoder, images, train=False, method="features")
        return features, model.apply(variables, images, train=False)

    features, logits = run(variables, params, images)
    assert features.ndim == 2 and logits.shape == (4, 5)
    expected = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    classified = model.apply({"params": {"head": head}}, features, method="classify")
    np.testing.assert_allclose(classified, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_dtype_is_that_of_the_encoder_alone(name, dtype):
    """Each layer computes in it; variables, features and head are float32."""
    model = create(name, dtype=dtype)
    variables = random_variables(model, 8, 8, 3)
    apply = functools.partial(
        model.apply,
        train=False,
        capture_intermediates=lambda module, _: not isinstance(module, Network),
    )
    _, state = jax.eval_shape(apply, variables, draw_images(1, 3))
    layers = dict(state["intermediates"])
    encode = functools.partial(model.apply, train=False, method="features")
    features = jax.eval_shape(encode, variables, draw_images(1, 3))
    assert dtypes([variables, features, layers.pop("head")]) == {"float32"}
    assert dtypes(layers) == {dtype}


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize("name", NAMES)
def test_train_mode_normalizes_by_the_batch_and_tracks_it(name):
    model = create(name)
    images = draw_images(4, 3)
    variables = random_variables(model, 8, 8, 3)
    stats = variables["batch_stats"]
    apply = jax.jit(
        functools.partial(model.apply, mutable=["batch_stats"]),
        static_argnames="train",
    )
    logits, new = apply(variables, images, train=True)
    # The running statistics play no part, and 0.9 of each is kept.
    other = variables | new
    again, newer = apply(other, images, train=True)
    np.testing.assert_array_equal(again, logits)
    jax.tree.map(
        lambda old, new, newer: np.testing.assert_allclose(
            newer - new, 0.9 * (new - old), rtol=1e-4, atol=1e-5
        ),
        *(stats, new["batch_stats"], newer["batch_stats"]),
    )
    same = jax.tree.map(
        lambda old, new: bool((old == new).any()), stats, new["batch_stats"]
    )
    assert not any(jax.tree.leaves(same))
    # In eval mode they alone matter, and stay.
    evaluated, kept = apply(variables, images, train=False)
    assert np.abs(evaluated - apply(other, images, train=False)[0]).max() > 0.01
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], stats)


def logit_along_a_line(model, size=8):
    """Returns the first logit as a function of one coordinate of the image."""
    images = draw_images(1, 1, size)
    variables = random_variables(model, size, size, 1)
    direction = jax.random.normal(jax.random.key(1), images.shape)

    def logit(t):
        return model.apply(variables, images + t * direction, train=False)[0, 0]

    return logit


def bend(activation):
    """Second derivative of the small network along a line."""
    logit = logit_along_a_line(create("small_cnn", activation=activation))
    return jax.jit(jax.grad(jax.grad(logit)))(0.1)


def test_the_activation_stands_at_every_place_of_the_small_network():
    """ReLU makes it of straight pieces, which one CELU anywhere would bend.

    The residual networks are compared with restatements for both activations.
    """
    assert bend("relu") == 0
    assert abs(bend("celu")) > 1e-3


@pytest.mark.parametrize(
    ("name", "activation", "size"),
    [("small_cnn", activation, 8) for activation in sorted(models.ACTIVATIONS)]
    + [("wide_resnet", "celu", 4)],
)
def test_networks_are_continuously_differentiable(name, activation, size):
    """Along a line the slope has no jumps (Eq. 4 needs C^1), except for ReLU's."""
    slope = jax.grad(logit_along_a_line(create(name, activation=activation), size))
    slopes = jax.jit(jax.vmap(slope))(jnp.linspace(-1, 1, 2001))
    largest_jump = np.abs(np.diff(slopes)).max() / np.abs(slopes).max()
    assert (largest_jump > 0.02) == (activation == "relu")


FORMULAS = {
    "celu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    # Hendrycks and Gimpel's approximation of x Phi(x), as in jax.
    "gelu": lambda x: (
        x * scipy.special.expit(np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))
    ),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * scipy.special.expit(x),
    "softplus": lambda x: np.logaddexp(x, 0),
}


@pytest.mark.parametrize("activation", sorted(models.ACTIVATIONS))
def test_activations_are_what_their_names_say(activation):
    x = np.linspace(-4, 4, 81)
    got = models.ACTIVATIONS[activation](jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(got, FORMULAS[activation](x), rtol=1e-5, atol=1e-6)
    model = create("small_cnn", activation=activation)
    assert model.activation is models.ACTIVATIONS[activation]


def test_the_networks_sizes_reach_them():
    wide = create("wide_resnet", depth=16, width=3)
    assert (wide.depth, wide.width) == (16, 3)
    residual = create("resnet", depth=34, stem="small")
    assert (residual.depth, residual.stem) == (34, "small")
    assert create("small_cnn", widths=[3, 5]).widths == (3, 5)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"model\.name.*'small_cnn'.*got 'vgg'"):
        create("vgg")
    with pytest.raises(ValueError, match=r"model\.activation.*'silu'.*got 'swish'"):
        create("small_cnn", activation="swish")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"name": "wide_resnet", "depth": 17},
            "model.depth is 17, expected 6n + 4 with n >= 1: 10, 16, 28, ...",
        ),
        (
            {"name": "resnet", "depth": 20},
            "model.depth is 20, expected one of (18, 34, 50) for resnet",
        ),
        (
            {"name": "small_cnn", "widths": ()},
            "model.widths is (), expected channels >= 1, one number a stage",
        ),
        (
            {"name": "resnet", "widths": (4, 0)},
            "model.widths is (4, 0), expected channels >= 1, one number a stage",
        ),
    ],
)
def test_sizes_are_refused_with_what_was_expected(fields, message):
    config = ml_collections.ConfigDict({"depth": 34, "widths": (4,)} | fields)
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        models.check(config)


@pytest.mark.parametrize(
    ("name", "depth"), [("small_cnn", 0), ("resnet", 34), ("wide_resnet", 16)]
)
def test_sizes_that_a_network_comes_in_pass(name, depth):
    models.check(
        ml_collections.ConfigDict({"name": name, "depth": depth, "widths": (4, 8)})
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_convolution_by_patches_is_a_correlation(stride, size):
    """Values and gradients, against scipy's correlation at the strided positions."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, *size, 3))
    kernel = rng.normal(size=(3, 3, 3, 4))
    given = rng.normal(size=(2, -(-size[0] // stride), -(-size[1] // stride), 4))
    pads = jax.lax.padtype_to_pads(size, (3, 3), (stride, stride), "SAME")
    padded = np.pad(images, ((0, 0), *pads, (0, 0)))

    def expected(images):
        return np.stack(
            [
                scipy.signal.correlate(image, kernel[..., c], "valid")[..., 0]
                for image in images
                for c in range(4)
            ]
        ).reshape(2, 4, *(n - 2 for n in images.shape[1:3]))

    values = expected(padded)[..., ::stride, ::stride].transpose(0, 2, 3, 1)

    @jax.jit
    def value_and_gradients(images, kernel, given):
        value, pullback = jax.vjp(
            lambda x, k: convolve_patches(x, k, (stride, stride), "SAME"),
            images,
            kernel,
        )
        return value, *pullback(given)

    with jax.enable_x64(True):
        found, of_images, of_kernel = value_and_gradients(images, kernel, given)
    np.testing.assert_allclose(found, values, atol=1e-12)
    # Bilinear: <given, conv(x, k)> is the value of either gradient at its operand.
    product = np.vdot(given, values)
    np.testing.assert_allclose(np.vdot(of_images, images), product, rtol=1e-12)
    np.testing.assert_allclose(np.vdot(of_kernel, kernel), product, rtol=1e-12)


def loss_of_a_convolution(images, kernel):
    return jnp.sum(convolve_patches(images, kernel, (2, 2), "SAME") ** 2)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_the_platform_compiled_for_decides_on_patches(platform):
    """Not the host's: forward and in the gradients, a product on CPUs only."""
    gradient = jax.jit(jax.value_and_grad(loss_of_a_convolution, (0, 1)))
    traced = gradient.trace(draw_images(2, 3), jnp.ones((3, 3, 3, 4)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    counts = [text.count(f"stablehlo.{op}") for op in ("dot_general", "convolution")]
    assert counts == ([3, 0] if platform == "cpu" else [0, 3])


def test_the_convolution_of_accelerators_has_the_same_numbers(monkeypatch):
    operands = draw_images(2, 3), draw_images(3, 4)[:, :3, :3].transpose(1, 2, 0, 3)
    gradient = jax.value_and_grad(loss_of_a_convolution, (0, 1))
    expected = jax.jit(gradient)(*operands)
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args)
    )
    found = jax.jit(lambda *args: gradient(*args))(*operands)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4),
        found,
        expected,
    )
