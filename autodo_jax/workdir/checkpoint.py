"""Saved states of a run, by Orbax: atomic, in the background, verified on reading.

Orbax reads wrong values where a bit of a file has flipped, and does not fall back. So
the checksums of all files of a checkpoint lie beside them, written before its folder
gets its name (`sha256sum -c sha256sums` checks them too). Where they do not match, the
checkpoint is set aside and the one before it is taken.

An old checkpoint moves to a folder of its own before it is removed: what a killed
process has left of it is then not taken for a damaged one.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from autodo_jax._typing import PyTree
from autodo_jax.disk import regular
from autodo_jax.errors import CheckpointError, RunFilesError

_CHECKSUMS = "sha256sums"
# Orbax writes the time into it when the folder gets its name; nobody reads it.
_TIMES = "_CHECKPOINT_METADATA"
_STATE = "state/"
_MAX_CHECKSUMS = 2**24  # bytes of the list of checksums
_DIGEST = 64  # hexadecimal digits of a SHA-256
_DAMAGED = ".damaged"  # suffix of a checkpoint that was set aside
_REMOVED = "removed"  # folder of old ones, before they are deleted

# Orbax also logs the errors that it raises, with several tracebacks.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)


def _without_late_writes(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Keeps an unraisable hook from printing late errors of TensorStore's threads.

    Where one write fails, the others end when nothing waits for them any more. They
    would print a traceback, now and then, beside the line that says what happened.
    """

    def filtered(unraisable: Any) -> None:
        is_late = str(unraisable.exc_value) == "Event loop is closed"
        if not (is_late and unraisable.object is None):
            hook(unraisable)

    return filtered


sys.unraisablehook = _without_late_writes(sys.unraisablehook)


class Checkpoints:
    """Context of the checkpoints of one run, folders named for the step.

    In a run of several processes all of them call each method, and all see the folder.
    """

    def __init__(
        self, folder: pathlib.Path, *, keep: int, warn: Callable[[str], None] = print
    ):
        """Opens the folder and sets damaged checkpoints aside.

        Args:
          folder: need not exist yet.
          keep: number of latest checkpoints that stay, besides the best by validation.
          warn: is told of checkpoints that are set aside.

        Raises:
          CheckpointError: a folder that cannot be read or written.
        """
        self._folder = folder.absolute()
        self._saving = 0
        with _explained(self._folder):
            if jax.process_index() == 0:
                _set_damaged_aside(self._folder, warn)
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("checkpoints are verified")
            self._manager = ocp.CheckpointManager(
                self._folder, options=self._options(keep)
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, error_type: Any, *_: Any) -> None:
        self.close(after_error=error_type is not None)

    def close(self, *, after_error: bool = False) -> None:
        """Releases the folder.

        Args:
          after_error: an error is on its way, which another must not hide. Other
            processes, which closing would wait for, may be gone.
        """
        if not after_error:
            with _explained(self._folder):
                self._manager.close()
                self._remove_old()
        elif jax.process_count() == 1:
            with contextlib.suppress(Exception):
                self._manager.close()

    def save(
        self, step: int, state: PyTree, journal: dict, *, validation_error: float
    ) -> None:
        """Begins to save; `state` may be donated as soon as this returns.

        Args:
          step: rises from one checkpoint to the next.
          state: pytree of arrays.
          journal: the log of the run, as JSON can hold it.
          validation_error: of the last epoch, by which the best checkpoint is chosen.

        Raises:
          CheckpointError: this or the checkpoint before it could not be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), journal=ocp.args.JsonSave(journal)
        )
        with _explained(self._folder):
            self._manager.wait_until_finished()
            self._remove_old()  # first: there is room for one more
            self._saving = step
            self._manager.save(
                step, args=items, metrics={"val_error": validation_error}
            )

    def wait(self) -> None:
        """Returns when the saved states are on the disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with _explained(self._folder):
            self._manager.wait_until_finished()

    def restore(self, like: PyTree) -> tuple[PyTree, dict] | None:
        """Returns the state and the journal of the newest checkpoint; None without one.

        Args:
          like: arrays with the shapes and shardings to restore to, which may be those
            of other devices: a leading axis longer or shorter than the saved one, as
            the padding of Lambda makes it, is filled with zeros or cut.

        Raises:
          CheckpointError: a checkpoint of another state.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        restore_args = jax.tree.map(
            lambda leaf: ocp.ArrayRestoreArgs(
                sharding=leaf.sharding,
                global_shape=leaf.shape,
                dtype=leaf.dtype,
                strict=False,
            ),
            like,
        )
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(like, restore_args=restore_args),
            journal=ocp.args.JsonRestore(),
        )
        with _explained(self._folder / str(step)):
            restored = self._manager.restore(step, args=items)
        return jax.tree.map(_lay_out_like, restored.state, like), restored.journal

    def _options(self, keep: int) -> ocp.CheckpointManagerOptions:
        policies = ocp.checkpoint_managers
        best = policies.BestN(
            get_metric_fn=lambda metrics: -metrics["val_error"],
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        return ocp.CheckpointManagerOptions(
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(keep), best]
            ),
            # Without it the metrics are not saved, and a resumed run could not choose.
            best_fn=lambda metrics: -metrics["val_error"],
            cleanup_tmp_directories=True,
            todelete_subdir=_REMOVED,
            async_options=ocp.AsyncOptions(
                # Called when all files are written, before the folder gets its name.
                post_finalization_callback=self._write_checksums,
                # Where they cannot be created, threads would wait for them for minutes.
                create_directories_asynchronously=False,
            ),
        )

    def _remove_old(self) -> None:
        """Removes old checkpoints, or what is left of them."""
        path = self._folder / _REMOVED
        if jax.process_index() != 0 or not os.path.lexists(path):
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:  # It was put there; nothing is moved through a link.
            path.unlink()

    def _write_checksums(self) -> None:
        if jax.process_index() == 0:
            (folder,) = self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
            lines = [f"{digest}  {name}\n" for name, digest in _checksums(folder)]
            with regular.create(folder / _CHECKSUMS) as file:
                file.write("".join(lines).encode())


def read_parts(folder: pathlib.Path, names: Sequence[str]) -> dict[str, PyTree]:
    """Returns parts of the newest saved state, as NumPy arrays; changes nothing.

    Args:
      folder: of the checkpoints of a finished run.
      names: fields of the state.

    Raises:
      RunFilesError: there is no checkpoint, or the newest one is damaged.
    """
    folder = folder.absolute()  # as Orbax wants it
    newest = max(_steps(folder), key=lambda path: int(path.name), default=None)
    if newest is None:
        raise RunFilesError(f"{folder} holds no saved state of the network")
    problem = _problem(newest, with_state=True)
    if problem is not None:
        raise RunFilesError(
            f"checkpoint {newest} is damaged ({problem})", "restore it from a copy"
        )
    handler = ocp.PyTreeCheckpointHandler()
    with _explained(newest):
        saved = handler.metadata(newest / "state").tree
        wanted = {name: saved[name] for name in names if name in saved}
        to_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        arguments = ocp.args.PyTreeRestore(
            wanted,
            restore_args=jax.tree.map(lambda _: to_numpy, wanted),
            partial_restore=True,
        )
        return handler.restore(newest / "state", args=arguments)


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    """Turns errors of Orbax and of the system into one line."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        if "tree structures do not match" in reason:
            raise CheckpointError(
                f"checkpoints in {path} hold a state of another form, that of another "
                "version of autodo_jax or of another network; they are intact",
                "continue with what saved them, or pass another <workdir>",
            ) from error
        if "RESOURCE_EXHAUSTED" in reason or "No space left" in reason:
            reason = "no space left on the disk"
        elif len(reason) > 300:
            reason = f"{reason[:100]} ... {reason[-200:]}"
        raise CheckpointError(
            f"checkpoints in {path} fail: {reason}; what was saved before is intact",
            "fix the cause and repeat <again>",
        ) from error


def _set_damaged_aside(folder: pathlib.Path, warn: Callable[[str], None]) -> None:
    """Renames damaged checkpoints, so that Orbax does not read them."""
    found_whole = False
    for path in sorted(_steps(folder), key=lambda path: int(path.name), reverse=True):
        problem = _problem(path, with_state=not found_whole)
        if problem is None:
            found_whole = True
            continue
        aside = path.with_name(path.name + _DAMAGED)
        number = 0
        while aside.exists():
            number += 1
            aside = path.with_name(f"{path.name}{_DAMAGED}{number}")
        path.rename(aside)
        warn(f"warning: checkpoint {path} is damaged ({problem}): now {aside.name}")


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.name.isdecimal()]


def _problem(path: pathlib.Path, *, with_state: bool) -> str | None:
    """Returns what is wrong with a checkpoint; None for nothing.

    Orbax reads the metrics of all of them, and the state, which is large, of one.
    """
    try:
        lines = regular.read(path / _CHECKSUMS, _MAX_CHECKSUMS).decode().splitlines()
        found = dict(_checksums(path, with_state=with_state))
    except (OSError, ValueError) as error:
        return str(error)
    if not lines:
        return f"{_CHECKSUMS} is empty"
    for line in lines:
        name, digest = line[_DIGEST:].lstrip(), line[:_DIGEST]
        if found.get(name) != digest and (with_state or not name.startswith(_STATE)):
            return f"{name} is not what was saved"
    return None


def _checksums(
    folder: pathlib.Path, *, with_state: bool = True
) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.name in (_CHECKSUMS, _TIMES):
            continue
        if with_state or not name.startswith(_STATE):
            with open(path, "rb") as file:
                yield name, hashlib.file_digest(file, "sha256").hexdigest()


def _lay_out_like(leaf: Any, like: Any) -> Any:
    """Gives a restored array the layout of `like`, which Orbax does not know of."""
    is_alike = leaf.format.layout == like.format.layout
    return leaf if is_alike else jax.device_put(leaf, like.format)
