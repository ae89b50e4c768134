"""The response cache: what is in a key, all or nothing, several at once, bundles, bad files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagescope.engines import Lazy
from imagescope.engines.base import (
    Answers,
    EngineClass,
    Pair,
    Picture,
    Request,
    Requests,
    Response,
    blocks,
    collect,
)
from imagescope.engines.cached import Cached
from imagescope.errors import UserError
from imagescope.store.bundle import export, read_used, write_used
from imagescope.store.cache import Cache
from imagescope.store.entries import Entry, Used
from imagescope.store.hashing import digest


class Counting(EngineClass):
    """An engine that says back what it was asked, and counts. (Only tests have such a thing.)"""

    def __init__(self, identity: dict[str, Any] | None = None, fail: Sequence[str] = ()):
        self.identity = identity or {"engine": "test", "model": "m"}
        self.declared = {"engine": "auto", "model": "m"}
        self.fail, self.loads, self.load_seconds = fail, 0, 0.0
        self.asked: list[Request] = []
        self.calls: list[int] = []

    def generate(self, requests: Requests) -> Iterator[Answers]:
        for block in blocks(requests):
            self.loads = 1
            self.calls.append(len(block))
            for i, request in reversed(block):
                self.asked.append(request)
                yield {i: self.answer(request)}

    def answer(self, request: Request) -> Response:
        if request.prompt in self.fail:
            return Response("", finish="error", error="refused")
        return Response(f"said {request.prompt}", 3, 2, probabilities=(0.1, 0.9))

    def close(self) -> None:
        self.loads = 0


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    with Cache.open(tmp_path / "responses.sqlite") as opened:
        yield opened


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{colour}.png" for colour in ("red", "blue")]
    for path in paths:
        Image.new("RGB", (8, 8), path.stem).save(path)
    return [str(path) for path in paths]


def test_the_same_question_is_asked_once(cache: Cache) -> None:
    engine = Counting()
    cached = Cached(engine, cache)
    texts = [r.text for r in collect(cached, [Request("a"), Request("b"), Request("a")])]
    assert texts == ["said a", "said b", "said a"]
    again = collect(Cached(engine, cache), [Request("b"), Request("a")])
    assert [r.text for r in again] == ["said b", "said a"]
    assert again[0] == Response("said b", 3, 2, probabilities=(0.1, 0.9))
    assert len(engine.asked) == 2
    stats = cached.stats
    assert (stats.wanted, stats.duplicates, stats.cached, stats.asked) == (3, 1, 0, 2)
    assert (stats.prompt_tokens, stats.output_tokens) == (6, 4)


def test_every_ingredient_is_in_the_key_and_nothing_else(
    cache: Cache, pictures: list[str], tmp_path: Path
) -> None:
    red, blue = pictures
    base = Request("q", (Picture(red),))
    variants = [
        base,
        replace(base, prompt="r"),
        replace(base, images=()),
        replace(base, images=(Picture(blue),)),
        replace(base, images=(Pair(None, red),)),
        replace(base, images=(Pair(red, blue),)),
        replace(base, images=(Pair(blue, red),)),
        replace(base, max_tokens=255),
        replace(base, repetition_penalty=1.1),
        replace(base, stop=("x",)),
        replace(base, choices=("yes", "no")),
        replace(base, choices=("no", "yes")),
        replace(base, schema="{}"),
    ]
    engine = Counting()
    collect(Cached(engine, cache), variants)
    assert len(engine.asked) == len(variants)

    for name in ("engine", "model", "revision", "dtype", "quantization"):
        other = Counting({**engine.identity, name: "changed"})
        collect(Cached(other, cache), [base])
        assert len(other.asked) == 1, name

    copy = tmp_path / "elsewhere.png"
    shutil.copy(red, copy)
    same = Counting(dict(reversed(engine.identity.items())))
    collect(Cached(same, cache, chunk_size=1), [replace(base, images=(Picture(str(copy)),))])
    assert not same.asked  # the same content at another path, in other chunks


def test_an_image_that_changes_is_asked_about_again(cache: Cache, pictures: list[str]) -> None:
    engine, request = Counting(), Request("q", (Picture(pictures[0]),))
    collect(Cached(engine, cache), [request])
    Image.new("RGB", (8, 9), "green").save(pictures[0])
    collect(Cached(engine, cache), [request])
    assert len(engine.asked) == 2


class Batches(Counting):
    """Answers three at a time; ends by an interruption after so many batches."""

    def __init__(self, last: int):
        super().__init__()
        self.last = last

    def generate(self, requests: Requests) -> Iterator[Answers]:
        for block in blocks(requests):
            for n, start in enumerate(range(0, len(block), 3)):
                if n == self.last:
                    raise KeyboardInterrupt
                batch = block[start : start + 3]
                self.calls.append(len(batch))
                yield {i: self.answer(request) for i, request in batch}


def test_what_was_finished_is_stored_whatever_ends_the_run(cache: Cache) -> None:
    requests = [Request(str(n)) for n in range(12)]
    with pytest.raises(KeyboardInterrupt):
        collect(Cached(Batches(2), cache), requests)
    assert cache.info()["responses"] == 6
    again = Counting()
    responses = collect(Cached(again, cache), requests)
    assert [r.prompt for r in again.asked[::-1]] == [str(n) for n in range(6, 12)]
    assert [r.text for r in responses] == [f"said {n}" for n in range(12)]


def test_what_was_finished_together_is_stored_together(cache: Cache) -> None:
    stored: list[int] = []
    put = cache.put

    def count(entries: Sequence[Entry]) -> None:
        stored.append(len(entries))
        put(entries)

    cache.put = count  # type: ignore[method-assign]
    collect(Cached(Batches(9), cache, chunk_size=4), [Request(str(n)) for n in range(20)])
    assert stored == [6, 6, 6, 2]  # at most a second apart, or as soon as there are four


def test_requests_that_follow_from_answers(cache: Cache) -> None:
    """Two dialogues of three rounds, the second one held up to its second round."""
    held, engine = Counting(), Counting()
    collect(Cached(held, cache), [Request("b0"), Request("b1")])
    ready, heard = deque(["a0", "b0"]), list[str]()

    def rounds() -> Requests:
        while len(heard) < 6:
            while ready:
                yield Request(ready.popleft())
            yield None

    cached = Cached(engine, cache)
    for answers in cached.generate(rounds()):
        for response in answers.values():
            name = response.text.removeprefix("said ")
            heard.append(name)
            if name[1] < "2":
                ready.append(f"{name[0]}{int(name[1]) + 1}")
    assert sorted(heard) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert sorted(r.prompt for r in engine.asked) == ["a0", "a1", "a2", "b2"]
    assert engine.calls[0] == 1 and len(engine.calls) <= 4  # dialogues do not wait for each other
    assert (cached.stats.wanted, cached.stats.cached, cached.stats.asked) == (6, 2, 4)


def test_a_request_that_is_being_answered_is_not_asked_again(cache: Cache) -> None:
    class Slow(Counting):
        """Reads all there is before it answers anything."""

        def generate(self, requests: Requests) -> Iterator[Answers]:
            read = [block for block in blocks(requests) if block]
            yield {i: self.answer(request) for block in read for i, request in block}

    engine = Slow()
    cached = Cached(engine, cache)
    found: Answers = {}
    for answers in cached.generate([Request("a"), None, Request("a"), Request("b")]):
        found |= answers
    assert [found[i].text for i in range(3)] == ["said a", "said a", "said b"]
    assert (cached.stats.asked, cached.stats.duplicates) == (2, 1)


def test_chunks_may_be_finished_in_any_order(cache: Cache) -> None:
    class Parallel(Counting):
        def chunks(
            self, chunks: Sequence[Sequence[Request]]
        ) -> Iterator[tuple[int, list[Response]]]:
            for n in reversed(range(len(chunks))):
                yield n, collect(self, chunks[n])

    requests = [Request(str(n % 10)) for n in range(20)]
    for engine in (Parallel(), Lazy({}, Parallel)):
        found = collect(Cached(engine, cache, chunk_size=3), requests)
        assert [r.text for r in found] == [f"said {n % 10}" for n in range(20)]
        cache.prune(days=-1)


def test_errors_are_not_kept(cache: Cache, tmp_path: Path) -> None:
    engine = Counting(fail=["bad"])
    missing = Request("q", (Picture(str(tmp_path / "none.png")),))
    cached = Cached(engine, cache)
    found = collect(cached, [Request("bad"), missing, Request("good")])
    assert found[0].error == "refused"
    assert "none.png" in (found[1].error or "")
    assert (cached.stats.asked, cached.stats.unreadable) == (2, 1)
    collect(Cached(engine, cache), [Request("bad"), Request("good")])
    assert [r.prompt for r in engine.asked].count("bad") == 2
    assert [r.prompt for r in engine.asked].count("good") == 1


def test_a_process_that_stays_looks_again_and_keeps_no_account(
    tmp_path: Path, pictures: list[str]
) -> None:
    with Cache.open(tmp_path / "c.sqlite", record=False) as cache:
        cache.lose(pictures)  # what was no image once may be one now
        assert all(cache.hashes(pictures).values())
        collect(Cached(Counting(fail=["bad"]), cache), [Request("a"), Request("bad")])
        space = cache.register({"encoder": 1}, {"model": "e"})
        cache.put_vectors(space, {"t": np.array([1], np.float32)})
        assert cache.vectors(space, ["t"]) and cache.used == Used()
    with Cache.open(tmp_path / "c.sqlite") as cache:  # a run's images are as a replay has them
        cache.lose(pictures)
        assert not any(cache.hashes(pictures).values())


def test_a_file_name_that_is_no_utf8_is_hashed_like_any_other(
    tmp_path: Path, cache: Cache, pictures: list[str]
) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png")
    shutil.copy(pictures[0], path)
    shas = [cache.hashes([path]) for _ in range(2)] + [cache.hashes([pictures[0]])]
    assert len({sha for found in shas for sha in found.values()}) == 1
    (tmp_path / "used.json").write_text(write_used(cache.used))
    used = read_used(tmp_path / "used.json")
    assert used == cache.used
    export(cache, tmp_path / "bundle", used)
    with Cache.replay(tmp_path / "bundle") as bundle:
        assert bundle.hashes([path]) == shas[0]


@pytest.mark.parametrize("text", [
    *("", "[]", "5", "{}", '{"responses": [], "vectors": {}, "files": {}, "failed": [{}]}'),
    *('{"responses": [1], "vectors": {}, "files": {}, "failed": []}', "[" * 100_000),
    *('{"responses": [], "vectors": {"a": "b"}, "files": {}, "failed": []}', "\udcff"),
    *('{"responses": [], "vectors": {}, "files": {"a": null}, "failed": []}', "null"),
])  # fmt: skip
def test_an_odd_list_of_what_was_used_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "used.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match="not a run's list"):
        read_used(tmp_path / "used.json")


def test_nothing_asked_nothing_touched(cache: Cache) -> None:
    class Absent(EngineClass):
        @property
        def identity(self) -> dict[str, Any]:
            raise UserError("no such checkpoint")

        def generate(self, requests: Requests) -> Iterator[Answers]:
            raise AssertionError

    assert collect(Cached(Absent(), cache), []) == []


def test_vectors(cache: Cache) -> None:
    space = cache.register({"encoder": 1}, {"model": "e"})
    cache.put_vectors(space, {"a": np.array([0.6, -0.8], np.float32)})
    found = cache.vectors(space, ["a", "b"])
    assert list(found) == ["a"]
    assert found["a"].dtype == np.float32 and found["a"].tolist() == pytest.approx([0.6, -0.8])
    assert cache.vectors("other", ["a"]) == {}


@pytest.mark.parametrize("row", [[np.nan, 0], [np.inf, 0], [0, 0], [0.6, 0.9], [2e19, 2e19], []])
def test_only_finite_unit_vectors_are_kept_and_read(cache: Cache, row: list[float]) -> None:
    """NaN would be above no target: every target would have rank 1."""
    space = cache.register({"encoder": 1}, {"model": "some/encoder"})
    bad = np.array(row, np.float32)
    with pytest.raises(UserError, match=r"some/encoder: 1 vectors are not finite.*'text:dog'"):
        cache.put_vectors(space, {"text:cat": np.array([1, 0], np.float32), "text:dog": bad})
    assert cache.vectors(space, ["text:cat", "text:dog"]) == {}
    cache.insert("vectors", [(space, "text:dog", bad.tobytes(), 0.0)])
    assert cache.vectors(space, ["text:dog"]) == {}


def test_a_run_is_bundled_and_replayed_elsewhere(tmp_path: Path, pictures: list[str]) -> None:
    root = tmp_path / "here" / "CIRR" / "dev"
    root.mkdir(parents=True)
    for path in pictures:
        shutil.move(path, root)
    red, none = str(root / "red.png"), str(root / "none.png")
    requests = [
        Request("q", (Picture(red),)),
        Request("q", (Picture(none),)),
        Request("bad"),
        Request("other run"),
    ]
    bundle_path = tmp_path / "run.bundle"
    with Cache.open(tmp_path / "c.sqlite") as cache:
        collect(Cached(Counting(), cache), requests[3:])
    with Cache.open(tmp_path / "c.sqlite") as cache:
        engine = Counting(fail=["bad"])
        first = collect(Cached(engine, cache), requests[:3])
        space = cache.register({"encoder": 1}, {"model": "e"})
        cache.put_vectors(space, {"t": np.array([0, 1, 0, 0], np.float32)})
        used_path = tmp_path / "used.json"
        used_path.write_text(write_used(cache.used))
        images = cache.register({"encoder": 2}, {"model": "e2"})
        more = [(images, {"sha": np.array([1, 0, 0, 0], np.float32)})]
        counts = export(cache, bundle_path, read_used(used_path), more)
    assert (counts["responses"], counts["vectors"], counts["files"]) == (2, 2, 1)
    shutil.rmtree(tmp_path / "here")

    moved = [
        replace(r, images=tuple(Picture(i.path.replace("here", "there")) for i in r.images))
        for r in requests
    ]
    with Cache.replay(bundle_path) as bundle:
        cached = Cached(Counting({"never": "looked at"}), bundle, replay=True)
        again = collect(cached, moved[:3])
        assert again[0] == first[0] and again[2] == first[2]
        assert again[1].error and again[1].error.startswith(moved[1].images[0].path)
        assert bundle.files_in(tmp_path / "there" / "dev") == {"red.png"}
        assert cached.identity == engine.identity
        assert bundle.vectors(space, ["t"])["t"].tolist() == [0, 1, 0, 0]
        assert bundle.replayed({"model": "e2"}) == {"encoder": 2}
        with pytest.raises(UserError, match=r"1 responses are not in the bundle.*other run"):
            collect(cached, moved[3:])
        with pytest.raises(UserError, match="nothing for elsewhere"):
            bundle.replayed({"engine": "auto", "model": "elsewhere"})
        with pytest.raises(UserError, match="only read"):
            bundle.prune(days=0)
    assert not list(tmp_path.glob("run.bundle-*"))


def test_several_runs_make_the_cache_at_once(tmp_path: Path) -> None:
    gate = threading.Barrier(4)

    def make(attempt: int) -> None:
        gate.wait(30)
        Cache.open(tmp_path / f"{attempt}.sqlite").close()

    with ThreadPoolExecutor(4) as pool:
        for attempt in range(40):
            list(pool.map(make, [attempt] * 4))


def test_a_model_is_pruned_by_any_of_its_names(cache: Cache) -> None:
    engine = Counting()
    collect(Cached(engine, cache), [Request("a")])
    cache.register(engine.identity, {"model": "another/name"})
    with pytest.raises(UserError, match="nothing of elsewhere; it holds another/name, m"):
        cache.prune(model="elsewhere")
    assert cache.prune(model="another/name") == 1


def test_who_answered_nothing_is_bundled_too(cache: Cache, tmp_path: Path) -> None:
    """A dialogue's first round asks no reasoner, but a replay wants to know which it was."""
    identity = Cached(Counting({"model": "silent"}), cache).identity
    cache.only = {digest(identity)}
    export(cache, tmp_path / "b", cache.used)
    with Cache.replay(tmp_path / "b") as bundle:
        assert bundle.replayed({"model": "m"}) == identity


def test_a_bundle_without_what_the_run_used_is_refused(cache: Cache, tmp_path: Path) -> None:
    collect(Cached(Counting(), cache), [Request("a")])
    used = cache.used
    assert cache.prune(days=-1) == 1
    with pytest.raises(UserError, match="1 responses of that run are gone"):
        export(cache, tmp_path / "b", used)
    assert not (tmp_path / "b").exists()


def test_info_and_prune(cache: Cache) -> None:
    collect(Cached(Counting(), cache), [Request("a"), Request("b")])
    collect(Cached(Counting({"engine": "test", "model": "n"}), cache), [Request("a")])
    info = cache.info()
    assert info["responses"] == 3 and info["kind"] == "cache"
    assert sorted(m["responses"] for m in info["models"].values()) == [1, 2]
    name = next(k for k, m in info["models"].items() if m["identity"]["model"] == "n")
    assert cache.prune() == 0
    assert cache.prune(days=1) == 0
    assert cache.prune(model=name[:12]) == 1
    assert cache.info()["responses"] == 2


def test_damaged_foreign_and_newer_files_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "c.sqlite"

    path.write_text("not a database, but text")
    with pytest.raises(UserError, match="not an SQLite file"):
        Cache.open(path)

    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    with pytest.raises(UserError, match="another program's"):
        Cache.open(path)

    path.unlink()
    with Cache.open(path) as cache:
        collect(Cached(Counting(), cache), [Request(str(n)) for n in range(500)])
        cache._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    path.write_bytes(whole[:5000] + os.urandom(len(whole) - 5000))
    with pytest.raises(UserError, match="damaged"):
        collect(Cached(Counting(), Cache.open(path)), [Request(str(n)) for n in range(500)])

    path.write_bytes(whole)
    with sqlite3.connect(path) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="newer"):
        Cache.open(path)

    with pytest.raises(UserError, match="no such bundle"):
        Cache.replay(tmp_path / "none")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (x)",
        "CREATE VIEW more AS SELECT * FROM responses",
        "CREATE TRIGGER more AFTER INSERT ON responses BEGIN DELETE FROM responses; END",
        "CREATE INDEX more ON responses (created)",
        "ALTER TABLE responses ADD COLUMN more",
        "DROP TABLE files",
    ],
)
@pytest.mark.parametrize("bundle", [False, True])
def test_exactly_the_formats_tables_are_taken(tmp_path: Path, statement: str, bundle: bool) -> None:
    """Anything else could run a stranger's SQL."""
    path = tmp_path / "c.sqlite"
    with Cache.open(path) as cache:
        if bundle:
            cache.seal()
    with closing(sqlite3.connect(path)) as stranger:
        stranger.execute(statement)
        stranger.commit()
    with pytest.raises(UserError, match="does not hold the tables"):
        Cache.open(path)


def test_a_file_of_no_kind_is_damaged(tmp_path: Path) -> None:
    Cache.open(tmp_path / "c").close()
    with closing(sqlite3.connect(tmp_path / "c")) as stranger:
        stranger.execute("UPDATE meta SET value = 'neither'")
        stranger.commit()
    with pytest.raises(UserError, match="damaged"):
        Cache.open(tmp_path / "c")


@pytest.mark.parametrize(
    "response",
    [
        *("", "{", "[]", "{}", "null", '{"text": 1}', '{"text": ["x"]}', "[" * 100_000),
        '{"text": "x", "prompt_tokens": "2"}',
        '{"text": "x", "probabilities": [0.5, NaN]}',
        '{"text": "x", "probabilities": 0.5}',
    ],
)
def test_a_response_of_the_wrong_shape_is_asked_again_and_replaced(
    cache: Cache, response: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine, requests = Counting(), [Request("a"), Request("b")]
    collect(Cached(engine, cache), requests)
    ((*start, _, created),) = [row for row in cache.table("responses") if '"a"' in row[2]]
    cache.insert("responses", [(*start, response, created)])
    for _ in range(2):
        answers = collect(Cached(engine, cache), requests)
        assert [r.text for r in answers] == ["said a", "said b"]
    assert [r.prompt for r in engine.asked] == ["b", "a", "a"]
    assert "1 responses are damaged" in caplog.text


def test_an_answer_without_text_of_an_older_version_is_asked_again(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Counting()
    collect(Cached(engine, cache), [Request("a")])
    ((*start, _, created),) = cache.table("responses")
    cache.insert("responses", [(*start, '{"text": " "}', created)])
    assert [r.text for r in collect(Cached(engine, cache), [Request("a")])] == ["said a"]
    assert len(engine.asked) == 2 and not caplog.records
    cache.insert("responses", [(*start, '{"text": " "}', created)])
    cache.seal()
    with Cache.open(cache.path) as bundle:  # replays what was
        assert bundle.responses([start[0]])[start[0]].text == " "


def test_a_row_of_other_types_is_not_there(cache: Cache) -> None:
    cache.put([Entry("k", "i", {}, Response("fine"))])
    fine = ("k", "i", "{}", '{"text": "fine"}', 0.0)
    for column, value in [(1, b"i"), (3, b"{}"), (4, "x")]:
        cache.insert("responses", [(*fine[:column], value, *fine[column + 1 :])])
        assert cache.responses(["k"]) == {}


def test_exchanged_rows_are_not_there(cache: Cache) -> None:
    cache.put([Entry(key, "i", {}, Response(f"said {key}")) for key in "abc"])
    with cache.write() as db:
        rows = db.execute("SELECT key, response FROM responses WHERE key < 'c'").fetchall()
        for (key, _), (_, response) in zip(rows, reversed(rows), strict=True):
            db.execute("UPDATE responses SET response = ? WHERE key = ?", (response, key))
    assert set(cache.responses("abc")) == {"c"}


def test_what_an_engine_may_not_say_is_an_error_and_not_kept(cache: Cache) -> None:
    """An engine's author may be wrong about types; the cache is not damaged by it."""

    class Odd(Counting):
        def generate(self, requests: Requests) -> Iterator[Answers]:
            odd: list[Any] = [[{"type": "text"}], None, "\x00 \ud800 \udc80!", "fine"]
            for (i, _), text in zip(next(blocks(requests)), odd, strict=True):
                yield {i: Response(text, probabilities=(float("nan"),) if i == 3 else ())}

    requests = [Request("list"), Request("none"), Request("\ud800"), Request("nan")]
    answers = collect(Cached(Odd(), cache), requests)
    assert [bool(r.error) for r in answers] == [True, True, False, True]
    assert answers[2].text.endswith(" \ufffd \ufffd!")
    assert cache.info()["responses"] == 1
    again = Counting()
    assert collect(Cached(again, cache), requests)[2] == answers[2]
    assert [r.prompt for r in again.asked] == ["nan", "none", "list"]


def test_a_transaction_that_fails_leaves_nothing(cache: Cache) -> None:
    entries = [Entry(str(n), "i", {}, Response("fine")) for n in range(3)]
    with pytest.raises(TypeError):
        cache.put([*entries, Entry("bad", "i", {"x": object()}, Response("fine"))])
    assert cache.info()["responses"] == 0


WRITER = """
import sys
from imagescope.store.cache import Cache
from imagescope.store.entries import Entry, Used
from imagescope.engines.base import Response
with Cache.open(sys.argv[1]) as cache:
    for n in range(50):
        keys = [f"{sys.argv[2]} {n} {i}" for i in range(10)]
        cache.put([Entry(key, "i", {}, Response(key)) for key in keys])
"""


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sqlite")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, str(n)]) for n in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    with Cache.open(path) as cache:
        assert cache.info()["responses"] == 1500


def test_several_threads_use_one_cache(cache: Cache) -> None:
    def ask(name: int) -> None:
        collect(Cached(Counting(), cache, 5), [Request(f"{name} {n}") for n in range(50)])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.info()["responses"] == 200


def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        Cache.open(tmp_path / "file" / "c.sqlite")
