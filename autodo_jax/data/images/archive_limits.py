"""Bounds on archives, which may be crafted to fill memory or to take for ever.

A few megabytes can hold a million empty members, or unpack to terabytes. No image file
is as small, and none can be compressed as much.
"""

import os
import pathlib
import struct
import tarfile
import zipfile
from typing import IO

from autodo_jax.disk import regular, zip_directory
from autodo_jax.disk.zip_directory import Directory
from autodo_jax.errors import DataError

_MANY = 10_000  # members whose mean size is looked at
_SMALLEST = 32  # bytes of a member in the mean
_MOST = 2**22  # members
_RATIO, _FREE = 200, 2**26  # unpacked bytes for one of an archive, from so many on
_MAX_DIRECTORY = 2**30  # bytes of the directory of a .zip archive
_ENTRY, _ENTRY_SIZE = b"PK\x01\x02", 46
_ADVICE = ("pack the images again", "unpack it")


def check_zip(root: pathlib.Path) -> None:
    """Checks the directory of a .zip archive, before it is read as a whole.

    Raises:
      DataError: it has nearly empty members, or too many, or one whose name is not what
        it is said to be; or it is one of the parts of an archive.
      zipfile.BadZipFile: it is damaged.
    """
    with regular.open_file(root) as file:
        directory = zip_directory.find(file)
        if directory is None or directory.position < 0:
            return  # It is damaged, as zipfile says.
        if directory.part not in (0, 0xFFFF):
            raise DataError(f"{root} is one of the parts of an archive", "join them")
        if directory.length > _MAX_DIRECTORY:
            raise DataError(
                f"{root} has a directory of {directory.length:,} bytes", *_ADVICE
            )
        # Before each member there is what the directory says of it, but for 16 bytes.
        headers = directory.length - 16 * directory.num_members
        _check_mean(root, directory.num_members, directory.position - headers)
        _check_entries(root, file, directory)


def _check_entries(root: pathlib.Path, file: IO[bytes], directory: Directory) -> None:
    # How many there are is counted, whatever the archive says.
    file.seek(directory.position)
    number, left, contents = 0, directory.length, directory.position
    while left > 0:
        entry = file.read(_ENTRY_SIZE)
        if len(entry) < _ENTRY_SIZE or not entry.startswith(_ENTRY):
            return  # It is damaged, as zipfile says.
        number += 1
        lengths = struct.unpack_from("<HHH", entry, 28)
        name, _ = file.read(lengths[0]), file.seek(lengths[1] + lengths[2], os.SEEK_CUR)
        (flags,) = struct.unpack_from("<H", entry, 8)
        if flags & 0x800:
            _check_name(root, number, name)
        left -= _ENTRY_SIZE + sum(lengths)
        contents -= _ENTRY_SIZE - 16 + lengths[0]
        if number % _MANY == 0:
            _check_mean(root, number, contents)


def _check_name(root: pathlib.Path, number: int, name: bytes) -> None:
    try:
        name.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{root} cannot be read: member {number} has a name that is not UTF-8, "
            f"{str(name)[1:]}",
            *_ADVICE,
        ) from error


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
