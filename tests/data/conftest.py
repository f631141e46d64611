"""Folders and randomness of the tests of prepared data."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def source(tmp_path):
    """An empty folder for archives."""
    folder = tmp_path / "archives"
    folder.mkdir()
    return folder


@pytest.fixture
def data_dir(tmp_path):
    """A folder for prepared data, which does not exist yet."""
    return tmp_path / "prepared"
