"""Where the directory of a .zip archive lies, before any of it is read.

An archive names its directory in more than one place, and a crafted one names several.
What is checked has to be what `zipfile` then reads, so `zipfile` is asked.
"""

import zipfile
from typing import IO, Any, NamedTuple

_LONG = b"PK\x06\x06"  # begins the end of an archive with more than 65,535 members
_LONG_SIZE = 56 + 20  # bytes of that end and of what leads to it


class Directory(NamedTuple):
    """A run of entries, one a member."""

    part: int  # of an archive in parts; 0 where it is whole
    num_members: int  # as the archive says
    position: int  # in the file; negative where it is damaged
    length: int  # bytes


def find(file: IO[bytes]) -> Directory | None:
    """Returns the directory of an archive; None where `zipfile` finds none.

    Raises:
      zipfile.BadZipFile: it is one of several parts.
    """
    module: Any = zipfile
    end = module._EndRecData(file)
    if not end:
        return None
    signature, part, _, _, count, length, _, _, _, place = end
    position = place - length - _LONG_SIZE * (signature == _LONG)
    return Directory(part, count, position, length)
