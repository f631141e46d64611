"""Arrays of .npz and .npy files, whose headers are checked before they are read."""

import math
import zipfile
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np

_MAX_HEADER = 10_000  # bytes; NumPy evaluates it as Python's literals


class Expected(NamedTuple):
    """What an array has to be."""

    kinds: str  # of its dtype, as in "iu" for integers
    shape: tuple[str, ...]  # a letter for each axis; the same letter, the same length
    max_item_bytes: int = 8


def read_npz(
    file: IO[bytes],
    expected: Mapping[str, Expected],
    bounds: Mapping[str, int],
    max_bytes: int,
) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file.

    Args:
      file: opened, of a bounded size.
      expected: the arrays by their names; others are refused.
      bounds: letter of an axis -> its largest length.
      max_bytes: of all arrays together.

    Raises:
      ValueError: an array is missing, or not as expected: its name, what came, what is
        expected.
      Exception: of zipfile and zlib, for an archive that is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        known = {f"{name}.npy": name for name in expected}
        if members.keys() != known.keys() or len(archive.infolist()) != len(known):
            raise ValueError(
                f"it holds {_listed([*members])}, expected {_listed([*known])}"
            )
        lengths: dict[str, int] = {}
        left = max_bytes
        for member, name in known.items():
            try:
                with archive.open(member) as stream:
                    shape, _, dtype = read_header(stream)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            size = math.prod(shape) * dtype.itemsize
            left -= size
            _check(name, shape, dtype, expected[name], bounds, lengths)
            header = members[member].file_size - size
            if left < 0 or not 0 < header <= _MAX_HEADER:
                raise ValueError(
                    f"{name} has shape {shape} in {members[member].file_size:,} bytes, "
                    f"expected its bytes, and {max_bytes:,} of all arrays at most"
                )
        return {name: _read(archive, member) for member, name in known.items()}


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Returns shape, order and dtype of an array, which is not read.

    Raises:
      ValueError: it is no .npy file, or one of objects.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        found = np.lib.format.read_array_header_1_0(file, _MAX_HEADER)
    elif version == (2, 0):
        found = np.lib.format.read_array_header_2_0(file, _MAX_HEADER)
    else:
        raise ValueError(f"it is of version {version} of the format, expected (1, 0)")
    shape, _, dtype = found
    if dtype.hasobject or dtype.fields is not None:
        raise ValueError(f"its dtype is {str(dtype)[:60]}, expected numbers or texts")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"its shape is {str(shape)[:60]}")
    return found


def _read(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    with archive.open(member) as stream:
        return np.lib.format.read_array(
            stream, allow_pickle=False, max_header_size=_MAX_HEADER
        )


def _check(
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    expected: Expected,
    bounds: Mapping[str, int],
    lengths: dict[str, int],
) -> None:
    fits = len(shape) == len(expected.shape)
    fits &= dtype.kind in expected.kinds and dtype.itemsize <= expected.max_item_bytes
    for axis, length in zip(expected.shape, shape, strict=fits):
        fits &= length <= bounds[axis]
        fits &= lengths.setdefault(axis, length) == length
    if not fits:
        axes = ", ".join(
            f"{axis} = {lengths[axis]}"
            if lengths.get(axis, bounds[axis] + 1) <= bounds[axis]
            else f"{axis} <= {bounds[axis]}"
            for axis in dict.fromkeys(expected.shape)
        )
        raise ValueError(
            f"{name} is {dtype} {str(list(shape))[:60]}, expected a dtype of kind "
            f"{expected.kinds}, of up to {expected.max_item_bytes:,} bytes, "
            f"[{', '.join(expected.shape)}] with {axes}"
        )


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - 10} others" * (len(names) > 10)
    return (", ".join(map(str, sorted(names)[:10])) or "nothing") + more


def in_range(name: str, values: np.ndarray, low: int, high: int) -> None:
    """Raises ValueError where integers are not all in low..high-1."""
    if values.size and not (low <= values.min() and values.max() < high):
        wrong = values[(values < low) | (values >= high)].flat[0]
        raise ValueError(f"{name} has {wrong}, expected {low}..{high - 1}")
