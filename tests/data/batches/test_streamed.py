"""Streamed batches against rows of arrays that Pillow decoded."""

import itertools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from autodo_jax.data.batches import streamed
from autodo_jax.data.batches.batch import take
from autodo_jax.data.batches.plan import BatchPlan
from autodo_jax.data.batches.resident import ResidentBatches
from autodo_jax.data.batches.streamed import StreamedBatches
from autodo_jax.data.dataset import Dataset
from autodo_jax.data.images import lazy
from autodo_jax.errors import DataError
from tests.data.sources import test_folder
from tests.data.sources.test_folder import pack_zip, save

CLASSES = ("cat", "dog")
POINTS = {"train": 11, "validation": 7, "test": 5}  # of each class
PLAN = BatchPlan(
    num_points={part: 2 * count for part, count in POINTS.items()},
    batch_size=4,
    eval_batch_size=6,
    num_devices=4,
    epochs=2,
    start_epoch=1,
    seed=3,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three parts, two classes, all images different."""
    path = tmp_path_factory.mktemp("images") / "x"
    write(path)
    return path


def write(path):
    folders = {"train": "train", "validation": "val", "test": "test"}
    for part, count in POINTS.items():
        for label, name in enumerate(CLASSES):
            for i in range(count):
                seed = 100 * len(part) + 50 * label + i
                save(path / f"{folders[part]}/{name}/{i}.png", seed=seed)


def load(path):
    """Points that are decoded when they are asked for, by the names in the plan."""
    parts = test_folder.load(path, stream=True)
    return {part: getattr(parts, part) for part in POINTS}


@pytest.fixture(scope="module")
def truth(root):
    """(images by Pillow, labels by the folder) of each part."""
    parts = {}
    for part, dataset in load(root).items():
        images = [np.asarray(Image.open(root / name)) for name in dataset.ids]
        labels = [CLASSES.index(name.split("/")[1]) for name in dataset.ids]
        parts[part] = np.stack(images), np.array(labels)
    return parts


@pytest.fixture(params=["folder", "zip", "arrays"])
def parts(request, root, truth, tmp_path):
    if request.param == "arrays":
        return {
            part: Dataset(images, labels.astype(np.int32), np.arange(len(labels)), ())
            for part, (images, labels) in truth.items()
        }
    if request.param == "zip":
        pack_zip(root, tmp_path / "x.zip")
        return load(tmp_path / "x.zip")
    return load(root)


def create(parts, *, plan=PLAN, to_device=jax.device_put, **options):
    return StreamedBatches(plan, parts, to_device=to_device, **options)


def all_phases(plan=PLAN):
    return [
        (phase, epoch)
        for epoch in range(plan.epochs + 1)
        for phase in plan.phases(epoch)
    ]


def take_all(feed, phases):
    return [list(feed.batches(*phase)) for phase in phases]


def assert_true(found, truth, phase, epoch, start=0):
    """The batches are the rows of the plan's order, on the device and in sum."""
    order = PLAN.order(phase, epoch)
    assert len(found) == PLAN.length(phase) - start > 0
    for step, batches in enumerate(found, start):
        assert len(batches) == len(order)
        for batch, (part, index) in zip(batches, order.items(), strict=True):
            images, labels = truth[part]
            rows = np.maximum(index[step], 0)
            assert isinstance(batch.image, jax.Array)
            assert batch.image.dtype == np.uint8 and batch.label.dtype == np.int32
            np.testing.assert_array_equal(batch.index, index[step])
            np.testing.assert_array_equal(batch.label, labels[rows])
            np.testing.assert_array_equal(batch.image, images[rows])
            assert jnp.sum(batch.image, dtype=int) == images[rows].sum(dtype=int)


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_batches_are_the_rows_of_the_plan_through_all_phases(parts, truth):
    found = take_all(create(parts), all_phases())
    assert {phase for phase, _ in all_phases()} == {
        "task",
        "hyper",
        "validation",
        "test",
        "train",
    }
    for batches, phase in zip(found, all_phases(), strict=True):
        assert_true(batches, truth, *phase)


def test_batches_are_those_of_resident_data(parts, truth):
    resident = ResidentBatches(PLAN, truth)
    feed = create(parts)
    for phase in all_phases():
        pairs = zip(feed.batches(*phase), resident.batches(*phase), strict=True)
        for found, selections in pairs:
            assert_same(found, tuple(take(*points) for points in selections))


def test_phases_in_the_order_of_the_plan_open_the_readers_once(parts, monkeypatch):
    opened, real = [], StreamedBatches._open

    def open_readers(self, position):
        opened.append(position)
        return real(self, position)

    monkeypatch.setattr(StreamedBatches, "_open", open_readers)
    feed = create(parts)
    take_all(feed, all_phases())
    assert opened == [0]
    next(feed.batches("task", 0))
    assert opened == [0, 0]


@pytest.mark.parametrize("number", [1, 3, 4, -1])
@pytest.mark.parametrize("start", [0, 1, "last", "past"])
def test_a_run_starts_anywhere(root, truth, number, start):
    (phase, epoch), *following = all_phases()[number:]
    length = PLAN.length(phase)
    start = {"last": length - 1, "past": length}.get(start, start)
    feed = create(load(root))
    found = list(feed.batches(phase, epoch, start))
    if start < length:
        assert_true(found, truth, phase, epoch, start)
    else:
        assert found == []
    for other, batches in zip(following, take_all(feed, following), strict=True):
        assert_true(batches, truth, *other)


def test_any_order_may_be_asked_for(parts, truth):
    feed = create(parts)
    for phase in [all_phases()[number] for number in (5, 0, 0, 8, 3, 4, 1)]:
        assert_true(list(feed.batches(*phase)), truth, *phase)


def test_a_phase_may_be_left_before_its_end(parts, truth):
    feed = create(parts)
    next(feed.batches("task", 0))
    assert_true(list(feed.batches("task", 0, start=1)), truth, "task", 0, 1)
    next(feed.batches("validation", 0))
    assert_true(list(feed.batches("hyper", 1)), truth, "hyper", 1)


def test_phases_may_be_read_side_by_side(parts, truth):
    feed = create(parts)
    pairs = list(zip(feed.batches("task", 1), feed.batches("hyper", 1), strict=True))
    task, hyper = zip(*pairs, strict=True)
    assert_true(task, truth, "task", 1)
    assert_true(hyper, truth, "hyper", 1)


def test_shares_are_the_whole_batch_together(parts):
    phases = all_phases()
    whole, first, second = (
        list(itertools.chain(*take_all(create(parts, share=share), phases)))
        for share in (streamed.Share(), streamed.Share(0, 2), streamed.Share(1, 2))
    )
    for together, *halves in zip(whole, first, second, strict=True):
        for batch, head, tail in zip(together, *halves, strict=True):
            assert_same(head.index, batch.index)
            assert_same(tail.index, batch.index)
            assert len(head.label) == len(tail.label) == len(batch.label) // 2
            assert_same(np.concatenate([head.image, tail.image]), batch.image)
            assert_same(np.concatenate([head.label, tail.label]), batch.label)


def test_a_share_is_all_that_is_decoded(root, monkeypatch):
    parts, decoded, real = load(root), [], lazy.LazyImages.decode

    def decode(self, index):
        decoded.append(len(index))
        return real(self, index)

    monkeypatch.setattr(lazy.LazyImages, "decode", decode)
    source = streamed.BatchSource(PLAN, parts, streamed.Share(1, 4))
    assert len(source) == sum(PLAN.length(phase) for phase, _ in all_phases())
    (batch,) = source[0]
    assert decoded == [1] and len(batch.index) == 4


def test_few_batches_lie_ready(root):
    sent = []

    def to_device(batch):
        sent.append(batch.index)
        return batch

    batches = create(load(root), to_device=to_device).batches("task", 0)
    assert not sent  # Nothing is read before it is asked for.
    next(batches)
    assert len(sent) == 2
    next(batches)
    assert len(sent) == 3


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_worker_processes_read_the_same(root, truth, num_workers):
    feed = create(load(root), num_workers=num_workers)
    # Kept until the readers are gone: their memory is that of worker processes.
    found = take_all(feed, all_phases())
    del feed
    for batches, phase in zip(found, all_phases(), strict=True):
        assert_true(batches, truth, *phase)


@pytest.mark.slow
def test_worker_processes_start_anywhere(root, truth):
    feed = create(load(root), num_workers=1)
    for phase, epoch, start in (("hyper", 1, 2), ("validation", 1, 0), ("task", 0, 1)):
        found = list(feed.batches(phase, epoch, start))
        assert_true(found, truth, phase, epoch, start)


_SCRIPT = """
import os, pathlib, signal, sys
from tests.data.batches import test_streamed

if __name__ == "__main__":
    parts = test_streamed.load(pathlib.Path(sys.argv[1]))
    feed = test_streamed.create(parts, num_workers=1)
    next(feed.batches("task", 0))
    {action}
"""


def run_script(root, tmp_path, action):
    """Runs `action` beside a worker; returns when both have ended."""
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT.format(action=action))
    return subprocess.run(
        [sys.executable, script, root],
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[3])},
        capture_output=True,  # The pipes close with the last process.
        text=True,
        start_new_session=True,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_worker_processes_end_with_the_run(root, tmp_path, signal):
    result = run_script(root, tmp_path, f"os.kill(os.getpid(), signal.{signal})")
    assert result.returncode
    assert "leaked" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_worker_processes_live_on_while_the_run_saves(root, tmp_path, signal):
    action = (
        f"signal.signal(signal.{signal}, signal.SIG_IGN);"
        f"os.killpg(0, signal.{signal});"
        "found = test_streamed.take_all(feed, test_streamed.all_phases());"
        "print(sum(map(len, found)))"
    )
    result = run_script(root, tmp_path, action)
    assert result.stdout.split() == [
        str(sum(PLAN.length(phase) for phase, _ in all_phases()))
    ]
    assert result.returncode == 0 and not result.stderr


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path, num_workers):
    write(tmp_path)
    (tmp_path / "train/dog/3.png").write_bytes(b"text")
    feed = create(load(tmp_path), num_workers=num_workers)
    with pytest.raises(DataError) as raised:
        take_all(feed, all_phases())
    assert str(raised.value) == (
        "the image train/dog/3.png cannot be read: cannot identify image file by its "
        "content; replace it, or move it elsewhere"
    )


def test_grain_that_is_not_installed_is_named(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(DataError) as raised:
        create(load(root))
    assert str(raised.value) == (
        "images are streamed by Grain, which is not installed; run pip install grain, "
        "or pass config.data.stream = False"
    )
