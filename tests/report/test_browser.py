"""The pages in a real browser, on a wide and on a narrow screen.

AUTODO_SCREENSHOTS=DIR keeps what was seen.
"""

import functools
import os
import pathlib
import shutil

import pytest

from autodo_jax.report import comparison, page
from autodo_jax.train import loop
from autodo_jax.workdir import run as runs
from tests.report.made_up import write_run
from tests.report.test_page import SECTIONS
from tests.train.prepared import prepare, tiny_config

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH"),
]
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=list(ARGUMENTS)
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    ready, state = prepare(tiny_config("autodo"))
    loop.run(ready, state, folder)
    return page.write_page(folder)


@pytest.fixture(scope="module")
def page_of(tmp_path_factory):
    """Returns a function that writes the page of a run, once for all widths."""

    @functools.cache
    def write(**given):
        root = tmp_path_factory.mktemp("runs")
        folder = write_run(root / "autodo-seed0", **given)
        if "epochs" not in given:
            write_run(root / "control", frozen=True, **given)
        return page.write_page(folder)

    return write


def look_at(browser, path, width, scheme="light"):
    """Opens a page and holds what every page must hold; returns it."""
    shown = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    said, asked = [], []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("dialog", lambda dialog: said.append(dialog.message))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(path.as_uri(), wait_until="load")
    assert not said
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    overflow = "document.documentElement.scrollWidth - window.innerWidth"
    assert shown.evaluate(overflow) <= 0
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert shown.evaluate(broken) == 0
    figures = shown.query_selector_all("figure svg")
    sizes = [figure.bounding_box() for figure in figures]
    assert all(size["width"] > 200 and size["height"] > 50 for size in sizes)
    folder = os.environ.get("AUTODO_SCREENSHOTS")
    if folder:
        name = f"{path.parent.name}-{path.stem}-{width}-{scheme}.png"
        shown.screenshot(path=pathlib.Path(folder) / name, full_page=True)
    return shown


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"channels": 3, "method": "autodo_shared"},
        {"method": "baseline", "noise_ratio": 0.0},
        {"epochs": 3},
        {"class_names": tuple(f"a rather long name {i}" for i in range(100))},
    ],
    ids=["autodo", "photographs", "baseline", "halfway", "many classes"],
)
def test_a_runs_page(browser, page_of, given, width):
    shown = look_at(browser, page_of(**given), width)
    for name in SECTIONS:
        assert shown.locator(f"section#{name} h2").is_visible()
        shown.click(f"nav a[href='#{name}']")
    assert shown.locator("script, section b").count() == 0
    num_images = {"epochs": 0, "method": 7}.get(next(iter(given), ""), 28)
    if given.get("method") == "autodo_shared":
        num_images = 28
    assert shown.locator(".card img").count() == num_images


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_a_digits_run(browser, digits_run, width):
    shown = look_at(browser, digits_run, width)
    for name in SECTIONS:
        assert shown.locator(f"section#{name} h2").is_visible()
    assert shown.locator("figure svg").count() == 13
    assert shown.locator(".card").count() == 32
    assert shown.locator(".card img").count() == 32 * 4


def test_dark_mode_is_readable(browser, page_of):
    shown = look_at(browser, page_of(), 1280, "dark")
    found = {
        name: shown.evaluate(f"getComputedStyle(document.querySelector('{name}')).{of}")
        for name, of in (("body", "color"), ("section", "backgroundColor"))
    }
    light = {
        name: sum(map(int, color.strip("rgb()").split(",")))
        for name, color in found.items()
    }
    assert light["body"] > 600 > 150 > light["section"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_comparison(browser, tmp_path, width):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", seed=seed)
        write_run(tmp_path / f"b{seed}", "baseline", seed=seed)
    path = tmp_path / "comparison.html"
    comparison.write_comparison(runs.find([tmp_path]), path)
    shown = look_at(browser, path, width)
    assert shown.locator("section#table tbody tr").count() == 2
