"""Bad input of every kind gets one line that says what it is, and no result."""

import io
import tarfile
import zipfile

import numpy as np
from PIL import Image

from autodo_jax import main


def refusal(flags, workdir, capfd):
    """Runs a command that is refused; returns its status and its one line."""
    capfd.readouterr()
    status = main.main(["main", *flags, f"--workdir={workdir}"])
    error = capfd.readouterr().err
    assert error.startswith("autodo_jax: ") and error.count("\n") == 1, error
    result = workdir / "result.json"
    assert not result.exists() or result.read_text() == "{}"
    return status, error


def save(path, seed=0, size=(6, 5), **options):
    """Writes an image of random pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def tree(path):
    """A folder that can be used: two classes, three images of each in each part."""
    root = path / "images"
    for number, part in enumerate(("train", "val", "test")):
        for label, name in enumerate(("cat", "dog")):
            for i in range(3):
                seed = 100 * number + 10 * label + i
                save(root / part / name / f"{i}.png", seed)
    return root


def folder_flags(root, *more):
    return ["--config=configs/folder.py", f"--config.data.data_dir={root}", *more]


def zipped(path, root):
    file = path / "images.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in sorted(root.rglob("*.png")):
            archive.write(name, name.relative_to(root))
    return file


def tarred(path, root, mode="w:", rename=lambda name: name):
    file = path / "images.tar"
    with tarfile.open(file, mode) as archive:
        for name in sorted(root.rglob("*.png")):
            info = archive.gettarinfo(name)
            info.name = rename(name.relative_to(root).as_posix())
            archive.addfile(info, io.BytesIO(name.read_bytes()))
    return file
