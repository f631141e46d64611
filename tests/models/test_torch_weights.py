"""Files of PyTorch before version 1.6, made here by hand."""

import collections
import hashlib
import io
import os
import pickle
import sys
import types
from typing import Any

import numpy as np
import pytest

from autodo_jax.errors import ConfigError
from autodo_jax.models import torch_weights

MAGIC = 0x1950A86A20F9469CFC6C


@pytest.fixture
def torch(monkeypatch):
    """Modules with the names that such a pickle refers to."""
    module: Any = types.ModuleType("torch")
    utils: Any = types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage", "ShortStorage"):
        setattr(module, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2(*_):
        raise AssertionError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    module._utils = utils
    return module


class Storage:
    def __init__(self, kind, key, size):
        self.id = ("storage", kind, key, "cpu", size, None)


class Tensor:
    def __init__(self, torch, *arguments):
        self.reduced = torch._utils._rebuild_tensor_v2, arguments

    def __reduce__(self):
        return self.reduced


class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.id if isinstance(obj, Storage) else None


def saved(tensors, storages, magic=MAGIC, version=1001):
    """The bytes of a file; `storages` are key -> array."""
    file = io.BytesIO()
    for value in (magic, version, {"little_endian": True}, tensors, [*storages]):
        Pickler(file, 2).dump(value)
    for array in storages.values():
        file.write(np.int64(array.size).tobytes() + array.tobytes())
    return file.getvalue()


def read(content, path):
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return torch_weights.read_pickle(path, digest)


def tensors_of(torch):
    weights = Storage(torch.FloatStorage, "a", 12)
    unused: Any = collections.OrderedDict()
    return collections.OrderedDict(
        whole=Tensor(torch, weights, 0, (3, 4), (4, 1), False, unused),
        turned=Tensor(torch, weights, 2, (2, 3), (1, 4), False, unused),
        count=Tensor(
            torch, Storage(torch.LongStorage, "b", 1), 0, (), (), False, unused
        ),
    )


STORAGES = {"a": np.arange(12, dtype="<f4"), "b": np.array([7], "<i8")}


def test_tensors_are_views_of_their_storages(torch, tmp_path):
    found = read(saved(tensors_of(torch), STORAGES), tmp_path / "w.pth")
    assert [*found] == ["whole", "turned", "count"]
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(found["whole"], table)
    np.testing.assert_array_equal(found["turned"], table[:, 2:].T)
    assert found["count"] == 7 and found["count"].dtype == np.int64


def test_other_contents_are_not_read(torch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_weights, "_read", None)
    (tmp_path / "w.pth").write_bytes(saved(tensors_of(torch), STORAGES))
    with pytest.raises(ConfigError, match=r"SHA-256 is \w{64}, not 00; install"):
        torch_weights.read_pickle(tmp_path / "w.pth", "00")


class Call:
    def __reduce__(self):
        return os.system, ("touch called",)


def test_nothing_is_called(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"w\.pth: it calls \w+\.system"):
        read(saved({"a": Call()}, {}), tmp_path / "w.pth")
    assert not (tmp_path / "called").exists()


ONE = {"a": np.zeros(1, "<f4")}


def one_number_as(torch, shape):
    storage = Storage(torch.FloatStorage, "a", 1)
    strides = (0,) * len(shape)
    return {"x": Tensor(torch, storage, 0, shape, strides, False, 0)}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: saved(tensors_of(t), STORAGES, magic=1), "format before version"),
        (lambda t: saved(tensors_of(t), STORAGES, version=2), "format before version"),
        (lambda t: saved(tensors_of(t), STORAGES)[:-30], "cannot read the weights"),
        (lambda t: b"", "cannot read the weights"),
        (
            lambda t: saved(
                {"x": Tensor(t, Storage(t.ShortStorage, "a", 1), 0, (), (), False, 0)},
                {},
            ),
            "it calls torch.ShortStorage",
        ),
        (
            lambda t: saved(
                {"x": Tensor(t, Storage(t.FloatStorage, "a", 1), 0, (9,), (9,), 0, 0)},
                {"a": np.zeros(1, "<f4")},
            ),
            "a tensor is larger than its storage",
        ),
        # One number that is seen as terabytes, or as more than all of memory.
        *(
            (
                lambda t, shape=shape: saved(one_number_as(t, shape), ONE),
                "more bytes than the file",
            )
            for shape in ((2**40,), (2**33,), (2**62, 2**62), (2**10,))
        ),
        (lambda t: b"\x80\x02K\x03r\xff\xff\xff\xff.", "out of turn"),
        (lambda t: b"\x80\x02K\x03q\xff.", "out of turn"),
        (lambda t: b"K\x03p4294967295\n.", "out of turn"),
        (lambda t: b"\x80\x02\x8b\xff\xff\xff\x7f.", "cannot read"),
        (lambda t: b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "cannot read"),
        (lambda t: b"(" * 10**6, "cannot read"),
        (lambda t: b"ctorch\nFloatStorage\n}b.", "cannot read"),
    ],
)
def test_damage_is_one_line(torch, tmp_path, change, expected):
    with pytest.raises(ConfigError, match=expected) as raised:
        read(change(torch), tmp_path / "w.pth")
    assert "\n" not in str(raised.value)
