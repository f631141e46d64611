"""States come back bit by bit; what is damaged is told and the one before is taken."""

import errno
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from autodo_jax.errors import CheckpointError
from autodo_jax.workdir import checkpoint
from autodo_jax.workdir.checkpoint import Checkpoints

ROWS = 12  # of the arrays that devices share, as saved
# Orbax writes them after the checksums; nothing is read from them.
NOT_COVERED = {"_CHECKPOINT_METADATA", "commit_success.txt"}
SPECIAL = [0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1e-45, 1e-39, 3e38, 1 / 3]


def state(step, *, num_devices=4, rows=ROWS):
    """A state that differs in each step, on some of the devices."""
    mesh = Mesh(np.array(jax.devices()[:num_devices]), ("data",))
    rng = np.random.default_rng(step)
    normal = rng.normal(size=(3, 4)).astype(np.float32)
    params = {
        "kernel": normal,
        "scale": np.array([*SPECIAL, step], np.float32),
        "half": jnp.asarray(normal, jnp.bfloat16),
        "special": jnp.asarray(SPECIAL, jnp.bfloat16),
    }
    table = rng.normal(size=(ROWS, 5)).astype(np.float32)
    table = np.pad(table, ((0, 8), (0, 0)))[:rows]
    touched = np.pad(rng.integers(1, 2**31, ROWS, np.int32), (0, 8))[:rows]
    optimizer = optax.chain(optax.clip(1.0), optax.adam(1e-3))
    everywhere = {
        "params": params,
        "optimizer": optimizer.init(params["half"]),
        "step": np.int32(step),
        "empty": (),
    }
    by_rows = {"table": table, "touched": touched}
    replicated, shared = PartitionSpec(), PartitionSpec("data")
    return {
        "everywhere": jax.device_put(everywhere, NamedSharding(mesh, replicated)),
        "by_rows": jax.device_put(by_rows, NamedSharding(mesh, shared)),
    }


def assert_same(found, expected):
    """Same structure, kinds, places and bits."""
    chex.assert_trees_all_equal_structs(found, expected)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for leaf, other in pairs:
        assert (leaf.dtype, leaf.shape) == (other.dtype, other.shape)
        assert leaf.sharding.is_equivalent_to(other.sharding, other.ndim)
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()


def never(message):
    pytest.fail(message)


def save(folder, val_errors, *, keep=2):
    """Saves one checkpoint of `state(step)` for each of {step: val_error}."""
    with Checkpoints(folder, keep=keep, warn=never) as checkpoints:
        for step, val_error in val_errors.items():
            log = {"step": step}
            checkpoints.save(step, state(step), log, validation_error=val_error)


def restore(folder, *, keep=2):
    """(step of the restored checkpoint or None, warnings); its values are checked."""
    warnings: list[str] = []
    with Checkpoints(folder, keep=keep, warn=warnings.append) as checkpoints:
        result = checkpoints.restore(state(0))
    if result is None:
        return None, warnings
    found, journal = result
    assert_same(found, state(journal["step"]))
    return journal["step"], warnings


def restored(checkpoints, like):
    """(state, journal) of the newest checkpoint, which exists."""
    result = checkpoints.restore(like)
    assert result is not None
    return result


def steps(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdecimal())


def files(folder):
    return sorted(
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file()
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints 1, 2 and 3, of which 1 is the best."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(folder, {1: 5.0, 2: 9.0, 3: 7.0})
    assert steps(folder) == [1, 2, 3]
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_a_state_comes_back_bit_by_bit(folder):
    journal = {
        "step": 4,
        "data": "ab",
        "records": [{"val_error": 12.5, "tiny": 1 / 3}],
        "history": {"task": [], "hyper": [{"loss": 1e-300}]},
        "largest": 2**53,
    }
    with Checkpoints(folder, keep=2, warn=never) as checkpoints:
        checkpoints.save(4, state(4), journal, validation_error=1.0)
        # In this process, which waits for the disk where it has to.
        checkpoints.wait()
        found, _ = restored(checkpoints, state(0))
        assert_same(found, state(4))
    with Checkpoints(folder, keep=2, warn=never) as checkpoints:
        found, found_journal = restored(checkpoints, state(0))
    assert_same(found, state(4))
    assert found_journal == journal


def test_a_state_may_be_given_away_as_soon_as_save_returns(tmp_path):
    given = state(5)
    with Checkpoints(tmp_path, keep=1, warn=never) as checkpoints:
        checkpoints.save(5, given, {"step": 5}, validation_error=1.0)
        jax.tree.map(lambda leaf: leaf.delete(), given)
    assert restore(tmp_path) == (5, [])


@pytest.mark.parametrize(
    ("num_devices", "rows"), [(1, 10), (2, 10), (3, 12), (3, 15), (2, 16), (8, 16)]
)
def test_other_devices_with_another_padding_get_the_rows(folder, num_devices, rows):
    like = state(0, num_devices=num_devices, rows=rows)
    with Checkpoints(folder, keep=2, warn=never) as checkpoints:
        found, _ = restored(checkpoints, like)
    assert_same(found, state(3, num_devices=num_devices, rows=rows))
    same = min(rows, ROWS)
    for before, after in zip(
        jax.tree.leaves(state(3)["by_rows"]),
        jax.tree.leaves(found["by_rows"]),
        strict=True,
    ):
        assert after.shape[0] == rows
        np.testing.assert_array_equal(after[:same], before[:same])
        assert not np.any(after[same:])


def test_a_new_folder_has_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "a/b") == (None, [])


def test_the_latest_and_the_best_stay(tmp_path):
    save(tmp_path, {1: 8.0, 2: 3.0, 3: 5.0, 4: 6.0, 5: 7.0})
    assert steps(tmp_path) == [2, 4, 5]


def test_the_latest_and_the_best_stay_where_a_run_goes_on(folder):
    save(folder, {4: 6.0})
    assert steps(folder) == [1, 3, 4]
    save(folder, {5: 4.0, 6: 9.0, 7: 9.5})
    assert steps(folder) == [5, 6, 7]
    save(folder, {8: 4.5}, keep=1)
    assert steps(folder) == [5, 8]


def damage(path, kind):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    path.unlink()  # Elsewhere the file may have another name, and stay.
    if kind == "deleted":
        return
    if kind == "flipped":
        content[middle] ^= 1
    path.write_bytes({"flipped": content, "truncated": content[:middle]}.get(kind, b""))


@pytest.mark.parametrize("kind", ["flipped", "truncated", "deleted", "emptied"])
@pytest.mark.parametrize("part", range(4))
def test_a_damaged_checkpoint_is_set_aside(saved, tmp_path, kind, part):
    names = files(saved / "3")
    assert len(names) > 15
    for name in names[part::4]:
        folder = shutil.copytree(saved, tmp_path / "x", copy_function=os.link)
        damage(folder / "3" / name, kind)
        step, warnings = restore(folder)
        if str(name) in NOT_COVERED:
            assert (step, warnings) == (3, []), name
        else:
            assert step == 2, name
            (warning,) = warnings
            assert warning.startswith(f"warning: checkpoint {folder / '3'} is damaged")
            assert name.name in warning or name.name == "sha256sums"
            assert warning.endswith(": now 3.damaged")
            assert "\n" not in warning
            assert (folder / "3.damaged").is_dir() and steps(folder) == [1, 2]
        assert restore(folder) == (step, [])  # Told once.
        shutil.rmtree(folder)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "deleted", "emptied"])
@pytest.mark.parametrize("part", range(4))
def test_a_damaged_older_checkpoint_does_no_harm(saved, tmp_path, kind, part):
    for name in files(saved / "1")[part::4]:
        folder = shutil.copytree(saved, tmp_path / "x", copy_function=os.link)
        damage(folder / "1" / name, kind)
        step, warnings = restore(folder)
        assert step == 3, name
        assert steps(folder) == ([2, 3] if warnings else [1, 2, 3])
        shutil.rmtree(folder)


def test_damaged_ones_are_set_aside_until_one_is_whole(folder):
    for step in (2, 3):
        damage(folder / f"{step}/journal/metadata", "flipped")
    step, warnings = restore(folder)
    assert step == 1 and len(warnings) == 2
    # The run continues by the same steps.
    save(folder, {2: 9.0, 3: 7.0})
    damage(folder / "3/journal/metadata", "flipped")
    step, (warning,) = restore(folder)
    assert step == 2 and warning.endswith(": now 3.damaged1")


def test_where_all_are_damaged_nothing_is_restored(folder):
    for step in (1, 2, 3):
        damage(folder / f"{step}/journal/metadata", "emptied")
    step, warnings = restore(folder)
    assert step is None and len(warnings) == 3
    assert steps(folder) == []
    assert restore(folder) == (None, [])
    save(folder, {1: 5.0})
    assert restore(folder) == (1, [])


@pytest.mark.parametrize("name", ["2", "7", "7.orbax-checkpoint-tmp", "7.damaged"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_else_lies_there_does_no_harm(folder, name, kind):
    path = folder / name
    shutil.rmtree(path, ignore_errors=True)
    if kind == "file":
        path.write_text("no checkpoint")
    else:
        (path / "state").mkdir(parents=True)
    step, warnings = restore(folder)
    assert step == 3
    assert len(warnings) == name.isdecimal()
    save(folder, {7: 1.0})
    assert restore(folder) == (7, [])


@pytest.mark.parametrize("left", ["all", "half", "folders", "nothing"])
def test_a_kill_while_old_ones_are_removed_leaves_no_damage(
    tmp_path, left, monkeypatch
):
    monkeypatch.setattr(Checkpoints, "_remove_old", lambda self: None)
    save(tmp_path, {1: 5.0, 2: 9.0, 3: 7.0, 4: 8.0})
    monkeypatch.undo()
    # Only a rename has happened: no file of it is missing where it was.
    assert steps(tmp_path) == [1, 3, 4]
    (old,) = (path for path in tmp_path.iterdir() if not path.name.isdecimal())
    assert steps(old) == [2] and (old / "2/sha256sums").is_file()
    names = files(old)
    for name in names[: {"all": 0, "half": len(names) // 2}.get(left, len(names))]:
        (old / name).unlink()
    if left == "nothing":
        shutil.rmtree(old / "2")
    assert restore(tmp_path) == (4, [])
    assert not old.exists() and steps(tmp_path) == [1, 3, 4]


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to nothing"])
def test_old_ones_are_moved_through_no_link(folder, tmp_path, kind):
    target = tmp_path / "target"
    if kind == "file":
        (folder / "removed").write_text("no checkpoint")
    else:
        (folder / "removed").symlink_to(target)
    if kind == "link to a folder":
        (target / "3").mkdir(parents=True)
    save(folder, {4: 9.0, 5: 9.0})
    assert steps(folder) == [1, 4, 5] and not (folder / "removed").exists()
    assert not target.exists() or [path.name for path in target.iterdir()] == ["3"]


def test_a_link_without_a_target_does_no_harm(folder):
    (folder / "7").symlink_to("absent")
    step, warnings = restore(folder)
    assert step == 3 and len(warnings) == 1


def test_sha256sum_understands_the_checksums(folder):
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("no sha256sum")

    def check():
        command = [program, "--strict", "-c", "sha256sums"]
        return subprocess.run(command, cwd=folder / "3", capture_output=True, text=True)

    assert check().returncode == 0
    covered = {line.split(": ")[0] for line in check().stdout.splitlines()}
    assert {*map(str, files(folder / "3"))} - covered == NOT_COVERED | {"sha256sums"}
    damage(folder / "3/metrics/metrics", "flipped")
    assert check().returncode == 1


def test_a_step_that_is_saved_twice_is_kept(folder):
    with Checkpoints(folder, keep=2, warn=never) as checkpoints:
        checkpoints.save(3, state(9), {"step": 9}, validation_error=1.0)
        for _ in range(2):
            checkpoints.save(4, state(4), {"step": 4}, validation_error=1.0)
        checkpoints.save(2, state(9), {"step": 9}, validation_error=1.0)
    assert restore(folder) == (4, [])
    damage(folder / "4/metrics/metrics", "flipped")
    assert restore(folder)[0] == 3


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (OSError("cut\noff"), "cut off"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk"),
        (ValueError("a" * 999 + "No space left"), "no space left on the disk"),
        (ValueError("a" * 999 + "end"), f"{'a' * 100} ... {'a' * 197}end"),
    ],
)
def test_a_save_that_was_cut_off_leaves_the_one_before(
    folder, monkeypatch, raised, reason
):
    def fail(_):
        raise raised

    with (
        pytest.raises(CheckpointError) as error,
        Checkpoints(folder, keep=2, warn=never) as checkpoints,
    ):
        monkeypatch.setattr(checkpoint, "_checksums", fail)
        checkpoints.save(4, state(4), {"step": 4}, validation_error=1.0)
        checkpoints.wait()
    monkeypatch.undo()
    assert str(error.value) == (
        f"checkpoints in {folder} fail: {reason}; what was saved before is intact; "
        "fix the cause and repeat the same call"
    )
    assert list(folder.glob("4.orbax-checkpoint-tmp*"))
    assert restore(folder) == (3, [])
    assert steps(folder) == [1, 2, 3]


def test_a_checkpoint_of_another_state_is_refused(folder):
    others = ({"table": jnp.zeros(3)}, state(0) | {"more": jnp.zeros(3)}, (state(0),))
    for other in others:
        with (
            pytest.raises(CheckpointError) as raised,
            Checkpoints(folder, keep=2, warn=never) as checkpoints,
        ):
            checkpoints.restore(other)
        assert str(raised.value) == (
            f"checkpoints in {folder / '3'} hold a state of another form, that of "
            "another version of autodo_jax or of another network; they are intact; "
            "continue with what saved them, or pass another `workdir`"
        )
    assert restore(folder) == (3, [])


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(CheckpointError, match=r"x fail: .* Not a directory"):
        save(tmp_path / "x", {1: 1.0})
    assert files(tmp_path) == [pathlib.Path("x")]


_FULL = """
import pathlib, resource, sys
import jax.numpy as jnp
from autodo_jax.errors import CheckpointError
from autodo_jax.workdir.checkpoint import Checkpoints

folder, limit = pathlib.Path(sys.argv[1]), int(sys.argv[2])
state = {"x": jnp.arange(300_000.0)}
with Checkpoints(folder, keep=2) as checkpoints:
    checkpoints.save(1, state, {"a": 1}, validation_error=1.0)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
try:
    with Checkpoints(folder, keep=2) as checkpoints:
        checkpoints.save(2, state, {"a": 2}, validation_error=1.0)
        if "wait" in sys.argv:
            checkpoints.wait()
except CheckpointError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 40, 100_000])
@pytest.mark.parametrize("wait", ["wait", "close"])
def test_a_full_disk_is_told_in_a_line(tmp_path, limit, wait):
    folder = tmp_path / "checkpoints"
    result = subprocess.run(
        [sys.executable, "-c", _FULL, str(folder), str(limit), wait],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0 and not result.stderr
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"checkpoints in {folder} fail: ")
    assert "File too large" in line
    assert line.endswith("fix the cause and repeat the same call")
    with Checkpoints(folder, keep=2, warn=never) as checkpoints:
        found, journal = restored(checkpoints, {"x": jnp.zeros(300_000)})
    assert journal == {"a": 1}
    np.testing.assert_array_equal(found["x"], np.arange(300_000.0))
