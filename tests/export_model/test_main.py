"""The exported network gives the run's logits where this package is not imported."""

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

import autodo_jax
from autodo_jax.export_model import __main__ as export_model
from tests.train.prepared import prepare, run, tiny_config

pytestmark = pytest.mark.slow  # A network is compiled for three platforms.
PROGRAM = """
import sys, jax, jax.export, numpy as np
exported = jax.export.deserialize(open("net.stablehlo", "rb").read())
assert exported.platforms == ("cpu", "cuda", "tpu")
images = np.load("images.npy")
np.save("logits.npy", exported.call(images))
np.save("first.npy", exported.call(images[:1]))  # any number of them
assert not {name.split(".")[0] for name in sys.modules} & {"autodo_jax", "flax"}
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """(folder with the files, what load_run returns, test images)."""
    folder = tmp_path_factory.mktemp("exported")
    config = tiny_config("autodo_s")
    run(config, folder / "run")
    assert export_model.main([str(folder / "run"), f"--to={folder}/net"]) == 0
    images = prepare(config)[0].data.splits.test.images
    return folder, autodo_jax.load_run(folder / "run"), images


def test_another_process_gets_the_same_logits(exported):
    folder, found, images = exported
    np.save(folder / "images.npy", images)
    environment = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, check=True, env=environment
    )
    normalized = (images / np.float32(255) - np.float32(0.305)) / np.float32(0.376)
    expected = found.model.apply(found.variables, normalized, train=False)
    logits = np.load(folder / "logits.npy")
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    np.testing.assert_allclose(np.load(folder / "first.npy"), logits[:1], atol=1e-5)


def test_arrays_and_description_are_those_of_the_run(exported):
    folder, found, _ = exported
    arrays = safetensors.numpy.load_file(folder / "net")
    head = found.variables["params"]["head"]
    np.testing.assert_array_equal(arrays["params.head.kernel"], head["kernel"])
    norm = found.variables["batch_stats"]["norms_1"]
    np.testing.assert_array_equal(arrays["batch_stats.norms_1.var"], norm["var"])
    assert len(arrays) == 12  # 2 convolutions, 2 norms of four, kernel and bias
    said = json.loads((folder / "net.json").read_text())
    assert said["class_names"] == [*"0123456789"] and said["image_shape"] == [8, 8, 1]
    assert (said["mean"], said["std"]) == ([0.305], [0.376])
    assert said["center_crop"] is None and said["model"]["name"] == "small_cnn"


@pytest.mark.parametrize(
    ("workdir", "target", "status", "expected"),
    [
        ("run", "net", 2, "net exists; pass another FILE"),
        ("nothing", "new", 2, "cannot read"),
        ("run", "absent/new", 1, "cannot write"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    workdir, target, status, expected, exported, capsys
):
    folder = exported[0]
    arguments = [str(folder / workdir), f"--to={folder / target}"]
    assert export_model.main(arguments) == status
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
