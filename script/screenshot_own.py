"""Pictures of an index' page, for the documentation: needs Chromium, its driver and selenium.

python script/screenshot_own.py NAME docs/screens/search.png --query "q=a red circle" [--open]
    [--width 390] [--dark]
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from screenshot import open_browser
from selenium.webdriver.support.ui import WebDriverWait

from imagescope.own.desk import Desk
from imagescope.own.scope import ImageScope
from imagescope.own.web import serving

PATIENCE = 300  # seconds a search may take


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("out", type=Path)
    parser.add_argument("--query", default="", help="of the page's address")
    parser.add_argument("--open", action="store_true", help="open the first result")
    parser.add_argument("--width", type=int, default=1400)
    parser.add_argument("--height", type=int, default=860)
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    desk = Desk(lambda: ImageScope.open(given.name))
    desk.warm()
    browser = open_browser(given.width, given.height, given.dark)
    try:
        with serving(desk, "127.0.0.1", 0, 12) as address:
            browser.get(f"{address}/?{given.query}")
            wait = WebDriverWait(browser, PATIENCE)
            ended = ("Done", "newest first")
            wait.until(lambda b: any(w in b.find_element("id", "status").text for w in ended))
            if given.open:
                browser.find_element("css selector", "#results .show").click()
                image = "return document.getElementById('viewer-image').src"
                wait.until(lambda b: "/api/view" in b.execute_script(image))
            shown = "return [...document.images].every(i => i.complete || i.loading === 'lazy')"
            wait.until(lambda b: b.execute_script(shown))
            shot = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
            few = shot.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
            few.save(given.out, optimize=True)
    finally:
        browser.quit()
        desk.close()


if __name__ == "__main__":
    main()
