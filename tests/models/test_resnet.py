"""ResNets against a restatement in NumPy of torchvision's, and its published sizes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autodo_jax.models.resnet import DEPTHS, ResNet
from tests.models import num_params, random_variables, shapes_of
from tests.models.reference import Layers, celu, relu, windows_of

# torchvision.models.resnet*, 1000 classes.
PUBLISHED = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}


@pytest.mark.parametrize("depth", sorted(DEPTHS))
def test_number_of_parameters_is_as_published(depth):
    assert num_params(ResNet(1000, depth), 224, 224, 3) == PUBLISHED[depth]


def torchvisions_features(images, variables, depth, stem, activation):
    layers = Layers(variables)

    def conv_norm(x, block, i, stride=1):
        x = layers.conv(x, f"blocks_{block}/Conv_{i}", stride)
        return layers.norm(x, f"blocks_{block}/BatchNorm_{i}")

    def residual(x, block, stride):
        if depth < 50:
            y = activation(conv_norm(x, block, 0, stride))
            return conv_norm(y, block, 1)
        y = activation(conv_norm(x, block, 0))
        y = activation(conv_norm(y, block, 1, stride))
        return conv_norm(y, block, 2)

    x = layers.conv(images, "conv", 2 if stem == "imagenet" else 1)
    x = activation(layers.norm(x, "norm"))
    if stem == "imagenet":
        x = windows_of(x, 3, 2, -np.inf).max(axis=(4, 5))
    starts = {18: (0, 2, 4, 6), 50: (0, 3, 7, 13)}[depth]
    for block in range({18: 8, 50: 16}[depth]):
        stride = 2 if block in starts[1:] else 1
        y = residual(x, block, stride)
        # Basic blocks of the first group need no projection.
        if block in (starts if depth == 50 else starts[1:]):
            x = conv_norm(x, block, 3 if depth == 50 else 2, stride)
        x = activation(x + y)
    return x.mean(axis=(1, 2))


@pytest.mark.parametrize(
    ("depth", "stem", "size", "activation"),
    [
        (18, "imagenet", 45, relu),
        (18, "small", 15, celu),
        (50, "imagenet", 64, relu),
    ],
)
def test_it_is_torchvisions_network_up_to_the_activation(depth, stem, size, activation):
    model = ResNet(3, depth, stem, activation=getattr(nn, activation.__name__))
    images = np.random.default_rng(0).normal(size=(2, size, size, 3))
    variables = random_variables(model, size, size, 3)
    encode = jax.jit(functools.partial(model.apply, train=False, method="features"))
    got = encode(variables, jnp.asarray(images, jnp.float32))
    expected = torchvisions_features(images, variables, depth, stem, activation)
    assert got.shape == (2, 512 if depth < 50 else 2048)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("stem", "size", "sides"),
    [("imagenet", 224, (56, 28, 14, 7)), ("small", 32, (32, 16, 8, 4))],
)
def test_groups_have_the_published_resolutions(stem, size, sides):
    model = ResNet(10, 18, stem)
    apply = functools.partial(model.apply, train=False, capture_intermediates=True)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    _, state = jax.eval_shape(apply, shapes_of(model, size, size, 3), images)
    outputs = state["intermediates"]
    shapes = [outputs[f"blocks_{i}"]["__call__"][0].shape for i in (1, 3, 5, 7)]
    assert shapes == [(2, side, side, 64 * 2**i) for i, side in enumerate(sides)]


def test_kernels_start_with_variance_two_over_fan_out():
    def stem_and_a_block(model, images, maps):
        return model.conv(images), model.blocks[6](maps, train=False)

    init = jax.jit(functools.partial(ResNet(3, 18).init, method=stem_and_a_block))
    images, maps = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 2, 2, 256))
    params = init(jax.random.key(0), images, maps)["params"]
    kernels = [params["conv"]["kernel"]]
    # From 256 to 512 channels; the last is the projection.
    kernels += [params["blocks_6"][f"Conv_{i}"]["kernel"] for i in range(3)]
    for kernel in kernels:
        height, width, _, channels = kernel.shape
        expected = np.sqrt(2 / (height * width * channels))
        np.testing.assert_allclose(np.std(kernel), expected, rtol=0.03)
        assert np.abs(kernel).max() > 3 * expected  # Not truncated, as torch's.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 20}, r"model\.depth is 20, expected one of \(18, 34, 50\)"),
        ({"stem": "cifar"}, r"`stem` must be one of .*'small'.* got 'cifar'"),
    ],
)
def test_unknown_depths_and_stems_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        num_params(ResNet(10, **fields), 32, 32, 3)
