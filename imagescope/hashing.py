"""What images hold, by sha256 of their files: remembered by path, size and time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from imagescope.errors import UserError
from imagescope.files import open_regular

if TYPE_CHECKING:
    from imagescope.cache import Cache

READERS = 4  # threads


def hashed(cache: Cache, paths: Sequence[str]) -> dict[str, str]:
    """path -> sha256 of the file as it is now, "" where it cannot be read. Only what is new to the
    cache, or changed size or time, is read."""
    query = "SELECT * FROM files WHERE path IN (SELECT value FROM json_each(?))"
    places = {path: str(Path(path).absolute()) for path in paths}
    rows = cache.rows(query, (json.dumps(list(places.values())),))
    known = {place: (size, mtime, sha) for place, size, mtime, sha in rows}
    found: dict[str, str] = {}
    stale: dict[str, os.stat_result] = {}
    for path, place in places.items():
        try:
            stat = os.stat(place)
        except OSError:
            found[path] = ""
            continue
        size, mtime, sha = known.get(place, (None, None, ""))
        if (size, mtime) == (stat.st_size, stat.st_mtime_ns):
            found[path] = sha
        else:
            stale[path] = stat
    if stale:
        with ThreadPoolExecutor(READERS, "hash") as pool:
            found |= dict(zip(stale, pool.map(_hash, stale), strict=True))
        new = [
            (places[path], stat.st_size, stat.st_mtime_ns, found[path])
            for path, stat in stale.items()
            if found[path]
        ]
        with cache.write() as db:
            db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", new)
    return found


def bundled(cache: Cache, paths: Iterable[str]) -> dict[str, str]:
    """path -> sha256 of the image that the exported run knew by the longest common end of its
    path, "" if it could not read it; paths it had no file for are absent. Nothing is read here."""
    by_name: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for path, sha in cache.rows("SELECT path, sha256 FROM files"):
        if parts := PurePath(path).parts[::-1]:
            by_name.setdefault(parts[0], []).append((parts, sha))
    found = {}
    for path in paths:
        parts = PurePath(path).parts[::-1]
        shared = [(sum(1 for _ in _common(parts, p)), sha) for p, sha in by_name.get(parts[0], [])]
        best = {sha for n, sha in shared if n == max(shared)[0]}
        if len(best) > 1:
            raise UserError(f"{cache.path}: several of its images end like {path}")
        if best:
            found[path] = best.pop()
    return found


def _hash(path: str) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _common(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    for x, y in zip(a, b, strict=False):
        if x != y:
            return
        yield x
