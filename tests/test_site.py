"""The site builds without a warning, asks no other host, and is found by its search.

The build runs the notebooks. AUTODO_SCREENSHOTS=DIR keeps what was seen.
"""

import functools
import html.parser
import http.server
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from tests.report.test_browser import ARGUMENTS, CHROMIUM

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.slow
pytest.importorskip("mkdocs", reason="needs the extra docs")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Loaded(html.parser.HTMLParser):
    """The addresses that a browser loads with a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") != "canonical":
            self.addresses.append(given.get("href") or "")


def test_no_page_loads_from_another_host(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = Loaded()
        loaded.feed(page.read_text())
        others = [a for a in loaded.addresses if a.startswith(("http", "//"))]
        assert not others, page


def test_notebooks_have_their_pictures_and_numbers(site):
    for name in ("hypergradients", "photographs"):
        page = (site / f"notebooks/{name}.html").read_text()
        assert f'src="{name}-' in page and "Traceback" not in page
    assert len(list(site.glob("notebooks/*.png"))) >= 3


def test_every_public_function_is_described(site):
    import autodo_jax

    page = (site / "reference/functions.html").read_text()
    names = set(autodo_jax.__all__) - {"__version__", "RunError"}
    modules = {"curvature", "preconditioners", "solvers"}
    for name in names - modules:
        assert f'id="autodo_jax.{name}"' in page, name


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH")
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_fit_and_the_search_finds(site, width):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    requested = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=list(ARGUMENTS)
            )
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.on("request", lambda request: requested.append(request.url))
            for path in ("index", "architecture", "reference/functions", "results"):
                page.goto(f"{address}/{path}.html")
                folder = os.environ.get("AUTODO_SCREENSHOTS")
                if folder:
                    name = f"site-{path.replace('/', '-')}-{width}.png"
                    page.screenshot(path=pathlib.Path(folder, name))
                wide = "document.documentElement.scrollWidth > innerWidth"
                assert not page.evaluate(wide), path
            if width < 1000:
                page.locator("label[for=__search]").first.click()
            page.locator(".md-search__input").press_sequentially("conjugate")
            page.locator(".md-search-result__item").first.wait_for()
            browser.close()
        server.shutdown()
    assert all(url.startswith((address, "data:", "blob:")) for url in requested)
