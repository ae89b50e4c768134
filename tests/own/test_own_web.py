"""The page, in Debian's Chromium: two visitors, and what nobody may read through it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import own_oracle
import pytest
from own_oracle import oracle, scenes
from PIL import Image
from test_own_methods import HOSTILE, Above

from imagescope.errors import UserError
from imagescope.own import library
from imagescope.own.indexing import build
from imagescope.own.scope import ImageScope
from imagescope.registry import METHODS, Registry

pytest.importorskip("gradio", reason="the page needs gradio")
__all__ = ["oracle"]
SCRIPT = Path(__file__).parents[2] / "script" / "screenshot.py"
COUNT = 30


@pytest.fixture
def captions(oracle: str, tmp_path: Path) -> list[str]:
    found = scenes(tmp_path / "in", COUNT)
    build(tmp_path / "in", "n", oracle)
    return found


@pytest.fixture
def address(
    captions: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    register: Callable[[Registry, str, Any], None],
    request: pytest.FixtureRequest,
) -> Iterator[str]:
    """Of a page that searches with the method of the fixture's parameter, else with ImageScope."""
    from imagescope.own.web import Desk, start

    register(METHODS, "above", Above)
    method = getattr(request, "param", "imagescope")

    (tmp_path / "uploads").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    desk = Desk(lambda: ImageScope.open("n", method=method))
    page = start(desk, "127.0.0.1", 0, 6)
    yield page.local_url.rstrip("/")
    page.close(verbose=False)
    desk.close()


def status(url: str, data: bytes | None = None) -> int:
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_no_address_names_a_file(address: str, captions: list[str], tmp_path: Path) -> None:
    picture = tmp_path / "in" / "000.png"
    manifest = library.read_manifest("n")
    files = [
        picture,
        library.thumbnail("n", manifest.pictures["000.png"]),
        library.place("n") / "index.json",
        Path("/etc/passwd"),
        Path(os.__file__),
        Path(__file__),
        Path("pyproject.toml"),
        Path(address.split("://")[1]) / ".." / ".." / "etc" / "passwd",
    ]
    ways = ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/", "/")
    for file in map(str, files):
        for spelling in (file, quote(file, safe=""), f"../../..{file}", f"file://{file}"):
            for way in ways:
                found = status(f"{address}{way}{quote(spelling, safe='/%')}")
                assert found in (403, 404, 405), f"{way}{spelling}"
    assert status(f"{address}/gradio_api/proxy=http://127.0.0.1/") >= 400


def test_only_uploads_become_references(address: str, captions: list[str], tmp_path: Path) -> None:
    """A request that names a file of the server's as the reference is refused."""
    secret = tmp_path / "secret.png"
    shutil.copy(tmp_path / "in" / "000.png", secret)
    uploaded = Path(upload(address, secret))
    climbing = uploaded.parent / ".." / ".." / "secret.png"
    assert "<img" in take(address, uploaded)
    for path in (
        secret,
        tmp_path / "in" / "001.png",
        climbing,
        f"{address}/config",
        f"file://{secret}",
    ):
        assert "<img" not in take(address, path), path
    assert secret.exists() and (tmp_path / "in" / "001.png").exists()


def upload(address: str, file: Path) -> str:
    """Uploads a file as the page does; its path on the server."""
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head + file.read_bytes() + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    request = urllib.request.Request(f"{address}/gradio_api/upload", body, kind)
    with urllib.request.urlopen(request, timeout=20) as response:
        return str(json.load(response)[0])


def event(address: str, component: str, kind: str) -> int:
    """The number of an event of the component that has this id on the page."""
    with urllib.request.urlopen(f"{address}/config", timeout=20) as response:
        config = json.load(response)
    (place,) = [c["id"] for c in config["components"] if c["props"].get("elem_id") == component]
    (number,) = [d["id"] for d in config["dependencies"] if [place, kind] in d["targets"]]
    return int(number)


def ask(address: str, number: int, data: list[Any], session: str) -> str:
    """All that the server says to an event, asked as the page asks."""
    body = {"data": data, "fn_index": number, "session_hash": session}
    assert status(f"{address}/gradio_api/queue/join", json.dumps(body).encode()) == 200
    url = f"{address}/gradio_api/queue/data?session_hash={session}"
    said = ""
    with urllib.request.urlopen(url, timeout=20) as events:
        for line in events:
            found = json.loads(line[6:]) if line.startswith(b"data: ") else {}
            said += json.dumps(found)
            if found.get("msg") == "process_completed":
                return said
    raise AssertionError("no end")


def take(address: str, path: Path | str, session: str = "") -> str:
    """What is said to a file that is to be the reference."""
    file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    number = event(address, "upload", "upload")
    return ask(address, number, [file, None], session or f"s{abs(hash(path))}")


def test_a_refused_reference_is_said_and_nothing_is_searched_without_it(
    address: str, captions: list[str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    asked, line = len(own_oracle.ASKED), event(address, "line", "submit")
    said = take(address, upload(address, bad), "v")
    assert "was not taken: not an image" in said and str(tmp_path) not in said
    said = ask(address, line, ["red to blue", None], "v")
    assert "Nothing was searched" in said and "was not taken" in said
    assert str(tmp_path) not in said and len(own_oracle.ASKED) == asked
    ask(address, event(address, "without", "click"), [None], "v")
    assert "Looking for" in ask(address, line, [captions[0], None], "v")
    assert len(own_oracle.ASKED) > asked


def test_messages_name_no_folder(
    address: str, captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagescope.methods import imagescope as stages

    def fails(*_: Any) -> Any:
        raise UserError(f"{tmp_path}/in/000.png: gone. See /etc/some where/x, '/opt/models/a b.c'")

    monkeypatch.setattr(stages, "verify", fails)
    said = ask(address, event(address, "line", "submit"), [captions[0], None], "v")
    assert "000.png: gone" in said
    for folder in (str(tmp_path), "/etc", "/opt", "/in/"):
        assert folder not in said


def test_limits_are_the_servers(address: str, captions: list[str], tmp_path: Path) -> None:
    from imagescope.own.guard import MOST_UPLOADS
    from imagescope.own.web import LONGEST

    line = event(address, "line", "submit")
    asked = len(own_oracle.ASKED)
    assert "at most 2000 characters" in ask(address, line, ["x" * (LONGEST + 1), None], "v")
    assert len(own_oracle.ASKED) == asked
    join = f"{address}/gradio_api/queue/join"
    assert status(join, b" " * (65 << 10)) == 413
    assert raw(address, "POST /gradio_api/upload", "Content-Length: 40000000") == 413
    assert raw(address, "POST /gradio_api/upload", "Transfer-Encoding: chunked") == 411
    for path in ("process_recording", "component_server", "run/say", "call/say"):
        assert raw(address, f"POST /gradio_api/{path}", "Content-Length: 0") == 404
    for _ in range(MOST_UPLOADS + 5):
        picture = tmp_path / "one.png"
        picture.write_bytes(os.urandom(20))
        upload(address, picture)
    assert len(list((tmp_path / "uploads").glob("*/*"))) <= MOST_UPLOADS


def test_a_new_line_ends_the_search_of_the_one_before(captions: list[str]) -> None:
    """So one visitor has one search, however many lines are sent."""
    from imagescope.own.desk import Desk, Session

    desk, session = Desk(lambda: ImageScope.open("n")), Session()
    try:
        first = desk.answers(session, captions[0], 6)
        assert next(first).stage == "s0"
        session.turn += 1
        asked = len(own_oracle.ASKED)
        assert list(first) == [] and len(own_oracle.ASKED) == asked
        assert [a.stage for a in desk.answers(session, captions[1], 6)] == ["s0", "s1", "s2", "s3"]
    finally:
        desk.close()


def raw(address: str, request: str, *headers: str, host: str = "") -> int:
    """The status of an answer to bytes that no client of good manners would send."""
    place = address.removeprefix("http://")
    name, port = place.split(":")
    lines = [f"{request} HTTP/1.1", *([f"Host: {host or place}"] if host != "none" else [])]
    with socket.create_connection((name, int(port)), 20) as connection:
        connection.sendall("\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_the_page_answers_to_its_own_host_and_origin_alone(
    address: str, captions: list[str]
) -> None:
    port = address.rsplit(":", 1)[1]
    for path in ("/", "/config", "/gradio_api/queue/data?session_hash=x", "/assets/x"):
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "none",
                     f"127.0.0.1.nip.io:{port}", "10.0.0.1", "[::1", "@localhost"):  # fmt: skip
            assert raw(address, f"GET {path}", host=host) in (400, 403), (path, host)
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert raw(address, "GET /config", host=host) == 200, host
    own = f"127.0.0.1:{port}"
    assert raw(address, "GET /config", f"Origin: http://{own}") == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1:1"):
        for request in ("GET /config", "POST /gradio_api/queue/join", "OPTIONS /config"):
            refused = raw(address, request, f"Origin: {origin}", "Content-Length: 0",
                          "Access-Control-Request-Method: POST")  # fmt: skip
            assert refused == 403, (origin, request)
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Key: eA==", "Sec-WebSocket-Version: 13")
    assert raw(address, "GET /gradio_api/x", *upgrade, "Origin: http://evil.example") >= 400


@pytest.fixture
def browse() -> Iterator[Callable[..., Any]]:
    pytest.importorskip("selenium", reason="the browser is driven by selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
    spec = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    opened = []

    def visit(address: str, **options: Any) -> Any:
        browser = module.open_browser(**options)
        opened.append(browser)
        browser.get(address)
        return browser

    yield visit
    for browser in opened:
        browser.quit()


def wait(browser: Any, what: Callable[[Any], Any], seconds: float = 30) -> Any:
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, 0.1, [StaleElementReferenceException]).until(what)


def say(browser: Any, text: str) -> None:
    box = wait(browser, lambda b: b.find_element("css selector", "#line textarea"))
    box.clear()
    box.send_keys(text + "\n")


def cards(browser: Any) -> list[Any]:
    found = browser.find_elements("css selector", "#results article")
    return [card for card in found if card.is_displayed()]


def names(browser: Any) -> list[str]:
    return [card.get_attribute("data-name") for card in cards(browser)]


def done(browser: Any) -> bool:
    return "Done" in browser.find_element("css selector", "#status").text


def test_starting_over_during_a_search(
    address: str,
    captions: list[str],
    browse: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was asked before is forgotten, even while it is still being answered."""
    from imagescope.methods import imagescope as stages

    verify, go = stages.verify, threading.Event()
    monkeypatch.setattr(stages, "verify", lambda *rest: go.wait(30) and verify(*rest))
    browser = browse(address)
    say(browser, captions[0])
    wait(
        browser,
        lambda b: (
            "predicate verification under way" in b.find_element("css selector", "#status").text
        ),
    )
    browser.find_element("css selector", "#again").click()
    wait(browser, lambda b: not names(b))
    go.set()
    say(browser, captions[3])
    wait(browser, lambda b: done(b) and names(b)[0] == "003.png")
    said = browser.find_element("css selector", "#said").text
    assert f"Looking for: {captions[3]}" in said and captions[0] not in said


def test_caption_then_a_result_then_a_change(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    place = next(i for i, text in enumerate(captions) if " red " in text)
    browser = browse(address)
    say(browser, captions[place])
    wait(browser, lambda b: done(b) and len(names(b)) == 6)
    first = names(browser)
    assert first[0] == f"{place:03d}.png"
    best = cards(browser)[0].text
    assert "is there red? yes" in best and "accepted by the evaluator" in best
    assert browser.execute_script(
        "return [...document.querySelectorAll('#results img')].every(i => i.naturalWidth > 0)"
    )
    browser.find_element("css selector", "#like-1").click()
    wait(browser, lambda b: "is the reference" in b.find_element("css selector", "#said").text)
    wait(browser, lambda b: b.find_elements("css selector", "#reference img"))
    say(browser, "red to blue")
    wait(browser, lambda b: done(b) and "is there blue?" in cards(b)[0].text)
    second = names(browser)
    assert f"{place:03d}.png" not in second and second != first

    other = browse(address, width=390, height=844)  # a second visitor, with a phone
    assert names(other) == []
    hostile = "<img src=x onerror=document.title=1>"
    say(other, f"a green circle {hostile}")
    wait(other, lambda b: done(b) and names(b))
    assert hostile in other.find_element("css selector", "#said").text and other.title != "1"
    assert names(browser) == second  # the first one's results are their own
    wide = other.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 390
    errors = [
        entry["message"]
        for visitor in (browser, other)
        for entry in visitor.get_log("browser")
        if entry["level"] == "SEVERE"
    ]
    assert errors == []


def test_first_results_show_before_the_last_stage(
    address: str, captions: list[str], browse: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stage 1's pictures are on the page while stage 2 still waits for its model."""
    from threading import Event

    from imagescope.methods import imagescope as stages

    go, real = Event(), stages.verify

    def held(*args: Any) -> Any:
        assert go.wait(60)
        return real(*args)

    monkeypatch.setattr(stages, "verify", held)
    browser = browse(address)
    say(browser, captions[3])
    wait(
        browser,
        lambda b: (
            "predicate verification under way" in b.find_element("css selector", "#status").text
        ),
    )
    assert names(browser)[:1] == ["003.png"]
    assert not done(browser)
    assert not browser.find_elements("css selector", "#results article li")
    go.set()
    wait(browser, done)
    assert browser.find_elements("css selector", "#results article li")


def test_an_upload_is_a_reference(
    address: str, captions: list[str], browse: Callable[..., Any], tmp_path: Path
) -> None:
    place = next(i for i, text in enumerate(captions) if " red " in text)
    browser = browse(address)
    upload = wait(browser, lambda b: b.find_element("css selector", "#upload input[type=file]"))
    upload.send_keys(str(tmp_path / "in" / f"{place:03d}.png"))
    wait(browser, lambda b: b.find_elements("css selector", "#reference img"))
    say(browser, "red to blue")
    wait(browser, lambda b: done(b) and names(b))
    assert f"{place:03d}.png" not in names(browser)


@pytest.mark.parametrize("address", ["cirevl"], indirect=True)
def test_a_method_that_needs_a_reference_asks_for_one(
    address: str, captions: list[str], browse: Callable[..., Any], tmp_path: Path
) -> None:
    browser = browse(address)
    say(browser, "keep it")
    said = "cirevl starts from a reference picture"
    wait(browser, lambda b: said in b.find_element("css selector", "#said").text)
    upload = browser.find_element("css selector", "#upload input[type=file]")
    upload.send_keys(str(tmp_path / "in" / "002.png"))
    wait(browser, lambda b: b.find_elements("css selector", "#reference img"))
    say(browser, "keep it")
    wait(browser, lambda b: done(b) and len(names(b)) == 6)
    meant = browser.find_element("css selector", "#meant").get_attribute("textContent")
    assert f"looking for: {captions[2]} keep it" in " ".join(meant.split())


@pytest.mark.parametrize("address", ["above"], indirect=True)
def test_findings_of_every_kind_are_on_the_page(
    address: str, captions: list[str], browse: Callable[..., Any]
) -> None:
    drawn = library.home() / "image_db" / "drawn"
    drawn.mkdir()
    Image.new("RGB", (800, 400), "red").save(drawn / "1.png")
    browser = browse(address)
    say(browser, captions[4])
    wait(browser, lambda b: done(b) and len(names(b)) == 6)
    browser.find_element("css selector", "#meant summary").click()
    lines = [line.text for line in browser.find_elements("css selector", "#meant li")]
    assert lines[0] == f"Atoms {HOSTILE}, object: {HOSTILE}" and len(lines) == 6
    shown = "return [...document.querySelectorAll('#meant li img')].map(i => i.naturalWidth)"
    assert wait(browser, lambda b: all(b.execute_script(shown)))
    assert len(browser.execute_script(shown)) == 2 and max(browser.execute_script(shown)) == 384
    best = cards(browser)[0].text
    assert (
        "Is it red? yes" in best and "Is it old? no, wanted yes" in best and "share: 0.25" in best
    )
    assert not browser.find_elements("css selector", "img[src=x]")
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
