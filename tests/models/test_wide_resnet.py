"""Wide ResNets against a restatement in NumPy, and their published sizes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.models.wide_resnet import WideResNet
from tests.models import num_params, random_variables
from tests.models.reference import Layers, celu, relu


def published_features(images, variables, num_blocks, activation):
    """Of the authors' program; where the sizes change, the shortcut is activated."""
    layers = Layers(variables)

    def activated_norm(x, path):
        return activation(layers.norm(x, path))

    x = layers.conv(images, "stem")
    for block in range(3 * num_blocks):
        name = f"blocks_{block}"
        stride = 2 if block in (num_blocks, 2 * num_blocks) else 1
        widens = block % num_blocks == 0
        convs = [f"{name}/Conv_{i}" for i in range(3 if widens else 2)]
        activated = activated_norm(x, f"{name}/BatchNorm_0")
        if widens:
            x = layers.conv(activated, convs.pop(0), stride)
        y = layers.conv(activated, convs[0], stride)
        x = x + layers.conv(activated_norm(y, f"{name}/BatchNorm_1"), convs[1])
    return activated_norm(x, "norm").mean(axis=(1, 2))


@pytest.mark.parametrize("activation", [celu, relu])
def test_it_is_the_published_network_up_to_the_activation(activation):
    model = WideResNet(
        3, depth=16, width=2, activation=getattr(nn, activation.__name__)
    )
    images = np.random.default_rng(0).normal(size=(2, 15, 15, 3))
    variables = random_variables(model, 15, 15, 3)
    encode = jax.jit(functools.partial(model.apply, train=False, method="features"))
    got = encode(variables, jnp.asarray(images, jnp.float32))
    expected = published_features(images, variables, 2, activation)
    assert got.shape == (2, 128)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def closed_form(depth, width, num_classes):
    """Sum over the three groups of n blocks each, from the paper's Table 1."""
    n, k = (depth - 4) // 6, width
    total = 3 * 9 * 16  # Stem.
    for before, channels in ((16, 16 * k), (16 * k, 32 * k), (32 * k, 64 * k)):
        # The first block is fed by the group before it, the other n - 1 by their own.
        convs = 9 * channels * (before + (2 * n - 1) * channels)
        shortcut = before * channels if before != channels or channels > 16 * k else 0
        norms = 2 * (before + (2 * n - 1) * channels)
        total += convs + shortcut + norms
    return total + 2 * 64 * k + (64 * k + 1) * num_classes  # Last norm, head.


@pytest.mark.parametrize(
    ("depth", "width", "published"),
    [
        # Zagoruyko and Komodakis, Sec. 3, millions.
        (16, 4, 2.7),
        (16, 8, 11.0),
        (22, 8, 17.2),
        (28, 10, 36.5),
        (40, 1, 0.6),
        (40, 4, 8.9),
    ],
)
def test_number_of_parameters_is_as_published(depth, width, published):
    got = num_params(WideResNet(10, depth, width), 32, 32, 3)
    assert got == closed_form(depth, width, 10)
    assert round(got / 1e6, 1) == published


def test_the_papers_network_has_36_479_194_parameters():
    assert num_params(WideResNet(10), 32, 32, 3) == 36_479_194


@pytest.mark.parametrize("depth", [4, 27])
def test_depths_between_the_possible_ones_are_refused(depth):
    with pytest.raises(ValueError, match=rf"depth is {depth}, expected 6n \+ 4"):
        num_params(WideResNet(10, depth, 1), 8, 8, 3)
