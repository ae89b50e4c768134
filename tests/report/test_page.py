"""What real Chromium makes of the pages of runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pages import ABSENT, BROKEN, NAMES, Page, data, report, rewritten
from PIL import Image
from synthetic_run import HOSTILE, TOP_K, make_run

from imagescope.report import queries
from imagescope.report.build import write_report
from imagescope.report.compare import write_comparison
from imagescope.report.leaderboard import write_leaderboard
from imagescope.runs.compare import compare
from imagescope.runs.folder import read_traces


@pytest.mark.parametrize("kind", ["composed", "text", "hidden", "dialogue"])
def test_every_kind_of_run_opens(
    tmp_path: Path, files: dict[str, Path], browser: Any, kind: str
) -> None:
    page = Page(browser, report(tmp_path / "run", files, kind, count=25))
    noun = "dialogues" if kind == "dialogue" else "queries"
    page.until("document.getElementById('count').textContent")
    assert page.js("document.getElementById('count').textContent") == f"1–20 of 25 {noun}"
    page.click("#toggle-all")
    page.until("document.querySelectorAll('#list .step').length >= 60")
    assert len(page.texts(".query .strip")) == 60
    hostile = page.texts(".query .text")[3]
    assert hostile == HOSTILE
    page.assert_sound()
    assert page.js("document.querySelectorAll('svg').length") == (0 if kind == "hidden" else 2)
    if kind == "dialogue":
        assert len(page.texts(".query:first-child .rounds button")) == 11
        page.click(".query .rounds li:first-child button")
        page.until("document.querySelector('.query .said').textContent.includes('no model was')")


def test_filters_sorting_search_and_pages(
    tmp_path: Path, files: dict[str, Path], browser: Any
) -> None:
    path = report(tmp_path / "run", files, count=45)
    rows = data(path)["queries"]
    page = Page(browser, path)
    expected = {
        "all": rows,
        "helped": [r for r in rows if r[5][-1] < r[5][0]],
        "hurt": [r for r in rows if r[5][-1] > r[5][0]],
        "lost": [r for r in rows if r[5][0] >= TOP_K],
        "fallback": [r for r in rows if r[6] & queries.FELL_BACK],
    }
    for name, wanted in expected.items():
        page.click(f"[data-filter={name}]")
        shown = page.texts("#list .query .sub > span:first-child")
        assert shown == [r[0] for r in wanted[:20]], name
        assert page.texts(f"[data-filter={name}] span") == [str(len(wanted))]
        assert page.js("document.activeElement.dataset.filter") == name
    assert 0 < len(expected["helped"]) < 45 and expected["hurt"] and expected["fallback"]

    page.click("[data-filter=all]")
    page.choose("sort", "gain")
    gains = sorted((r[5][0] - r[5][-1] for r in rows), reverse=True)
    first = page.js("document.querySelector('.badge').textContent")
    assert first == f"▲ {gains[0]}"
    page.choose("step", "3")
    by_last = max(r[5][1] - r[5][2] for r in rows)
    assert page.js("document.querySelector('.badge').textContent") == f"▲ {by_last}"

    page.choose("sort", "order")
    page.click("[aria-label='Page 3']")
    assert page.js("document.getElementById('count').textContent") == "41–45 of 45 queries"
    field = browser.find_element("id", "search")
    field.send_keys("(17)")
    assert page.texts(".query .text") == [rows[17][2]]
    assert "q=%2817%29" in browser.current_url  # the address keeps what is shown
    browser.refresh()
    assert page.texts(".query .text") == [rows[17][2]]
    field = browser.find_element("id", "search")
    field.clear()
    field.send_keys("nothing like this")
    assert page.texts(".empty")
    assert browser.get_log("browser") == []


def test_card_marks_the_target_and_shades_by_probability(
    tmp_path: Path, files: dict[str, Path], browser: Any
) -> None:
    path = report(tmp_path / "run", files, count=10)
    trace = read_traces(path.parent)[4]
    page = Page(browser, path)
    page.js("document.querySelectorAll('.query')[4].open = true")
    page.until("document.querySelectorAll('.query .step').length === 3")
    target = trace.query.targets[0]
    marked = page.js("[...document.querySelectorAll('.strip .target')].map(n => n.title)")
    assert marked == [target] * 3
    verified = trace.verification
    cells = page.texts(".answers tr:first-child td.p")
    assert cells == [str(int(100 * row[0] + 0.5)) for row in verified.yes]
    met = page.js("document.querySelectorAll('.answers td.p.met').length")
    assert met == sum(verified.scores)
    shades = page.js(
        "[...document.querySelectorAll('.answers tr:first-child td.p')]"
        ".map(n => Number(n.style.getPropertyValue('--p')))"
    )
    order = sorted(range(len(shades)), key=lambda i: verified.yes[i][0])
    assert [shades[i] for i in order] == sorted(shades)
    assert page.texts(".judgement p") == [j.text for j in trace.evaluation.judgements]


def test_what_was_not_understood_and_what_a_plugin_brings(
    tmp_path: Path, files: dict[str, Path], browser: Any
) -> None:
    folder = make_run(tmp_path / "run", "composed", 4, NAMES)

    def change(trace: dict[str, Any]) -> None:
        seen = trace["verification"]
        seen["answers"][0][:2], seen["unread"] = [None, None], [[0, 0, HOSTILE]]
        first = trace["evaluation"]["judgements"][0]
        first |= {"accepted": False, "unread": True, "text": "Perhaps."}
        trace["texts"] = [{"title": "Thoughts", "rows": [["why", HOSTILE]], "stage": "stage2"}]
        shown = [[NAMES[0], "nearest"], [ABSENT, ""]]
        drawn = [["drawn/1.png", f"seed 0 {HOSTILE}"], ["../secret.png", "not there"]]
        trace["images"] = [
            {"title": "Proxies", "rows": shown, "stage": "stage1"},
            {"title": "Drawn", "rows": drawn, "stage": "stage3", "files": True},
        ]
        cells = [[NAMES[0], [True, 0.25]], [ABSENT, [None, HOSTILE]]]
        table = {"title": "Checks", "columns": ["red?", "part"], "rows": cells, "stage": "stage3"}
        trace["tables"] = [table | {"expected": [False, None]}]

    rewritten(folder, change)
    database = tmp_path / "image_db"
    (database / "drawn").mkdir(parents=True)
    for path in (database / "drawn" / "1.png", tmp_path / "secret.png"):
        Image.new("RGB", (300, 200), "red").save(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["image_db"] = str(database)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    page = Page(browser, write_report(folder, files))
    page.click("#list summary")
    page.until("document.querySelectorAll('.query .step').length === 3")
    cells = (
        "[...document.querySelectorAll('.answers td.unread')].map(n => [n.textContent, n.title])"
    )
    assert page.js(cells) == [["?", f"not understood: {HOSTILE}"], ["–", "no answer"]]
    assert page.texts(".judgement .verdict")[0] == "? not understood"
    headings = page.js(
        "[...document.querySelectorAll('.query .step')]"
        ".map(n => [...n.querySelectorAll('h4')].map(h => h.textContent))"
    )
    first = ["Edits", "Target, as described", "Proxies"]
    assert headings == [first, ["Thoughts"], ["Drawn", "Checks"]]
    assert f"why{HOSTILE}" in page.texts(".query .step:nth-of-type(2) li")
    assert "nearest" in page.texts(".query .step:first-of-type figcaption")
    last = ".query .step:nth-of-type(3)"
    assert f"seed 0 {HOSTILE}" in page.texts(f"{last} figcaption")
    assert page.texts(f"{last} .tile[title='secret.png']") == ["no imagenot there"]
    assert page.js(f"document.querySelectorAll(\"{last} .tile[title='1.png'] img\").length") == 1
    assert page.texts(f"{last} .answers td.p") == ["yes", "–", "0.25", HOSTILE]
    assert page.texts(f"{last} .answers td.off") == ["yes"]
    page.assert_sound()


def test_keyboard_phone_and_dark(tmp_path: Path, files: dict[str, Path], browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, report(tmp_path / "run", files, count=25))
    body = browser.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    assert page.js("document.activeElement.className") == "skip"
    body.send_keys("/")
    assert page.js("document.activeElement.id") == "search"
    page.js("document.querySelector('summary.none, #list summary').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.until("document.querySelectorAll('#list .step').length === 3")
    light = page.js("getComputedStyle(document.body).backgroundColor")
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    try:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert page.js("getComputedStyle(document.body).backgroundColor") != light
        assert page.js("document.documentElement.scrollWidth") <= 390  # only tables scroll
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_comparison_in_the_browser(tmp_path: Path, files: dict[str, Path], browser: Any) -> None:
    a = make_run(tmp_path / "a", "composed", 25, NAMES)
    b = make_run(tmp_path / "b", "composed", 25, NAMES)
    traces = [json.loads(x) for x in (b / "traces.jsonl").read_text().split("\n")[:-1]]
    for trace in traces[:6]:
        trace["rankings"]["stage3"]["ranks"] = {trace["query"]["targets"][0]: 55}
    (b / "traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))
    import imagescope.report.compare as compare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "image_files", lambda manifest: files)
        page = Page(browser, write_comparison(a, b, tmp_path / "ab"))
    found = data(tmp_path / "ab" / "index.html")["queries"]
    for top in (10, 1):
        page.choose("step", str(top))
        wanted = [r[0] for r in found if r[5][0] < top <= r[5][1]]
        assert page.texts("#list .query .sub > span:first-child") == wanted
    page.choose("step", "10")
    page.click("#list summary")
    page.until("document.querySelectorAll('#list .view').length === 2")
    assert [t[:3] for t in page.texts(".view > h3")] == ["A ·", "B ·"]
    page.assert_sound()


PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
DESKTOP = {"width": 1400, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
HERE = Path(__file__).parent
CONTRAST = (HERE / "contrast.js").read_text(encoding="utf-8")
AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))  # npm install axe-core


def emulate(browser: Any, size: dict[str, Any], scheme: str = "light") -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def screen(browser: Any) -> Any:
    """The browser, with its own size and colours again afterwards."""
    yield browser
    emulate(browser, {"width": 1440, "height": 1000, "deviceScaleFactor": 1, "mobile": False})


@pytest.fixture
def three(tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The page of a run, of two, and of all runs."""
    monkeypatch.setattr("imagescope.report.compare.image_files", lambda manifest: files)
    a, b = (report(tmp_path / name, files, count=25).parent for name in "ab")
    for run in (a, b):  # nothing from the cache, so that the cost is plotted
        manifest = (run / "manifest.json").read_text().replace('"cached": 200', '"cached": 0')
        (run / "manifest.json").write_text(manifest)
    pages = [a / "index.html", write_comparison(a, b, tmp_path / "ab")]
    return [*pages, write_leaderboard(compare([a, b]), tmp_path / "all.html")]


def opened(browser: Any, path: Path) -> Page:
    """A page with its first card open, where it has cards."""
    page = Page(browser, path)
    if page.js("document.querySelector('#list summary') !== null"):
        page.click("#list summary")
        page.until("document.querySelectorAll('#list .step').length >= 3")
    return page


def test_text_stands_out_in_light_and_dark(three: list[Path], screen: Any) -> None:
    for path in three:
        for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
            emulate(screen, size, scheme)
            opened(screen, path)
            assert screen.execute_script(CONTRAST) == [], (path, scheme)
    screen.execute_script("document.querySelector('h2').style.color = '#444'")
    assert screen.execute_script(CONTRAST)  # on dark ground that is found


def test_axe_finds_nothing_serious(three: list[Path], screen: Any) -> None:
    if not AXE.is_file():
        pytest.skip(f"needs axe-core (npm install --no-save axe-core): no {AXE}")
    script = "axe.run().then((r) => arguments[0](r.violations.map((v) => [v.id, v.impact])))"
    for path in three:
        for size, scheme in ((DESKTOP, "light"), (PHONE, "dark")):
            emulate(screen, size, scheme)
            opened(screen, path)
            screen.execute_script(AXE.read_text(encoding="utf-8"))
            found = screen.execute_async_script(script)
            assert [v for v in found if v[1] in ("serious", "critical")] == [], path


def test_pages_fit_a_phone(three: list[Path], screen: Any) -> None:
    """Tables too, but for that of questions by candidates; text in charts can be read."""
    emulate(screen, PHONE)
    for path in three:
        page = opened(screen, path)
        assert page.js("document.documentElement.scrollWidth") <= 390
        wide = (
            "[...document.querySelectorAll('.scroll')].filter(n => !n.querySelector('.answers') &&"
            " n.scrollWidth > n.clientWidth + 1).map(n => n.ariaLabel)"
        )
        assert page.js(wide) == []
        sizes = page.js(
            "[...document.querySelectorAll('svg text')].map("
            "n => parseFloat(getComputedStyle(n).fontSize)"
            " * Math.hypot(n.getScreenCTM().a, n.getScreenCTM().b))"
        )
        assert [size for size in sizes if size < 11] == []
        assert sizes or path.parent.name == "ab"


def test_strips_show_that_they_scroll(three: list[Path], screen: Any) -> None:
    emulate(screen, PHONE)
    page = opened(screen, three[0])
    strip = "document.querySelector('#list .strip')"
    page.until(f"{strip}.classList.contains('more-right')")
    assert not page.js(f"{strip}.classList.contains('more-left')")
    page.js(f"{strip}.scrollTo(9999, 0)")
    page.until(f"{strip}.classList.contains('more-left')")
    assert not page.js(f"{strip}.classList.contains('more-right')")


def test_a_picture_can_be_enlarged(
    tmp_path: Path, files: dict[str, Path], browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its own file; where that is gone, from its thumbnail."""
    from selenium.webdriver.common.keys import Keys

    own = {name: tmp_path / "own" / name for name in files if name != BROKEN}
    (tmp_path / "own").mkdir()
    for name, path in own.items():
        path.write_bytes(files[name].read_bytes())
    page = opened(browser, report(tmp_path / "run", own, count=6))
    names = page.js("[...document.querySelectorAll('#list .strip .tile')].map(n => n.title)")[:10]
    shown = [name for name in names if name in own]
    gone, here = shown[1], shown[0]
    own[gone].unlink()
    page.click("#list .strip button.picture")
    image = "document.querySelector('.viewer img')"
    page.until(f"document.querySelector('.viewer').open && {image}.src.includes('/own/')")
    assert page.js(f"{image}.alt") == here
    page.until(f"{image}.naturalWidth === 96")  # as drawn
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    page.until(f"{image}.alt === {gone!r} && {image}.src.includes('/report/0/')")
    page.until(f"{image}.naturalWidth > 0")
    assert page.texts(".viewer figcaption")[0].startswith(gone)
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.until("!document.querySelector('.viewer').open")
    assert page.js("document.activeElement.closest('.tile').title") == gone


def test_examples_lead_to_their_queries(
    tmp_path: Path, files: dict[str, Path], browser: Any
) -> None:
    path = report(tmp_path / "run", files, count=45)
    rows = data(path)["queries"]
    page = Page(browser, path)
    helped, hurt = (pick(rows, key=lambda r: r[5][0] - r[5][-1]) for pick in (max, min))
    assert page.texts(".example .text") == [helped[2], hurt[2]]
    assert page.texts(".example p:first-child") == [
        f"{word} most: rank {row[5][0] + 1} → {row[5][-1] + 1}"
        for word, row in (("Helped", helped), ("Hurt", hurt))
    ]
    for number, row in enumerate((helped, hurt), 1):
        page.click(f".example:nth-child({number})")
        page.until(f"document.querySelector('#list .sub > span').textContent === {row[0]!r}")
    page.assert_sound()


def test_a_comparison_without_differences_opens_on_all(
    three: list[Path], browser: Any, tmp_path: Path
) -> None:
    page = Page(browser, three[1])
    assert page.texts("[aria-pressed=true]") == ["All25"]
    assert len(page.texts("#list .query")) == 20


@pytest.mark.slow  # a quarter of a minute: 4,000 queries with rankings of 1,000 names
def test_four_thousand_queries(
    tmp_path: Path, files: dict[str, Path], browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    import synthetic_run

    monkeypatch.setattr(synthetic_run, "KEEP", 1000)
    names = [f"scene-{i:04}.jpg" for i in range(2000)]
    some = list(files.values())
    many = {name: some[i % len(some)] for i, name in enumerate(names)}
    make_run(tmp_path / "run", "composed", 4000, names)
    start = time.process_time()
    page = write_report(tmp_path / "run", many)
    assert time.process_time() - start < 60
    opened = Page(browser, page)
    spent = opened.js("performance.timing.domContentLoadedEventEnd - performance.timing.fetchStart")
    assert spent < 5000  # milliseconds until the list stands
    assert opened.js("document.getElementById('count').textContent") == "1–20 of 4,000 queries"
