"""What things are known by: JSON values and images by sha256, stored rows by a checksum.

Hashes of images are remembered by path, size and time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from imagescope.errors import UserError
from imagescope.files import open_regular

if TYPE_CHECKING:
    from imagescope.store.cache import Cache

AMONG = " IN (SELECT value FROM json_each(?))"  # a condition: one of a JSON list
READERS = 4  # threads


_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def canonical(value: Any) -> str:
    """JSON in one spelling only."""
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    """sha256 of a JSON value, hexadecimal."""
    return hashlib.sha256(canonical(value).encode("utf-8", "surrogatepass")).hexdigest()


def checksum(*values: str | bytes | float | None) -> bytes:
    """8 bytes that tell whether a row's values are what was written; not against forgery."""
    parts = [
        value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
        for value in values
    ]
    whole = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return hashlib.blake2b(whole, digest_size=8).digest()


def storable(text: str) -> str:
    """Text that SQLite takes: lone surrogates (a file name that is no UTF-8, say) are spelled out,
    as JSON has them."""
    return text.encode("utf-8", "backslashreplace").decode()


def hashed(cache: Cache, paths: Sequence[str]) -> dict[str, str]:
    """path -> sha256 of the file as it is now, "" where it cannot be read. Only what is new to the
    cache, or changed size or time, is read."""
    here = os.getcwd()
    places = {path: storable(os.path.join(here, path)) for path in paths}
    remembered = cache.files
    new = [place for place in places.values() if place not in remembered]
    for place, *row in cache.table("files", "path" + AMONG, among=new) if new else ():
        remembered[place] = tuple(row)
    hashes: dict[str, str] = {}
    stale: dict[str, os.stat_result] = {}
    for path, place in places.items():
        try:
            stat = os.stat(path)
        except OSError:
            hashes[path] = ""
            continue
        size, mtime, sha = remembered.get(place, (None, None, ""))
        if (size, mtime) == (stat.st_size, stat.st_mtime_ns):
            hashes[path] = sha
        else:
            stale[path] = stat
    if stale:
        with ThreadPoolExecutor(READERS, "hash") as pool:
            hashes |= dict(zip(stale, pool.map(_hash, stale), strict=True))
        read = {
            places[path]: (stat.st_size, stat.st_mtime_ns, hashes[path])
            for path, stat in stale.items()
            if hashes[path]
        }
        remembered.update(read)
        cache.insert("files", [(place, *row) for place, row in read.items()])
    return hashes


def bundled(cache: Cache, paths: Iterable[str]) -> dict[str, str]:
    """path -> sha256 of the image that the exported run knew by the longest common end of its
    path, "" if it could not read it; paths it had no file for are absent. Nothing is read here."""
    by_name: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for path, _, _, sha in cache.table("files"):
        if parts := PurePath(path).parts[::-1]:
            by_name.setdefault(parts[0], []).append((parts, sha))
    hashes = {}
    for path in paths:
        parts = PurePath(storable(path)).parts[::-1]
        shared = [(sum(1 for _ in _common(parts, p)), sha) for p, sha in by_name.get(parts[0], [])]
        best = {sha for n, sha in shared if n == max(shared)[0]}
        if len(best) > 1:
            raise UserError(f"{cache.path}: several of its images end like {path}")
        if best:
            hashes[path] = best.pop()
    return hashes


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
