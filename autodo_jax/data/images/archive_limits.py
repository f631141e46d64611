"""Bounds on archives, which may be crafted to fill memory or to take for ever.

A few megabytes can hold a million empty members, or unpack to terabytes. No image file
is as small, and none can be compressed as much.
"""

import os
import pathlib
import struct
import tarfile
import zipfile

from autodo_jax.disk import regular
from autodo_jax.errors import DataError

_MANY = 10_000  # members whose mean size is looked at
_SMALLEST = 32  # bytes of a member in the mean
_MOST = 2**22  # members
_RATIO, _FREE = 200, 2**26  # unpacked bytes for one of an archive, from so many on
_END, _END_SIZE = b"PK\x05\x06", 22  # of a .zip archive, before its comment
_LONG_END = b"PK\x06\x06"  # of one with more than 65,535 members
_ENTRY, _ENTRY_SIZE = b"PK\x01\x02", 46
_ADVICE = ("pack the images again", "unpack it")


def check_zip(root: pathlib.Path) -> None:
    """Checks the directory of a .zip archive, before it is read as a whole.

    Raises:
      DataError: it has nearly empty members, or too many, or one whose name is not what
        it is said to be.
    """
    with regular.open_file(root) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _END_SIZE - 2**16 - 2**12))
        tail = file.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) < at + _END_SIZE:
            return  # It is damaged, as zipfile says.
        if struct.unpack_from("<H", tail, at + 4)[0] not in (0, 0xFFFF):
            raise DataError(f"{root} is one of the parts of an archive", "join them")
        end, found = at, struct.unpack_from("<HII", tail, at + 10)
        long = tail.rfind(_LONG_END, 0, at)
        if {found[0], *found[1:]} & {0xFFFF, 0xFFFFFFFF} and long >= 0:
            if len(tail) < long + 56:
                return
            end, found = long, struct.unpack_from("<QQQ", tail, long + 32)
        count, length, start = found
        # Of members the directory repeats all but contents, and 16 bytes more.
        _check_mean(root, count, start - length + 16 * count)
        if length <= size:
            # There may be something before the archive.
            file.seek(max(0, size - len(tail) + end - length))
            _check_names(root, file.read(length))


def _check_names(root: pathlib.Path, directory: bytes) -> None:
    position = number = 0
    while directory[position : position + 4] == _ENTRY:
        if len(directory) < position + _ENTRY_SIZE:
            return
        number += 1
        (flags,) = struct.unpack_from("<H", directory, position + 8)
        lengths = struct.unpack_from("<HHH", directory, position + 28)
        start = position + _ENTRY_SIZE
        name = directory[start : start + lengths[0]]
        if flags & 0x800:
            try:
                name.decode()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{root} cannot be read: member {number} has a name that is not "
                    f"UTF-8, {str(name)[1:]}",
                    *_ADVICE,
                ) from error
        position = start + sum(lengths)


def check_member(info: zipfile.ZipInfo) -> None:
    """Raises DataError for a member that would unpack to far more than it is."""
    if info.file_size > max(_FREE, _RATIO * info.compress_size):
        raise DataError(
            f"the image {info.filename} is {info.compress_size:,} bytes that unpack to "
            f"{info.file_size:,}",
            "replace it",
            "move it elsewhere",
        )


def members(archive: tarfile.TarFile, root: pathlib.Path) -> list[tarfile.TarInfo]:
    """Returns the members of a .tar archive, none of which is read.

    Raises:
      DataError: they are nearly empty, or too many, or unpack to far more than the
        archive has.
      tarfile.TarError: it is damaged.
    """
    size, held = root.stat().st_size, 0
    for number, member in enumerate(archive, 1):
        held += member.size
        if held > max(_FREE, _RATIO * size):
            raise DataError(
                f"{root} has {size:,} bytes and unpacks to more than {held:,}", *_ADVICE
            )
        if number % _MANY == 0:
            _check_mean(root, number, held)
    return archive.getmembers()


def _check_mean(root: pathlib.Path, count: int, num_bytes: int) -> None:
    if count > _MOST:
        raise DataError(f"{root} has more than {_MOST:,} members", *_ADVICE)
    if count >= _MANY and num_bytes < _SMALLEST * count:
        raise DataError(
            f"{root} has {count:,} members or more with less than {_SMALLEST} bytes "
            "each: no images are as small",
            *_ADVICE,
        )
