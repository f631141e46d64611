"""Arrays of .npz and .npy files, whose headers are checked before they are read."""

import math
import os
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from autodo_jax.disk import regular, zip_directory

_MAX_HEADER = 10_000  # bytes; NumPy evaluates it as Python's literals
_MAX_DIRECTORY = 2**16  # bytes; there are few arrays in a file
_RATIO, _FREE = 200, 2**26  # bytes of arrays for one of a file, from so many on


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
    only: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file.

    Args:
      file: opened, of a bounded size.
      expected: the arrays by their names; others are refused.
      bounds: letter of an axis -> its largest length.
      max_bytes: of all arrays together.
      only: names of those that are read; none for all. All are checked.

    Raises:
      ValueError: an array is missing, or not as expected: its name, what came, what is
        expected.
      Exception: of zipfile and zlib, for an archive that is damaged.
    """
    with _opened(file) as archive:
        names = archive.namelist()
        known = {f"{name}.npy": name for name in expected}
        if {*names} != known.keys() or len(names) != len(known):
            raise ValueError(f"it holds {_listed(names)}, expected {_listed([*known])}")
        lengths: dict[str, int] = {}
        for name, (shape, dtype) in _headers(archive, [*known.values()], max_bytes):
            _check(name, shape, dtype, expected[name], bounds, lengths)
        return {name: _read(archive, name) for name in only or expected}


def read_any_npz(file: IO[bytes]) -> dict[str, np.ndarray]:
    """Returns the arrays of a user's .npz file, whatever their names and shapes are.

    Args:
      file: opened, of any size.

    Raises:
      ValueError: one is of objects or fields, or not whole; they would need far more
        memory than the file has bytes; or there is something else in the file.
      Exception: of zipfile and zlib, for an archive that is damaged.
    """
    size = os.fstat(file.fileno()).st_size
    with _opened(file) as archive:
        members = archive.namelist()
        names = [member.removesuffix(".npy") for member in members]
        if len({*names}) < len(members):
            raise ValueError("it has two arrays of one name")
        if len({*members} - {f"{name}.npy" for name in names}):
            raise ValueError(f"it holds {_listed(members)}, expected arrays, NAME.npy")
        for _ in _headers(archive, names, max(_FREE, _RATIO * size)):
            pass
        return {name: _read(archive, name) for name in names}


def map_npy(path: str | os.PathLike) -> np.ndarray:
    """Returns the array of an .npy file, which stays on the disk (a memory map).

    Raises:
      ValueError: it is no such file, one of objects or fields, or not whole.
      OSError: it cannot be read, or is no regular file.
    """
    with regular.open_file(path) as file:
        shape, is_fortran, dtype = read_header(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        if start + math.prod(shape) * dtype.itemsize > size:
            raise ValueError(f"its shape is {str(shape)[:60]}, in {size:,} bytes")
        order: Any = "F" if is_fortran else "C"
        return np.memmap(file, dtype, "r", start, shape, order)


def _opened(file: IO[bytes]) -> zipfile.ZipFile:
    directory = zip_directory.find(file)
    if directory is not None and directory.length > _MAX_DIRECTORY:
        raise ValueError(f"it has a directory of {directory.length:,} bytes")
    return zipfile.ZipFile(file)


def _headers(
    archive: zipfile.ZipFile, names: Iterable[str], max_bytes: int
) -> Iterator[tuple[str, tuple[tuple[int, ...], np.dtype]]]:
    """Yields names, shapes and dtypes, and sees that the bytes are those of these."""
    left = max_bytes
    for name in names:
        info = archive.getinfo(f"{name}.npy")
        try:
            with archive.open(info) as stream:
                shape, _, dtype = read_header(stream)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        yield name, (shape, dtype)
        size = math.prod(shape) * dtype.itemsize
        left -= size
        if left < 0 or not 0 < info.file_size - size <= _MAX_HEADER:
            raise ValueError(
                f"{name} has shape {str(shape)[:60]} in {info.file_size:,} bytes, "
                f"expected its bytes, and {max_bytes:,} of all arrays at most"
            )


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


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as stream:
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
