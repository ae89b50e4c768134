"""The page in Debian's Chromium, on a desk and on a phone, and the page of `search --html`."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from own_oracle import oracle
from PIL import Image
from test_own_api import address, captions
from test_own_methods import HOSTILE

from imagescope.own import library, pictures, show
from imagescope.own.scope import ImageScope

__all__ = ["address", "captions", "oracle"]
SCRIPT = Path(__file__).parents[2] / "script" / "screenshot.py"
AXE = os.environ.get("AXE_CORE", "")
PHONE = {"width": 390, "height": 844}
UNNAMED = """
return [...document.querySelectorAll("button, a, input, select, summary")]
  .filter(e => e.checkVisibility() && !(e.ariaLabel || e.innerText.trim() || e.labels?.length))
  .map(e => e.outerHTML)"""


@pytest.fixture
def browse() -> Iterator[Callable[..., Any]]:
    """Opens an address in a browser of its own; no page may have written an error."""
    pytest.importorskip("selenium", reason="the browser is driven by selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
    spec = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    opened = []

    def visit(url: str, **options: Any) -> Any:
        browser = module.open_browser(**options)
        opened.append(browser)
        browser.get(url)
        return browser

    yield visit
    errors = []
    for browser in opened:
        errors += [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
        browser.quit()
    assert [e for e in errors if " 400 " not in e] == []  # what is refused is said on the page


def wait(browser: Any, what: Callable[[Any], Any], seconds: float = 30) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, 0.1, [StaleElementReferenceException]).until(what)


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def every(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def names(browser: Any) -> list[str]:
    return [card.get_attribute("data-name") for card in every(browser, "#results .result")]


def say(browser: Any, words: str) -> None:
    one(browser, "#text").clear()
    one(browser, "#text").send_keys(words + "\n")


def done(browser: Any, words: str) -> None:
    """Waits until a search for these words has ended."""
    wait(browser, lambda b: b.title.startswith(words) and status(b).startswith("Done"))


def status(browser: Any) -> str:
    return str(one(browser, "#status").text)


def loaded(browser: Any, selector: str) -> bool:
    script = "return [...document.querySelectorAll(arguments[0])].every(i => i.naturalWidth > 0)"
    return bool(browser.execute_script(script, selector))


def press(browser: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(browser).send_keys(getattr(Keys, key)).perform()


def red(captions: list[str]) -> str:
    return f"{next(i for i, text in enumerate(captions) if ' red ' in text):03d}.png"


def test_the_folder_is_there_before_anything_is_searched(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    browser = browse(address)
    wait(browser, lambda b: len(names(b)) == 30)
    assert names(browser)[:2] == ["000.png", "001.png"]
    examples = [button.text for button in every(browser, "#examples button")]
    assert len(examples) == 3
    every(browser, "#examples button")[1].click()
    done(browser, examples[1])
    assert len(names(browser)) == 6 and not one(browser, "#examples").is_displayed()
    assert any(examples[1] in text.text for text in every(browser, "#results .caption"))
    assert browser.execute_script(UNNAMED) == []


def test_a_search_is_refined_shared_and_gone_back_from(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    start = red(captions)
    words = captions[int(start[:3])]
    browser = browse(address)
    wait(browser, names)
    say(browser, words)
    done(browser, words)
    first = names(browser)
    assert first[0] == start and len(first) == 6
    assert one(browser, "#results .check").text.startswith("✓ ")
    assert loaded(browser, "#results img")
    one(browser, "#results .like").click()  # the reference is a chip in the field
    wait(browser, lambda b: start in one(b, "#chips .chip").text)
    assert loaded(browser, "#chips img")
    say(browser, "red to blue")
    done(browser, "red to blue")
    second = names(browser)
    assert start not in second and second != first
    assert "blue" in one(browser, "#results .caption").text
    link = browser.current_url
    assert f"like={start}" in link

    other = browse(link, **PHONE)  # a link holds the search
    done(other, "red to blue")
    places = [one(other, selector).rect["y"] for selector in ("#chips .chip", "#text", ".go")]
    assert places[0] + 30 < places[2] <= places[1] + 10  # the chip above, the rest in one line
    assert names(other) == second and start in one(other, "#chips .chip").text

    browser.back()
    done(browser, words)
    assert names(browser) == first and not every(browser, "#chips .chip")
    one(browser, "#refine").click()  # a conversation goes on
    assert words in one(browser, "#chips .chip").text
    say(browser, "with a white background")
    done(browser, "with a white")
    looking = one(browser, "#meaning").get_attribute("textContent")
    assert f"{words} with a white background" in looking
    assert [step.text for step in every(browser, "#trail li")] == [words, "with a white background"]
    one(browser, "#trail a").click()
    done(browser, words)
    assert names(browser) == first
    one(browser, "#again").click()
    wait(browser, lambda b: len(names(b)) == 30)
    one(browser, "#past summary").click()
    said = [entry.text for entry in every(browser, "#history a")]
    assert said == [words, "with a white background", "red to blue (from a picture)"]


def test_filters_are_part_of_a_search(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    browser = browse(f"{address}/?folder=old")
    wait(browser, lambda b: len(names(b)) == 5)
    assert one(browser, "#filtered").text == "1"
    say(browser, captions[0])
    done(browser, captions[0])
    assert len(names(browser)) == 5 and all(name.startswith("old/") for name in names(browser))
    one(browser, "#filters summary").click()
    one(browser, "#unfilter").click()
    wait(browser, lambda b: status(b).startswith("Done") and names(b)[0] == "000.png")
    browser.get(f"{address}/?since=2030-01-01")
    wait(browser, lambda b: one(b, "#notice").text == "No picture matches the filters.")


def test_a_result_is_opened_and_walked_through(
    address: str, captions: list[str], tmp_path: Path, browse: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shown: list[str] = []
    monkeypatch.setattr(pictures, "file_manager", lambda: ["manager"])
    monkeypatch.setattr(pictures, "reveal", lambda manifest, name: shown.append(name))
    browser = browse(f"{address}/?q={captions[3]}")
    done(browser, captions[3])
    found = names(browser)
    one(browser, "#results .check").click()
    name = "#viewer-name"
    wait(browser, lambda b: one(b, name).text == "003.png")
    details = one(browser, "#viewer-details").text
    assert str(tmp_path / "in" / "003.png") in details and captions[3] in details
    assert "? yes" in details and "accepted by the evaluator" in details and "Score" in details
    source = "return document.getElementById('viewer-image').src"
    wait(browser, lambda b: "/api/view?name=003.png" in b.execute_script(source))
    assert browser.execute_script(UNNAMED) == []
    for key, place in (("ARROW_RIGHT", 1), ("ARROW_RIGHT", 2), ("ARROW_LEFT", 1)):
        press(browser, key)
        assert one(browser, name).text == found[place]
        assert one(browser, "#viewer-place").text == f"{place + 1} of 6"
    one(browser, "[data-go=previous]").click()
    one(browser, "[data-go=previous]").click()
    assert one(browser, name).text == found[-1]
    one(browser, "[data-go=reveal]").click()
    wait(browser, lambda _: shown == [found[-1]])
    file = one(browser, "#viewer-file").get_attribute("href")
    assert file == f"{address}/api/file?name={found[-1].replace('/', '%2F')}"
    press(browser, "ESCAPE")
    assert not one(browser, "#viewer").is_displayed()
    card = "return document.activeElement.closest('.result').dataset.name"
    assert browser.execute_script(card) == found[-1]
    one(browser, "#results .show").click()
    one(browser, "[data-go=like]").click()
    assert "003.png" in one(browser, "#chips .chip").text


SWIPE = """
const figure = document.querySelector("#viewer figure");
const at = (x) => new Touch({ identifier: 1, target: figure, clientX: x, clientY: 200 });
const send = (kind, list, x) => figure.dispatchEvent(
  new TouchEvent(kind, { touches: list ? [at(x)] : [], changedTouches: [at(x)], bubbles: true }));
send("touchstart", true, arguments[0]); send("touchend", false, arguments[1]);"""


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_two_columns_at_once(
    address: str, captions: list[str], browse: Callable[..., Any], dark: bool
) -> None:
    browser = browse(f"{address}/?q={captions[3]}", dark=dark, **PHONE)
    done(browser, captions[3])
    first, second, third = (card.rect for card in every(browser, "#results .result")[:3])
    assert first["y"] == second["y"] < third["y"] and first["height"] == second["height"]
    assert first["y"] + first["width"] < 500  # the best two are seen without scrolling
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    assert browser.execute_script(UNNAMED) == []
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) is dark
    one(browser, "#results .show").click()
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    browser.execute_script(SWIPE, 300, 100)
    assert one(browser, "#viewer-place").text == "2 of 6"
    browser.execute_script(SWIPE, 100, 300)
    assert one(browser, "#viewer-place").text == "1 of 6"


@pytest.mark.skipif(not AXE, reason="AXE_CORE names no axe.min.js (npm install axe-core)")
@pytest.mark.parametrize("options", [{"width": 1400}, {"dark": True, **PHONE}])
def test_axe_finds_nothing_serious(
    address: str, captions: list[str], tmp_path: Path, browse: Callable[..., Any],
    options: dict[str, Any],
) -> None:  # fmt: skip
    script = Path(AXE).read_text(encoding="utf-8")
    with ImageScope.open("n") as scope:
        (tmp_path / "out.html").write_text(show.page(scope.search(captions[3]), "n"))
    browser = browse(address, **options)
    browser.execute_cdp_cmd("Page.enable", {})
    browser.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})  # for the check alone
    written = (tmp_path / "out.html").as_uri()
    for url, opened in (
        (address, "#filters summary"),
        (f"{address}/?q={captions[3]}&like=001.png", ""),
        (f"{address}/?q={captions[3]}", ".results .show"),
        (f"{address}/docs", ""),
        (written, ""),
        (written, ".results .show"),
    ):
        browser.get(url)
        if "?q=" in url:
            done(browser, captions[3])
        if opened:
            wait(browser, lambda b, selector=opened: every(b, selector))[0].click()
        browser.execute_script(script)
        told = (
            "axe.run(document).then(r => arguments[0](r.violations.map(v => [v.impact, v.help])))"
        )
        assert browser.execute_async_script(told) == [], (url, opened)


def test_cards_are_one_height_and_names_whole(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    browser = browse(f"{address}/?q={captions[3]}", width=1400)
    done(browser, captions[3])
    cards = every(browser, "#results .result")
    assert len({card.rect["height"] for card in cards}) == 1
    buttons = [one(card, ".like").rect for card in cards]
    assert len({rect["y"] for rect in buttons[:5]}) == 1
    width = browser.execute_script("return document.getElementById('results').clientWidth")
    assert width > 1300
    cut = (
        "return [...document.querySelectorAll('.name')].filter(e => e.scrollWidth > e.clientWidth)"
    )
    browser.execute_script(
        "for (const e of document.querySelectorAll('.name')) e.textContent = 'long'.repeat(40)"
    )
    assert browser.execute_script(cut) == []


def test_first_results_show_before_the_last_stage(
    address: str, captions: list[str], browse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1's pictures are there while stage 2 waits for its model; something else may be
    searched meanwhile, and the answer to the first is not waited for."""
    from imagescope.methods import imagescope as stages

    go, verify = Event(), stages.verify
    monkeypatch.setattr(stages, "verify", lambda *rest: go.wait(60) and verify(*rest))
    browser = browse(address)
    say(browser, captions[3])
    wait(browser, lambda b: "predicate verification under way" in status(b))
    assert names(browser)[:1] == ["003.png"]
    assert one(browser, "#results .score").text.startswith("score ")
    assert not every(browser, "#results .check") and not one(browser, "#refine").is_displayed()
    say(browser, captions[5])
    go.set()
    done(browser, captions[5])
    assert names(browser)[0] == "005.png" and every(browser, "#results .check")


def test_nothing_fits_is_said(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    browser = browse(f"{address}/?q=red green blue yellow purple cyan pink orange")
    done(browser, "red green")
    assert one(browser, "#notice").text == show.NOTHING_FITS
    assert "✗" in one(browser, "#results .check").text


def test_what_is_typed_is_no_markup(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    hostile = "<img src=x onerror=document.title=1>"
    browser = browse(address)
    say(browser, f"a green circle {hostile}")
    done(browser, "a green circle")
    one(browser, "#refine").click()
    one(browser, "#past summary").click()
    assert hostile in one(browser, "#chips").text and hostile in one(browser, "#history").text
    assert browser.title != "1" and not every(browser, "img[src=x]")


def test_an_upload_is_a_reference(
    address: str, captions: list[str], browse: Callable[..., Any], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    browser = browse(address)
    one(browser, "#upload").send_keys(str(bad))
    refused = "The reference picture was not taken: not an image"
    wait(browser, lambda b: one(b, "#notice").text == refused)
    assert not every(browser, "#chips .chip")
    one(browser, "#upload").send_keys(str(tmp_path / "in" / red(captions)))
    wait(browser, lambda b: every(b, "#chips .chip"))
    say(browser, "red to blue")
    done(browser, "red to blue")
    assert red(captions) not in names(browser)


@pytest.mark.parametrize("address", ["cirevl"], indirect=True)
def test_a_method_that_needs_a_reference_asks_for_one(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    browser = browse(address)
    wait(browser, names)
    assert not every(browser, "#examples")
    say(browser, "keep it")
    wait(browser, lambda b: "cirevl starts from a reference picture" in one(b, "#notice").text)
    browser.get(f"{address}/?q=keep it&like=002.png")
    done(browser, "keep it")
    meaning = one(browser, "#meaning").get_attribute("textContent")
    assert f"looking for: {captions[2]} keep it" in " ".join(meaning.split())


@pytest.mark.parametrize("address", ["above"], indirect=True)
def test_findings_of_every_kind_are_on_the_page(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    drawn = library.home() / "image_db" / "drawn"
    drawn.mkdir()
    Image.new("RGB", (800, 400), "red").save(drawn / "1.png")
    browser = browse(f"{address}/?q={captions[4]}")
    done(browser, captions[4])
    one(browser, "#meaning summary").click()
    lines = [line.text for line in every(browser, "#meaning li")]
    assert lines[0] == f"Atoms {HOSTILE}, object: {HOSTILE}" and len(lines) == 6
    wait(browser, lambda b: loaded(b, "#meaning img"))
    assert len(every(browser, "#meaning img")) == 2
    one(browser, "#results .show").click()
    details = one(browser, "#viewer-details").text
    for words in ("Is it red? yes", "Is it old? no, wanted yes", "share: 0.25"):
        assert words in details
    assert not every(browser, "img[src=x]")


def test_a_written_page_opens_pictures_too(
    captions: list[str], tmp_path: Path, browse: Callable[..., Any]
) -> None:
    with ImageScope.open("n") as scope:
        answer = scope.search(captions[3], top=4)
    path = tmp_path / "out.html"
    path.write_text(show.page(answer, "n"), encoding="utf-8")
    (answer[1].path).rename(tmp_path / "gone.png")
    browser = browse(path.as_uri())
    one(browser, ".results .show").click()
    assert one(browser, "#viewer-name").text == "003.png"
    source = "return document.getElementById('viewer-image').src"
    wait(browser, lambda b: b.execute_script(source) == answer[0].path.as_uri())
    assert str(answer[0].path) in one(browser, "#viewer-details").text
    assert every(browser, "[data-go=like], [data-go=reveal]") == []
    assert one(browser, "#viewer-file").get_attribute("href") == answer[0].path.as_uri()
    press(browser, "ARROW_RIGHT")  # one that is gone keeps its thumbnail
    assert browser.execute_script(source).startswith("data:image/jpeg") and loaded(browser, "img")
    browser.get_log("browser")  # the file that is gone
