"""The page's server over HTTP: what it answers, and what nobody may read through it."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import own_oracle
import pytest
from own_oracle import oracle, scenes
from PIL import Image
from test_own_methods import Above

from imagescope.errors import UserError
from imagescope.own import library, pictures
from imagescope.own.indexing import build
from imagescope.own.pictures import Filter
from imagescope.own.scope import ImageScope
from imagescope.registry import METHODS, Registry

pytest.importorskip("fastapi", reason="the page needs FastAPI")
__all__ = ["oracle"]
COUNT = 30
DAY = 86_400


@pytest.fixture
def captions(oracle: str, tmp_path: Path) -> list[str]:
    """Thirty scenes, indexed as 'n': the first the newest, a day between two; five in a folder."""
    texts = scenes(tmp_path / "in", COUNT)
    for number in range(COUNT):
        path = tmp_path / "in" / f"{number:03d}.png"
        time = datetime(2026, 6, 30, 12, tzinfo=UTC).timestamp() - number * DAY
        os.utime(path, (time, time))
    (tmp_path / "in" / "old").mkdir()
    for number in range(COUNT - 5, COUNT):
        name = f"{number:03d}.png"
        (tmp_path / "in" / name).rename(tmp_path / "in" / "old" / name)
    build(tmp_path / "in", "n", oracle)
    return texts


@pytest.fixture
def address(
    captions: list[str],
    register: Callable[[Registry, str, Any], None],
    request: pytest.FixtureRequest,
) -> Iterator[str]:
    """Of a page that searches with the method of the fixture's parameter, else with ImageScope."""
    from imagescope.own.desk import Desk
    from imagescope.own.web import serving

    register(METHODS, "above", Above)
    desk = Desk(lambda: ImageScope.open("n", method=getattr(request, "param", "imagescope")))
    with serving(desk, "127.0.0.1", 0, 6) as url:
        yield url
    desk.close()


def fetch(
    url: str, data: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    """Status, content and headers."""
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, {**kind, **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def get(url: str) -> Any:
    status, content, _ = fetch(url)
    assert status == 200, content
    return json.loads(content)


def search(
    address: str, text: str, headers: Mapping[str, str] | None = None, **rest: Any
) -> list[dict[str, Any]]:
    """The lines of a search's answer; of one that is refused its detail."""
    body = json.dumps({"text": text, **rest}).encode()
    _, content, _ = fetch(f"{address}/api/search", body, headers)
    return [json.loads(line) for line in content.splitlines()]


def raw(address: str, request: str, *headers: str, host: str = "") -> int:
    """The status of an answer to bytes that no client of good manners would send."""
    place = address.removeprefix("http://")
    name, port = place.split(":")
    lines = [f"{request} HTTP/1.1", *([f"Host: {host or place}"] if host != "none" else [])]
    with socket.create_connection((name, int(port)), 20) as connection:
        connection.sendall("\r\n".join([*lines, *headers, "Connection: close", "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


# -- what it answers ------------------------------------------------------------------------


def test_an_index_describes_itself(address: str, captions: list[str]) -> None:
    index = get(f"{address}/api/index")
    assert (index["name"], index["pictures"]) == ("n", COUNT)
    assert index["folders"] == {"old": 5} and index["formats"] == {"png": COUNT}
    assert index["days"] == ["2026-06-01", "2026-06-30"]
    assert len(set(index["examples"])) == 3
    assert all(any(c.startswith(text) for c in captions) for text in index["examples"])


def test_pictures_come_newest_first_and_by_filters(address: str, captions: list[str]) -> None:
    first = get(f"{address}/api/pictures?limit=2")
    assert first["count"] == COUNT
    assert first["pictures"] == [
        {"name": "000.png", "caption": captions[0], "day": "2026-06-30"},
        {"name": "001.png", "caption": captions[1], "day": "2026-06-29"},
    ]
    for query, names in (
        ("folder=old", [f"old/{n:03d}.png" for n in range(25, 30)]),
        ("since=2026-06-29", ["000.png", "001.png"]),
        ("until=2026-06-02&folder=old", ["old/028.png", "old/029.png"]),
        ("folder=old&offset=4", ["old/029.png"]),
        ("folder=ol", []),
        ("format=jpg", []),
    ):
        found = get(f"{address}/api/pictures?{query}")["pictures"]
        assert [picture["name"] for picture in found] == names, query
    assert fetch(f"{address}/api/pictures?since=yesterday")[0] == 422


def test_a_search_gets_better_line_by_line(address: str, captions: list[str]) -> None:
    lines = search(address, captions[4])
    assert [line["stage"] for line in lines] == ["s0", "s1", "s2", "s3"]
    assert [bool(line["upcoming"]) for line in lines] == [True, True, True, False]
    with ImageScope.open("n") as scope:
        alone = scope.search(captions[4], top=6)
    assert [r["name"] for r in lines[-1]["results"]] == [r.name for r in alone]
    assert lines[-1]["results"][0]["notes"][0]["passed"] is True
    *_, refined = search(address, "a white background", previous=lines[-1]["carried"], top=3)
    assert refined["carried"] == f"{captions[4]} a white background"
    assert len(refined["results"]) == 3
    *_, some = search(address, captions[4], where={"folder": "old"})
    assert {r["name"] for r in some["results"]} == {f"old/{n:03d}.png" for n in range(25, 30)}
    (refused,) = search(address, captions[4], where={"format": "gif"})
    assert refused == {"detail": "no picture matches the filters"}
    assert "the text is empty" in search(address, " ")[0]["detail"]


def test_a_picture_is_seen_small_large_and_whole(
    address: str, captions: list[str], tmp_path: Path
) -> None:
    name = quote("old/027.png", safe="")
    for kind in ("thumbnail", "view"):
        status, content, headers = fetch(f"{address}/api/{kind}?name={name}")
        assert status == 200 and headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(content)).size == (64, 64)
    status, content, headers = fetch(f"{address}/api/file?name={name}")
    assert content == (tmp_path / "in" / "old" / "027.png").read_bytes()
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''027.png"
    assert headers["x-content-type-options"] == "nosniff"


def test_the_api_is_described(address: str) -> None:
    described = get(f"{address}/openapi.json")
    assert {"/api/search", "/api/file", "/api/references"} <= described["paths"].keys()
    assert not any(path.startswith("/page") for path in described["paths"])
    status, content, _ = fetch(f"{address}/docs")
    assert status == 200
    for path in described["paths"]:
        assert f" {path}</code>".encode() in content
    assert b"http:" not in content and b"https:" not in content  # nothing from elsewhere


def test_an_upload_is_a_reference_and_a_copy_is_the_indexs_own(
    address: str, captions: list[str], tmp_path: Path
) -> None:
    here = (tmp_path / "in" / "003.png").read_bytes()
    assert json.loads(fetch(f"{address}/api/references", here)[1]) == {"reference": "003.png"}
    scenes(tmp_path / "other", 1, seed=99)
    content = (tmp_path / "other" / "000.png").read_bytes()
    reference = json.loads(fetch(f"{address}/api/references", content)[1])["reference"]
    assert reference.startswith("upload-")
    assert fetch(f"{address}/api/thumbnail?name={reference}")[0] == 200
    *_, last = search(address, "keep it", reference=reference)
    assert last["reference"].endswith(".png") and len(last["results"]) == 6
    status, said, _ = fetch(f"{address}/api/references", b"no picture")
    assert status == 400 and json.loads(said) == {"detail": "not an image"}


# -- what it refuses ------------------------------------------------------------------------


def test_no_address_names_a_file_but_by_the_index(address: str, tmp_path: Path) -> None:
    manifest = library.read_manifest("n")
    files = [
        tmp_path / "in" / "000.png",
        library.thumbnail("n", manifest.pictures["000.png"]),
        library.place("n") / "index.json",
        Path("/etc/passwd"),
        Path(os.__file__),
        Path("pyproject.toml"),
        Path("in") / ".." / "000.png",
        Path("old") / ".." / "000.png",
    ]
    ways = [f"/api/{kind}?name=" for kind in ("thumbnail", "view", "file")]
    for file in map(str, files):
        for spelling in (file, quote(file, safe=""), f"../../..{file}", f"file://{file}"):
            for way in (*ways, "/static/", "/static/../own/", "/"):
                code = fetch(f"{address}{way}{quote(spelling, safe='/%')}")[0]
                assert code in (400, 404, 422), f"{way}{spelling}"
            (said,) = search(address, "keep it", reference=spelling)
            assert "the reference picture is not here" in said["detail"]


def test_what_is_no_longer_what_was_indexed_is_not_given(
    address: str, captions: list[str], tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    folder = tmp_path / "in"
    shutil.copy2(folder / "002.png", secret)
    for name in ("000.png", "001.png", "002.png"):
        (folder / name).unlink()
    (folder / "001.png").write_text("other")
    (folder / "002.png").symlink_to(secret)  # the same bytes and time, but outside
    (folder / "old").rename(tmp_path / "moved")
    (folder / "old").symlink_to(tmp_path / "moved")
    changed = "has changed since it was indexed"
    for name, why in (
        ("000.png", "No such file"), ("001.png", changed), ("002.png", changed),
        ("old/027.png", changed),
    ):  # fmt: skip
        for kind in ("view", "file"):
            status, said, _ = fetch(f"{address}/api/{kind}?name={quote(name, safe='')}")
            assert status == 400 and why in json.loads(said)["detail"], (name, kind)
        assert fetch(f"{address}/api/thumbnail?name={quote(name, safe='')}")[0] == 200


def test_visitors_from_elsewhere_learn_no_folder_and_open_nothing(
    address: str, captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(pictures, "file_manager", lambda: ["manager"])
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: started.append(words))
    through = {"X-Forwarded-For": "10.0.0.9"}
    *_, there = search(address, captions[1], reference="002.png", headers=through)
    *_, here = search(address, captions[1], reference="002.png")
    assert str(tmp_path) not in json.dumps(there) and there["reference"] == "002.png"
    assert here["results"][0]["path"].startswith(str(tmp_path / "in"))
    cards = "/page/pictures?limit=2"
    assert str(tmp_path).encode() in fetch(address + cards)[1]
    assert str(tmp_path).encode() not in fetch(address + cards, headers=through)[1]
    body = json.dumps({"name": "old/027.png"}).encode()
    assert fetch(f"{address}/api/open", body, through)[0] == 403
    assert b"Show in folder" not in fetch(address, headers=through)[1]
    assert not started
    assert b"Show in folder" in fetch(address)[1]
    assert fetch(f"{address}/api/open", body)[0] == 204
    assert started == [["manager", str(tmp_path / "in" / "old")]]
    for name in ("/etc/passwd", "old", "../x", "-h"):
        assert fetch(f"{address}/api/open", json.dumps({"name": name}).encode())[0] == 400
    assert len(started) == 1


@pytest.mark.parametrize(
    ("platform", "display", "command"),
    [
        ("darwin", "", ["open", "-R"]),
        ("win32", "", ["explorer", "/select,"]),
        ("linux", "", []),
        ("linux", ":0", ["/bin/xdg-open"]),
    ],
)
def test_the_file_manager_is_the_desktops(
    platform: str, display: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert pictures.file_manager() == command


def test_messages_name_no_folder(
    address: str, captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imagescope.methods import imagescope as stages

    def fails(*_: Any) -> Any:
        raise UserError(f"{tmp_path}/in/000.png: gone. See /etc/some where/x, '/opt/models/a b.c'")

    monkeypatch.setattr(stages, "verify", fails)
    said = search(address, captions[0])[-1]["error"]
    assert "000.png: gone" in said
    for folder in (str(tmp_path), "/etc", "/opt", "/in/"):
        assert folder not in said


def test_limits_are_the_servers(address: str, captions: list[str]) -> None:
    from imagescope.own.api import LONGEST

    asked = len(own_oracle.ASKED)
    (said,) = search(address, "x" * (LONGEST + 1))
    assert "at most 2000 characters" in said["detail"][0]["msg"]
    assert len(own_oracle.ASKED) == asked
    assert fetch(f"{address}/api/search", b" " * (65 << 10))[0] == 413
    assert raw(address, "POST /api/references", "Content-Length: 40000000") == 413
    assert raw(address, "POST /api/references", "Transfer-Encoding: chunked") == 411
    for path in ("/", "/api/file", "/api/index", "/static/page.js"):
        assert raw(address, f"POST {path}", "Content-Length: 0") == 404
    for method in ("PUT", "DELETE", "OPTIONS"):
        assert raw(address, f"{method} /api/search", "Content-Length: 0") == 404


def test_kept_uploads_are_bounded(captions: list[str], tmp_path: Path) -> None:
    from imagescope.own.references import MOST, References

    references = References(library.read_manifest("n"), tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    names = []
    for number in range(MOST + 3):
        Image.new("RGB", (8, 8), (number, 9, 9)).save(tmp_path / "up.png")
        names.append(references.take(tmp_path / "up.png"))
    assert len(list((tmp_path / "kept").iterdir())) == MOST
    assert references.find(names[-1]).exists()
    with pytest.raises(UserError, match="is not here any more"):
        references.find(names[0])


def test_whoever_leaves_ends_the_search(
    address: str, captions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was asked for somebody who has gone costs no model anything."""
    from imagescope.methods import imagescope as stages

    verify, evaluate, go, calls = stages.verify, stages.evaluate, threading.Event(), list[str]()

    def slow(*rest: Any) -> Any:
        calls.append("verify")
        assert go.wait(30)
        return verify(*rest)

    monkeypatch.setattr(stages, "verify", slow)
    monkeypatch.setattr(stages, "evaluate", lambda *a: calls.append("evaluate") or evaluate(*a))
    body = json.dumps({"text": captions[0]}).encode()
    kind = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/api/search", body, kind)
    with urllib.request.urlopen(request, timeout=20) as lines:
        assert [json.loads(lines.readline())["stage"] for _ in range(2)] == ["s0", "s1"]
        while calls != ["verify"]:
            time.sleep(0.01)
    time.sleep(0.5)  # the server is told of it by its next look at the connection
    go.set()
    *_, last = search(address, captions[1])
    assert last["stage"] == "s3" and calls == ["verify", "verify", "evaluate"]


def test_the_page_answers_to_its_own_host_and_origin_alone(address: str) -> None:
    port = address.rsplit(":", 1)[1]
    for path in ("/", "/api/index", "/api/file?name=000.png", "/static/page.js"):
        for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "none",
                     f"127.0.0.1.nip.io:{port}", "10.0.0.1", "[::1", "@localhost"):  # fmt: skip
            assert raw(address, f"GET {path}", host=host) in (400, 403), (path, host)
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", f"LOCALHOST:{port}"):
        assert raw(address, "GET /api/index", host=host) == 200, host
    own = f"127.0.0.1:{port}"
    assert raw(address, "GET /api/index", f"Origin: http://{own}") == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{port}", "http://127.0.0.1:1"):
        for request in ("GET /api/index", "POST /api/search", "POST /api/open", "OPTIONS /"):
            assert raw(address, request, f"Origin: {origin}", "Content-Length: 0") == 403, origin
    image = "GET /api/thumbnail?name=000.png"
    for site, mode, code in (
        ("cross-site", "no-cors", 403),  # an <img> of another page
        ("same-site", "no-cors", 403),
        ("same-origin", "no-cors", 200),
        ("none", "navigate", 200),
        ("cross-site", "navigate", 200),  # a link
    ):
        found = raw(address, image, f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Mode: {mode}")
        assert found == code, (site, mode)


# -- filters --------------------------------------------------------------------------------


def test_examples_are_as_long_as_one_would_type() -> None:
    from imagescope.own.library import Entry

    captions = (
        "A dog. It runs.",
        "a large red circle at the top left and a small blue square at the bottom right",
        "one two three four five six seven eight nine ten eleven twelve thirteen",
        "",
    )
    entries = {
        f"{n}.jpg": Entry(sha256=str(n), size=1, modified=n * DAY * 10**9, caption=text)
        for n, text in enumerate(captions)
    }
    manifest = library.Manifest.model_construct(pictures=entries)
    assert pictures.examples(manifest) == [
        "A dog",
        "a large red circle at the top left",
        "one two three four five six seven eight nine ten eleven twelve",
    ]
    assert pictures.examples(library.Manifest.model_construct(pictures={})) == []
    assert Filter(until=date(1970, 1, 2)).names(manifest) == ("1.jpg", "0.jpg")
    assert pictures.format_of("a/b.JPEG") == "jpg" and pictures.format_of("x.tiff") == "tif"


def test_a_port_that_is_taken_is_said(captions: list[str]) -> None:
    from imagescope.own.web import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port}: Address already in use\. Ano"):
            serve("n", "127.0.0.1", port, 6, None, None, True)
    with pytest.raises(UserError, match="cannot listen on no such host:0"):
        serve("n", "no such host", 0, 6, None, None, True)
