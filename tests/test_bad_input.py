"""Bad input of every kind gets one line that says what it is, and no result."""

import io
import json
import os
import shutil
import tarfile
import zipfile

import filelock
import numpy as np
import pytest
from PIL import Image

from autodo_jax import main
from autodo_jax.data import sources
from autodo_jax.data.dataset import Dataset, SourceSplits
from autodo_jax.data.images import archive_files
from tests.test_main import DIGITS, ROOT, TINY

# Name -> what makes the flags from the workdir and patches, and the expected text.
CASES: dict = {}
HELD: list = []  # locks, which end with their last reference


def case(name, expected, status=2):
    """Registers a function `(path, monkeypatch) -> flags` as a case."""

    def register(make):
        assert name not in CASES
        CASES[name] = (make, expected, status)
        return make

    return register


def flags(name, given, expected, status=2):
    case(name, expected, status)(lambda path, monkeypatch: given)


def field(text, expected, status=2):
    flags(f"config.{text}", [DIGITS, *TINY, f"--config.{text}"], expected, status)


# The command line.
flags("no experiment", [], "pass --config=configs/digits.py")
flags("absent file", ["--config=configs/nope.py"], "no experiment file 'configs/nope")
flags("not a config", ["--config=setup.cfg"], "setup.cfg is no experiment file")
flags("method", [DIGITS + ":autodp"], "unknown method 'autodp'; use one of baseline")
flags("flag", [DIGITS, "--epochs=1"], "Unknown command line flag 'epochs'")
flags("argument", [DIGITS, "extra"], "unexpected argument 'extra'")
flags("workdir", [DIGITS, "--workdir=/dev/null/x"], "cannot write to /dev/null/x")
flags("some of the processes", [DIGITS, "--process_id=0"], "--coordinator=HOST:PORT")
flags(
    "process out of range",
    [DIGITS, "--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
    "--process_id is 2, expected 0 to 1",
)

# Fields: names, types, ranges, choices, and how they go together.
field("hyper.lr=1", "unknown field --config.hyper.lr; there are augment")
field("hyp.lr=1", "no such section")
field("epochs=ten", "--config.epochs=ten")
field("epochs=1.5", "--config.epochs=1.5")
field("hyper.eps=x", "--config.hyper.eps=x")
field("hyper.frozen=x", "--config.hyper.frozen=x")
flags("section for a value", [DIGITS, "--config.hyper=3"], "--config.hyper=3")
field("epochs=-1", "config.epochs is -1, expected a number >= 1")
field("seed=-1", "config.seed is -1, expected an integer in [0, 2**32)")
field("batch_size=0", "config.batch_size is 0, expected a number >= 1")
field("task.learning_rate=nan", "is nan, expected a number > 0")
field("task.learning_rate=inf", "is inf, expected a number > 0")
field("task.momentum=1", "config.task.momentum is 1.0, expected a number in [0, 1)")
field("task.clip_norm=-1", "config.task.clip_norm is -1.0, expected a number >= 0")
field("hyper.max_update=-1", "config.hyper.max_update is -1.0")
field("hyper.smoothing=1", "expected a share in (0, 1)")
field("hyper.solver=lu", "expected one of neumann, conjugate_gradient, identity")
field("hyper.on_divergence=no", "expected one of first_term, keep, stop")
field("hyper.theta=body", "expected one of head, all")
field("hyper.start_epoch=2", "less than epochs=2")
field("data.imbalance_ratio=0.5", "config.data.imbalance_ratio is 0.5")
field("data.noise_ratio=1.5", "expected a share in [0, 1]")
field("data.validation_size=1.5", "expected a share in (0, 1) or a number of points")
field("data.outer_set=all", "expected one of validation, test, train")
field("data.image_size=(8,)", "expected (height, width) in pixels")
field("data.std=(0.0,)", "config.data.std is (0.0,), expected numbers > 0")
field("data.mean=(0.0, 0.0)", "one number a channel")
field("augment.operations=('x',)", "expected distinct names of")
field("augment.operations=('hue',)", "for images without 3 channels")
field("augment.temperature=0", "config.augment.temperature is 0.0")
field("model.name=vgg", "config.model.name is 'vgg', expected one of")
field("checkpoint_keep=0", "config.checkpoint_keep is 0")
field("data.test_size=0.001", "the data cannot be split")
field("data.imbalance_ratio=1e6", "the train set has no points of class 5, 6, 7, 8, 9")
field("batch_size=100000", "pass --config.batch_size=405 or less", 1)
field("num_devices=3", "3 devices cannot share equally", 1)
field("num_devices=9", "config.num_devices is 9", 1)
field("task.learning_rate=1e30", "grad_norm not finite in epoch 1, task step", 1)


# Folders.
def save(path, seed=0, size=(6, 5), **options):
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


def spoilt(name, expected, *more):
    """Registers `spoil(root)`, which makes the folder one that cannot be used."""

    def register(spoil):
        def make(path, monkeypatch):
            root = tree(path)
            spoil(root)
            return folder_flags(root, "--config.data.image_size=()", *more)

        case(name, expected)(make)

    return register


flags("no folder", ["--config=configs/folder.py"], "--config.data.data_dir")
flags("absent folder", folder_flags("absent"), "absent does not exist")


@spoilt("empty folder", "has no train/<class>/ with images")
def _(root):
    shutil.rmtree(root)
    root.mkdir()


@spoilt("single class", "has a single class in train/")
def _(root):
    for part in ("train", "val", "test"):
        shutil.rmtree(root / part / "dog")


@spoilt("class without images", "has no images in train/cat/")
def _(root):
    for file in (root / "train/cat").iterdir():
        file.unlink()


@spoilt("class of one part", "has the class 'cat' in train/ only")
def _(root):
    shutil.rmtree(root / "val/cat")


@spoilt("image in no class", "train/x.png is in no class")
def _(root):
    save(root / "train/x.png")


@spoilt("text for an image", "the image train/cat/0.png cannot be read")
def _(root):
    (root / "train/cat/0.png").write_text("text")


@spoilt("empty file for an image", "the image val/cat/0.png cannot be read")
def _(root):
    (root / "val/cat/0.png").write_bytes(b"")


@spoilt("truncated image", "the image test/dog/2.png cannot be read")
def _(root):
    file = root / "test/dog/2.png"
    file.write_bytes(file.read_bytes()[:60])


@spoilt(
    "images of two sizes", "train/dog/1.png has 9x6 pixels, train/cat/0.png has 5x6"
)
def _(root):
    save(root / "train/dog/1.png", size=(6, 9))


@spoilt(
    "streamed images of two sizes",
    "train/dog/1.png has 9x6 pixels",
    "--config.data.stream=True",
    "--config.batch_size=2",
    "--config.augment.crop_size=0",
)
def _(root):
    save(root / "train/dog/1.png", size=(6, 9))


@spoilt("parts of two sizes", "val/cat/0.png has 9x6 pixels, train/cat/0.png has 5x6")
def _(root):
    for seed, file in enumerate(sorted(root.glob("val/*/*.png"))):
        save(file, 200 + seed, size=(6, 9))


@case("images smaller than the crop", "smaller than config.augment.crop_size=128", 1)
def _(path, monkeypatch):
    small = ["--config.data.image_size=()", "--config.batch_size=2"]
    return folder_flags(tree(path), *small)


@spoilt("a pipe for an image", "train/cat/3.png is no file")
def _(root):
    os.mkfifo(root / "train/cat/3.png")


@spoilt("a link to nothing", "No such file or directory: ")
def _(root):
    (root / "train/cat/3.png").symlink_to("nothing")


@spoilt("a name that is not UTF-8", "whose name is not UTF-8")
def _(root):
    shutil.copy(root / "train/cat/0.png", os.fsencode(root) + b"/train/cat/\xff.png")


@spoilt("validation images among the train images", "2 of 6 validation images are in")
def _(root):
    for i in range(2):
        shutil.copy(root / f"train/cat/{i}.png", root / f"val/cat/{i}.png")


@spoilt("grey for colour", "config.data.std is", "--config.data.mean=(0.5,)")
def _(root):
    del root


@case("an image that fills memory", "has 9000x9000 pixels, more than")
def _(path, monkeypatch):
    root = tree(path)
    Image.new("1", (9000, 9000)).save(root / "train/cat/0.png")
    return folder_flags(root)


@case("a file that fills memory", "train/cat/0.png has more than 1,000 bytes")
def _(path, monkeypatch):
    monkeypatch.setattr(archive_files, "MAX_BYTES", 1000)
    root = tree(path)
    (root / "train/cat/0.png").write_bytes(bytes(1001))
    return folder_flags(root)


# Archives.
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


@case("not an archive", "is neither a folder nor a .zip or .tar archive")
def _(path, monkeypatch):
    (path / "images.zip").write_text("text")
    return folder_flags(path / "images.zip")


@case("truncated zip", "is neither a folder nor a .zip")
def _(path, monkeypatch):
    file = zipped(path, tree(path))
    file.write_bytes(file.read_bytes()[:-100])
    return folder_flags(file)


@case("flipped bit in a zip", "images.zip cannot be read: Bad CRC-32")
def _(path, monkeypatch):
    file = zipped(path, tree(path))
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 30] ^= 1
    file.write_bytes(content)
    return folder_flags(file)


@case("truncated tar", "images.tar cannot be read")
def _(path, monkeypatch):
    file = tarred(path, tree(path))
    file.write_bytes(file.read_bytes()[:3000])
    return folder_flags(file)


@case("truncated tar.gz", "images.tar cannot be read")
def _(path, monkeypatch):
    file = tarred(path, tree(path), "w:gz")
    file.write_bytes(file.read_bytes()[:-30])
    return folder_flags(file)


@case("streamed tar.gz", "is compressed as a whole and cannot be streamed")
def _(path, monkeypatch):
    file = tarred(path, tree(path), "w:gz")
    return folder_flags(file, "--config.data.stream=True")


@case("members outside of the archive", "has no train/<class>/ with images")
def _(path, monkeypatch):
    tree(path)  # which ../train would lead to
    file = tarred(path / "images", path / "images", rename=lambda name: f"../{name}")
    return folder_flags(file)


@case("members with absolute names", "has no train/<class>/ with images")
def _(path, monkeypatch):
    root = tree(path)
    return folder_flags(tarred(path, root, rename=lambda name: f"{root}/{name}"))


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


@case("a member that fills memory", "train/cat/0.png has more than 1,000 bytes")
def _(path, monkeypatch):
    monkeypatch.setattr(archive_files, "MAX_BYTES", 1000)
    root = tree(path)
    (root / "train/cat/0.png").write_bytes(bytes(10**7))
    return folder_flags(zipped(path, root))


@case("no prepared data", "python -m autodo_jax.data.prepare cifar10")
def _(path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(path / "nothing"))
    return ["--config=configs/cifar10.py"]


# Arrays, as a source of one's own may deliver them.
def arrays(name, expected, validation=None, **changed):
    """Registers a source of the digits configuration with some arrays changed."""

    def make(path, monkeypatch):
        num_points = len(changed.get("images", range(40)))
        rng = np.random.default_rng(0)
        good = Dataset(
            images=rng.integers(0, 256, (num_points, 8, 8, 1), dtype=np.uint8),
            labels=np.arange(num_points, dtype=np.int32) % 2,
            ids=np.arange(num_points).astype(str),
            class_names=("a", "b"),
        )
        parts = SourceSplits(good._replace(**changed), validation and validation(good))
        monkeypatch.setitem(sources.SOURCES, "digits", lambda data, seed: parts)
        return [DIGITS, *TINY]

    case(name, expected)(make)


arrays(
    "float images", "the train images are float32", images=np.ones((4, 8, 8, 1), "f4")
)
arrays("no axis of channels", "have shape (4, 8, 8)", images=np.ones((4, 8, 8), "u1"))
arrays("no images", "have shape (0, 8, 8, 1)", images=np.ones((0, 8, 8, 1), "u1"))
arrays(
    "channels", "have 3 channels, config.data.mean", images=np.ones((4, 8, 8, 3), "u1")
)
arrays("float labels", "labels are float64", labels=np.zeros(40))
arrays("labels of vectors", "labels of shape (40, 2)", labels=np.zeros((40, 2), int))
arrays("too few labels", "labels of shape (39,) for 40", labels=np.zeros(39, int))
arrays("negative labels", "labels are in -1..1", labels=np.arange(40) % 3 - 1)
arrays(
    "labels past the end", "labels are in 0..2, expected 0..1", labels=np.arange(40) % 3
)
arrays("a class without points", "no points of class b", labels=np.zeros(40, int))
arrays("ids twice", "2 train points have the id 7", ids=np.r_[:39, 7].astype(str))
arrays("too few ids", "ids of shape (3,)", ids=np.array(list("abc")))
arrays(
    "the train set as validation set",
    "40 of 40 validation images are in the train set too, 0 as 0",
    validation=lambda train: train,
)
arrays(
    "other labels in the validation set",
    "the validation labels are in 5..5",
    validation=lambda train: train._replace(labels=np.full(40, 5)),
)


# Workdirs and checkpoints.
@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A workdir with a checkpoint of a run that was stopped."""
    folder = tmp_path_factory.mktemp("unfinished")
    command = [DIGITS + ":baseline", *TINY, "--config.checkpoint_every=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert main.main(["main", *command, f"--workdir={folder}"]) == 0
    (folder / "result.json").unlink()
    return folder


RESUME = [DIGITS + ":baseline", *TINY, "--config.checkpoint_every=1"]
STOPPED = {
    "another seed": (["--config.seed=1"], "an unfinished run with another config.seed"),
    "another model": (
        ["--config.model.name=resnet", "--config.model.depth=18"],
        "depth",
    ),
    "two fields": (
        ["--config.batch_size=16", "--config.task.learning_rate=1"],
        "another config.batch_size, config.task.learning_rate;",
    ),
    "fewer epochs": (["--config.epochs=1", "--config.hyper.frozen=True"], "frozen"),
}


def stopped(name, expected, status=2):
    """Registers `(workdir, monkeypatch) -> more flags` on a copy of `unfinished`."""

    def register(spoil):
        def make(path, monkeypatch):
            return [*RESUME, *(spoil(path / "run", monkeypatch) or [])]

        case(f"stopped run: {name}", expected, status)(make)

    return register


for _name, (_flags, _expected) in STOPPED.items():
    stopped(_name, _expected)(lambda run, patch, _flags=_flags: _flags)


@stopped("fewer epochs than it has", "but 2 epochs are saved", 1)
def _(run, monkeypatch):
    return ["--config.epochs=1"]


@stopped("config.json is empty", "another config.json (unreadable)")
def _(run, monkeypatch):
    (run / "config.json").write_text("")


@stopped("config.json holds a list", "another config.json (unreadable)")
def _(run, monkeypatch):
    (run / "config.json").write_text("[1]")


@stopped("config.json is gone", "another config.json (unreadable)")
def _(run, monkeypatch):
    (run / "config.json").unlink()


@stopped("checkpoints is a file", "checkpoints in", 1)
def _(run, monkeypatch):
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("text")


@stopped("other data", "the data are not those of the checkpoints", 1)
def _(run, monkeypatch):
    def other(data, seed):
        parts = original(data, seed)
        labels = (parts.train.labels + 1) % 10
        return parts._replace(train=parts.train._replace(labels=labels))

    original = sources.SOURCES["digits"]
    monkeypatch.setitem(sources.SOURCES, "digits", other)


@stopped("a state of another shape", "checkpoints in", 1)
def _(run, monkeypatch):
    text = json.loads((run / "config.json").read_text())
    text["model"]["widths"] = [4, 8]  # as if it had been trained so
    (run / "config.json").write_text(json.dumps(text))
    return ["--config.model.widths=(8,)"]  # joins the (4,) before


@stopped("another run has it", "another run is writing to")
def _(run, monkeypatch):
    lock = filelock.FileLock(run / ".lock")
    lock.acquire()
    HELD.append(lock)


@stopped("result.json of another run", "a finished run with another config.seed")
def _(run, monkeypatch):
    (run / "result.json").write_text("{}")
    return ["--config.seed=2"]


def test_there_are_at_least_sixty_cases():
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gets_one_line(name, request, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    make, expected, status = CASES[name]
    if name.startswith("stopped run"):
        shutil.copytree(request.getfixturevalue("unfinished"), tmp_path / "run")
        capfd.readouterr()
    command = make(tmp_path, monkeypatch)
    if not any(flag.startswith("--workdir") for flag in command):
        command = [*command, f"--workdir={tmp_path}/run"]
    assert main.main(["main", *command]) == status
    error = capfd.readouterr().err
    assert expected in error
    assert error.startswith("autodo_jax: ") and error.count("\n") == 1, error
    finished = tmp_path / "run/result.json"
    assert not finished.exists() or finished.read_text() == "{}"
