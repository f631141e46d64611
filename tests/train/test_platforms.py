"""A run with the layouts that TPUs get, on CPUs, beside a run without them."""

import jax
import numpy as np
import pytest
from jax.experimental.layout import Layout

from autodo_jax import distributed
from autodo_jax.data.batches.batch import pack, take
from autodo_jax.train import loop, setup
from tests.train.prepared import tiny_config


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 7, 3), (2, 128, 3)])
def test_packed_images_are_taken_as_they_were(shape):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
    labels, index = np.arange(6), np.array([4, -1, 0, 4])
    rows, image_shape = pack(images)
    assert (image_shape is None) == (shape[1] >= 128)
    assert shape[1] >= 128 or rows.shape[1] % 128 == 0
    batch = take(jax.numpy.asarray(rows), labels, index, image_shape)
    np.testing.assert_array_equal(batch.image, images[np.maximum(index, 0)])


def as_on_tpu(patch):
    """Packs images, and gives tables a layout that is not the default of CPUs."""
    patch.setattr(distributed, "is_tpu", lambda mesh: True)
    patch.setattr(distributed, "_ROW_BY_ROW", Layout((1, 0)))


def run(config, folder):
    folder.mkdir(exist_ok=True)
    ready, state = setup.prepare(config)
    layout = state.tables["label"].format.layout
    loop.run(ready, state, folder)
    with np.load(folder / "hyperparams.npz") as tables:
        return ready, layout, dict(tables)


@pytest.mark.slow
def test_a_run_with_layouts_is_the_run_without_them(tmp_path):
    config = tiny_config("autodo")
    config.checkpoint_every = 1
    *_, expected = run(config, tmp_path / "plain")
    with pytest.MonkeyPatch.context() as patch:
        as_on_tpu(patch)
        ready, layout, tables = run(config, tmp_path / "laid_out")
        # The last epoch again, from the first one's checkpoint.
        config.epochs = 3
        *_, resumed = run(config, tmp_path / "laid_out")
    assert layout.major_to_minor == (1, 0)
    (points,) = next(ready.feed.batches("task", 0))
    assert points.images.ndim == 2
    assert tables.keys() == expected.keys() and len(resumed) == len(tables)
    for name, table in expected.items():
        assert tables[name].shape == table.shape
        np.testing.assert_allclose(tables[name], table, rtol=1e-5, atol=1e-6)
