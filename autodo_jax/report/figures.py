"""Figures as SVG for a page, readable without colour vision and on paper."""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours, which also differ in lightness; line styles differ as well.
COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
_STYLES = ("-", "--", ":", "-.")
_MARKERS = "os^Dv*P"
_SHADES = "cividis"
_OPTIONS: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "autodo_jax",
}
_WIDTH, _HEIGHT = 5.4, 3.1  # inches
MAX_CLASSES = 30  # in a figure with a row for each class
MAX_NUMBERS = 20  # classes of a matrix that shows its numbers
_MAX_BANDS = 6  # curves in a figure that shows their spread

Curve = tuple[str, Sequence[float], Sequence[float]]  # name, epochs, values


def curves(
    lines: Sequence[Curve], ylabel: str, *, start: int | None = None, log: bool = False
) -> str:
    """Draws values over epochs.

    Args:
      lines: at most four.
      ylabel: name of the values, with the unit.
      start: the last epoch without the outer loop, marked by a line.
      log: whether the axis of the values is logarithmic.
    """
    figure, axes = _new()
    for (name, epochs, values), color, style in zip(
        lines, COLORS, _STYLES, strict=False
    ):
        # The line through a single epoch would be invisible.
        marker = "o" if len(epochs) == 1 else None
        axes.plot(epochs, values, style, color=color, label=name, marker=marker)
    if log:
        axes.set_yscale("log")
    if start is not None:
        axes.axvline(start, color="0.35", linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            "outer loop starts",
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -2),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color="0.25",
        )
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=9)
    return _svg(figure)


class Compared(NamedTuple):
    """The curve of a row of a table."""

    name: str
    group: int  # rows of a group share a colour and a marker
    is_control: bool  # dashed
    mean: np.ndarray  # [epochs]
    spread: np.ndarray  # [epochs]


def compared_curves(lines: Sequence[Compared], ylabel: str) -> str:
    """Draws the curves of several rows, with their spread if there are few."""
    figure, axes = _new(8.5, 4.6)
    for number, line in enumerate(lines):
        epochs = np.arange(1, len(line.mean) + 1)
        turn, place = divmod(line.group, len(COLORS))
        axes.plot(
            epochs,
            line.mean,
            "--" if line.is_control else "-",
            color=COLORS[place],
            marker=_MARKERS[(place + turn) % len(_MARKERS)],
            markevery=(number % 5, max(1, len(epochs) // 8)),
            markersize=4,
            linewidth=1.2,
            label=line.name,
        )
        if len(lines) <= _MAX_BANDS:
            low, high = line.mean - line.spread, line.mean + line.spread
            axes.fill_between(
                epochs, low, high, color=COLORS[place], alpha=0.1, linewidth=0
            )
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.legend(
        frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5)
    )
    return _svg(figure)


def confusion(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> str:
    """Draws a confusion matrix [C, C], shaded by shares of each class."""
    size = len(names)
    counts = np.zeros((size, size), int)
    np.add.at(counts, (labels, predictions), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(5.4, 2.4 + 0.3 * size)
    figure, axes = _new(side, side)
    axes.imshow(shares, cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest")
    if size <= MAX_NUMBERS:
        _write_numbers(
            axes, shares, [[str(n) if n else "" for n in row] for row in counts]
        )
        _name_ticks(axes, names, names)
    axes.set(xlabel="predicted", ylabel="label of the test point")
    return _svg(figure)


def embedding(
    position: np.ndarray, labels: np.ndarray, is_wrong: np.ndarray, names: Sequence[str]
) -> str:
    """Draws points [F, 2], errors as crosses; names are at the medians of classes.

    If there are more than `MAX_CLASSES`, they are not named.
    """
    figure, axes = _new(5.4, 4.6)
    x, y = position.T
    for label in np.unique(labels):
        is_shown = (labels == label) & ~is_wrong
        turn, place = divmod(int(label), len(COLORS))
        axes.scatter(
            x[is_shown],
            y[is_shown],
            14,
            color=COLORS[place],
            marker=_MARKERS[(place + turn) % len(_MARKERS)],
            alpha=0.6,
            linewidths=0,
        )
    axes.scatter(x[is_wrong], y[is_wrong], 42, "black", marker="x", linewidths=1.4)
    for label in np.unique(labels) if len(names) <= MAX_CLASSES else ():
        axes.annotate(
            _short(names[label]),
            np.median(position[labels == label], axis=0),
            ha="center",
            va="center",
            weight="bold",
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "0.4", "lw": 0.6},
        )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return _svg(figure)


def bars(
    names: Sequence[str], values: Mapping[str, Sequence[float]], xlabel: str
) -> str:
    """Draws a bar for each name and series, with its number."""
    height = 0.8 / len(values)
    figure, axes = _new(_WIDTH, 0.9 + len(names) * (0.14 + 0.16 * len(values)))
    for i, (series, numbers) in enumerate(values.items()):
        place = np.arange(len(names)) + (i - (len(values) - 1) / 2) * height
        drawn = axes.barh(
            place,
            np.nan_to_num(numbers),
            height,
            color=COLORS[i] if not i else "white",
            edgecolor=COLORS[i],
            hatch=None if not i else "////",
            label=series,
        )
        texts = ["-" if math.isnan(number) else f"{number:.1f}" for number in numbers]
        axes.bar_label(drawn, texts, padding=2, fontsize=8)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.12, y=0.01)
    axes.set_xlabel(xlabel)
    if len(values) > 1:
        axes.legend(
            frameon=False,
            fontsize=8,
            loc="lower center",
            ncols=2,
            bbox_to_anchor=(0.5, 1),
        )
    return _svg(figure)


def boxes(names: Sequence[str], values: Sequence[np.ndarray], xlabel: str) -> str:
    """Draws quartiles of each name's values, with whiskers from 5 to 95 %."""
    figure, axes = _new(_WIDTH, 0.9 + 0.27 * len(names))
    axes.boxplot(
        values,
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#CFE3F1", "edgecolor": COLORS[0]},
        medianprops={"color": COLORS[1], "linewidth": 2},
    )
    axes.set_yticks(range(1, len(names) + 1), [_short(name) for name in names])
    axes.invert_yaxis()
    axes.axvline(1, color="0.5", linewidth=1, linestyle=(0, (1, 2)))
    axes.set_xlabel(xlabel)
    return _svg(figure)


def matrix(rows: Sequence[str], columns: Sequence[str], values: np.ndarray) -> str:
    """Draws a table [R, C] of numbers, shaded row by row between their extremes."""
    low, high = values.min(axis=1, keepdims=True), values.max(axis=1, keepdims=True)
    shades = (values - low) / np.maximum(high - low, 1e-12)
    for_names = 0.085 * max(len(_short(name)) for name in columns)
    figure, axes = _new(1.3 + 0.52 * len(columns), 0.9 + for_names + 0.34 * len(rows))
    axes.imshow(
        shades, cmap=_SHADES, vmin=0, vmax=1, aspect="auto", interpolation="nearest"
    )
    _write_numbers(axes, shades, [[_number(value) for value in row] for row in values])
    _name_ticks(axes, rows, columns)
    return _svg(figure)


def _new(width: float = _WIDTH, height: float = _HEIGHT) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(_OPTIONS):
        figure = Figure((width, height), layout="constrained")
        return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with matplotlib.rc_context(_OPTIONS), warnings.catch_warnings():
        # Text stays text, and the browser has the fonts that Matplotlib lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S
    )
    # The page determines the size.
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)


def _write_numbers(
    axes: Axes, shades: np.ndarray, texts: Sequence[Sequence[str]]
) -> None:
    for (i, j), shade in np.ndenumerate(shades):
        color = "white" if shade < 0.55 else "black"
        axes.text(j, i, texts[i][j], ha="center", va="center", color=color, fontsize=8)


def _name_ticks(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
    longest = max(len(name) for name in columns)
    axes.set_xticks(
        range(len(columns)),
        [_short(name) for name in columns],
        rotation=0 if longest <= 3 else 60,
        ha="center" if longest <= 3 else "right",
        rotation_mode="anchor" if longest > 3 else None,
    )
    axes.spines[:].set_visible(False)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _short(name: str) -> str:
    """Returns a short, printable name for an axis; `$` would begin a formula."""
    name = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    name = name if len(name) <= 18 else f"{name[:9]}…{name[-8:]}"
    return name.replace("$", r"\$")
