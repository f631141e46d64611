"""Folders and archives of images that cannot be used."""

import os
import shutil
import tarfile

import pytest
from PIL import Image

from autodo_jax import main
from autodo_jax.data.images import archive_files
from tests.bad_input import folder_flags, refusal, save, tarred, tree, zipped

SMALL = ["--config.data.image_size=()", "--config.batch_size=2"]


def text_for_an_image(root):
    (root / "train/cat/0.png").write_text("text")


def empty(root):
    shutil.rmtree(root)
    root.mkdir()


def single_class(root):
    for part in ("train", "val", "test"):
        shutil.rmtree(root / part / "dog")


def class_without_images(root):
    for file in (root / "train/cat").iterdir():
        file.unlink()


def class_of_one_part(root):
    shutil.rmtree(root / "val/cat")


def image_in_no_class(root):
    save(root / "train/x.png")


def empty_file(root):
    (root / "val/cat/0.png").write_bytes(b"")


def truncated(root):
    file = root / "test/dog/2.png"
    file.write_bytes(file.read_bytes()[:60])


def two_sizes(root):
    save(root / "train/dog/1.png", size=(6, 9))


def parts_of_two_sizes(root):
    for seed, file in enumerate(sorted(root.glob("val/*/*.png"))):
        save(file, 200 + seed, size=(6, 9))


def pipe(root):
    os.mkfifo(root / "train/cat/3.png")


def link_to_nothing(root):
    (root / "train/cat/3.png").symlink_to("nothing")


def name_that_is_not_utf8(root):
    shutil.copy(root / "train/cat/0.png", os.fsencode(root) + b"/train/cat/\xff.png")


def overlap(root):
    for i in range(2):
        shutil.copy(root / f"train/cat/{i}.png", root / f"val/cat/{i}.png")


def unchanged(root):
    del root


def fills_memory(root):
    Image.new("1", (9000, 9000)).save(root / "train/cat/0.png")


GREY = "--config.data.mean=(0.5,)"
STREAM = ["--config.data.stream=True", "--config.augment.crop_size=0"]


@pytest.mark.parametrize(
    ("spoil", "expected", "more"),
    [
        (empty, "has no train/<class>/ with images", []),
        (single_class, "has a single class in train/", []),
        (class_without_images, "has no images in train/cat/", []),
        (class_of_one_part, "has the class 'cat' in train/ only", []),
        (image_in_no_class, "train/x.png is in no class", []),
        (text_for_an_image, "the image train/cat/0.png cannot be read", []),
        (empty_file, "the image val/cat/0.png cannot be read", []),
        (truncated, "the image test/dog/2.png cannot be read", []),
        (two_sizes, "train/dog/1.png has 9x6 pixels, train/cat/0.png has 5x6", []),
        (two_sizes, "train/dog/1.png has 9x6 pixels", STREAM),
        (parts_of_two_sizes, "val/cat/0.png has 9x6 pixels, train/cat/0.png", []),
        (pipe, "3.png cannot be read: [Errno 22] it is a pipe", []),
        (link_to_nothing, "No such file or directory: ", []),
        (name_that_is_not_utf8, "whose name is not UTF-8", []),
        (overlap, "2 of 6 validation images are in", []),
        (unchanged, "config.data.std is", [GREY]),
        (fills_memory, "has 9000x9000 pixels, more than", []),
    ],
)
def test_folders(spoil, expected, more, tmp_path, capfd):
    root = tree(tmp_path)
    spoil(root)
    flags = folder_flags(root, *SMALL, *more)
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and expected in error


def test_images_smaller_than_the_crop(tmp_path, capfd):
    flags = folder_flags(tree(tmp_path), *SMALL)
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 1 and "smaller than config.augment.crop_size=128" in error
    assert error.endswith("by --config.data.image_size='(HEIGHT, WIDTH)'\n")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config=configs/folder.py"], "pass --config.data.data_dir=PATH"),
        (folder_flags("absent"), "absent does not exist"),
    ],
)
def test_folders_that_are_not_there(flags, expected, tmp_path, capfd):
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and expected in error


def not_an_archive(path):
    (path / "images.zip").write_text("text")
    return path / "images.zip"


def truncated_zip(path):
    file = zipped(path, tree(path))
    file.write_bytes(file.read_bytes()[:-100])
    return file


def flipped_bit(path):
    file = zipped(path, tree(path))
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 30] ^= 1
    file.write_bytes(content)
    return file


def truncated_tar(path):
    file = tarred(path, tree(path))
    file.write_bytes(file.read_bytes()[:3000])
    return file


def truncated_tar_gz(path):
    file = tarred(path, tree(path), "w:gz")
    file.write_bytes(file.read_bytes()[:-30])
    return file


def tar_gz(path):
    return tarred(path, tree(path), "w:gz")


def members_outside(path):
    tree(path)  # where ../train would lead to
    return tarred(path / "images", path / "images", rename=lambda name: f"../{name}")


def absolute_members(path):
    root = tree(path)
    return tarred(path, root, rename=lambda name: f"{root}/{name}")


@pytest.mark.parametrize(
    ("make", "expected", "more"),
    [
        (not_an_archive, "is neither a folder nor a .zip or .tar archive", []),
        (truncated_zip, "is neither a folder nor a .zip", []),
        (flipped_bit, "images.zip cannot be read: Bad CRC-32", []),
        (truncated_tar, "images.tar cannot be read", []),
        (truncated_tar_gz, "images.tar cannot be read", []),
        (
            tar_gz,
            "is compressed as a whole and cannot be streamed",
            ["--config.data.stream=True"],
        ),
        (members_outside, "has no train/<class>/ with images", []),
        (absolute_members, "has no train/<class>/ with images", []),
    ],
)
def test_archives(make, expected, more, tmp_path, capfd):
    flags = folder_flags(make(tmp_path), *more)
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and expected in error


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_out_of_an_archive_leads_nowhere(kind, stream, tmp_path, capsys):
    root = tree(tmp_path)
    file = tarred(tmp_path, root)
    with tarfile.open(file, "a:") as archive:
        link = tarfile.TarInfo("train/cat/9.png")
        link.type, link.linkname = kind, str(root / "train/cat/0.png")
        archive.addfile(link)
    more = [f"--config.data.stream={stream}", "--config.batch_size=2"]
    assert main.main(["main", *folder_flags(file, *more), f"--workdir={tmp_path}"]) == 2
    assert "images.tar cannot be read: " in capsys.readouterr().err


@pytest.mark.parametrize(("pack", "size"), [(None, 1001), (zipped, 10**7)])
def test_files_that_fill_memory(pack, size, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(archive_files, "MAX_BYTES", 1000)
    root = tree(tmp_path)
    (root / "train/cat/0.png").write_bytes(bytes(size))
    flags = folder_flags(pack(tmp_path, root) if pack else root)
    status, error = refusal(flags, tmp_path / "run", capfd)
    assert status == 2 and "train/cat/0.png has more than 1,000 bytes" in error


def test_data_that_are_not_prepared(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    status, error = refusal(["--config=configs/cifar10.py"], tmp_path / "run", capfd)
    assert status == 2 and "python -m autodo_jax.data.prepare cifar10" in error


@pytest.mark.slow
def test_few_clean_images_make_smaller_batches_and_not_a_refusal(tmp_path, capfd):
    root = tree(tmp_path)
    for part, seed in (("train", 300), ("test", 400)):
        for i in range(3, 9):
            for label, name in enumerate(("cat", "dog")):
                save(root / f"{part}/{name}/{i}.png", seed + 10 * label + i)
    flags = [
        "--config.data.image_size=(8, 8)",
        "--config.augment.crop_size=0",
        "--config.augment.policy=none",
        "--config.model.name=small_cnn",
        "--config.model.widths=(4,)",
        "--config.epochs=2",
        "--config.hyper.start_epoch=1",
        "--config.batch_size=16",
        f"--workdir={tmp_path}/run",
    ]
    # Six clean images, for the eight devices of the tests.
    assert main.main(["main", *folder_flags(root, *flags)]) == 0
    flags[-1] = f"--workdir={tmp_path}/other"
    command = folder_flags(root, *flags, "--config.num_devices=8")
    assert main.main(["main", *command]) == 1
    assert "only 6 validation points for 8 devices; pass" in capfd.readouterr().err


def test_a_check_says_what_there_is_and_trains_nothing(tmp_path, monkeypatch, capfd):
    root = tree(tmp_path)
    (root / "train/cat/notes.txt").write_text("no image")
    shutil.copy(root / "train/cat/0.png", root / "train/dog/same.png")
    (root / "train/dog/a\x1b[2J\nb.txt").write_text("no image")
    workdir = tmp_path / "run"
    flags = folder_flags(root, *SMALL, "--check", f"--workdir={workdir}")
    assert main.main(["main", *flags, "--config.augment.crop_size=0"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert main.main(["main", *flags]) == 1  # The images are too small for the crops.
    assert capfd.readouterr().out == out
    assert err == "" and not workdir.exists() and "\x1b" not in out
    assert lines[0] == "images: 7 train, 6 validation, 6 test"
    assert lines[1] == "classes: 2: dog 4, cat 3"
    assert "left out: 2 files that are not images: 2 .txt" in lines
    errors = [line for line in lines if line.startswith("certain label error")]
    assert errors == [
        "certain label error: train/cat/0.png is 'cat', train/dog/same.png is 'dog', "
        "with the same pixels"
    ]
    assert lines[-1].startswith("warning: the classes 'cat', 'dog' have fewer than 5")
