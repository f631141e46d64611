"""Which files of a folder or an archive are images of which part and class."""

import collections
import contextlib
import dataclasses
import difflib
import pathlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import ml_collections

from autodo_jax.data.images import archive_files, formats, opened
from autodo_jax.data.sources import labels
from autodo_jax.data.sources import layout as layouts
from autodo_jax.data.sources.layout import Layout
from autodo_jax.errors import DataError

FOLDERS = {"train": "train", "validation": "val", "test": "test"}  # part -> folder
_LISTED = 5  # names in a message


class Member(NamedTuple):
    """An image."""

    label: str  # class name
    below: str  # its path below the folder of its class


class Listing(NamedTuple):
    """The images of a folder or an archive."""

    members: dict[str, dict[str, Member]]  # part -> path -> image; train is there
    class_names: tuple[str, ...]
    notes: tuple[tuple[str, str], ...]  # what was taken as what, what was left out


@dataclasses.dataclass
class _Found:
    """Images by their folders, before a table of labels is applied."""

    members: dict[str, dict[str, Member]]  # part -> path -> image
    unlabelled: dict[str, str]  # path -> its part
    folders: dict[str, set[str]]  # part -> its classes, those without images too
    others: collections.Counter  # files that are not images, by suffix
    beside: list[str]  # images in folders that are not a part


@contextlib.contextmanager
def opened_images(
    root: pathlib.Path, data: ml_collections.ConfigDict
) -> Iterator[tuple[Listing, opened.Files]]:
    """Context that gives the images of a folder or an archive, and its files.

    Raises:
      DataError: it is absent or cannot be read; no train images; a folder or a class
        that is not in its place; a table of labels that does not fit.
    """

    def below(root: pathlib.Path) -> list[pathlib.Path]:
        return [root] if data.labels else layouts.folders_to_list(root)

    with opened.opened(root, stream=data.stream, below=below) as files:
        yield _listing(files, data), files


def _listing(files: opened.Files, data: ml_collections.ConfigDict) -> Listing:
    root, names = files.root, [*files.entries]
    tables = _tables(names, data)
    layout = layouts.find(names, root, has_table=bool(tables))
    found = _by_folders(files, layout, has_table=bool(tables))
    notes = [("parts", layouts.describe(layout, has_table=bool(tables)))]
    if tables:
        notes += _apply_tables(files, tables, found, data)
    else:
        _refuse_unlabelled(root, layout, found)
        _check_classes(root, layout, found)
    if data.corrections:
        notes += _apply_corrections(found, data.corrections)
    if found.others:
        kinds = ", ".join(f"{n} {kind}" for kind, n in found.others.most_common())
        notes.append(
            ("left out", f"{found.others.total()} files that are not images: {kinds}")
        )
    members = {part: found.members[part] for part in FOLDERS if found.members.get(part)}
    if "train" not in members:
        raise DataError(
            f"{root} has no train/<class>/ with images",
            "put them there",
            "list them in a table by <config.data.labels>",
        )
    class_names = tuple(sorted({image.label for image in members["train"].values()}))
    _check_parts(root, layout, members, class_names, exact=not tables)
    return Listing(members, class_names, tuple(notes))


def _tables(names: Iterable[str], data: ml_collections.ConfigDict) -> list[str]:
    """Returns the tables of labels: the given one, or those that are called so."""
    if data.labels:
        return [data.labels]
    return [
        name
        for name in names
        if posixpath.basename(name) == labels.METADATA
        and not opened.is_hidden(name)
        and name.count("/") <= 2
    ]


def _by_folders(files: opened.Files, layout: Layout, *, has_table: bool) -> _Found:
    found = _Found(
        members=collections.defaultdict(dict),
        unlabelled={},
        folders=collections.defaultdict(set),
        others=collections.Counter(),
        beside=[],
    )
    for name, handle in files.entries.items():
        if opened.is_hidden(name) or not name.startswith(layout.prefix):
            continue
        *folders, file = name.removeprefix(layout.prefix).split("/")
        part: str | None = "train"
        if layout.parts:
            part = layout.parts.get(folders[0]) if folders else None
        classes = folders[1:] if layout.parts else folders
        if not file:  # A class without images is noted, to be refused later.
            if classes and part:
                found.folders[part].add(classes[0])
        elif file == labels.METADATA and has_table:
            continue
        elif _is_image(files, name, handle):
            opened.check_encoding(name, files.root)
            _add_image(found, name, part, classes, file)
        elif part:
            suffix = pathlib.PurePosixPath(name).suffix.lower()
            found.others[suffix or "without suffix"] += 1
    return found


def _add_image(
    found: _Found, name: str, part: str | None, classes: list[str], file: str
) -> None:
    if part and classes:
        below = posixpath.join(*classes[1:], file)
        found.members[part][name] = Member(classes[0], below)
        found.folders[part].add(classes[0])
    else:
        found.unlabelled[name] = part or "train"
        found.beside += [] if part else [name]


def _is_image(files: opened.Files, name: str, handle: object) -> bool:
    if pathlib.PurePosixPath(name).suffix.lower() in formats.suffixes():
        return True
    try:
        return formats.begins_as_image(files.head(handle))
    except archive_files.UNREADABLE:
        return False


def _refuse_unlabelled(root: pathlib.Path, layout: Layout, found: _Found) -> None:
    """Refuses an image in no class, or in a folder that would be ignored."""
    for name in found.unlabelled:
        folder, *below = name.removeprefix(layout.prefix).split("/")
        if name not in found.beside or not below:
            where = f"{folder if below else 'train'}/<class>/"
            raise DataError(
                f"{root / name} is in no class",
                f"images belong in {where if layout.parts else '<class>/'}",
            )
        near = difflib.get_close_matches(folder.casefold(), labels.PART_OF, 1)
        meant = [FOLDERS[labels.PART_OF[each]] for each in near] or ["val", "test"]
        raise DataError(
            f"{root} has images in {folder}/, which is the name of no part",
            f"call it {'/ or '.join(meant)}/",
            "move it elsewhere",
        )


def _check_classes(root: pathlib.Path, layout: Layout, found: _Found) -> None:
    """Refuses a folder of a class that has no images."""
    folder_of = {part: f"{name}/" for name, part in layout.parts.items()}
    for part, classes in found.folders.items():
        filled = {image.label for image in found.members[part].values()}
        for name in sorted(classes - filled):
            others = ", ".join(f"{n} {kind}" for kind, n in found.others.most_common())
            raise DataError(
                f"{root} has no images in {folder_of.get(part, '')}{name}/"
                f"{f' (other files: {others})' * bool(others)}",
                "add some",
                "move the folder elsewhere",
            )


def _check_parts(
    root: pathlib.Path,
    layout: Layout,
    members: Mapping[str, Mapping[str, Member]],
    class_names: tuple[str, ...],
    *,
    exact: bool,
) -> None:
    """Refuses a class that a part has alone, or, if `exact`, one that it lacks."""
    folder_of = {part: f"{name}/" for name, part in layout.parts.items()}
    for part, images in members.items():
        here = {image.label for image in images.values()}
        differing = sorted(here ^ set(class_names) if exact else here - {*class_names})
        if differing:
            where = "train" if differing[0] in class_names else part
            one, both = (
                folder_of.get(each, f"the {each} set") for each in (where, part)
            )
            raise DataError(
                f"{root} has the class {differing[0]!r} in {one} only",
                f"{folder_of.get('train', 'the train set')} and {both} must have the "
                "same classes",
            )
    if len(class_names) < 2:
        raise DataError(
            f"{root} has a single class in {folder_of.get('train', 'the train set')}, "
            "expected two or more"
        )


def _apply_tables(
    files: opened.Files,
    tables: list[str],
    found: _Found,
    data: ml_collections.ConfigDict,
) -> Iterator[tuple[str, str]]:
    """Gives images the labels and parts of the tables; yields notes."""
    placed = {
        name: (part, image)
        for part, images in found.members.items()
        for name, image in images.items()
    }
    unplaced = dict(found.unlabelled)
    num_rows = num_changed = num_empty = 0
    for table in tables:
        source, content, folder = _table(files, table)
        rows = labels.parse(content, source, folder, data)
        labels.check_present(rows, [*placed, *unplaced], source)
        num_rows += len(rows)
        for name, row in rows.items():
            part, old = placed.get(name) or (unplaced[name], None)
            found.members[part].pop(name, None)
            found.unlabelled.pop(name, None)
            num_empty += not row.label
            if row.label:
                num_changed += old is not None and old.label != row.label
                found.members[row.part or part][name] = _relabelled(
                    name, old, row.label
                )
    text = f"{', '.join(tables)}: {num_rows:,} images"
    if num_changed:
        text += f", {num_changed:,} of them in a folder of another class"
    yield "labels", text
    if num_empty or found.unlabelled:
        listed = ", ".join([*found.unlabelled][:_LISTED])
        yield (
            "left out",
            (
                f"{num_empty + len(found.unlabelled):,} images without a label"
                f"{f', among them {listed}' * bool(listed)}"
            ),
        )


def _relabelled(name: str, image: Member | None, label: str) -> Member:
    """Returns an image in a class, which may have another of the same name."""
    if image is None:
        return Member(label, name)
    below = image.below if label == image.label else f"{image.label}/{image.below}"
    return Member(label, below)


def _table(files: opened.Files, table: str) -> tuple[str, bytes, str]:
    """Returns a table's name, contents, and the folder of its file names."""
    if table in files.entries:
        folder = posixpath.dirname(table)
        return table, files.read(files.entries[table]), f"{folder}/" if folder else ""
    path = pathlib.Path(table).expanduser()
    if not path.is_file():
        raise DataError(
            f"there is no table of labels {table}, neither below {files.root} nor here",
            "pass <config.data.labels=FILE.csv>",
        )
    content = path.read_bytes()
    with contextlib.suppress(ValueError):
        folder = path.resolve().parent.relative_to(files.root.resolve()).as_posix()
        return table, content, "" if folder == "." else f"{folder}/"
    return table, content, ""


def _apply_corrections(found: _Found, path: str) -> Iterator[tuple[str, str]]:
    """Relabels and drops train images as a review says; yields notes."""
    corrections = labels.read_corrections(path)
    train = found.members["train"]
    labels.check_present(corrections, [*train], path)
    num_dropped = num_changed = 0
    for name, label in corrections.items():
        if label is None:
            del train[name]
            num_dropped += 1
        elif label != train[name].label:
            train[name] = _relabelled(name, train[name], label)
            num_changed += 1
    yield "corrections", f"{path}: {num_changed:,} relabelled, {num_dropped:,} dropped"
