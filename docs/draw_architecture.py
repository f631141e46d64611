"""Draws the parts of the package by their imports: docs/images/architecture.svg.

    python docs/draw_architecture.py

A part imports only parts below it. Lines that follow from others are left out.
"""

import ast
import pathlib
from collections.abc import Iterator, Mapping

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "autodo_jax"
TARGET = ROOT / "docs/images/architecture.svg"
# Any part may import these; they import nothing of the package.
ANYONE = {"disk", "errors", "spreadsheet", "version", "_typing"}

_WIDTH, _ROW, _BOX = 960, 84, 30
_LETTER = 7.8  # pixels


def imports(path: pathlib.Path) -> Iterator[tuple[str, ...]]:
    """Yields what a module imports of the package, names of functions at their end."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            top, *rest = module.split(".")
            if top == "autodo_jax" and rest:
                yield tuple(rest)


def parts(package: pathlib.Path) -> dict[str, set[str]]:
    """Returns the parts that each part imports, but for itself and ANYONE."""
    found: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).with_suffix("").parts[0]
        if part not in ANYONE | {"__init__"}:
            imported = found.setdefault(part, set())
            imported |= {first for first, *_ in imports(path)} - ANYONE - {part}
    return found


def layers(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Returns the parts by layer, from those that import none upwards."""
    depth: dict[str, int] = {}

    def visit(part: str) -> int:
        if part not in depth:
            depth[part] = 1 + max(map(visit, sorted(edges[part])), default=-1)
        return depth[part]

    for part in edges:
        visit(part)
    rows: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for part in sorted(edges):
        rows[depth[part]].append(part)
    return rows


def reduced(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Returns the edges without those that follow from two or more others."""

    def below(part: str) -> set[str]:
        return edges[part].union(*map(below, edges[part]))

    return {
        part: targets - set().union(*map(below, targets))
        for part, targets in edges.items()
    }


def drawing(package: pathlib.Path) -> str:
    """Returns the picture as SVG."""
    edges = parts(package)
    rows = layers(edges)
    place: dict[str, tuple[float, float, float]] = {}  # middle, top, width
    drawn = reduced(edges)
    for number, row in enumerate(rows):
        top = 20 + (len(rows) - 1 - number) * _ROW

        def middle_of_targets(part: str) -> tuple[float, str]:
            xs = [place[target][0] for target in drawn[part]]
            return (sum(xs) / len(xs) if xs else 0.0, part)

        widths = {part: _LETTER * len(part) + 20 for part in row}
        gap = (_WIDTH - sum(widths.values())) / (len(row) + 1)
        left = gap
        for part in sorted(row, key=middle_of_targets):
            place[part] = (left + widths[part] / 2, top, widths[part])
            left += widths[part] + gap
    height = 20 + len(rows) * _ROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="monospace" font-size="13">',
        "<title>Parts of autodo_jax; lines lead to what a part imports</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for part, targets in sorted(drawn.items()):
        for target in sorted(targets):
            (x1, y1, _), (x2, y2, _) = place[part], place[target]
            lines.append(
                f'<line x1="{x1:.0f}" y1="{y1 + _BOX:.0f}" x2="{x2:.0f}" '
                f'y2="{y2:.0f}" stroke="#8a94a6"/>'
            )
    for part, (x, y, width) in sorted(place.items()):
        lines.append(
            f'<rect x="{x - width / 2:.0f}" y="{y:.0f}" width="{width:.0f}" '
            f'height="{_BOX}" rx="5" fill="#e8eefb" stroke="#3b5b92"/>'
            f'<text x="{x:.0f}" y="{y + 20:.0f}" text-anchor="middle" '
            f'fill="#1b2a41">{part}</text>'
        )
    below = f"Any part may import {', '.join(sorted(ANYONE))}."
    lines.append(
        f'<text x="{_WIDTH / 2:.0f}" y="{height - 14}" text-anchor="middle" '
        f'fill="#555555">{below}</text>'
    )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(drawing(PACKAGE))
    print(TARGET.relative_to(ROOT))
