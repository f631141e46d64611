"""Metrics, suspects and weights of a run in the format of TensorBoard."""

import contextlib
import pathlib
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from autodo_jax import processes
from autodo_jax.workdir import files
from autodo_jax.workdir.dataset_report import DatasetReport
from autodo_jax.workdir.report_data import ReportData

_BINS = 50


class TensorBoard:
    """Context of the one event file of a workdir; the first process writes it.

    tensorboardX's own writer is a thread, where a full disk goes unnoticed.
    """

    def __init__(self, folder: pathlib.Path, records: Sequence[dict[str, Any]]):
        """Writes a new file in place of that of an earlier start.

        Args:
          folder: the workdir.
          records: metrics of the epochs so far.

        Raises:
          WriteError: as all methods, the file cannot be written.
        """
        self._folder = folder
        self._writer: Any = None
        if processes.is_first():
            with self._explained():
                for path in folder.glob(files.EVENTS.name):
                    path.unlink()
                # Nobody can know the name before, and have a link there.
                suffix = f".{secrets.token_hex(8)}"
                self._writer = EventsWriter(str(folder / "events"), suffix)
        for record in records:
            self.add_epoch(record)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, error_type: Any, *_: Any) -> None:
        if self._writer is not None:
            # No other error must be hidden by this one.
            with contextlib.suppress(OSError) if error_type else self._explained():
                self._writer.close()

    def add_epoch(self, record: dict[str, Any]) -> None:
        """Adds the metrics of an epoch."""
        self._add(
            record["epoch"],
            [
                summary.scalar(name, value)
                for name, value in record.items()
                if name != "epoch" and np.isfinite(value)
            ],
        )

    def add_result(self, epoch: int, report: DatasetReport, shown: ReportData) -> None:
        """Adds what a finished run has learned of its train points."""
        summaries = [
            summary.histogram(name, getattr(report, name), _BINS)
            for name in ("weight", "noise_score", "label_confidence")
        ]
        for rank, (row, image) in enumerate(
            zip(shown.suspect_index, shown.suspect_images, strict=True), 1
        ):
            labels = (
                f"{report.given_label[row]}, suggested {report.suggested_label[row]}"
            )
            name = f"suspects/{rank:02d} {report.id[row]}: {labels}"
            summaries.append(summary.image(name, image, dataformats="HWC"))
        self._add(epoch, summaries)

    def _add(self, epoch: int, summaries: Sequence[Any]) -> None:
        if self._writer is None:
            return
        with self._explained():
            for value in summaries:
                self._writer.write_event(
                    Event(step=epoch, summary=value, wall_time=time.time())
                )
            self._writer.flush()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = f"TensorBoard's events in {self._folder}"
            raise files.write_error(what, error) from error
