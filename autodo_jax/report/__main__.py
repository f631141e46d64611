"""python -m autodo_jax.report DIR [DIR ...] [--format=text|markdown|csv|latex]

Prints a table of the finished runs below the folders: mean +- standard deviation over
seeds, with the frozen control next to each learned row. Writes report.html to the
workdir of each run, finished or not, unless it is newer than the run. If one folder has
several finished runs, comparison.html is written to it.
"""

import pathlib
import sys
from collections.abc import Sequence

import tqdm

from autodo_jax.errors import ArgumentParser, for_command_line
from autodo_jax.report import comparison, page, table
from autodo_jax.workdir import files
from autodo_jax.workdir import run as runs

_FORMATS = {
    "text": table.to_text,
    "markdown": table.to_markdown,
    "csv": table.to_csv,
    "latex": table.to_latex,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    parser = ArgumentParser(
        prog="python -m autodo_jax.report",
        description="Table over finished runs, and a page for each run.",
    )
    parser.add_argument("folders", nargs="+", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--format", choices=_FORMATS, default="text")
    parser.add_argument(
        "--comparison", type=pathlib.Path, metavar="FILE", help="page that compares"
    )
    parser.add_argument(
        "--no-html", action="store_true", help="only the table, no pages"
    )
    arguments = parser.parse_args(argv)
    if arguments.no_html and arguments.comparison:
        parser.error("--comparison writes a page, but --no-html writes none")
    try:
        found = runs.find(arguments.folders)
        finished = [run for run in found if run.result is not None]
        if finished:
            print(_FORMATS[arguments.format](table.rows(finished)))
        else:
            print("no table, since no run is finished yet")
        if not arguments.no_html:
            _write_pages(found)
            together = arguments.comparison
            if together is None and len(arguments.folders) == 1 and len(finished) > 1:
                together = arguments.folders[0] / files.COMPARISON
            if together is not None and finished:
                comparison.write_comparison(finished, together)
    except (ValueError, OSError) as error:
        print(f"autodo_jax.report: {for_command_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


def _write_pages(found: Sequence[runs.Run]) -> None:
    old = [run for run in found if not run.has_report()]
    is_quiet = len(old) < 2 or not sys.stderr.isatty()
    for run in tqdm.tqdm(old, unit="page", disable=is_quiet):
        page.write_page(run.path)


if __name__ == "__main__":
    sys.exit(main())
