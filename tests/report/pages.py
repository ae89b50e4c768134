"""Reports of made-up runs, and what the tests ask of them in a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synthetic_run import make_run

from imagescope.report.build import write_report

GALLERY = 60
NAMES = [f"scene-{i:04}.jpg" for i in range(GALLERY)]
ABSENT, BROKEN = NAMES[7], NAMES[8]


def report(folder: Path, files: dict[str, Path], kind: str = "composed", count: int = 45) -> Path:
    make_run(folder, kind, count, NAMES)
    return write_report(folder, files)


def data(page: Path) -> dict[str, Any]:
    text = (page.parent / "report" / "queries.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("globalThis.imagescope = ").rstrip().rstrip(";"))


def described(folder: Path, **entry: Any) -> None:
    """Writes a method into a run's manifest."""
    path = folder / "manifest.json"
    known = {"name": "other", "label": "control", "options": {"weight": 0.5}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": known | entry}))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes every trace of a run."""
    traces = [json.loads(x) for x in (folder / "traces.jsonl").read_text().split("\n")[:-1]]
    for trace in traces:
        change(trace)
    (folder / "traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))


class Page:
    """What the tests ask of an open page."""

    def __init__(self, browser: Any, page: Path):
        self.browser = browser
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(page.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def js(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def texts(self, selector: str) -> list[str]:
        return self.js(f"[...document.querySelectorAll({selector!r})].map(n => n.textContent)")

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({selector!r}).click()")

    def until(self, condition: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 20).until(lambda _: self.js(condition))

    def choose(self, name: str, value: str) -> None:
        self.js(
            f"(n => {{ n.value = {value!r}; n.dispatchEvent(new Event('change')) }})"
            f"(document.getElementById({name!r}))"
        )

    def assert_sound(self) -> None:
        """Every image on the page loads, nothing ran that should not, and no console message."""
        self.js("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        self.until("[...document.images].every(i => i.complete)")
        assert self.js("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
        assert self.js("document.images.length") > 0
        assert self.js("window.hacked === undefined && !document.querySelector('img[src=x]')")
        assert self.browser.get_log("browser") == []
