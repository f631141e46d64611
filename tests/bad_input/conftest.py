"""Commands run from the root of the checkout."""

import pytest

from tests.test_main import ROOT


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)
