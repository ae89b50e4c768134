"""The cache's file: older formats, damage of every kind, files from others."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagescope.engines.base import EngineClass, Request, Response, collect
from imagescope.engines.cached import Cached, _material
from imagescope.errors import UserError
from imagescope.records import plain
from imagescope.runs.export import _as_kept
from imagescope.store import cache_file
from imagescope.store.cache import Cache
from imagescope.store.cache_file import APPLICATION, TABLES
from imagescope.store.entries import Entry, Used
from imagescope.store.hashing import canonical, digest

GOLDEN = Path(__file__).parents[1] / "golden"
SECRET = "http://someone:s3cret@127.0.0.1:8000/v1"


class Endpoint(EngineClass):
    """An engine as openai.py identifies itself; it says back what it was asked, and counts."""

    def __init__(self, identity: dict[str, Any] | None = None) -> None:
        self.identity = identity or {"engine": "openai", "model": "m"}
        self.declared = {"engine": "auto", "model": "m", "served_as": None}
        self.asked: list[str] = []

    def answer(self, request: Request) -> Response:
        self.asked.append(request.prompt)
        return Response(f"said {request.prompt}", probabilities=(0.25, 0.75))


REQUESTS = [Request(prompt) for prompt in ("at a", "at b", "at both", "Ünï \ud800")]
ANSWERS = [Response(f"said {request.prompt[:6]}") for request in REQUESTS]


def format_1(path: Path, kind: str = "cache") -> None:
    """A file as 1bcfd44 wrote it: an endpoint's address in identities and keys."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in TABLES[1]:
            db.execute(statement)
        db.execute("INSERT INTO meta VALUES ('kind', ?)", (kind,))
        for url, asked in ((SECRET, (0, 2, 3)), ("http://b/v1", (1, 2))):
            identity = {"engine": "openai", "base_url": url, "model": "m"}
            declared = {"engine": "auto", "model": "m", "base_url": url}
            row = (digest(identity), canonical(declared), canonical(identity))
            db.execute("INSERT INTO identities VALUES (?, ?, ?)", row)
            for n in asked:
                material = _material(REQUESTS[n], {})
                key, request = digest([digest(identity), material]), canonical(material)
                if n < 3:  # the last could not be stored, then
                    values = (key, digest(identity), request, canonical(plain(ANSWERS[n])), 1.5)
                    db.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", values)
        db.execute("INSERT INTO responses VALUES ('bad', ?, '{}', ?, 1.5)", (digest({}), b"\xff"))
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute("PRAGMA user_version = 1")


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_a_cache_of_format_1_is_brought_up_to_date(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.sqlite"
    format_1(path)
    for _ in range(2):
        with Cache.open(path) as cache:
            engine = Endpoint()
            assert collect(Cached(engine, cache), REQUESTS[:3]) == ANSWERS[:3]
            assert not engine.asked
            assert cache.replayed(engine.declared) == engine.identity
            assert cache.info()["responses"] == 3
    assert version(path) == 2 and "1 damaged rows are left out" in caplog.text
    assert b"s3cret" not in path.read_bytes()  # nor in the pages that are free now


def test_a_bundle_of_format_1_is_replayed_and_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bundle.sqlite"
    format_1(path, "bundle")
    before = path.read_bytes()
    with Cache.replay(path) as bundle:
        cached = Cached(Endpoint({"never": "looked at"}), bundle, replay=True)
        assert collect(cached, REQUESTS[:3]) == ANSWERS[:3]
        assert cached.identity == {"engine": "openai", "model": "m"}
        with pytest.raises(UserError, match="1 responses are not in the bundle"):
            collect(cached, REQUESTS)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_what_a_run_of_old_used_has_its_keys_of_today(tmp_path: Path) -> None:
    """A run's used.json and manifest still name the endpoint's address."""
    path = tmp_path / "c.sqlite"
    format_1(path)
    identity = {"engine": "openai", "base_url": SECRET, "model": "m"}
    keys = [digest([digest(identity), _material(request, {})]) for request in REQUESTS]
    entry = Entry(keys[3], digest(identity), _material(REQUESTS[3], {}), Response("", error="no"))
    with Cache.open(path) as cache:
        used = _as_kept(Used({keys[0]}, failed={keys[3]: entry}), cache, [identity])
        assert list(cache.responses(used.responses).values()) == [ANSWERS[0]]
        now = digest([digest(Endpoint().identity), entry.request])
        assert used.failed[now].key == now and len(used.failed) == 1


@pytest.mark.parametrize("old", [False, True])
def test_a_cache_on_a_read_only_medium_answers_and_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, old: bool
) -> None:
    path = tmp_path / "c.sqlite"
    format_1(path)
    if not old:
        Cache.open(path).close()
    before = path.read_bytes()
    monkeypatch.setattr(cache_file, "_writable", lambda folder: False)
    with Cache.open(path) as cache:
        for _ in range(2):
            engine = Endpoint()
            collect(Cached(engine, cache), REQUESTS)
            assert engine.asked == [REQUESTS[3].prompt]
        space = cache.register({"encoder": 1}, {"model": "e"})
        cache.put_vectors(space, {"a": np.array([1.0], np.float32)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    assert caplog.text.count("cannot be written") == 1


def test_an_interrupted_migration_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sqlite"
    format_1(path)

    def interrupted(*values: Any) -> tuple[Any, ...]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache_file, "with_checksum", interrupted)
        Cache.open(path)
    assert version(path) == 1
    with Cache.open(path) as cache:
        assert cache.info()["responses"] == 3


def test_several_bring_a_cache_up_to_date_at_once(tmp_path: Path) -> None:
    gate = threading.Barrier(4)
    for attempt in range(10):
        format_1(tmp_path / f"{attempt}.sqlite")

    def use(attempt: int) -> int:
        gate.wait(30)
        with Cache.open(tmp_path / f"{attempt}.sqlite") as cache:
            return int(cache.info()["responses"])

    with ThreadPoolExecutor(4) as pool:
        for attempt in range(10):
            assert list(pool.map(use, [attempt] * 4)) == [3] * 4


def test_everything_of_the_golden_cache_is_there_afterwards(tmp_path: Path) -> None:
    path = shutil.copy(GOLDEN / "cache-1.sqlite", tmp_path)
    before = {}
    with closing(sqlite3.connect(path)) as db:
        for table in ("identities", "responses", "vectors", "files"):
            before[table] = set(db.execute(f"SELECT * FROM {table}").fetchall())
    with Cache.open(path) as cache:
        for table in ("responses", "vectors", "files"):
            assert set(cache.table(table)) == before[table]
        assert {row[0] for row in cache.table("identities")} == {r[0] for r in before["identities"]}


def test_a_query_without_end_is_ended(tmp_path: Path) -> None:
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT COUNT(*) FROM n"
    with Cache.open(tmp_path / "c") as cache, pytest.raises(UserError, match="damaged"):
        cache.rows(endless)


# Bits

PROMPTS = [Request(f"prompt {n} " * 8) for n in range(40)]
VECTORS = {f"text:{n}": np.array([np.cos(n), np.sin(n), 0, 0], np.float32) for n in range(12)}


def filled(path: Path, images: Sequence[str]) -> None:
    with Cache.open(path) as cache:
        collect(Cached(Endpoint(), cache), PROMPTS)
        cache.put_vectors(cache.register({"encoder": 1}, {"model": "e"}), VECTORS)
        cache.hashes(images)
        if path.suffix == ".bundle":
            cache.seal()
        else:
            cache._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def used(path: Path, images: Sequence[str]) -> None:
    """Asks for everything and compares it with what was stored."""
    with Cache.open(path) as cache:
        replay = path.suffix == ".bundle"
        answers = collect(Cached(Endpoint(), cache, replay=replay), PROMPTS)
        assert answers == list(map(response, PROMPTS))
        space = cache.register({"encoder": 1}, {"model": "e"})
        for key, vector in cache.vectors(space, list(VECTORS)).items():
            np.testing.assert_array_equal(vector, VECTORS[key])
        for image, sha in cache.hashes(images).items():
            assert sha in ("", digest_of(image)), image
        cache.info()


def response(request: Request) -> Response:
    return Response(f"said {request.prompt}", probabilities=(0.25, 0.75))


def digest_of(image: str) -> str:
    return hashlib.sha256(Path(image).read_bytes()).hexdigest()


def flipped(content: bytes, chance: random.Random) -> bytes:
    place, bit = chance.randrange(len(content)), chance.randrange(8)
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def overwritten(content: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(content))
    return content[:place] + chance.randbytes(200) + content[place + 200 :]


def cut_off(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(1, len(content))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c.sqlite", "c.bundle"])
@pytest.mark.parametrize(("damage", "times"), [(flipped, 300), (overwritten, 60), (cut_off, 30)])
def test_damage_is_reported_or_has_no_effect(
    tmp_path: Path,
    name: str,
    damage: Callable[[bytes, random.Random], bytes],
    times: int,
) -> None:
    images = []
    for n in range(5):
        images.append(str(tmp_path / f"{n}.png"))
        Path(images[-1]).write_bytes(os.urandom(64))
    path, reported = tmp_path / name, 0
    filled(path, images)
    whole = path.read_bytes()
    for seed in range(times):
        for file in tmp_path.glob(f"{name}*"):
            file.unlink()
        path.write_bytes(damage(whole, random.Random(seed)))
        try:
            used(path, images)
        except UserError as error:
            assert str(path) in str(error)
            reported += 1
    assert 0 < reported < times or damage is not flipped
