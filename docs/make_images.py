"""Takes the picture of the README from the report of a run.

    autodo train --config=digits
    python docs/make_images.py runs/digits/autodo-seed0

Needs the extra `test` and Chromium on the PATH. It writes docs/images/report.png: the
first suspects and the curves of the errors, as report.html shows them.
"""

import io
import pathlib
import shutil
import sys

import PIL.Image
from playwright import sync_api

ROOT = pathlib.Path(__file__).parents[1]
TARGET = ROOT / "docs/images/report.png"
_WIDTH = 1280  # pixels of the window
_CARDS = 8  # in two rows


def main(workdir: str) -> None:
    """Writes the picture of the run in `workdir`."""
    page_path = pathlib.Path(workdir, "report.html").resolve()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": _WIDTH, "height": 900})
        page.goto(page_path.as_uri())
        page.add_style_tag(
            content=f".cards > :nth-child(n+{_CARDS + 1}) {{ display: none }}"
            "figure[aria-label='learning rates'] { display: none }"
        )
        shots = [
            page.locator(place).screenshot() for place in (".cards", "#curves .figures")
        ]
        browser.close()
    images = [PIL.Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]
    picture = PIL.Image.new(
        "RGB",
        (max(i.width for i in images), sum(i.height for i in images) + 20),
        "white",
    )
    top = 0
    for image in images:
        picture.paste(image, (0, top))
        top += image.height + 20
    picture.quantize(64).save(TARGET, optimize=True)
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
