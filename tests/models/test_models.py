"""One contract for all networks, and the published sizes of wide ResNets."""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from autodo_jax import models
from autodo_jax.models.wide_resnet import WideResNet

SMALL: dict[str, dict[str, Any]] = {
    "small_cnn": {"widths": (4, 8)},
    "wide_resnet": {"depth": 10, "width": 1},
}


def create(name, dtype="float32"):
    fields = {"depth": 10, "width": 1, "widths": (4,)} | SMALL[name]
    config = ml_collections.ConfigDict({"name": name, "dtype": dtype, **fields})
    return models.create(config, num_classes=5)


def test_every_network_is_held_to_the_contract():
    assert set(SMALL) == set(models.NAMES)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_encoder_and_head_make_the_network(name, dtype):
    model = create(name, dtype)
    images = jnp.asarray(np.random.default_rng(0).random((4, 8, 8, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), images, train=False)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    params = dict(variables["params"])
    head = params.pop("head")
    features = model.apply(
        variables | {"params": params}, images, train=False, method="features"
    )
    assert features.dtype == jnp.float32 and features.ndim == 2
    logits = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(
        model.apply(variables, images, train=False), logits, rtol=1e-5, atol=1e-5
    )
    assert logits.shape == (4, 5)


@pytest.mark.parametrize("name", SMALL)
def test_train_mode_normalizes_by_the_batch_and_tracks_it(name):
    model = create(name)
    images = jnp.asarray(np.random.default_rng(0).random((8, 8, 8, 1)), jnp.float32)
    variables = model.init(jax.random.key(0), images, train=False)
    logits, updated = model.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )
    scaled, _ = model.apply(variables, 10 * images, train=True, mutable=["batch_stats"])
    if name == "small_cnn":  # Its first convolution is normalized at once.
        np.testing.assert_allclose(logits, scaled, atol=2e-2)
    changed = jax.tree.map(
        lambda old, new: bool((old != new).any()),
        variables["batch_stats"],
        updated["batch_stats"],
    )
    assert all(jax.tree.leaves(changed))


@pytest.mark.parametrize("name", SMALL)
def test_networks_are_continuously_differentiable(name):
    """CELU: along a line the slope has no jumps (Eq. 4 needs C^1), unlike ReLU's."""
    model = create(name)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(1, 8, 8, 1)), jnp.float32)
    variables = model.init(jax.random.key(0), images, train=False)
    direction = jnp.asarray(rng.normal(size=images.shape), jnp.float32)

    def slope(t):
        def logit(s):
            return model.apply(variables, images + s * direction, train=False)[0, 0]

        return jax.grad(logit)(t)

    slopes = jax.vmap(slope)(jnp.linspace(-1, 1, 2001))
    jumps = np.abs(np.diff(slopes))
    assert jumps.max() < 0.02 * np.abs(slopes).max()


def num_params(model):
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_wide_resnets_have_their_published_number_of_parameters():
    # Zagoruyko and Komodakis, Table 4: 36.5 M and 2.7 M.
    assert round(num_params(WideResNet(10, 28, 10)) / 1e6, 1) == 36.5
    assert round(num_params(WideResNet(10, 16, 4)) / 1e6, 1) == 2.7


def test_impossible_depths_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"6n \+ 4 .* got 27"):
        num_params(WideResNet(10, 27, 1))
    config = ml_collections.ConfigDict({"name": "vgg", "dtype": "float32"})
    with pytest.raises(ValueError, match=r"model\.name.*'vgg'"):
        models.create(config, 10)
