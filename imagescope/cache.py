"""What was computed once: responses, text vectors and image hashes, in one SQLite file.

A *cache* grows with every run; several runs may use it at once. A *bundle* is what one run used,
exported for others to replay without images, models or a GPU; it is only read. Values are JSON
and raw float32: opening a file from others runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from imagescope.config import RunConfig
from imagescope.engines.base import Response
from imagescope.errors import UserError
from imagescope.hashing import bundled, hashed
from imagescope.records import plain

MAGIC = b"SQLite format 3\0"
APPLICATION = 0x494D5343  # "IMSC", in the file's header: whose SQLite file this is
VERSION = 1
TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE identities (id TEXT, declared TEXT, identity TEXT NOT NULL,
    PRIMARY KEY (id, declared));
CREATE TABLE responses (key TEXT PRIMARY KEY, identity TEXT NOT NULL, request TEXT NOT NULL,
    response TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE vectors (space TEXT, key TEXT, vector BLOB NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (space, key)) WITHOUT ROWID;
CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, sha256 TEXT NOT NULL)
    WITHOUT ROWID;
"""


def cache_path(config: RunConfig) -> Path:
    """The file a run uses: --replay, else --cache, else IMAGESCOPE_CACHE, else in the image_db."""
    chosen = config.replay or config.cache or os.environ.get("IMAGESCOPE_CACHE")
    return Path(chosen) if chosen else config.image_db / "responses.sqlite"


def canonical(value: Any) -> str:
    """JSON in one spelling only."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """sha256 of a JSON value, hexadecimal."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A response as it is kept: request is JSON-able and holds everything the key is made of."""

    key: str
    identity: str
    request: dict[str, Any]
    response: Response

    def row(self) -> tuple[str, str, str, str, float]:
        """As the table has it."""
        texts = canonical(self.request), canonical(plain(self.response))
        return (self.key, self.identity, *texts, time.time())


@dataclass
class Used:
    """What a run took from the cache or put there: what a bundle of it holds (bundle.py).

    files: path -> sha256, "" where there is a file that could not be read; missing ones are not in
    it. failed: responses with an error, which no cache keeps, but which a replay must repeat.
    """

    responses: set[str] = field(default_factory=set)
    vectors: dict[str, set[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    failed: dict[str, Entry] = field(default_factory=dict)


class Cache:
    """One SQLite file; see the module. Raises UserError for a file that is damaged, foreign, or
    of a newer version. May be used from several threads and processes."""

    def __init__(self, path: Path, connection: sqlite3.Connection):
        self.path = path
        self.used = Used()
        self.only: set[str] | None = None  # ids of the identities that `replayed` may find
        self._connection, self._lock = connection, threading.RLock()
        self.bundle = self._meta("kind") == "bundle"

    @classmethod
    def open(cls, path: str | Path) -> Cache:
        """Opens the file, or makes it; a bundle is opened for reading only."""
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and path.stat().st_size:
                with path.open("rb") as file:
                    if file.read(len(MAGIC)) != MAGIC:
                        raise UserError(f"{path} is no response cache: not an SQLite file")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}: give another place (--cache)") from None
        with _reported(path):
            connection = _connect(path)
            # (empty, too, is the file that another run is just about to fill)
            if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                _create(connection)
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != APPLICATION:
                connection.close()
                raise UserError(f"{path} is no response cache: it is another program's database")
            if version != VERSION:
                connection.close()
                raise UserError(
                    f"{path} was written by a{' newer' if version > VERSION else 'n older'} "
                    f"version of ImageScope (format {version}, here {VERSION}): move it away, or "
                    "use that version"
                )
            cache = cls(path, connection)
            if cache.bundle:
                connection.execute("PRAGMA query_only = 1")
            return cache

    @classmethod
    def replay(cls, path: str | Path) -> Cache:
        """Opens a bundle that must exist."""
        if not Path(path).is_file():
            raise UserError(f"no such bundle: {path} (made by: imagescope cache export RUN)")
        return cls.open(path)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Who answers

    def register(self, identity: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
        """The id of a model's identity; kept with what the configuration declared of it."""
        name = digest(identity)
        if not self.bundle:
            row = (name, canonical(declared), canonical(identity))
            with self.write() as db:
                db.execute("INSERT OR IGNORE INTO identities VALUES (?, ?, ?)", row)
        return name

    def replayed(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """The identity that a bundle has for what a configuration declares of a model. The engine
        may be left to the bundle (auto). Raises UserError where it has none."""
        found: dict[str, dict[str, Any]] = {}
        asked, others = dict(declared), []
        engine = asked.pop("engine", "auto")
        for text, identity in self.rows("SELECT declared, identity FROM identities"):
            kept = self._json(text)
            kept_engine = kept.pop("engine", "auto")
            others.append(str(kept.get("model")))
            if kept == json.loads(canonical(asked)) and engine in ("auto", kept_engine):
                made = self._json(identity)
                if self.only is None or digest(made) in self.only:
                    found[identity] = made
        if len(found) != 1:
            raise UserError(
                f"{self.path}: {'several' if found else 'nothing'} for {declared.get('model')} "
                f"with these settings (engine: {engine}); it was made with "
                f"{', '.join(sorted(set(others))) or 'no model'}. Give the options of that run."
            )
        return next(iter(found.values()))

    # Responses

    def responses(self, keys: Iterable[str]) -> dict[str, Response]:
        """Those of the keys that are held."""
        query = "SELECT key, response FROM responses WHERE key IN (SELECT value FROM json_each(?))"
        rows = self.rows(query, (json.dumps(list(keys)),))
        found = {key: read_response(text, self.path) for key, text in rows}
        self.used.responses.update(found)
        return found

    def put(self, entries: Sequence[Entry]) -> None:
        """Stores all of them or none. Errors are not kept, but known to be part of this run."""
        self.used.failed.update({e.key: e for e in entries if e.response.error})
        kept = [e for e in entries if not e.response.error]
        rows = [e.row() for e in kept]
        if rows:
            with self.write() as db:
                db.executemany("INSERT OR REPLACE INTO responses VALUES (?, ?, ?, ?, ?)", rows)
        self.used.responses.update(e.key for e in kept)

    # Vectors

    def vectors(self, space: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Those of a space's vectors that are held, float32 (d,). A space is an encoder's id
        (register); a key says what was embedded (a text, an image's hash)."""
        query = (
            "SELECT key, vector FROM vectors "
            "WHERE space = ? AND key IN (SELECT value FROM json_each(?))"
        )
        found = {}
        for key, blob in self.rows(query, (space, json.dumps(list(keys)))):
            if not isinstance(blob, bytes) or len(blob) % 4:
                raise _damaged(self.path, f"the vector of {key!r}")
            found[key] = np.frombuffer(blob, "<f4")
        self.used.vectors.setdefault(space, set()).update(found)
        return found

    def put_vectors(self, space: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Stores all of them or none."""
        now = time.time()
        rows = [(space, k, np.asarray(v, "<f4").tobytes(), now) for k, v in vectors.items()]
        if rows:
            with self.write() as db:
                db.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)
        self.used.vectors.setdefault(space, set()).update(vectors)

    # Image content

    def hashes(self, paths: Iterable[str]) -> dict[str, str]:
        """path -> sha256 of the file's content; "" where it cannot be read.

        A file is read again only when its size or time changed. In a bundle nothing is read: a
        path is found by the longest end it shares with one that the run used.
        """
        wanted = sorted(set(paths))
        if self.bundle:
            return dict.fromkeys(wanted, "") | bundled(self, wanted)
        found = hashed(self, wanted)
        # what turned out to be no image stays of no use, as it will be in a replay
        found |= {path: "" for path in wanted if self.used.files.get(path) == ""}
        self.used.files.update({p: sha for p, sha in found.items() if sha or os.path.exists(p)})
        return found

    def files_in(self, folder: Path) -> frozenset[str]:
        """The names of the files that the exported run had in a folder of this name."""
        paths = [PurePath(path) for (path,) in self.rows("SELECT path FROM files")]
        return frozenset(path.name for path in paths if path.parent.name == folder.name)

    # The file as a whole

    def info(self) -> dict[str, Any]:
        """What the file holds: counts by model and encoder, bytes."""
        counts = dict(self.rows("SELECT identity, COUNT(*) FROM responses GROUP BY identity"))
        spaces = dict(self.rows("SELECT space, COUNT(*) FROM vectors GROUP BY space"))
        models = {}
        for name, declared, identity in self.rows("SELECT id, declared, identity FROM identities"):
            models[name] = {
                "model": self._json(declared).get("model"),
                "identity": self._json(identity),
                "responses": counts.get(name, 0),
                "vectors": spaces.get(name, 0),
            }
        return {
            "path": str(self.path),
            "kind": "bundle" if self.bundle else "cache",
            "version": VERSION,
            "bytes": self.path.stat().st_size,
            "responses": sum(counts.values()),
            "vectors": sum(spaces.values()),
            "files": self.rows("SELECT COUNT(*) FROM files")[0][0],
            "models": models,
        }

    def prune(self, days: float | None = None, model: str | None = None) -> int:
        """Takes out what is older than so many days, or of a model (its declared name or the
        beginning of its id); returns how many responses and vectors went. None of both: nothing.
        Raises UserError for a model that it does not know."""
        if self.bundle:
            raise UserError(f"{self.path} is a bundle: it is only read")
        conditions: list[tuple[str, str, Any]] = []
        if days is not None:
            before = time.time() - days * 86400
            conditions += [("responses", "created < ?", before), ("vectors", "created < ?", before)]
        for name in self._named(model) if model else ():
            conditions += [("responses", "identity = ?", name), ("vectors", "space = ?", name)]
        gone = 0
        with self.write() as db:
            for table, condition, value in conditions:
                gone += db.execute(f"DELETE FROM {table} WHERE {condition}", (value,)).rowcount
        if gone:
            with _reported(self.path):
                self._connection.execute("VACUUM")
        return gone

    def _named(self, model: str) -> set[str]:
        """Ids of the identities that were declared under this name, or begin with it."""
        rows = self.rows("SELECT id, declared FROM identities")
        names = [(name, str(self._json(declared).get("model"))) for name, declared in rows]
        found = {name for name, declared in names if declared == model or name.startswith(model)}
        if not found:
            known = ", ".join(sorted({declared for _, declared in names})) or "nothing"
            raise UserError(f"{self.path}: nothing of {model}; it holds {known}")
        return found

    def seal(self) -> None:
        """Makes a bundle of the file: one plain file, only read from now on, on any medium."""
        with self.write() as db:
            db.execute("UPDATE meta SET value = 'bundle' WHERE key = 'kind'")
        with _reported(self.path):
            self._connection.execute("PRAGMA journal_mode = DELETE")

    # SQLite

    def _meta(self, key: str) -> str | None:
        rows = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        """What a query finds."""
        with self._lock, _reported(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing, waiting for other writers."""
        with self._lock, _reported(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def _json(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
        except (TypeError, ValueError):
            raise _damaged(self.path, "an identity") from None
        if not isinstance(found, dict):
            raise _damaged(self.path, "an identity")
        return found


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that waits a minute for other writers; a file without write permission is
    opened for reading."""
    uri = path.absolute().as_uri() + ("" if os.access(path.parent, os.W_OK) else "?mode=ro")
    connection = sqlite3.connect(
        uri, uri=True, timeout=60, isolation_level=None, check_same_thread=False
    )
    # in WAL mode, NORMAL loses nothing when a process is killed
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _create(connection: sqlite3.Connection) -> None:
    _set_wal(connection)
    connection.execute("BEGIN EXCLUSIVE")
    made = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if not made:  # else another process was first
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('kind', 'cache')")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _set_wal(connection: sqlite3.Connection) -> None:
    """WAL mode. Unlike any other statement its change does not wait for other processes by itself:
    it is tried for a minute."""
    end = time.monotonic() + 60
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    """SQLite's errors, as what they mean for the reader."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{path}: {error} (is the disk full, or the file write-protected?)"
        ) from None
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from None


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: the cache is damaged ({what}): move it away; it will be made anew")


@lru_cache(maxsize=8)
def _reader(kind: type[Response]) -> TypeAdapter[Response]:
    return TypeAdapter(kind)


def read_response(text: str, path: Path) -> Response:
    """A stored response: types are checked, as the file may be anyone's; a field that is not there
    has its default, one that is not known here is passed over. Raises UserError."""
    try:
        return _reader(Response).validate_json(text, strict=True)
    except ValidationError:
        raise _damaged(path, "a response") from None
