"""Layers in NumPy and float64, as torch defines them, on the variables of ours."""

import jax
import numpy as np


def relu(x):
    return np.maximum(x, 0)


def celu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def windows_of(x, size, stride, fill=0.0):
    """[B, H, W, C] -> [B, H', W', C, size, size], size // 2 pixels around."""
    pad = size // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return windows[:, ::stride, ::stride]


class Layers:
    """Convolutions and batch norms in eval mode; a path like "blocks_0/Conv_1"."""

    def __init__(self, variables):
        self.variables = jax.tree.map(lambda v: np.asarray(v, np.float64), variables)

    def _find(self, collection, path):
        found = self.variables[collection]
        for name in path.split("/"):
            found = found[name]
        return found

    def conv(self, x, path, stride=1):
        kernel = self._find("params", path)["kernel"]
        windows = windows_of(x, len(kernel), stride)
        return np.tensordot(windows, kernel, axes=((3, 4, 5), (2, 0, 1)))

    def norm(self, x, path):
        params, stats = self._find("params", path), self._find("batch_stats", path)
        x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
        return x * params["scale"] + params["bias"]
