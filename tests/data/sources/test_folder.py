"""A user's own images: pixels as Pillow decodes them, and every refusal in one line."""

import io
import os
import pathlib
import shutil
import tarfile
import time
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from autodo_jax.config import default_config
from autodo_jax.data.sources import folder
from autodo_jax.disk import regular
from autodo_jax.errors import DataError

ARCHIVE = os.environ.get("AUTODO_CIFAR10_JPEG", "")


def fields(data_dir, **changed):
    data = default_config().data
    data.update({"data_dir": str(data_dir), "mean": (0.5, 0.5, 0.5), **changed})
    return data


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
    "x.tar.bz2": lambda root, path: pack_tar(root, path, "w:bz2"),
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


@pytest.mark.parametrize("pack", [None, "x.tar", "x.zip"])
def test_files_beside_the_common_folder_are_left_alone(root, tmp_path, pack):
    (tmp_path / "all").mkdir()
    root.rename(tmp_path / "all/photos")
    (tmp_path / "all/README.txt").write_text("no image")
    save(tmp_path / "all/drafts/1.png")
    if pack == "x.tar":
        pack_tar(tmp_path / "all", tmp_path / pack, "w")
    elif pack == "x.zip":
        shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "all")
    parts = load(tmp_path / (pack or "all"))
    assert [len(parts.train.labels), len(parts.test.labels)] == [8, 4]
    assert parts.train.ids[0] == "photos/train/cat/0.png"


def test_two_common_folders_are_refused(root, tmp_path):
    shutil.copytree(root, tmp_path / "y")
    with pytest.raises(DataError, match="train/ in each of x/, y/; pass one"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["hard", "symbolic"])
def test_links_in_a_tar_are_images(root, tmp_path, kind):
    link, target = root / "train/cat/4.png", root / "train/cat/3.png"
    shutil.copy(target, link)
    expected = load(root).train
    link.unlink()
    if kind == "hard":
        link.hardlink_to(target)
    else:
        link.symlink_to(target.name)
    pack_tar(root, tmp_path / "x.tar.xz", "w:xz")
    train = load(tmp_path / "x.tar.xz").train
    assert train.ids.tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(train.images, expected.images)


def test_of_a_path_that_a_tar_has_twice_the_last_counts(root, tmp_path):
    pack_tar(root, tmp_path / "x.tar", "w")
    save(root / "train/cat/0.png", seed=99)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        archive.add(root / "train/cat/0.png", arcname="train/cat/0.png")
    np.testing.assert_array_equal(
        load(tmp_path / "x.tar").train.images, load(root).train.images
    )


def test_a_tar_that_ends_with_a_zip_is_a_tar(root, tmp_path):
    with zipfile.ZipFile(root / "z.zip", "w") as archive:
        archive.writestr("notes.txt", "no image")
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        for name in ("train", "test", "z.zip"):
            packed.add(root / name, arcname=name)
    assert len(load(tmp_path / "x.tar").train.labels) == 8


def test_links_to_folders_are_followed_but_not_in_circles(root, tmp_path):
    expected = load(root).train
    (root / "train/cat").rename(tmp_path / "cats")
    (root / "train/cat").symlink_to(tmp_path / "cats", target_is_directory=True)
    (root / "train/dog/up").symlink_to("..", target_is_directory=True)
    train = load(root).train
    assert train.ids.tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(train.images, expected.images)


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


@pytest.mark.parametrize("limit", [2, 7, 8, 9])
def test_any_number_that_leaves_each_class_a_point_is_taken(root, limit):
    train = load(root, max_train_points=limit).train
    assert len(train.labels) == min(limit, 8) and set(train.labels) == {0, 1}


def test_a_number_that_leaves_a_class_without_a_point_is_refused(root):
    for i in range(4, 40):
        save(root / f"train/cat/{i}.png", seed=i)
    with pytest.raises(DataError, match=r"max_train_points is 4, which leaves 1 of"):
        load(root, max_train_points=4)


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


def headers(path):
    with tarfile.open(path) as archive:
        return [member.offset for member in archive if member.isfile()]


@pytest.mark.parametrize("damage", ["cut at a header", "flipped bit in a header"])
def test_a_tar_that_tarfile_would_read_in_part_is_refused(root, tmp_path, damage):
    path = tmp_path / "x.tar"
    pack_tar(root, path, "w")
    content, start = bytearray(path.read_bytes()), headers(path)[-3]
    content[start + 10] ^= 1
    path.write_bytes(content[:start] if damage.startswith("cut") else content)
    with pytest.raises(DataError, match=r"x\.tar cannot be read: .*get it again"):
        load(path)


@pytest.mark.parametrize("where", [0.5, -30])
def test_a_flipped_bit_in_compressed_data_is_refused(root, tmp_path, where):
    path = tmp_path / "x.tar.xz"
    pack_tar(root, path, "w:xz")
    content = bytearray(path.read_bytes())
    content[where if where < 0 else int(where * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.tar\.xz "):
        load(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"), [(8, 1, "encrypted"), (10, 99, "compression")]
)
def test_a_zip_that_cannot_be_unpacked_is_refused(
    root, tmp_path, offset, value, message
):
    """The fields are those of each file's header, at its place and in the directory."""
    path = tmp_path / "x.zip"
    pack_zip(root, path)
    content = path.read_bytes()
    for mark, position in ((b"PK\1\2", offset), (b"PK\3\4", offset - 2)):
        first, *others = content.split(mark)
        at = position - 4
        others = [x[:at] + bytes([value]) + x[at + 1 :] for x in others]
        content = mark.join([first, *others])
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.zip cannot be read: .*{message}"):
        load(path)


def test_a_name_that_cannot_be_written_down_is_refused(root):
    name = os.fsencode(root / "train/cat") + b"/\xff.png"
    os.rename(os.fsencode(root / "train/cat/0.png"), name)
    with pytest.raises(DataError, match=r"not UTF-8, 'train/cat/.udcff\.png'; rename"):
        load(root)


def test_a_file_that_may_not_be_read_is_refused(root, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(regular, "open", refuse, raising=False)
    with pytest.raises(DataError, match=r"Permission denied: '.*/train/cat/0\.png'; "):
        load(root)


def test_other_files_and_no_path_at_all_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"x\.csv is neither a folder nor a"):
        load(tmp_path / "x.csv")
    with pytest.raises(DataError, match=r"pass config\.data\.data_dir = PATH"):
        load("")


def test_too_few_points_are_refused_by_their_field(root):
    with pytest.raises(DataError, match=r"config\.data\.max_train_points is 1, which"):
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
