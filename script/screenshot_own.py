"""Picture of the page of an index, for the documentation: needs Chromium, its driver and selenium.

python script/screenshot_own.py NAME "a caption" "a change" docs/own-pictures.png
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from screenshot import open_browser

from imagescope.own.scope import ImageScope
from imagescope.own.web import Desk, start

PATIENCE = 300.0  # seconds a search may take


def say(browser: Any, text: str) -> None:
    """Types a line and waits until its last stage is done."""
    until(lambda: browser.find_elements("css selector", "#line textarea"))
    browser.find_element("css selector", "#line textarea").send_keys(text + "\n")
    until(lambda: "Done" not in status(browser))
    until(lambda: "Done" in status(browser))
    time.sleep(1)


def status(browser: Any) -> str:
    return str(browser.find_element("css selector", "#status").text)


def until(there: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > end:
            raise SystemExit("the page did not answer")
        time.sleep(0.02)


def main() -> None:
    name, caption, change, out = sys.argv[1:]
    with tempfile.TemporaryDirectory() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        desk = Desk(lambda: ImageScope.open(name))
        page = start(desk, "127.0.0.1", 0, 12)
        browser = open_browser(1440, 1000)
        try:
            browser.get(page.local_url)
            say(browser, caption)
            browser.find_element("css selector", "#like-1").click()
            until(lambda: browser.find_elements("css selector", "#reference img"))
            say(browser, change)
            Path(out).write_bytes(browser.get_screenshot_as_png())
        finally:
            browser.quit()
            page.close(verbose=False)
            desk.close()


if __name__ == "__main__":
    main()
