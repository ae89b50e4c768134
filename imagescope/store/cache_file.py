"""The SQLite file under a response cache or a bundle: its tables, its versions, and the checks when
it is opened.

A file may come from anybody. It is used only if it holds exactly a known version's tables and
nothing else, so that no trigger or view of a stranger's runs; it is read with bounded effort, and
values are JSON and raw float32.

Version 1: no checksums, and an endpoint's address (base_url) was part of who answered. Version 2:
every row has a checksum, and the address is left out. An older cache is brought up to date in
place, in one transaction; what may not be written (a bundle, a read-only medium) in a private copy.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagescope.errors import UserError
from imagescope.files import parse_json
from imagescope.store.hashing import canonical, checksum, digest

log = logging.getLogger("imagescope")
MAGIC = b"SQLite format 3\0"
APPLICATION = 0x494D5343  # "IMSC", in the file's header: whose SQLite file this is
VERSION = 2
TABLES: dict[int, tuple[str, ...]] = {
    2: (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "CREATE TABLE identities (id TEXT, declared TEXT, identity TEXT NOT NULL, "
        "checksum BLOB NOT NULL, PRIMARY KEY (id, declared))",
        "CREATE TABLE responses (key TEXT PRIMARY KEY, identity TEXT NOT NULL, "
        "request TEXT NOT NULL, response TEXT NOT NULL, created REAL NOT NULL, "
        "checksum BLOB NOT NULL) WITHOUT ROWID",
        "CREATE TABLE vectors (space TEXT, key TEXT, vector BLOB NOT NULL, created REAL NOT NULL, "
        "checksum BLOB NOT NULL, PRIMARY KEY (space, key)) WITHOUT ROWID",
        "CREATE TABLE files (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, "
        "sha256 TEXT NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID",
    ),
}
TABLES[1] = tuple(table.replace(", checksum BLOB NOT NULL", "") for table in TABLES[2])
LONGEST = 256 << 20  # bytes of one value
STEPS_A_PAGE = 10_000  # of SQLite's machine that a query may take; a sound file takes a tenth
STEPS = 1_000_000  # between two looks at the count
# a row's columns, without its checksum
TYPES: dict[str, tuple[Any, ...]] = {
    "identities": (str, str, str),
    "responses": (str, str, str, str, float),
    "vectors": (str, str, bytes, float),
    "files": (str, int | None, int | None, str),
}


def with_checksum(*values: Any) -> tuple[Any, ...]:
    """A row as its table has it."""
    return (*values, checksum(*values))


def sound(table: str, row: tuple[Any, ...]) -> bool:
    """Whether a row of a table holds what was written, with the types of its columns."""
    types = TYPES[table]
    return all(map(isinstance, row, types)) and row[-1] == checksum(*row[:-1])


def without_address(value: Mapping[str, Any]) -> dict[str, Any]:
    """An identity, or what was declared of a model, as version 2 has it."""
    return {name: part for name, part in value.items() if name != "base_url"}


def open_file(path: Path, keeps: bool = True) -> tuple[sqlite3.Connection, bool]:
    """Opens the file, or makes it: (connection, whether it may be written). Raises UserError for
    one that is damaged, foreign, or of a newer version. keeps: whether anything is to be written
    into one that is there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise UserError(f"{path} is no response cache: not an SQLite file")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give another place (--cache)") from None
    with reported(path):
        connection = _connect(path)
        try:
            # (empty, too, is the file that another run is just about to fill)
            if not connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                _create(connection)
            return _checked(connection, path, keeps)
        except BaseException:
            connection.close()
            raise


def _checked(
    connection: sqlite3.Connection, path: Path, keeps: bool
) -> tuple[sqlite3.Connection, bool]:
    connection.execute("BEGIN")  # as of one moment: another may be bringing it up to date
    application, version = (_pragma(connection, n) for n in ("application_id", "user_version"))
    if application != APPLICATION:
        raise UserError(f"{path} is no response cache: it is another program's database")
    if version not in TABLES:
        raise UserError(
            f"{path} was written by {'a newer' if version > VERSION else 'another'} version of "
            f"ImageScope (format {version}, here {VERSION}): move it away, or use that version"
        )
    query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
    tables = {" ".join(str(sql).split()) for (sql,) in connection.execute(query)}
    if other := tables.symmetric_difference(TABLES[version]):
        raise UserError(
            f"{path} does not hold the tables of a response cache of format {version}, and "
            f"nothing else ({sorted(other)[0][:80]}): it is not used"
        )
    kinds = connection.execute("SELECT value FROM meta WHERE key = 'kind'").fetchall()
    connection.execute("COMMIT")
    if kinds not in ([("cache",)], [("bundle",)]):
        raise damaged(path, "its kind")
    writable = kinds == [("cache",)] and os.access(path, os.W_OK) and _writable(path.parent)
    if not writable and (answer := _pragma(connection, "quick_check(1)")) != "ok":
        raise damaged(path, str(answer))
    writable = writable and keeps
    if version < VERSION:
        if not writable:
            connection = _copy(connection)
        _upgrade(connection, path)
    if not writable:
        connection.execute("PRAGMA query_only = 1")
    return connection, writable


def _pragma(connection: sqlite3.Connection, name: str) -> Any:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK)


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that waits a minute for other writers; where the folder cannot be written, it
    is for reading, and without locks if nobody left any."""
    uri = path.absolute().as_uri()
    if not _writable(path.parent):
        left = path.with_name(f"{path.name}-wal").exists()
        uri += "?mode=ro" + ("" if left else "&immutable=1")
    connection = sqlite3.connect(
        uri, uri=True, timeout=60, isolation_level=None, check_same_thread=False
    )
    # text that is no UTF-8 makes its row's checksum wrong, not the query fail
    connection.text_factory = lambda content: str(content, "utf-8", "surrogateescape")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    # in WAL mode, NORMAL loses nothing when a process is killed
    for pragma in ("synchronous = NORMAL", "trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _copy(source: sqlite3.Connection) -> sqlite3.Connection:
    """A private copy in a temporary file that SQLite removes."""
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.text_factory = source.text_factory
    source.backup(connection)
    source.close()
    return connection


def _create(connection: sqlite3.Connection) -> None:
    _set_wal(connection)
    connection.execute("BEGIN EXCLUSIVE")
    tables = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
    if not tables:  # else another process was first
        for statement in TABLES[VERSION]:
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


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Version 1 as version 2. Rows of the wrong types are left out, and counted."""
    connection.execute("PRAGMA secure_delete = ON")  # an address may have held a password
    connection.execute("BEGIN EXCLUSIVE")
    try:
        if _pragma(connection, "user_version") == 1:  # else another process was first
            log.info("%s: brought up to date (format %d)", path, VERSION)
            _to_2(connection, path)
            connection.execute("PRAGMA user_version = 2")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    connection.execute("PRAGMA secure_delete = OFF")


def _to_2(connection: sqlite3.Connection, path: Path) -> None:
    ids: dict[str, str] = {}  # of identities, before and after

    def moved(table: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
        if table == "identities":
            declared, identity = (without_address(parse_json(text)) for text in row[1:])
            ids[row[0]] = digest(identity)
            return ids[row[0]], canonical(declared), canonical(identity)
        if table == "responses" and ids.get(row[1], row[1]) != row[1]:
            identity_id = ids[row[1]]
            return digest([identity_id, parse_json(row[2])]), identity_id, *row[2:]
        return row

    damages = 0
    for statement, (table, types) in zip(TABLES[2][1:], TYPES.items(), strict=True):
        connection.execute(f"ALTER TABLE {table} RENAME TO old")
        connection.execute(statement)
        marks = ", ".join("?" * (len(types) + 1))
        for row in connection.execute("SELECT * FROM old"):
            try:
                if not all(map(isinstance, row, types)):
                    raise ValueError("of other types")
                values = with_checksum(*moved(table, row))
                connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", values)
            except (ValueError, AttributeError, TypeError):
                damages += 1
        connection.execute("DROP TABLE old")
    if damages:
        log.warning("%s: %d damaged rows are left out", path, damages)


@contextmanager
def bounded(connection: sqlite3.Connection, size: int) -> Iterator[None]:
    """Ends a query that takes far more steps than a sound file of this size can ask for: a tree of
    pages that share their children, say. size: characters of what the query is given."""
    left = [_pragma(connection, "page_count") * STEPS_A_PAGE + size * 100 + STEPS]

    def look() -> bool:
        left[0] -= STEPS
        return bool(left[0] < 0)

    connection.set_progress_handler(look, STEPS)
    try:
        yield
    finally:
        connection.set_progress_handler(None, STEPS)


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """SQLite's errors, as what they mean for the reader."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if str(error) == "interrupted":
            raise damaged(path, "its pages form no tree") from None
        raise UserError(
            f"{path}: {error} (is the disk full, or the file write-protected?)"
        ) from None
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # its message, too, may be damaged
        raise damaged(path, str(error)) from None


def damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: the cache is damaged ({what}): move it away; it will be made anew")
