"""Pictures of a run's page, for the documentation: needs Chromium, its driver and selenium.

python script/screenshot.py RUN_DIR docs/report-cirr.png [--open 2] [--dark] [--width 390]
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars"
)


def open_browser(width: int = 1440, height: int = 1000, dark: bool = False) -> webdriver.Chrome:
    """Debian's Chromium with an empty profile; console messages can be read with get_log."""
    options = Options()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tempfile.mkdtemp(prefix='chromium-')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return browser


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=1440)
    parser.add_argument("--height", type=int, default=0, help="0: the whole page")
    parser.add_argument("--open", type=int, default=0, help="open the so-manieth query (from 1)")
    parser.add_argument("--state", default="", help="as in the address, e.g. show=helped&sort=gain")
    parser.add_argument("--from", dest="start", default="", help="scroll to this element's id")
    parser.add_argument("--dark", action="store_true")
    given = parser.parse_args()
    browser = open_browser(given.width, given.height or 1000, given.dark)
    try:
        page = (given.run / "index.html").resolve().as_uri()
        browser.get(f"{page}#{given.state}" if given.state else page)
        if given.open:
            rows = browser.find_elements("css selector", "#list > details > summary")
            rows[given.open - 1].click()
            WebDriverWait(browser, 20).until(
                lambda b: b.find_elements("css selector", "#list .strip")
            )
        if given.start:
            browser.execute_script(f"document.getElementById('{given.start}').scrollIntoView()")
        browser.execute_script("for (const image of document.images) image.loading = 'eager'")
        time.sleep(0.7)  # what is decoded off the page's own thread
        whole = {"captureBeyondViewport": True} if not given.height else {}
        if whole:
            size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
            whole["clip"] = {**size, "width": given.width, "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", **whole})
        given.out.write_bytes(base64.b64decode(shot["data"]))
        for entry in browser.get_log("browser"):
            print(entry["level"], entry["message"])
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
