"""Streamed against resident images, and both against Pillow's pixels of the files."""

import multiprocessing
import operator
import pickle
import tarfile
import zipfile
from concurrent import futures

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from autodo_jax.data import run_data
from autodo_jax.data.images import decode, lazy
from autodo_jax.data.sources import tfds
from autodo_jax.errors import DataError
from configs import digits
from tests.data.sources import test_folder
from tests.data.sources.test_folder import pack_tar, pack_zip, save
from tests.data.sources.test_tfds import data_config, load_parts, number
from tests.data.tiny import prepare_tiny_cifar10

SIZE = (8, 6)  # (height, width)


@pytest.fixture
def root(tmp_path):
    """Two classes of PNG and JPEG files of all sizes; twelve to train, four to test."""
    for part, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                path = tmp_path / f"x/{part}/{name}/{i}.{('png', 'jpg')[i % 2]}"
                save(path, size=(9 + i, 12 - i), seed=10 * label + i)
    return tmp_path / "x"


@pytest.fixture
def same_size(tmp_path):
    """Two classes of four PNG files each, of one size."""
    for i in range(8):
        save(tmp_path / f"same/train/{('cat', 'dog')[i % 2]}/{i}.png", seed=i)
    return tmp_path / "same"


def pack(root, path):
    """Puts the images in `root` into an archive, or leaves them where they are."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*.*"), reverse=True):
                archive.write(file, file.relative_to(root))
    elif path.suffix == ".tar":
        pack_tar(root, path, "w")
    return path


def load(data_dir, **changed):
    """(resident, streamed) parts."""
    options = {"image_size": SIZE, "resize": "stretch"} | changed
    return tuple(
        test_folder.load(data_dir, stream=stream, **options) for stream in (False, True)
    )


def streamed(data_dir, **changed):
    """Streamed train images, not resized."""
    return test_folder.load(data_dir, stream=True, **changed).train.images


def resized(path):
    """Pixels by Pillow alone."""
    image = Image.open(path).convert("RGB")
    return np.asarray(image.resize(SIZE[::-1], Image.Resampling.BILINEAR))


def assert_same(resident, part):
    """Same points in the same order; one by one, as a batch, and in other processes."""
    assert isinstance(resident.images, np.ndarray)
    assert isinstance(part.images, lazy.LazyImages)
    np.testing.assert_array_equal(part.ids, resident.ids)
    np.testing.assert_array_equal(part.labels, resident.labels)
    assert part.labels.dtype == np.int32 and part.class_names == resident.class_names
    assert part.images.shape == resident.images.shape
    assert len(part.images) == len(resident.images)
    assert part.images.dtype == np.uint8
    for found in (part.images, pickle.loads(pickle.dumps(part.images))):
        assert all(image.dtype == np.uint8 for image in found)
        np.testing.assert_array_equal(list(found), resident.images)
        everything = found.decode(np.arange(len(found)))
        np.testing.assert_array_equal(everything, resident.images)


@pytest.mark.parametrize("name", ["x", "x.tar", "x.zip"])
def test_streamed_images_are_those_of_the_files(root, tmp_path, name):
    path = pack(root, tmp_path / name)
    for limits in ({}, {"max_train_points": 5, "max_test_points": 2}):
        resident, parts = load(path, **limits)
        assert len(parts.train.ids) == limits.get("max_train_points", 12)
        for part in ("train", "test"):
            assert_same(getattr(resident, part), getattr(parts, part))
        for i, point in enumerate(parts.train.ids):
            np.testing.assert_array_equal(parts.train.images[i], resized(root / point))


@pytest.mark.parametrize("name", ["x", "x.tar", "x.zip"])
def test_many_threads_may_read_at_once(root, tmp_path, name):
    train = load(pack(root, tmp_path / name))[1].train
    expected = np.stack([resized(root / point) for point in train.ids])
    rows = np.random.default_rng(0).integers(0, len(expected), 400)
    with futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(train.images.__getitem__, rows))
    np.testing.assert_array_equal(found, expected[rows])


@pytest.fixture(scope="module")
def elsewhere():
    """Another process, which gets its arguments as a worker does."""
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, spawn) as pool:
        yield pool


@pytest.mark.parametrize("name", ["x", "x.tar", "x.zip"])
def test_another_process_reads_them(root, tmp_path, name, elsewhere):
    train = load(pack(root, tmp_path / name))[1].train
    expected = resized(root / train.ids[3])
    found = elsewhere.submit(operator.getitem, train.images, 3).result()
    np.testing.assert_array_equal(found, expected)


def test_taking_and_joining_decode_nothing(root, monkeypatch):
    resident, parts = load(root)
    index = np.array([7, 2, 2, -1])
    with monkeypatch.context() as patch:
        patch.setattr(lazy.Files, "read", pytest.fail)
        taken = parts.train.take(index)
        joined = taken.join(parts.test).join(taken).take(np.arange(1, 9))
    expected = resident.train.take(index)
    assert_same(expected, taken)
    expected = expected.join(resident.test).join(expected).take(np.arange(1, 9))
    assert_same(expected, joined)


def test_an_index_is_that_of_a_numpy_array(same_size):
    resident = test_folder.load(same_size).train.images
    train = streamed(same_size)
    for index in (0, 7, -1, np.int64(3), np.array(5)):
        np.testing.assert_array_equal(train[index], resident[index])
    for rows in (slice(1, 7, 2), np.arange(8) % 3 == 0, np.array([], np.int64)):
        taken = train[rows]
        assert isinstance(taken, lazy.LazyImages)
        assert taken.shape == resident[rows].shape
        found = taken.decode(np.arange(len(taken)))
        np.testing.assert_array_equal(found, resident[rows])
    for outside in (8, -9, np.array([0, 8])):
        with pytest.raises(IndexError):
            train[outside]
    with pytest.raises(IndexError, match="2 axes, expected one"):
        train[np.zeros((2, 2), int)]


def test_all_are_never_decoded_unasked(same_size):
    train = streamed(same_size)
    for function in (np.asarray, np.mean, jnp.asarray):
        with pytest.raises(TypeError, match=r"use decode\(index\)"):
            function(train)
    with pytest.raises(TypeError, match=r"use decode\(index\)"):
        np.concatenate([train, train])


def test_only_the_first_is_decoded_for_its_size(root, same_size, monkeypatch):
    decoded = []

    def to_array(image, *, size, **_):
        decoded.append(image)
        return np.zeros((*(size or image.size[::-1]), 3), np.uint8)

    monkeypatch.setattr(decode, "to_array", to_array)
    assert streamed(same_size).shape == (8, 5, 6, 3)
    assert len(decoded) == 1
    assert streamed(root, image_size=SIZE).shape == (12, *SIZE, 3)
    assert len(decoded) == 1


@pytest.mark.parametrize("outer_set", ["validation", "train"])
def test_split_and_distortions_leave_images_encoded(root, monkeypatch, outer_set):
    def experiment_data(stream):
        config = digits.get_config()
        config.data.update(
            source="folder", data_dir=str(root), image_size=SIZE, mean=(0.5, 0.5, 0.5)
        )
        config.data.allow_overlap = True
        config.data.update(outer_set=outer_set, stream=stream, imbalance_ratio=2.0)
        config.data.validation_size = 0.2
        return run_data.load(config)

    resident = experiment_data(False)
    with monkeypatch.context() as patch:
        patch.setattr(lazy.Files, "read", pytest.fail)
        found = experiment_data(True)
    for before, after in zip(resident.splits, found.splits, strict=True):
        assert_same(before, after)
    np.testing.assert_array_equal(found.clean_labels, resident.clean_labels)


@pytest.mark.parametrize("kind", ["hard", "symbolic", "chain"])
def test_links_in_a_tar_are_followed(same_size, tmp_path, kind):
    train = same_size / "train/cat"
    target, link = train / "2.png", train / "8.png"
    if kind == "hard":
        link.hardlink_to(target)
    else:
        link.symlink_to(target.name)
    if kind == "chain":
        (train / "9.png").symlink_to("../cat/8.png")
    pack_tar(same_size, tmp_path / "x.tar", "w")
    # A hard link is to what was there before, a symbolic one to what is there at last.
    save(target, seed=99)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        archive.add(target, arcname="./train/cat/2.png")
    resident = test_folder.load(tmp_path / "x.tar")
    assert_same(resident.train, test_folder.load(tmp_path / "x.tar", stream=True).train)


def add_link(path, name, target, kind=tarfile.SYMTYPE):
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)


@pytest.mark.parametrize("target", ["absent.png", "self.png", "../cat"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_to_no_image_is_refused_when_it_is_read(
    same_size, tmp_path, target, kind
):
    path = tmp_path / "x.tar"
    pack_tar(same_size, path, "w")
    add_link(path, "train/cat/self.png", target, kind)
    train = streamed(path)
    with pytest.raises(DataError, match=r"x\.tar cannot be read: train/cat/self\.png "):
        train[4]
    assert train[3].shape == (5, 6, 3)


def test_a_sparse_file_in_a_tar_is_refused_when_it_is_read(same_size, tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(same_size, arcname=".")
    content, header = bytearray(path.read_bytes()), test_folder.headers(path)[0]
    content[header + 156 : header + 157] = tarfile.GNUTYPE_SPARSE
    content[header + 148 : header + 156] = b" " * 8
    total = sum(content[header : header + 512])
    content[header + 148 : header + 156] = b"%06o\0 " % total
    path.write_bytes(content)
    with pytest.raises(DataError, match="is stored as a sparse file, which cannot be"):
        list(streamed(path, image_size=SIZE))


@pytest.mark.parametrize("form", ["bz2", "gz", "xz"])
def test_a_compressed_tar_is_refused(same_size, tmp_path, form):
    path = tmp_path / f"x.tar.{form}"
    pack_tar(same_size, path, f"w:{form}")
    with pytest.raises(DataError) as raised:
        streamed(path)
    assert str(raised.value) == (
        f"{path} is compressed as a whole and cannot be streamed; unpack it, or "
        "pass config.data.stream = False"
    )


def message(function, *arguments):
    """The refusal, in one line."""
    with pytest.raises(DataError) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("content", [b"", b"text", test_folder.truncated()])
def test_an_image_that_cannot_be_decoded_is_named_as_ever(same_size, content):
    (same_size / "train/dog/3.png").write_bytes(content)
    expected, _, more = message(test_folder.load, same_size).partition(", or leave")
    assert expected.startswith("the image train/dog/3.png cannot be read: ")
    assert more == " them out by config.data.skip_unreadable = True"
    train = streamed(same_size)
    assert message(train.__getitem__, 5) == expected
    assert message(train.decode, np.arange(8)) == expected
    assert message(pickle.loads(pickle.dumps(train)).__getitem__, 5) == expected
    (same_size / "train/cat/0.png").write_bytes(content)
    assert "train/cat/0.png" in message(streamed, same_size)


def test_an_image_of_another_size_is_named_as_ever(same_size):
    save(same_size / "train/dog/3.png", size=(9, 9))
    expected = message(test_folder.load, same_size)
    assert "train/dog/3.png has 9x9 pixels, train/cat/0.png has 5x6" in expected
    train = streamed(same_size)
    assert message(train.__getitem__, 5) == expected
    # Also where the first image is in another part.
    assert message(train[np.array([4, 5])].decode, np.arange(2)) == expected


def test_parts_of_two_sizes_cannot_be_joined(same_size):
    for name in ("cat", "dog"):
        save(same_size / f"val/{name}/0.png", size=(9, 9))
    parts = test_folder.load(same_size, stream=True)
    found = message(parts.train.join, parts.validation)
    assert "val/cat/0.png has 9x9 pixels, train/cat/0.png has 5x6" in found


@pytest.mark.parametrize("name", ["x", "x.tar", "x.zip"])
def test_data_removed_meanwhile_are_named(root, tmp_path, name):
    path = pack(root, tmp_path / name)
    train = load(path)[1].train
    path.rename(tmp_path / "moved")
    found = message(train.images.__getitem__, 1)
    assert found.startswith(f"{path} cannot be read: [Errno 2] No such file")
    assert found.endswith("; make it readable, or get it again")


def test_a_damaged_file_in_a_zip_is_refused_when_it_is_read(same_size, tmp_path):
    path = tmp_path / "x.zip"
    pack_zip(same_size, path)
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("photos/train/cat/0.png").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 90] ^= 1
    path.write_bytes(content)
    found = message(list, streamed(path, image_size=SIZE))
    assert found.startswith(f"{path} cannot be read: Bad CRC-32")


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """(folder of prepared data, images, labels), train before test."""
    data_dir = tmp_path_factory.mktemp("prepared")
    return data_dir, *prepare_tiny_cifar10(data_dir, num_train=60, num_test=20)


def test_prepared_data_are_streamed(cifar10):
    data_dir, pixels, labels = cifar10
    for limits in ({}, {"max_train_points": 30, "max_test_points": 10}):
        resident, parts = (
            load_parts(data_config("cifar10", data_dir, stream=stream, **limits))
            for stream in (False, True)
        )
        for before, after, start in zip(resident, parts, (0, 60), strict=True):
            assert_same(before, after)
            rows = start + number(after.ids)
            np.testing.assert_array_equal(after.labels, labels[rows])
            np.testing.assert_array_equal(list(after.images), pixels[rows])
        before, after = (
            test.join(train).take(np.arange(5, 15)) for train, test in (resident, parts)
        )
        assert_same(before, after)


def test_many_threads_may_read_prepared_data_at_once(cifar10):
    data_dir, pixels, _ = cifar10
    train = tfds.load(data_config("cifar10", data_dir, stream=True), seed=0).train
    rows = np.random.default_rng(0).integers(0, 60, 400)
    with futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(train.images.__getitem__, rows))
    np.testing.assert_array_equal(found, pixels[number(train.ids)[rows]])


def test_another_process_reads_prepared_data(cifar10, elsewhere):
    data_dir, pixels, _ = cifar10
    train = tfds.load(data_config("cifar10", data_dir, stream=True), seed=0).train
    expected = pixels[number(train.ids)[3]]
    found = elsewhere.submit(operator.getitem, train.images, 3).result()
    np.testing.assert_array_equal(found, expected)


def test_prepared_data_removed_meanwhile_are_named(tmp_path):
    prepare_tiny_cifar10(tmp_path, num_train=20, num_test=10)
    data = data_config("cifar10", tmp_path, stream=True, image_size=SIZE)
    train = tfds.load(data, seed=0).train
    stored = tmp_path / "cifar10/3.0.2"
    (stored / "cifar10-train.array_record-00000-of-00001").unlink()
    found = message(train.images.__getitem__, 0)
    assert found.startswith(f"{stored} cannot be read: ")
    assert found.endswith(
        f"prepare cifar10 --source=DIR --data_dir={tmp_path} --overwrite"
    )
