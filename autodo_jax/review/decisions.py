"""Decisions on train images, each on the disk before it is confirmed."""

import csv
import io
import pathlib

from autodo_jax.data.sources import labels
from autodo_jax.errors import DataError
from autodo_jax.spreadsheet import cell
from autodo_jax.workdir import files

_COLUMNS = ("id", "given_label", "decision", "new_label")


class Decisions:
    """The decisions of a review, in their order; those of an earlier one at first."""

    def __init__(self, path: pathlib.Path, given: dict[str, str]):
        """Reads what was decided before.

        Args:
          path: of the table, which need not exist yet.
          given: id -> given label, of all train images.

        Raises:
          DataError: a table that cannot be read, or is of other images.
        """
        self._path, self._given = path, given
        self.current: dict[str, labels.Decision] = {}
        self._before: list[tuple[str, labels.Decision | None]] = []
        if path.exists():
            self.current = labels.read_decisions(str(path))
            labels.check_present(self.current, [*given], str(path))
            self._before = [(name, None) for name in self.current]

    def decide(self, name: str, kind: str, label: str | None = None) -> None:
        """Notes a decision.

        Args:
          name: id of an image.
          kind: of `labels.DECISIONS`.
          label: the new one, where the image is relabelled.

        Raises:
          DataError: an unknown image or decision, or a label that is missing.
          WriteError: the table cannot be written; nothing is decided then.
        """
        if name not in self._given or kind not in labels.DECISIONS:
            raise DataError(f"there is no decision {kind!r} on {name!r}")
        if (kind == "relabel") != bool(label):
            raise DataError(f"the decision {kind!r} cannot have the label {label!r}")
        changed = dict(self.current)
        before = changed.pop(name, None)
        changed[name] = labels.Decision(kind, label)
        self._write(changed)
        self.current = changed
        self._before.append((name, before))

    def undo(self) -> str | None:
        """Takes the last decision back; returns the id of its image, None without."""
        if not self._before:
            return None
        name, before = self._before[-1]
        changed = dict(self.current)
        del changed[name]
        if before is not None:
            changed[name] = before
        self._write(changed)
        self.current = changed
        self._before.pop()
        return name

    def _write(self, decisions: dict[str, labels.Decision]) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for name, (kind, label) in decisions.items():
            texts = (name, self._given[name], kind, label or "")
            writer.writerow(map(cell, texts))
        files.write_text(self._path, text.getvalue())
