"""The report of a run: one self-contained HTML file, which loads nothing."""

import base64
import io
import pathlib
import re
from typing import Any

import jinja2
import markupsafe
import numpy as np
import PIL.Image

from autodo_jax.errors import RunFilesError
from autodo_jax.report import data, points, predictions, training
from autodo_jax.report.next_steps import next_steps
from autodo_jax.report.section import Section
from autodo_jax.version import __version__
from autodo_jax.workdir import files
from autodo_jax.workdir import run as runs

_BROAD = 460  # points, the width at which a page shows a figure


def write_page(workdir: pathlib.Path) -> pathlib.Path:
    """Writes the report of a run, finished or not, and returns its path.

    Raises:
      RunFilesError: a file of the workdir is absent or cannot be read, or the files do
        not fit together.
      WriteError: the page cannot be written.
    """
    run = runs.read(workdir)
    path = workdir / files.REPORT
    try:
        method, source, seed = (
            run.config[name] for name in ("method", "data.source", "seed")
        )
        text = render(
            "run.html",
            title=f"{method} on {source}, seed {seed}",
            epochs=None if run.result else len(run.records()),
            sections=_sections(run),
            config=run.config,
        )
    except RunFilesError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RunFilesError(
            f"{workdir}: its files do not fit together, or are of another version "
            f"({type(error).__name__}: {error})",
            "restore them from a copy",
            "repeat the run in another workdir",
        ) from error
    files.write_text(path, text)
    return path


def _sections(run: runs.Run) -> list[Section]:
    records, control = run.records(), run.control()
    dataset, shown = run.dataset(), run.shown()
    # What is wrong with the data, how good the network is, what can be done with both,
    # then how it was learned.
    return [
        data.found(run),
        points.suspects(run, dataset, shown),
        training.summary(run, records, control),
        next_steps(run),
        predictions.classes(run, control, shown),
        predictions.confusion(shown),
        predictions.embedding(shown),
        points.weights(run, dataset),
        points.augmentation(run, dataset),
        training.curves(run, records),
        training.solver(records),
    ]


def render(template: str, **values: Any) -> str:
    """Returns a page; values that are not markup are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autodo_jax.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = _Figures().markup
    environment.filters["image"] = _image
    return environment.get_template(template).render(version=__version__, **values)


class _Figures:
    """Keeps the ids of the SVGs in one page distinct."""

    def __init__(self) -> None:
        self._number = 0

    def markup(self, svg: str) -> markupsafe.Markup:
        """Returns an SVG of `figures` as markup, with ids that no other SVG has.

        No figure is enlarged, and a broad one is not shrunk either, so that its numbers
        stay readable.
        """
        self._number += 1
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1f{self._number}-", svg)
        points = float(re.findall(r'viewBox="0 0 ([\d.]+)', svg)[0])
        kind, bound = ("broad", "width") if points > _BROAD else ("", "max-width")
        style = f'class="{kind}" style="{bound}: {points * 4 / 3:.0f}px"'
        return markupsafe.Markup(svg.replace("<svg ", f"<svg {style} ", 1))


def _image(pixels: np.ndarray) -> str:
    """Returns pixels, uint8 [H, W, channels], as a data URL of an image."""
    file = io.BytesIO()
    squeezed = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    PIL.Image.fromarray(squeezed).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
