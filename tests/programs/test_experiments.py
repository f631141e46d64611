"""An experiment is a file, or the name of one that the package brings."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

from autodo_jax.errors import UsageError
from autodo_jax.programs import experiments

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))


def test_every_file_has_its_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert experiments.names() == [path.stem for path in FILES]
    for path in FILES:
        assert experiments.find(path.stem) == path
        assert experiments.find(str(path)) == path


def test_a_users_file_counts_first(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("")
    assert experiments.find("digits") == pathlib.Path("digits")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("configs/digits.py", r"file 'configs/digits.py'; .*--config=digits;"),
        ("digit", r"file or name 'digit'; .*--config=digits; there are cifar10,"),
        ("configs/mnist.py", r"--config=mnist;"),
        ("", "''"),
    ],
)
def test_what_is_not_found_is_said_with_what_there_is(
    name, said, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        experiments.find(name)


@pytest.mark.slow
def test_a_wheel_brings_the_experiments(tmp_path):
    """Built from a copy without the repository, read in a folder of its own."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for folder in ("autodo_jax", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = (
        "from setuptools import build_meta; import sys; build_meta.build_wheel('..')"
    )
    subprocess.run(
        [sys.executable, "-c", build], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
        entry_points = archive.read(
            next(name for name in archive.namelist() if "entry_points" in name)
        )
    assert b"autodo = autodo_jax.programs.autodo:main" in entry_points
    program = (
        "import sys; sys.path.insert(0, '../installed')\n"
        "from autodo_jax import command_line\n"
        "from autodo_jax.programs import experiments\n"
        "print(experiments.find('digits'), *experiments.names(), sep='\\n')\n"
        "options = command_line.parse(['', '--config=digits:autodo_s'])\n"
        "print(command_line.load_config(options).method)"
    )
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "empty",
        check=True,
        capture_output=True,
        text=True,
    )
    found, *names, method = done.stdout.split()
    assert pathlib.Path(found).parts[-3:] == ("autodo_jax", "configs", "digits.py")
    assert names == [path.stem for path in FILES] and method == "autodo_s"
