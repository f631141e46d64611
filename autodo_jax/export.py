"""python -m autodo_jax.export WORKDIR --to=DIR [--threshold=0.5] [--suspects=relabel]

Writes a cleaned version of the image folder that a run was trained on. Train images
whose noise score is above the threshold are left out or get their suggested label. All
other images, including those for validation and test, keep their part and class. Files
are linked, or copied with --copy; those of an archive are always copied.
"""

import argparse
import collections
import pathlib
import shutil
import sys
from collections.abc import Sequence

import tqdm

from autodo_jax.data.sources import listing
from autodo_jax.errors import ExportError, for_command_line
from autodo_jax.workdir.dataset_report import load_dataset_report
from autodo_jax.workdir.run import load_config

SUSPECTS = ("drop", "relabel")


def export(
    workdir: pathlib.Path,
    target: pathlib.Path,
    *,
    threshold: float = 0.5,
    suspects: str = "drop",
    copy: bool = False,
) -> collections.Counter:
    """Writes the cleaned folder.

    Args:
      workdir: of a finished run on a folder or an archive of images.
      target: folder that does not exist yet, or is empty.
      threshold: in [0, 1]; images with a noise score above it are suspects.
      suspects: "drop" leaves them out; "relabel" puts them into their suggested class.
      copy: copies files instead of making symbolic links to them.

    Returns:
      Numbers of images that were "kept", "relabelled" and "dropped".

    Raises:
      ExportError: a run on other data or with changed labels; a target in use; a
        threshold out of range or one that leaves a class without a train image.
      RunFilesError: an unfinished run, or files that cannot be read.
      DataError: the images are no longer there.
      OSError: the target cannot be written.
    """
    if not 0 <= threshold <= 1:
        raise ExportError(f"the threshold is {threshold}, expected a number in [0, 1]")
    report = load_dataset_report(workdir)
    data = load_config(workdir).data
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
    columns = (report.id, report.suggested_label, report.noise_score)
    new_label = {
        name: suggested
        for name, suggested, score in zip(*columns, strict=True)
        if score > threshold
    }
    counts: collections.Counter = collections.Counter()
    with listing.opened_images(root, data) as (found, files):
        moves = [
            (name, part, image, new_label.get(name, image.label))
            for part, images in found.members.items()
            for name, image in images.items()
            if suspects == "relabel" or name not in new_label
        ]
        counts["dropped"] = sum(map(len, found.members.values())) - len(moves)
        left = {wanted for _, part, _, wanted in moves if part == "train"}
        lost = sorted({*found.class_names} - left)
        if lost:
            raise ExportError(
                f"the class {lost[0]!r} would have no train image left",
                "raise <threshold>",
            )
        is_quiet = not sys.stderr.isatty()
        for name, part, image, wanted in tqdm.tqdm(
            moves, unit="image", disable=is_quiet
        ):
            is_kept = wanted == image.label
            counts["kept" if is_kept else "relabelled"] += 1
            # The new class may have an image of the same name.
            below = image.below if is_kept else f"was-{image.label}/{image.below}"
            path = target / listing.FOLDERS[part] / wanted / below
            path.parent.mkdir(parents=True, exist_ok=True)
            if not root.is_dir():
                path.write_bytes(files.read(files.entries[name]))
            elif copy:
                shutil.copyfile(root / name, path)
            else:
                path.symlink_to(root / name)
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m autodo_jax.export",
        description="Writes a run's image folder without its suspect labels.",
    )
    parser.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")
    parser.add_argument("--to", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--suspects", choices=SUSPECTS, default="drop")
    parser.add_argument("--copy", action="store_true")
    arguments = parser.parse_args(argv)
    try:
        counts = export(
            arguments.workdir,
            arguments.to,
            threshold=arguments.threshold,
            suspects=arguments.suspects,
            copy=arguments.copy,
        )
    except (ValueError, OSError) as error:
        print(f"autodo_jax.export: {for_command_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print(
        f"{arguments.to}: {counts['kept']} images kept, {counts['relabelled']} "
        f"relabelled, {counts['dropped']} dropped"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
