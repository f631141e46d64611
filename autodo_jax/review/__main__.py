"""python -m autodo_jax.review WORKDIR [--port=PORT]

Opens a page with the suspects of a run on a folder of images: certain label errors
first, then the largest noise scores. Each is kept, gets the suggested or another class,
or is dropped, by keys or clicks. Decisions go to the workdir's review table at once;
the same command continues with it. The page is on this machine alone.
"""

import pathlib
import sys
import webbrowser
from collections.abc import Iterator, Sequence

import numpy as np

from autodo_jax.data.sources import listing
from autodo_jax.errors import ArgumentParser, ExportError, for_command_line, printable
from autodo_jax.export import suspects_of
from autodo_jax.review.decisions import Decisions
from autodo_jax.review.server import Point, Server
from autodo_jax.workdir import files
from autodo_jax.workdir import run as runs
from autodo_jax.workdir.dataset_report import DatasetReport, load_dataset_report


def points_of(
    report: DatasetReport, conflicts: Sequence[Sequence[str]]
) -> Iterator[Point]:
    """Yields the images to be reviewed: certain label errors, then suspects.

    Args:
      report: of the run.
      conflicts: pairs of images with the same pixels and different labels, each as (id,
        label, other id, other label).
    """
    row_of = {name: row for row, name in enumerate(report.id.tolist())}
    shown: dict[str, str] = {}
    for one, first, other, second in conflicts:
        for name, twin, label in ((one, other, second), (other, one, first)):
            if name in row_of:
                shown.setdefault(name, f"the same pixels as {twin}, which is {label}")
    rows = np.flatnonzero(suspects_of(report, None))
    for row in rows[np.argsort(-report.noise_score[rows], kind="stable")]:
        shown.setdefault(str(report.id[row]), "")
    for name, reason in shown.items():
        row = row_of[name]
        yield Point(
            name,
            str(report.given_label[row]),
            str(report.suggested_label[row]),
            float(report.noise_score[row]),
            reason,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = ArgumentParser(
        prog="python -m autodo_jax.review",
        description="Opens a page to decide on the suspects of a run.",
    )
    parser.add_argument("workdir", type=pathlib.Path, metavar="WORKDIR")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument(
        "--no_browser", action="store_true", help="only print the address"
    )
    arguments = parser.parse_args(argv)
    try:
        _serve(arguments.workdir, arguments.port, opens=not arguments.no_browser)
    except (ValueError, OSError, OverflowError) as error:
        print(f"autodo_jax.review: {for_command_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


def _serve(workdir: pathlib.Path, port: int, *, opens: bool) -> None:
    report = load_dataset_report(workdir)
    run, config = runs.read(workdir), runs.load_config(workdir)
    if config.data.source != "folder":
        raise ExportError(
            f"{workdir} was trained on {config.data.source}, but only image folders "
            "and archives (configs/folder.py) are reviewed"
        )
    data = run.data() or {}
    given = dict(zip(report.id.tolist(), report.given_label.tolist(), strict=True))
    decisions = Decisions(workdir / files.REVIEW, given)
    classes = [*(run.result or {}).get("class_error", sorted(set(given.values())))]
    root = pathlib.Path(config.data.data_dir)
    with listing.opened_images(root, config.data) as (_, found):
        points = [*points_of(report, data.get("conflicts", []))]
        server = Server(
            points, classes, decisions, lambda id: found.read(found.entries[id]), port
        )
        with server:
            print(f"{len(points)} images to review: {server.url}", flush=True)
            where = printable(str(workdir / files.REVIEW))
            print(f"decisions go to {where}; Ctrl-C ends", flush=True)
            if opens:
                webbrowser.open(server.url)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print(f"{len(decisions.current)} decisions are saved")


if __name__ == "__main__":
    sys.exit(main())
