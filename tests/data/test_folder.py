"""A user's own images: pixels as Pillow decodes them, and every refusal in one line."""

import io
import os
import pathlib
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable

import ml_collections
import numpy as np
import pytest
from PIL import Image

from autodo_jax.data import folder
from autodo_jax.data.dataset import DataError

ARCHIVE = os.environ.get("AUTODO_CIFAR10_JPEG", "")


def fields(data_dir, **changed):
    data = {
        "data_dir": str(data_dir),
        "image_size": (),
        "resize": "crop",
        "mean": (0.5, 0.5, 0.5),
        "max_train_points": 0,
        "max_test_points": 0,
    }
    return ml_collections.ConfigDict(data | changed)


def load(data_dir, *, seed=0, **changed):
    return folder.load(fields(data_dir, **changed), seed)


def save(path, mode="RGB", size=(6, 5), seed=0, **options):
    """Writes a random image, size (width, height), and returns it."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert(mode).save(path, **options)
    return image


@pytest.fixture
def root(tmp_path):
    """Two classes, four train images of each, two test images."""
    for part, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            for i in range(count):
                save(tmp_path / f"x/{part}/{name}/{i}.png", seed=10 * label + i)
    return tmp_path / "x"


def test_pixels_labels_and_ids_are_those_of_the_files(root):
    parts = load(root)
    train = parts.train
    assert parts.validation is None
    assert train.class_names == parts.test.class_names == ("cat", "dog")
    assert train.ids.tolist() == [
        f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(4)
    ]
    assert train.labels.tolist() == [0] * 4 + [1] * 4 and train.labels.dtype == np.int32
    for name, image in zip(train.ids, train.images, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(root / name)))
    assert len(parts.test.labels) == 4


def test_val_is_the_validation_set_and_never_cut(root):
    shutil.copytree(root / "test", root / "val")
    parts = load(root, max_train_points=4, max_test_points=2)
    assert [len(part.labels) for part in parts] == [4, 4, 2]
    assert parts.validation.ids[0] == "val/cat/0.png"


def test_image_kinds_depths_and_places_may_mix(root):
    save(root / "train/cat/a.JPG", seed=50, quality=90)
    save(root / "train/cat/deep/er/b.webp", seed=51, lossless=True)
    for mode in ("L", "P", "RGBA", "CMYK"):
        suffix = "jpeg" if mode == "CMYK" else "png"
        save(root / f"train/dog/{mode}.{suffix}", mode, seed=52)
    (root / "train/dog/notes.txt").write_text("no image")
    (root / "train/cat/.DS_Store").write_text("no image")
    (root / "train/cat/._0.png").write_text("no image")
    (root / "README.md").write_text("no image")
    train = load(root).train
    pixels = dict(zip(train.ids, train.images, strict=True))
    assert len(pixels) == 8 + 2 + 4
    for name in ("train/cat/a.JPG", "train/cat/deep/er/b.webp", "train/dog/L.png"):
        expected = Image.open(root / name).convert("RGB")
        np.testing.assert_array_equal(pixels[name], np.asarray(expected))
    grey = load(root, mean=(0.5,)).train
    assert grey.images.shape == (14, 5, 6, 1)


def test_sizes_may_mix_where_all_are_resized(root):
    save(root / "train/cat/wide.png", size=(40, 20), seed=9)
    train = load(root, image_size=(8, 8), resize="stretch").train
    assert train.images.shape == (9, 8, 8, 3)
    wide = Image.open(root / "train/cat/wide.png")
    expected = wide.resize((8, 8), Image.Resampling.BILINEAR)
    row = train.ids.tolist().index("train/cat/wide.png")
    np.testing.assert_array_equal(train.images[row], np.asarray(expected))


def pack_tar(root, path, mode):
    with tarfile.open(path, mode) as archive:
        archive.add(root, arcname=".")


def pack_zip(root, path):
    with zipfile.ZipFile(path, "w") as archive:
        # Neither folders nor the order of names can be relied on.
        for file in sorted(root.rglob("*.png"), reverse=True):
            archive.write(file, pathlib.PurePath("photos", file.relative_to(root)))


PACK = {
    "x.tar": lambda root, path: pack_tar(root, path, "w"),
    "x.tar.gz": lambda root, path: pack_tar(root, path, "w:gz"),
    "x.tar.xz": lambda root, path: pack_tar(root, path, "w:xz"),
    "x.zip": pack_zip,
}


@pytest.mark.parametrize("name", sorted(PACK))
def test_archives_hold_what_the_folder_holds(root, tmp_path, name):
    PACK[name](root, tmp_path / name)
    for limits in ({}, {"max_train_points": 4}):
        for packed, plain in zip(
            load(tmp_path / name, **limits), load(root, **limits), strict=True
        ):
            if plain is not None:
                np.testing.assert_array_equal(packed.images, plain.images)
                np.testing.assert_array_equal(packed.labels, plain.labels)
                assert packed.class_names == plain.class_names
                ids = [name.removeprefix("photos/") for name in packed.ids]
                assert ids == plain.ids.tolist()


def test_a_part_is_stratified_of_the_seed_and_leaves_the_rest_unread(root):
    for i in range(4, 40):
        save(root / f"train/cat/{i}.png", seed=i)
    train = load(root, max_train_points=22).train
    assert np.bincount(train.labels).tolist() == [20, 2]
    same, other = (load(root, max_train_points=22, seed=s).train for s in (0, 1))
    assert train.ids.tolist() == same.ids.tolist() != other.ids.tolist()
    left_out = set(load(root).train.ids) - set(train.ids)
    for name in left_out:
        (root / name).write_text("broken")
    np.testing.assert_array_equal(
        load(root, max_train_points=22).train.images, train.images
    )


def broken(path, content):
    path.write_bytes(content)


def truncated():
    stream = io.BytesIO()
    Image.new("RGB", (6, 5)).save(stream, "PNG")
    return stream.getvalue()[:40]


def only_class(root):
    shutil.rmtree(root / "train/dog")
    shutil.rmtree(root / "test")


DAMAGE: dict[str, Callable[[pathlib.Path], object]] = {
    "truncated": lambda x: broken(x / "train/cat/2.png", truncated()),
    "empty file": lambda x: broken(x / "train/cat/2.png", b""),
    "text": lambda x: broken(x / "test/dog/1.png", b"hello"),
    "another size": lambda x: save(x / "train/dog/2.png", size=(9, 9)),
    "no class": lambda x: save(x / "train/stray.png"),
    "empty class": lambda x: (x / "train/emu").mkdir(),
    "class of test only": lambda x: save(x / "test/emu/0.png"),
    "class of train only": lambda x: shutil.rmtree(x / "test/dog"),
    "class not in val": lambda x: save(x / "val/cat/0.png"),
    "one class": only_class,
    "no train": lambda x: shutil.rmtree(x / "train"),
    "nothing": shutil.rmtree,
}
REFUSAL = {
    "truncated": "the image train/cat/2.png cannot be read",
    "empty file": "the image train/cat/2.png cannot be read",
    "text": "the image test/dog/1.png cannot be read",
    "another size": "the image train/dog/2.png has 9x9 pixels, .*5x6.*image_size",
    "no class": "x/train/stray.png is in no class",
    "empty class": "x has no images in train/emu/",
    "class of test only": "x has the class 'emu' in test/ only",
    "class of train only": "x has the class 'dog' in train/ only",
    "class not in val": "x has the class 'dog' in train/ only; train/ and val/",
    "one class": "x has a single class",
    "no train": "x has no train/",
    "nothing": "x does not exist",
}


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_what_cannot_be_used_is_named_in_one_line(root, name):
    DAMAGE[name](root)
    with pytest.raises(DataError, match=REFUSAL[name]) as raised:
        load(root)
    assert "\n" not in str(raised.value)


def test_an_image_that_unpacks_to_too_much_is_refused(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"train/cat/0\.png cannot be read: .*exceeds"):
        load(root)


@pytest.mark.parametrize("name", ["x.tar.xz", "x.zip"])
def test_damaged_archives_are_refused(root, tmp_path, name):
    PACK[name](root, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name} "):
        load(tmp_path / name)


def test_other_files_and_no_path_at_all_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"x\.csv is neither a folder nor a"):
        load(tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"pass --config\.data\.data_dir=PATH"):
        load("")


def test_too_few_points_are_refused_by_their_field(root):
    with pytest.raises(DataError, match=r"config\.data\.max_train_points is 1: "):
        load(root, max_train_points=1)


@pytest.mark.slow
@pytest.mark.skipif(
    not ARCHIVE, reason="AUTODO_CIFAR10_JPEG names no archive of CIFAR-10 as JPEG"
)
def test_sixty_thousand_photographs_in_an_archive():
    start = time.monotonic()
    parts = load(ARCHIVE)
    assert time.monotonic() - start < 120
    assert parts.train.images.shape == (50000, 32, 32, 3)
    assert np.bincount(parts.train.labels).tolist() == [5000] * 10
    assert np.bincount(parts.test.labels).tolist() == [1000] * 10
