"""What was computed once: responses, text vectors and image hashes, in one SQLite file.

A *cache* grows with every run; several runs may use it at once. A *bundle* is what one run used,
exported for others to replay without images, models or a GPU; it is only read. Values are JSON
and raw float32: opening a file from others runs nothing.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from imagescope.arrays import is_unit, no_units
from imagescope.config import RunConfig
from imagescope.errors import UserError
from imagescope.files import parse_json
from imagescope.records import Response
from imagescope.store.cache_file import VERSION, bounded, open_file, reported, sound, with_checksum
from imagescope.store.entries import Entry, Used, read_response
from imagescope.store.hashing import AMONG, bundled, canonical, digest, hashed

log = logging.getLogger("imagescope")
# defaults of what came later into a model's declaration
LATER: tuple[Any, ...] = (None, "", False, (), [], {})


def cache_path(config: RunConfig) -> Path:
    """The file a run uses: --replay, else --cache, else IMAGESCOPE_CACHE, else in the image_db."""
    path = config.replay or config.cache or os.environ.get("IMAGESCOPE_CACHE")
    return Path(path) if path else config.image_db / "responses.sqlite"


class Cache:
    """One SQLite file; see the module. Raises UserError for a file that is damaged, foreign, or
    of a newer version. May be used from several threads and processes."""

    keeps = True  # anything new, or an older version's file brought up to date

    def __init__(self, path: Path, record: bool = True):
        self.path = path
        self.used = Used()
        self.only: set[str] | None = None  # ids of the identities that `replayed` may find
        self.failed: Mapping[str, Response] = {}  # answers that count as held, though errors
        self.files: dict[str, tuple[Any, ...]] = {}  # path -> (size, mtime_ns, sha256), as met here
        self._record, self._warned = record, False
        self._connection, self.writable = open_file(path, self.keeps)
        self._lock = threading.RLock()
        self.bundle = self._kind() == "bundle"

    @classmethod
    def open(cls, path: str | Path, record: bool = True) -> Cache:
        """Opens the file, or makes it; a bundle is opened for reading only.

        record: keep account of what is used, for a bundle of the run. A process that stays (one
        that serves searches) has no use for it, and would only grow.
        """
        return cls(Path(path), record)

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

    def __exit__(self, *error: object) -> None:
        self.close()

    # Who answers

    def register(self, identity: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
        """The id of a model's identity; kept with what the configuration declared of it."""
        name = digest(identity)
        self.insert("identities", [(name, canonical(declared), canonical(identity))], "IGNORE")
        return name

    def replayed(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """The identity that a bundle has for what a configuration declares of a model. The engine
        may be left to the bundle (auto). Raises UserError where it has none."""
        identities: dict[str, dict[str, Any]] = {}
        settings, others = _compared(declared), []
        engine = declared.get("engine", "auto")
        for name, stored, identity in self._identities():
            others.append(str(stored.get("model")))
            engines = ("auto", stored.get("engine", "auto"))
            same = _compared(stored) == settings and engine in engines
            if same and (self.only is None or name in self.only):
                identities[name] = identity
        if len(identities) != 1:
            raise UserError(
                f"{self.path}: {'several' if identities else 'nothing'} for "
                f"{declared.get('model')} with these settings (engine: {engine}); it was made with "
                f"{', '.join(sorted(set(others))) or 'no model'}. Give the options of that run."
            )
        return next(iter(identities.values()))

    # Responses

    def responses(self, keys: Iterable[str]) -> dict[str, Response]:
        """Those of the keys that are held. A row that cannot be read is as if it were not there."""
        keys = list(keys)
        responses, odd = {}, 0
        for key, _, _, text, _ in self.table("responses", "key" + AMONG, among=keys):
            try:
                response = read_response(text)
            except ValueError:
                odd += 1
            else:  # (0.1.0 kept answers without text; what a bundle replays is as it was)
                if response.text.strip() or self.bundle:
                    responses[key] = response
        self._miss(odd, "responses")
        if self._record:
            self.used.responses.update(responses)
        return responses | {key: self.failed[key] for key in keys if key in self.failed}

    def put(self, entries: Sequence[Entry]) -> None:
        """Stores all of them or none. Errors are not kept, but known to be part of this run."""
        answered = [e for e in entries if not e.response.error]
        self.insert("responses", [e.row() for e in answered])
        if self._record:
            self.used.failed.update({e.key: e for e in entries if e.response.error})
            self.used.responses.update(e.key for e in answered)

    # Vectors

    def vectors(self, space: str, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Those of a space's vectors that are held, float32 (d,). A space is an encoder's id
        (register); a key says what was embedded (a text, an image's hash)."""
        rows = self.table("vectors", "space = ? AND key" + AMONG, space, among=keys)
        read = {key: np.frombuffer(blob, "<f4") for _, key, blob, _ in rows if len(blob) % 4 == 0}
        vectors = {key: vector for key, vector in read.items() if is_unit(vector)}
        self._miss(len(rows) - len(vectors), "vectors")
        if self._record:
            self.used.vectors.setdefault(space, set()).update(vectors)
        return vectors

    def put_vectors(self, space: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Stores all of them or none. Raises UserError for one that is not finite or not of unit
        length, and names the model."""
        if bad := [key for key, vector in vectors.items() if not is_unit(vector)]:
            names = [d.get("model") for name, d, _ in self._identities() if name == space]
            raise no_units(str((names or [space])[0]), len(bad), bad[0])
        now = time.time()
        rows = [(space, k, np.asarray(v, "<f4").tobytes(), now) for k, v in vectors.items()]
        self.insert("vectors", rows)
        if self._record:
            self.used.vectors.setdefault(space, set()).update(vectors)

    # Image content

    def hashes(self, paths: Iterable[str]) -> dict[str, str]:
        """path -> sha256 of the file's content; "" where it cannot be read.

        A file is read again only when its size or time changed. In a bundle nothing is read: a
        path is found by the longest end it shares with one that the run used.
        """
        names = sorted(set(paths))
        if self.bundle:
            return dict.fromkeys(names, "") | bundled(self, names)
        hashes = hashed(self, names)
        if self._record:
            # what turned out to be no image stays of no use, as it will be in a replay
            hashes |= {path: "" for path in names if self.used.files.get(path) == ""}
            self.used.files.update(
                {p: sha for p, sha in hashes.items() if sha or os.path.exists(p)}
            )
        return hashes

    def lose(self, paths: Iterable[str]) -> None:
        """Lets a bundle of this run know which files were of no use."""
        if self._record:
            self.used.files.update(dict.fromkeys(paths, ""))

    def files_in(self, folder: Path) -> frozenset[str]:
        """The names of the files that the exported run had in a folder of this name."""
        paths = [PurePath(path) for path, *_ in self.table("files")]
        return frozenset(path.name for path in paths if path.parent.name == folder.name)

    # The file as a whole

    def info(self) -> dict[str, Any]:
        """What the file holds: counts by model and encoder, bytes."""
        counts = dict(self.rows("SELECT identity, COUNT(*) FROM responses GROUP BY identity"))
        spaces = dict(self.rows("SELECT space, COUNT(*) FROM vectors GROUP BY space"))
        models = {}
        for name, declared, identity in self._identities():
            models[name] = {
                "model": declared.get("model"),
                "identity": identity,
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
            with reported(self.path):
                self._connection.execute("VACUUM")
        return gone

    def _named(self, model: str) -> set[str]:
        """Ids of the identities that were declared under this name, or begin with it."""
        names = [(name, str(declared.get("model"))) for name, declared, _ in self._identities()]
        ids = {name for name, declared in names if declared == model or name.startswith(model)}
        if not ids:
            declared_names = ", ".join(sorted({declared for _, declared in names})) or "nothing"
            raise UserError(f"{self.path}: nothing of {model}; it holds {declared_names}")
        return ids

    def seal(self) -> None:
        """Makes a bundle of the file: one plain file, only read from now on, on any medium."""
        with self.write() as db:
            db.execute("UPDATE meta SET value = 'bundle' WHERE key = 'kind'")
        with reported(self.path):
            self._connection.execute("PRAGMA journal_mode = DELETE")

    # SQLite

    def _kind(self) -> str:
        return str(self.rows("SELECT value FROM meta WHERE key = 'kind'")[0][0])

    def _identities(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """(id, declared, identity) of every model."""
        for name, *texts in self.table("identities"):
            try:
                declared, identity = map(parse_json, texts)
            except ValueError:
                continue
            if isinstance(declared, dict) and isinstance(identity, dict):
                yield name, declared, identity

    def table(
        self, name: str, condition: str = "TRUE", *values: Any, among: Collection[str] = ()
    ) -> list[tuple[Any, ...]]:
        """A table's rows under a condition, without their checksum. One that is damaged is as if
        it were not there. among: what the condition's last mark stands for, where it has AMONG."""
        if condition.endswith(AMONG):
            values = (*values, json.dumps(list(among)))
        rows = self.rows(f"SELECT * FROM {name} WHERE {condition}", values)
        good = [row[:-1] for row in rows if sound(name, row)]
        self._miss(len(rows) - len(good), name)
        return good

    def _miss(self, count: int, what: str) -> None:
        if count:
            log.warning("%s: %d %s are damaged: they count as not there", self.path, count, what)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds, damaged or not. Raises UserError where it takes too long."""
        size = sum(len(value) for value in values if isinstance(value, str))
        with self._lock, reported(self.path), bounded(self._connection, size):
            return self._connection.execute(query, values).fetchall()

    def insert(
        self, table: str, rows: Sequence[tuple[Any, ...]], conflict: str = "REPLACE"
    ) -> None:
        """Stores all of the rows or none; where the file is only read, none, which is said once."""
        if not self.writable and rows and not (self.bundle or self._warned):
            log.warning("%s cannot be written: what is new is not kept", self.path)
            self._warned = True
        if not self.writable or not rows:
            return
        marks = ", ".join("?" * (len(rows[0]) + 1))
        with self.write() as db:
            db.executemany(
                f"INSERT OR {conflict} INTO {table} VALUES ({marks})",
                [with_checksum(*row) for row in rows],
            )

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it or nothing, waiting for other writers."""
        with self._lock, reported(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


def _compared(declared: Mapping[str, Any]) -> dict[str, Any]:
    """What must agree of two declarations: not the engine, and nothing that has its default."""
    return {k: v for k, v in declared.items() if k != "engine" and v not in LATER}
