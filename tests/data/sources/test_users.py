"""Folders as users have them: read, or refused by name, and never silently in part.

The kinds are those of public reports about tools like this one.
"""

import io
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from autodo_jax.config import default_config
from autodo_jax.data import run_data
from autodo_jax.data.images import decode
from autodo_jax.data.sources import folder
from autodo_jax.errors import DataError
from tests.bad_input import save, tree
from tests.data.sources.test_folder import fields


def load(data_dir, **changed):
    return folder.load(fields(data_dir, **changed), 0)


def sizes(parts):
    return [None if part is None else len(part.labels) for part in parts]


def noted(parts, subject):
    return "; ".join(text for name, text in parts.train.notes if name == subject)


def run(data_dir, look=run_data.load, **changed):
    """The data of a run, split and described."""
    config = default_config()
    config.data = fields(data_dir, source="folder", std=(1.0,) * 3, **changed)
    return look(config)


@pytest.fixture
def root(tmp_path):
    return tree(tmp_path)


# Folders of parts.


@pytest.mark.parametrize("name", ["valid", "validation", "Val", "VALIDATION", "dev"])
def test_other_names_of_the_clean_set_are_used(root, name):
    (root / "val").rename(root / name)
    parts = load(root)
    assert sizes(parts) == [6, 6, 6]
    assert f"{name}/ is the validation set" in noted(parts, "parts")


def test_other_names_of_train_and_test_are_used(root):
    (root / "train").rename(root / "Training")
    (root / "test").rename(root / "TEST")
    assert sizes(load(root)) == [6, 6, 6]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("vaild", "call it val/"),
        ("tets", "call it test/"),
        ("holdout", "call it val/ or test/"),
        ("Evaluation", "move it elsewhere"),
    ],
)
def test_a_folder_that_would_be_ignored_is_refused(root, name, advice):
    (root / "val").rename(root / name)
    with pytest.raises(DataError, match=f"has images in {name}/, which") as raised:
        load(root)
    assert advice in str(raised.value)
    # In an archive as well.
    archive = shutil.make_archive(str(root.parent / "x"), "zip", root)
    with pytest.raises(DataError, match=f"has images in {name}/, which"):
        load(archive)


def test_two_names_of_one_part_are_refused(root):
    shutil.copytree(root / "val", root / "valid")
    with pytest.raises(DataError, match="has val/ and valid/, both for the validation"):
        load(root)


def test_folders_without_images_beside_the_parts_do_no_harm(root):
    (root / "annotations").mkdir()
    (root / "annotations/0.xml").write_text("<xml/>")
    assert sizes(load(root)) == [6, 6, 6]


@pytest.mark.parametrize("wrap", ["", "photos"])
@pytest.mark.parametrize("pack", [False, True])
def test_folders_of_classes_alone_are_the_train_set(root, tmp_path, wrap, pack):
    top = tmp_path / "plain"
    (top / wrap).parent.mkdir(exist_ok=True)
    shutil.copytree(root / "train", top / wrap)
    if pack:
        top = shutil.make_archive(str(tmp_path / "x"), "gztar", top)
    parts = load(top)
    assert sizes(parts) == [6, None, None]
    assert parts.train.class_names == ("cat", "dog")
    assert "each folder is a train class" in noted(parts, "parts")


@pytest.mark.parametrize("left", [("val",), ("val", "test"), ("TEST",)])
def test_parts_without_a_train_set_are_not_classes(root, left):
    (root / "test").rename(root / "TEST")
    for path in list(root.iterdir()):
        if path.name not in {*left, "test" if "test" in left else "TEST"} & {*left}:
            shutil.rmtree(path)
    with pytest.raises(DataError, match="has no train/<class>/"):
        load(root)


# Files.

KINDS = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000"}
LOSSLESS = ["bmp", "tif", "TIFF", "gif", "ppm", "tga", "qoi", "pcx", "webp", "jp2"]


@pytest.mark.parametrize("suffix", [*LOSSLESS, "jfif", "jpe", "avif"])
def test_what_pillow_reads_is_read(root, suffix):
    source = Image.open(root / "train/cat/0.png").quantize(16).convert("RGB")
    options = {"lossless": True} if suffix == "webp" else {}
    path = root / f"train/cat/x.{suffix}"
    source.save(path, KINDS.get(suffix), **options)
    shutil.copy(path, root / "train/cat/without")
    train = load(root).train
    pixels = dict(zip(train.ids, train.images, strict=True))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels[f"train/cat/x.{suffix}"], expected)
    if suffix in LOSSLESS:
        np.testing.assert_array_equal(expected, np.asarray(source))
    if suffix != "tga":  # It begins as any file may.
        np.testing.assert_array_equal(pixels["train/cat/without"], expected)


def test_every_other_file_is_counted_by_suffix(root):
    for name in ("a.heic", "b.HEIC", "c.txt", "d", "e.mp4"):
        (root / "train/cat" / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    (root / "val/dog/Thumbs.db").write_bytes(b"")
    (root / "train/cat/.DS_Store").write_bytes(b"")
    parts = load(root)
    assert sizes(parts) == [6, 6, 6]
    said = noted(parts, "left out")
    assert said.startswith("6 files that are not images: 2 .heic, ")
    for kind in ("1 .txt", "1 without suffix", "1 .mp4", "1 .db"):
        assert kind in said


def test_a_class_of_other_files_alone_says_of_which(root):
    for path in (root / "train/cat").iterdir():
        path.rename(path.with_suffix(".heic"))
        path.with_suffix(".heic").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match=r"no images in train/cat/ .*3 \.heic"):
        load(root)


def break_three(root):
    whole = (root / "train/cat/0.png").read_bytes()
    (root / "train/cat/0.png").write_bytes(whole[:-54])
    (root / "val/dog/1.png").write_bytes(b"")
    (root / "test/dog/2.png").write_bytes(b"<html>not found</html>")
    return ("train/cat/0.png", "val/dog/1.png", "test/dog/2.png")


@pytest.mark.parametrize("pack", [False, True])
def test_all_unreadable_files_are_named_at_once(root, pack):
    names = break_three(root)
    path = shutil.make_archive(str(root.parent / "x"), "tar", root) if pack else root
    with pytest.raises(DataError, match="3 images cannot be read: ") as raised:
        load(path)
    assert all(name in str(raised.value) for name in names)
    assert "config.data.skip_unreadable = True" in str(raised.value)
    for stream in (False, True):
        parts = load(path, skip_unreadable=True, stream=stream)
        assert sizes(parts) == [5, 5, 5]
        assert {*names}.isdisjoint({*parts.train.ids, *parts.test.ids})
        assert "3 unreadable: the image train/cat/0.png" in noted(parts, "left out")


def test_files_that_cannot_be_opened_are_among_them(root):
    (root / "train/cat/7.png").symlink_to("nowhere")
    (root / "train/dog/8.png").symlink_to("loop.png")
    (root / "train/dog/loop.png").symlink_to("8.png")
    with pytest.raises(DataError, match="3 images cannot be read: ") as raised:
        load(root)
    assert "train/cat/7.png" in str(raised.value)
    assert sizes(load(root, skip_unreadable=True)) == [6, 6, 6]


def test_a_hundred_unreadable_files_make_one_line(root):
    for i in range(100):
        (root / f"train/cat/bad{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"100 images .*; and 90 others; ") as raised:
        load(root)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 3000


# Contents.


def chunk(name, content):
    checksum = zlib.crc32(name + content)
    return (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)
    )


MIB2 = bytes(2**21)
METADATA = {
    "profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(MIB2)),
    "compressed text": chunk(b"zTXt", b"x\0\0" + zlib.compress(MIB2)),
    "text": chunk(b"tEXt", b"x\0" + bytes(2**21)),
    "international text": chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(MIB2)),
    "many texts": 80 * chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20 - 9))),
    "damaged profile": chunk(b"iCCP", b"x\0\0" + b"nothing compressed"),
}


@pytest.mark.parametrize("kind", sorted(METADATA))
@pytest.mark.parametrize("place", [33, -12])  # after the header, and before the end
def test_metadata_are_not_pixels(root, kind, place):
    path = root / "train/cat/0.png"
    expected = np.asarray(Image.open(path))
    content = path.read_bytes()
    path.write_bytes(content[:place] + METADATA[kind] + content[place:])
    np.testing.assert_array_equal(load(root).train.images[0], expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_large_jpeg_is_decoded_at_a_smaller_scale(mode, tmp_path):
    ramp = np.linspace(0, 255, 640, dtype=np.uint8)
    image = Image.fromarray(np.tile(ramp, (480, 1))).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    decoder = decode.Decoder(3, (24, 32), "stretch", max_pixels=640 * 480 // 5)
    found = decoder(("x.jpg", file.getvalue()))
    whole = decode.Decoder(3, (24, 32), "stretch")(("x.jpg", file.getvalue()))
    assert np.abs(found.astype(int) - whole).max() <= 3
    # What is not resized, is no JPEG, or is too large at an eighth too, is refused.
    png = io.BytesIO()
    image.convert("RGB").save(png, "PNG")
    for size, content, bound in (
        ((), file, 10_000),
        ((24, 32), png, 10_000),
        ((24, 32), file, 80 * 60 - 1),
    ):
        with pytest.raises(DataError, match=r"more than .*config\.data\.max_pixels"):
            decode.Decoder(3, size, max_pixels=bound)(("x", content.getvalue()))


def test_an_image_of_one_row_does_not_fill_memory(root):
    Image.new("1", (2**16 + 1, 1)).save(root / "train/cat/0.png")
    with pytest.raises(DataError, match="1x65537 pixels, more than 65,536 on a side"):
        load(root, image_size=(8, 8))


# Archives.


@pytest.mark.parametrize("prefix", ["", "photos\\", "My Photos\\"])
def test_backslashes_of_windows_are_slashes(root, tmp_path, prefix):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            name = prefix + str(path.relative_to(root)).replace("/", "\\")
            archive.writestr(name, path.read_bytes())
    parts, expected = load(tmp_path / "x.zip"), load(root)
    for one, other in zip(parts, expected, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_a_name_that_is_not_what_it_is_said_to_be_is_refused(root, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("train/cat/é.png", b"")
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content.replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match=r"x\.zip cannot be read"):
        load(tmp_path / "x.zip")


# The same image twice.


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("train/cat", "val/cat", "1 of 7 validation images are in the train set too"),
        ("train/dog", "test/cat", "1 of 7 test images are in the train set too"),
        ("val/cat", "test/cat", "1 of 7 test images are in the validation set too"),
    ],
)
def test_the_same_pixels_in_two_parts_are_refused(root, source, target, expected):
    Image.open(root / source / "1.png").save(root / target / "x.bmp")
    with pytest.raises(DataError, match=expected) as raised:
        run(root)
    assert f"{target}/x.bmp as {source}/1.png" in str(raised.value)
    allowed = run(root, allow_overlap=True)
    assert any(expected.split("of")[0] in text for _, text in allowed.summary.rows)


def test_streamed_images_that_were_read_once_are_compared_too(root):
    Image.open(root / "train/cat/1.png").save(root / "val/cat/x.bmp")
    with pytest.raises(DataError, match="1 of 7 validation images are in the train"):
        run(root, stream=True, skip_unreadable=True)


def test_images_are_compared_before_they_are_resized(root):
    image = Image.open(root / "train/cat/1.png")
    larger = (3 * image.width, 3 * image.height)
    image.resize(larger, Image.Resampling.NEAREST).save(root / "val/cat/x.png")
    run(root, image_size=(1, 1))  # to which both come out nearly the same
    image.save(root / "val/cat/y.png")
    with pytest.raises(DataError, match=r"val/cat/y\.png as train/cat/1\.png"):
        run(root, image_size=(1, 1))


@pytest.mark.parametrize("changed", [{}, {"image_size": (8, 8)}, {"stream": True}])
@pytest.mark.parametrize("pack", [False, True])
def test_looking_says_the_same_and_holds_no_pixels(root, tmp_path, changed, pack):
    for name in ("a", "b"):
        Image.open(root / "train/cat/0.png").save(root / f"train/dog/{name}.png")
    if pack:
        root = shutil.make_archive(
            str(tmp_path / "packed"), "zip" if "stream" in changed else "xztar", root
        )
    looked = run(root, run_data.describe, **changed)
    expected = run(root, **{**changed, "stream": False})
    assert looked.summary == expected.summary and len(looked.summary.conflicts) == 2
    for part, other in zip(looked.splits, expected.splits, strict=True):
        np.testing.assert_array_equal(part.ids, other.ids)
        assert not isinstance(part.images, np.ndarray)
        assert part.images.shape == other.images.shape


@pytest.mark.parametrize("skip", [False, True])
def test_looking_names_the_unreadable(root, skip):
    for name in ("x", "y"):
        (root / f"train/cat/{name}.png").write_bytes(b"")
    if not skip:
        with pytest.raises(DataError, match="2 images cannot be read"):
            run(root, run_data.describe)
        return
    rows = run(root, run_data.describe, skip_unreadable=True).summary.rows
    assert "2 unreadable" in dict(rows)["left out"]


def test_a_test_set_that_is_the_validation_set_is_refused(root):
    shutil.rmtree(root / "test")
    shutil.copytree(root / "val", root / "test")
    with pytest.raises(DataError, match="6 of 6 test images are in the validation set"):
        run(root)


@pytest.mark.parametrize("seed", range(4))
def test_copies_stay_on_one_side_of_a_split(root, seed):
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    for i in range(3, 12):
        for c, name in enumerate(("cat", "dog")):
            save(root / f"train/{name}/{i}.png", seed=1000 + 100 * c + i)
    for path in sorted(root.rglob("*.png"))[::2]:
        for k in range(2):
            shutil.copy(path, path.with_name(f"{path.stem}copy{k}.png"))
    config = default_config()
    config.seed = seed
    config.data = fields(root, source="folder", std=(1.0,) * 3)
    data = run_data.load(config)
    held = [{image.tobytes() for image in part.images} for part in data.splits]
    assert sum(map(len, held)) == len(set.union(*held)) == 24
    assert sum(len(part.labels) for part in data.splits) == 24 + 2 * 12
    said = dict(data.summary.rows)["duplicates"]
    assert said.startswith("24 train images are copies of others")


def test_the_same_pixels_under_two_labels_are_certain_errors(root):
    Image.open(root / "train/cat/1.png").save(root / "train/dog/x.tif")
    Image.open(root / "train/dog/0.png").save(root / "train/cat/y.bmp")
    assert run(root).summary.certain_errors == (
        "train/cat/1.png is 'cat', train/dog/x.tif is 'dog', with the same pixels",
        "train/cat/y.bmp is 'cat', train/dog/0.png is 'dog', with the same pixels",
    )
    shutil.copy(root / "train/cat/2.png", root / "train/cat/z.png")  # one label
    assert len(run(root).summary.certain_errors) == 2


# Sizes of parts.


def test_a_split_is_said_and_no_test_set_is_needed(root):
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    for i in range(3, 50):
        for c, name in enumerate(("cat", "dog")):
            save(root / f"train/{name}/{i}.png", seed=1000 + 100 * c + i)
    rows = dict(run(root, validation_size=0.2).summary.rows)
    assert rows["images"].startswith(
        "60 train, 15 validation split off, 25 test split off; of 100 given train "
    )
    data = run(root, validation_size=0.2, test_size=0)
    assert [len(part.labels) for part in data.splits] == [80, 20, 0]
    assert "no test set" in " ".join(data.summary.warnings)


@pytest.mark.parametrize("names", [("emu",), ("emu", "yak"), ("a b",)])
def test_a_class_of_one_image_is_named(root, names):
    shutil.rmtree(root / "val")
    shutil.rmtree(root / "test")
    for i, name in enumerate(names):
        save(root / f"train/{name}/0.png", seed=500 + i)
    with pytest.raises(DataError, match=f"the class {', '.join(names)} has a single"):
        run(root)


def test_grey_and_transparent_images_and_sizes_are_counted(root):
    Image.new("L", (60, 50)).save(root / "train/cat/grey.png")
    image = Image.new("RGBA", (6, 5), (10, 20, 30, 40))
    image.save(root / "train/dog/clear.png")
    parts = load(root, image_size=(5, 6))
    assert noted(parts, "kinds") == "1 grey, 1 transparent"
    assert noted(parts, "sizes") == "5x6 pixels to 50x60, 2 different sizes"
