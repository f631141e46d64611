"""Where a folder or an archive has its parts: train/, val/, test/, or none of them."""

import collections
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from autodo_jax.data.images import formats, opened
from autodo_jax.data.sources import labels
from autodo_jax.errors import DataError


class Layout(NamedTuple):
    """The folders of an image folder that are its parts."""

    prefix: str  # of the common folder: "" or with a final slash
    parts: dict[str, str]  # folder -> part; empty where there are none


def folders_to_list(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns what is listed of a folder; others beside its parts may be large."""
    for top in (root, *sorted(path for path in root.glob("[!.]*/") if path.is_dir())):
        children = sorted(path for path in top.iterdir() if path.name[:1] != ".")
        names = {path.name for path in children}
        if labels.METADATA in names and top == root:
            return [root]
        if any(_part_of(name) == "train" for name in names):
            # A second common folder is listed too, to be refused.
            other = [] if top == root else sorted(root.glob("[!.]*/"))
            parts = [path for path in children if _is_part(path)]
            strays = [path for path in children if not _is_part(path)]
            beside = [image for each in strays for image in _first_image(each)]
            others = [
                child
                for each in other
                if each != top and each.is_dir()
                for child in sorted(each.iterdir())
                if _is_part(child)
            ]
            return [*parts, *beside, *others]
    return [root]


def _is_part(path: pathlib.Path) -> bool:
    return path.name == labels.METADATA or bool(
        path.name.casefold() in labels.PART_OF and path.is_dir()
    )


def _first_image(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields one image at or below a path, if there are any that can be listed."""
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not opened.is_hidden(name))
        for name in sorted(names):
            if pathlib.PurePath(name).suffix.lower() in formats.suffixes():
                yield pathlib.Path(folder, name)
                return
    if path.is_file() and path.suffix.lower() in formats.suffixes():
        yield path


def _part_of(folder: str) -> str | None:
    return labels.PART_OF.get(folder.casefold())


def find(names: Iterable[str], root: pathlib.Path, *, has_table: bool) -> Layout:
    """Returns the layout of files.

    Args:
      names: paths below `root`; those of folders end with a slash.
      root: for messages.
      has_table: a table gives labels and parts, so that there need be no folders.

    Raises:
      DataError: several common folders, two folders of one part, or no train/.
    """
    tops: dict[str, set[str]] = collections.defaultdict(set)  # folder -> its folders
    for name in names:
        top, *rest = name.split("/")
        if rest and not opened.is_hidden(top):
            tops[top] |= {rest[0]} if len(rest) > 1 else set()
    if any(_part_of(top) == "train" for top in tops):
        return Layout("", _parts(tops, root))
    common = [
        f"{top}/"
        for top, below in tops.items()
        if any(_part_of(name) == "train" for name in below)
    ]
    if len(common) > 1:
        raise DataError(
            f"{root} has a train/ in each of {', '.join(sorted(common))}",
            "pass one of them",
        )
    if common:
        return Layout(common[0], _parts(tops[common[0][:-1]], root))
    prefix, folders = "", set(tops)
    if len(tops) == 1:
        ((top, below),) = tops.items()
        if below:
            prefix, folders = f"{top}/", below
    parts = sorted(name for name in {*folders, *tops} if _part_of(name))
    if (parts or ".." in tops or "" in tops) and not has_table:
        seen = f" (there is {parts[0]}/)" if parts else ""
        raise DataError(f"{root} has no train/<class>/ with images{seen}")
    return Layout(prefix, {})


def _parts(folders: Iterable[str], root: pathlib.Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(folders):
        part = _part_of(name)
        if part is None:
            continue
        twice = next((other for other, of in found.items() if of == part), None)
        if twice is not None:
            raise DataError(
                f"{root} has {twice}/ and {name}/, both for the {part} set",
                "move one of them elsewhere",
                "join them",
            )
        found[name] = part
    return found


def describe(layout: Layout, *, has_table: bool) -> str:
    """Returns in words what was taken as what."""
    where = f" in {layout.prefix}" if layout.prefix else ""
    if not layout.parts:
        text = "as the table says" if has_table else "each folder is a train class"
        return text + where
    parts = (f"{name}/ is the {part} set" for name, part in layout.parts.items())
    return ", ".join(parts) + where
