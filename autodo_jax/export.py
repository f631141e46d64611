"""python -m autodo_jax.export WORKDIR --to=DIR [--suspects=relabel] [--review=FILE]

Writes a cleaned version of the image folder that a run was trained on. The suspects of
its report are left out or get their suggested label; or, with --review, what was
decided there is done instead. All other images, including those for validation and
test, keep their part and class, and a class that would lose all its train images stays
as it is. Files are linked, or copied with --copy; those of an archive are always
copied.
"""

import collections
import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import tqdm

from autodo_jax.data.images import decode, opened
from autodo_jax.data.sources import labels, listing
from autodo_jax.disk import regular
from autodo_jax.errors import (
    ArgumentParser,
    DataError,
    ExportError,
    for_command_line,
    printable,
)
from autodo_jax.workdir import run as runs
from autodo_jax.workdir.dataset_report import (
    DatasetReport,
    above_threshold,
    load_dataset_report,
)

SUSPECTS = ("drop", "relabel")


@dataclasses.dataclass
class Exported:
    """What was done."""

    counts: collections.Counter[str]  # images kept, relabelled, dropped
    by_class: dict[str, collections.Counter[str]]  # of the train set, by given label
    untouched: list[str]  # classes that would have lost all their images
    expected_wrong: float | None  # share of the suspects, by the run


def export(
    workdir: pathlib.Path,
    target: pathlib.Path,
    *,
    threshold: float | None = None,
    suspects: str = "drop",
    review: pathlib.Path | None = None,
    drop_duplicates: bool = False,
    copy: bool = False,
) -> Exported:
    """Writes the cleaned folder.

    Args:
      workdir: of a finished run on a folder or an archive of images.
      target: folder that does not exist yet, or is empty.
      threshold: in [0, 1]; images with a noise score above it and another suggested
        label are suspects. None: the suspects of the report.
      suspects: "drop" leaves them out; "relabel" puts them into their suggested class.
      review: decisions that are taken instead; undecided images are kept.
      drop_duplicates: of train images with the same pixels the one with the lowest
        noise score is kept.
      copy: copies files instead of making symbolic links to them.

    Raises:
      ExportError: a run on other data or with changed labels; a target in use; a
        threshold out of range; a class that cannot be the name of a folder.
      RunFilesError: an unfinished run, or files that cannot be read.
      DataError: the images are no longer there, or a review that is not of them.
      OSError: the target cannot be written.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ExportError(f"the threshold is {threshold}, expected a number in [0, 1]")
    report = load_dataset_report(workdir)
    data = runs.load_config(workdir).data
    root = pathlib.Path(data.data_dir).expanduser().absolute()
    if data.source != "folder":
        raise ExportError(
            f"{workdir} was trained on {data.source}, but only image folders and "
            "archives (configs/folder.py) are exported"
        )
    if data.noise_ratio:
        raise ExportError(
            f"{workdir} was trained with labels changed by config.data.noise_ratio, so "
            "its suspects are not errors of the folder",
            "train with <config.data.noise_ratio=0>",
        )
    if target.exists() and any(target.iterdir()):
        raise ExportError(f"{target} is not empty", "pass a new folder")
    is_suspect = suspects_of(report, threshold)
    with listing.opened_images(root, data) as (found, files):
        train = found.members["train"]
        if review is not None:
            new_label = labels.read_corrections(str(review))
            labels.check_present(new_label, [*train], str(review))
        else:
            new_label = {
                name: str(label) if suspects == "relabel" else None
                for name, label in zip(
                    report.id[is_suspect],
                    report.suggested_label[is_suspect],
                    strict=True,
                )
                if name in train
            }
        if drop_duplicates:
            for name in _copies(files, train, report):
                new_label[name] = None
        untouched = _spare(train, new_label)
        exported = _write(files, found, new_label, target, copy=copy)
    exported.untouched = untouched
    if review is None and is_suspect.any():
        exported.expected_wrong = float(report.noise_score[is_suspect].mean())
        if threshold is None:
            exported.expected_wrong = _expected_wrong(workdir, exported.expected_wrong)
    return exported


def _expected_wrong(workdir: pathlib.Path, default: float) -> float:
    """Returns the expected share of wrong labels among the suspects of the run."""
    result = runs.read(workdir).result or {}
    found, size = (
        result.get(name) for name in ("expected_wrong_suspects", "num_suspects")
    )
    if isinstance(found, float) and isinstance(size, int) and size:
        return found / size
    return default


def suspects_of(report: DatasetReport, threshold: float | None) -> np.ndarray:
    """Returns which points are suspects, bool [N]; see `export`."""
    if threshold is None:
        return report.is_suspect
    differs = report.suggested_label != report.given_label
    return above_threshold(report.noise_score, differs, threshold)


def _copies(
    files: opened.Files, train: Mapping[str, listing.Member], report: DatasetReport
) -> list[str]:
    """Returns train images with the pixels of another, which has a lower score."""
    score = dict(zip(report.id.tolist(), report.noise_score, strict=True))
    best: dict[bytes, str] = {}
    dropped = []
    decoder = decode.Decoder(channels=3)
    for name, found in decode.attempts(files.pick(train), decoder, decoder.digest):
        if isinstance(found, DataError):  # The run has left it out as well.
            continue
        _, digest = found
        other = best.setdefault(digest, name)
        if other != name:
            names = sorted((other, name), key=lambda each: score.get(each, 1.0))
            best[digest] = names[0]
            dropped.append(names[1])
    return dropped


def _spare(
    train: Mapping[str, listing.Member], new_label: dict[str, str | None]
) -> list[str]:
    """Takes back what would leave a class without images; returns these classes."""
    untouched: list[str] = []
    while True:
        left = {
            label
            for name, image in train.items()
            if (label := new_label.get(name, image.label)) is not None
        }
        lost = sorted({image.label for image in train.values()} - left)
        if not lost:
            return untouched
        untouched += lost
        for name, image in train.items():
            if image.label in lost:
                new_label.pop(name, None)


def _write(
    files: opened.Files,
    found: listing.Listing,
    new_label: Mapping[str, str | None],
    target: pathlib.Path,
    *,
    copy: bool,
) -> Exported:
    exported = Exported(
        collections.Counter(), collections.defaultdict(collections.Counter), [], None
    )
    moves = [
        (name, part, image, new_label.get(name, image.label))
        for part, images in found.members.items()
        for name, image in images.items()
    ]
    for wanted in {wanted for *_, wanted in moves} - {None}:
        if wanted in (".", "..", "") or {"/", "\\", "\0"} & set(wanted or ""):
            raise ExportError(f"the class {wanted!r} cannot be the name of a folder")
    taken: set[pathlib.Path] = set()
    is_quiet = not sys.stderr.isatty()
    for name, part, image, wanted in tqdm.tqdm(moves, unit="image", disable=is_quiet):
        is_kept = wanted == image.label
        done = "kept" if is_kept else "dropped" if wanted is None else "relabelled"
        exported.counts[done] += 1
        if part == "train":
            exported.by_class[image.label][done] += 1
        if wanted is None:
            continue
        # The new class may have an image of the same name.
        below = image.below if is_kept else f"was-{image.label}/{image.below}"
        path = _free(target / listing.FOLDERS[part] / wanted / below, taken)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not files.root.is_dir():
            with regular.create(path) as file:
                file.write(files.read(files.entries[name]))
        elif copy:
            with (
                regular.open_file(files.root / name) as source,
                regular.create(path) as file,
            ):
                shutil.copyfileobj(source, file)
        else:
            path.symlink_to(files.root / name)
    return exported


def _free(path: pathlib.Path, taken: set[pathlib.Path]) -> pathlib.Path:
    """Returns a path that no image has yet; a table may give two the same."""
    wanted, number = path, 2
    while path in taken:
        path = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        number += 1
    taken.add(path)
    return path


def _lines(target: pathlib.Path, exported: Exported) -> list[str]:
    counts = exported.counts
    lines = [
        f"{target}: {counts['kept']} images kept, {counts['relabelled']} relabelled, "
        f"{counts['dropped']} dropped"
    ]
    for label, done in sorted(exported.by_class.items()):
        changed = done["relabelled"] + done["dropped"]
        if changed:
            lines.append(
                f"class {label}: {done['dropped']} dropped, {done['relabelled']} "
                f"relabelled of {done.total()} train images"
            )
    lines += [
        f"class {label} is left as it is, since no train image would be left in it"
        for label in exported.untouched
    ]
    if exported.expected_wrong is not None:
        lines.append(
            f"the run expects {100 * exported.expected_wrong:.0f} % of the suspects to "
            "have a wrong label"
        )
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = ArgumentParser(
        prog="python -m autodo_jax.export",
        description="Writes a run's image folder without its suspect labels.",
    )
    parser.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")
    parser.add_argument("--to", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument(
        "--threshold", type=float, help="noise score above which images are suspects"
    )
    parser.add_argument("--suspects", choices=SUSPECTS, default="drop")
    parser.add_argument(
        "--review", type=pathlib.Path, metavar="FILE", help="take its decisions instead"
    )
    parser.add_argument(
        "--drop_duplicates", action="store_true", help="keep one image of the same"
    )
    parser.add_argument("--copy", action="store_true", help="files instead of links")
    arguments = parser.parse_args(argv)
    if arguments.review and arguments.threshold is not None:
        parser.error("--review takes decisions, so --threshold has no effect")
    try:
        exported = export(
            arguments.workdir,
            arguments.to,
            threshold=arguments.threshold,
            suspects=arguments.suspects,
            review=arguments.review,
            drop_duplicates=arguments.drop_duplicates,
            copy=arguments.copy,
        )
    except (ValueError, OSError) as error:
        print(f"autodo_jax.export: {for_command_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    for line in _lines(arguments.to, exported):
        print(printable(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
