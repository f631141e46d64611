"""Regular files, read and written in folders that others can write to.

Nothing else is read: a pipe never ends, nor does a device. Nothing is written through a
link that lies where a file is to be: the link is replaced, its target stays as it is.
"""

import contextlib
import errno
import os
import pathlib
import re
import secrets
import stat
from collections.abc import Callable
from typing import IO, Any

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
# Not on all systems.
_NONBLOCK, _NOFOLLOW = (
    getattr(os, f"O_{name}", 0) for name in ("NONBLOCK", "NOFOLLOW")
)
_PART = re.compile(r"\.[0-9a-f]{32}\.tmp")  # after the name of the file to be,
_STEM = 50  # of which a part has that many characters: names may be as long as can be


def open_file(path: str | os.PathLike) -> IO[bytes]:
    """Opens a regular file, or a link to one, to be read; never waits for a pipe.

    Raises:
      OSError: it is absent, cannot be opened, or is of another kind.
    """
    # The first look keeps from opening devices, which may do something.
    _check_regular(path, os.stat(path))
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115, it is returned
    try:
        _check_regular(path, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def read(path: str | os.PathLike, max_bytes: int) -> bytes:
    """Returns the contents of a regular file.

    Raises:
      OSError: as `open_file`.
      ValueError: it has more than `max_bytes`; then it is not read.
    """
    with open_file(path) as file:
        # Some of those that grow while they are read say that they are empty.
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > max_bytes else file.read(max_bytes + 1)
    if max(size, len(content)) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    return content


def write(path: pathlib.Path, save: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file by `save(file)`; until that is on the disk, `path` is as it was.

    What processes that were killed have left of the same file is removed.

    Raises:
      OSError: it cannot be written.
    """
    _remove_parts(path)
    part = path.with_name(f"{path.name[:_STEM]}.{secrets.token_hex(16)}.tmp")
    try:
        with create(part) as file:
            _lock(file.fileno())
            save(file)
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def create(path: pathlib.Path) -> IO[bytes]:
    """Opens a new file to be written.

    Raises:
      FileExistsError: there is something of that name, be it a link to nothing.
      OSError: it cannot be created.
    """
    return open(path, "xb")


def append(path: pathlib.Path, content: bytes) -> None:
    """Adds to the end of a file; where that fails, the file is as it was.

    Raises:
      OSError: it is absent, a link, or cannot be written.
    """
    flags = os.O_WRONLY | os.O_APPEND | _NOFOLLOW | _NONBLOCK
    descriptor = os.open(path, flags)
    try:
        before = os.fstat(descriptor)
        _check_regular(path, before)
        if before.st_nlink > 1:
            raise OSError(errno.EMLINK, "it is also the file of another name")
        try:
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before.st_size)
            raise
    finally:
        os.close(descriptor)


def parts_of(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the unfinished files beside `path` that are to become it."""
    stem = path.name[:_STEM]
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(stem)]
    except OSError:
        return []
    return [
        path.with_name(name) for name in names if _PART.fullmatch(name[len(stem) :])
    ]


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | _NONBLOCK)


def _check_regular(path: str | os.PathLike, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", os.fspath(path))


def _remove_parts(path: pathlib.Path) -> None:
    for part in parts_of(path):
        with contextlib.suppress(OSError):
            descriptor = os.open(part, os.O_RDONLY | _NOFOLLOW | _NONBLOCK)
            try:
                if _lock(descriptor):  # Whoever wrote it is gone.
                    part.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Locks an open file, until it is closed; False where another process does."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Not all systems and file systems can.
        return False
    return True
