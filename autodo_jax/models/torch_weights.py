"""Reads arrays that PyTorch has saved, without PyTorch and without executing anything.

Arrays are by their names in the `state_dict`, as they are stored: kernels of
convolutions [out, in, height, width], of linear layers [out, in].
"""

import collections
import hashlib
import io
import math
import pathlib
import pickle
import pickletools
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from autodo_jax.disk import regular
from autodo_jax.errors import ConfigError

_MAGIC = 0x1950A86A20F9469CFC6C  # begins a file of torch's format before version 1.6
_VERSION = 1001
_DTYPES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "DoubleStorage": np.dtype("<f8"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class _Storage(NamedTuple):
    """A storage, whose bytes come later in the file."""

    key: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors and plain containers, and refuses anything else.

    A pickle can call any function, so one from the internet may run any code.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"it calls {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, size, view = pid
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError("it has a storage of an unknown kind")
        return _Storage(str(key), _DTYPES[dtype], int(size))


def _tensor(
    storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any
) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(shape), tuple(strides))


def read_pickle(path: pathlib.Path, sha256: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a file in torch's format before version 1.6.

    Args:
      path: of the file.
      sha256: of its contents, which is checked before anything is read of them.

    Raises:
      ConfigError: other contents, or not such a file.
      OSError: it cannot be read.
    """
    with regular.open_file(path) as file:
        content = file.read()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ConfigError(
            f"the weights {path} are not those that are expected: their SHA-256 is "
            f"{found}, not {sha256}",
            "install them again",
        )
    try:
        return _read(io.BytesIO(content))
    except Exception as error:  # Damaged pickles raise errors of any kind.
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"cannot read the weights {path}: {reason}") from error


def _read(file: io.BytesIO) -> dict[str, np.ndarray]:
    def load() -> Any:
        _check_memo(file)
        return _Unpickler(file).load()

    if (load(), load()) != (_MAGIC, _VERSION):
        raise ValueError("it is not of torch's format before version 1.6")
    load()  # of the machine that wrote it
    tensors, keys = load(), load()
    named = {
        name: value for name, value in tensors.items() if isinstance(value, _Tensor)
    }
    storages = {tensor.storage.key: tensor.storage for tensor in named.values()}
    data = {}
    for key in keys:
        dtype, size = storages[key].dtype, int.from_bytes(file.read(8), "little")
        data[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype, size)
    # Views of one storage may be many; each becomes an array of its own.
    needed = sum(
        math.prod(tensor.shape) * data[tensor.storage.key].itemsize
        for tensor in named.values()
    )
    if needed > len(file.getbuffer()):
        raise ValueError("its tensors have more bytes than the file")
    return {name: _view(tensor, data) for name, tensor in named.items()}


def _check_memo(file: io.BytesIO) -> None:
    """Refuses a pickle that numbers its objects out of turn.

    The unpickler has room for as many as the largest number says, which can be all
    memory.
    """
    start = file.tell()
    for count, (code, number, _) in enumerate(pickletools.genops(file)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and (number or 0) > count:
            raise ValueError("it numbers its objects out of turn")
    file.seek(start)


def _view(tensor: _Tensor, data: dict[str, np.ndarray]) -> np.ndarray:
    flat = data[tensor.storage.key]
    sides = zip(tensor.shape, tensor.strides, strict=True)
    last = tensor.offset + sum((side - 1) * stride for side, stride in sides)
    if min((tensor.offset, *tensor.strides)) < 0 or last >= flat.size:
        raise ValueError("a tensor is larger than its storage")
    strides = tuple(stride * flat.itemsize for stride in tensor.strides)
    view = np.lib.stride_tricks.as_strided(
        flat[tensor.offset :], tensor.shape, strides, writeable=False
    )
    return np.ascontiguousarray(view)


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.safetensors` file.

    Raises:
      ConfigError: it is not such a file, or absent.
    """
    try:
        with regular.open_file(path):  # A pipe would never end.
            return safetensors.numpy.load_file(path)
    except Exception as error:  # Its own kind of error, or one of the system.
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"cannot read the weights {path}: {reason}",
            "pass <config.model.weights=FILE.safetensors>",
        ) from error
