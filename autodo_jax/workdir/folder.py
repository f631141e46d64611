"""The folder of a run: whose it is, whether the run is finished, who may write to it.

One run at a time writes to it.
"""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import filelock
import ml_collections

from autodo_jax import config as config_lib
from autodo_jax.errors import RunFilesError, WorkdirError
from autodo_jax.workdir import files


def default_path(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Returns runs/<config>/<method>[-frozen]-seed<k>."""
    frozen = "-frozen" if config.hyper.frozen else ""
    return pathlib.Path(
        "runs", config.name, f"{config.method}{frozen}-seed{config.seed}"
    )


@contextlib.contextmanager
def opened(
    folder: pathlib.Path, config: ml_collections.ConfigDict, *, overwrite: bool = False
) -> Iterator[None]:
    """Context in which a folder is this run's alone and can be written.

    The folder is made if need be. The lock ends with the process, however that ends.

    Args:
      folder: a workdir.
      config: validated configuration of the run.
      overwrite: removes what an earlier run has left.

    Raises:
      WorkdirError: another run is writing to the folder, or it holds one with another
        configuration, or it cannot be written.
    """
    check_name(folder)
    lock = filelock.FileLock(folder / files.LOCK, blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_links(folder, *([] if overwrite else [files.CHECKPOINTS]), files.LOCK)
        lock.acquire()
    except filelock.Timeout as error:
        raise WorkdirError(
            f"another run is writing to {folder}",
            "wait until it has ended, stop it, or pass another <workdir>",
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        if not overwrite:
            is_finished(folder, config)
        _prepare(folder, overwrite=overwrite)
        yield
    finally:
        lock.release()


def is_finished(folder: pathlib.Path, config: ml_collections.ConfigDict) -> bool:
    """Returns True where a folder holds this very run, finished.

    Raises:
      WorkdirError: it holds a run with another configuration, finished or to be
        resumed, or one that cannot be resumed.
    """
    finished = (folder / files.RESULT).exists()
    if not finished and not (folder / files.CHECKPOINTS).exists():
        return False
    kind = "a finished" if finished else "an unfinished"
    try:
        stored = files.read_config(folder)
    except RunFilesError as error:
        raise WorkdirError(
            f"{folder} holds {kind} run: {error.reason}", "pass another <workdir>"
        ) from error
    if not finished and stored.version < files.FORMAT_VERSION:
        raise WorkdirError(
            f"{folder} holds an unfinished run of an older version of autodo_jax, "
            "which cannot be resumed",
            "pass another <workdir>",
        )
    # A finished run is another one with other epochs, though it could be resumed so.
    may_change = config_lib.MAY_CHANGE - ({"epochs"} if finished else set())
    given = config_lib.to_fields(config)
    # Fields that are newer than the run have the values that it ran with by default.
    default = config_lib.to_fields(config_lib.default_config())
    fields = {**default, **config_lib.flatten(stored.fields)}
    differing = [
        f"config.{name}"
        for name in sorted(fields.keys() | given.keys())
        if fields.get(name) != given.get(name) and name not in may_change
    ]
    if differing:
        raise WorkdirError(
            f"{folder} holds {kind} run with another {', '.join(differing)}",
            "pass another <workdir>",
            "<overwrite> to replace that run",
        )
    return finished


def _prepare(folder: pathlib.Path, *, overwrite: bool) -> None:
    """Sees that the folder can be written; with `overwrite` removes what a run left."""
    try:
        if overwrite:
            for file in files.ALL:
                if file.is_result:
                    for path in folder.glob(file.name):
                        path.unlink()
            _remove(folder / files.CHECKPOINTS)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_name(folder: pathlib.Path) -> None:
    """Raises WorkdirError where a path cannot be written down: Orbax needs UTF-8."""
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise WorkdirError(
            f"the path {folder} is not UTF-8", "rename it", "pass another <workdir>"
        ) from error


def _refuse_links(folder: pathlib.Path, *names: files.File) -> None:
    """Refuses links where others would write, or remove, through them."""
    for name in names:
        if (folder / name).is_symlink():
            raise WorkdirError(
                f"{folder / name} is a link, and nothing is written through links",
                "remove the link",
                "pass another <workdir>",
            )


def _remove(folder: pathlib.Path) -> None:
    """Removes a folder which, if that is cut short, does not look like one in use."""
    if folder.is_symlink():
        folder.unlink()
    aside = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        folder.rename(aside)
        shutil.rmtree(aside)


def _unwritable(folder: pathlib.Path, error: OSError) -> WorkdirError:
    reason = error.strerror or str(error)
    return WorkdirError(f"cannot write to {folder}: {reason}", "pass another <workdir>")
