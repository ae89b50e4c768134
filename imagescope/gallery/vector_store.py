"""Vectors that are made once and kept in a folder, row by row under the keys of what they embed."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from imagescope.arrays import Array, forget, is_unit, no_units
from imagescope.encoders.base import missing_chunks
from imagescope.errors import UserError
from imagescope.files import replacing, write_json
from imagescope.gallery.vectors import (
    BLOCK,
    FORMAT,
    Place,
    file_sha256,
    finished,
    keep_width,
    open_vectors,
    part_keys,
    read_manifest,
)
from imagescope.progress import track
from imagescope.store.hashing import digest

log = logging.getLogger("imagescope")
ATTEMPTS = 5
# chunks of keys -> of each, in order, its vectors (rows of zeros where there is none), and why
Embed = Callable[[list[list[str]]], Iterable[tuple[Array, Mapping[int, str]]]]


class VectorStore:
    """The vectors of one gallery by one encoder, in a folder of their own:

        manifest.json         what made them, how many, the sha256 of the file of vectors, what
                              could not be embedded and why
        rows-<id>.json        the key of every row, "" where there is nothing
        vectors-<id>.npy      float32 (rows, d)
        part-<id>-<hash>.npy  while they are being made: chunks of (key, vector)

    A key is the sha256 of what is embedded. Files are written whole or not at all, and named by
    what is in them: whoever is killed loses at most the chunk in work, and two at once write the
    same. What is damaged is made again.
    relatives: folders of the same kind, whose rows are taken over where keys agree.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any], relatives: Sequence[Path] = ()):
        self.folder = folder
        self._made_by, self._relatives = dict(made_by), relatives
        self.manifest = read_manifest(folder, made_by)

    def rows(
        self,
        keys: Sequence[str],
        embed: Embed,
        chunk_size: int,
        label: str,
    ) -> tuple[Array, Array, int]:
        """(vectors (len(keys), d) read-only, ok (len(keys),), how many were computed).

        embed: of chunks of keys, cut from the distinct ones, less what is known; it may work ahead.
        An empty key is a row of zeros.
        """
        computed = 0
        for _ in range(ATTEMPTS):
            ready, rows = finished(self.folder, self.manifest), self._wanted(keys)
            if ready and ready.keys == rows:
                self.record(sha256=ready.sha256)  # manifests of old have none
                return ready.vectors, np.array([bool(key) for key in rows], bool), computed
            try:
                computed += self._fill(rows, embed, chunk_size, label)
            except FileNotFoundError:
                log.debug("%s: another run has just finished these rows", self.folder)
            except OSError as error:
                raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from None
            self.manifest = read_manifest(self.folder, self._made_by)
        raise UserError(f"{self.folder}: other runs keep changing it; try again when they are done")

    def record(self, **more: Any) -> None:
        """Puts more into the manifest, where it does not say so yet and may be written."""
        if any(self.manifest.get(name) != value for name, value in more.items()):
            with suppress(OSError):
                self._write_manifest(more)

    def _wanted(self, keys: Sequence[str]) -> list[str]:
        unreadable = self.manifest.get("unreadable", {})
        return ["" if key in unreadable else key for key in keys]

    def _fill(self, rows: list[str], embed: Embed, chunk_size: int, label: str) -> int:
        """Makes what is missing and puts the rows together; returns how many were computed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        places = self._known()
        distinct = list(dict.fromkeys(key for key in rows if key))
        missing = sum(key not in places for key in distinct)

        def embedded() -> Iterator[str]:
            asked: set[str] = set()
            while chunks := missing_chunks(distinct, chunk_size, places.keys() | asked):
                for chunk, (vectors, reasons) in zip(chunks, embed(chunks), strict=True):
                    if not asked:
                        keep_width(places, vectors.shape[1])  # what goes is asked for once more
                    asked.update(chunk)
                    why = {chunk[row]: reason for row, reason in reasons.items()}
                    places.update(self._store(chunk, vectors, why))
                    yield from chunk

        computed = sum(1 for _ in track(embedded(), missing, label))
        self._assemble(self._wanted(rows), places)
        return computed

    def _store(self, keys: list[str], vectors: Array, why: Mapping[str, str]) -> dict[str, Place]:
        """Writes a part: the keys that have a vector, with it."""
        kept = [row for row, key in enumerate(keys) if key not in why]
        if bad := [keys[row] for row in kept if not is_unit(vectors[row])]:
            raise no_units(self.folder.name, len(bad), bad[0])
        if why:  # before the part: who finds the part need not ask again
            self._write_manifest({}, why)
        kind = np.dtype([("key", "S64"), ("vector", "<f4", (vectors.shape[1],))])
        part = np.zeros(len(kept), kind)
        part["key"], part["vector"] = [keys[row] for row in kept], vectors[kept]
        buffer = io.BytesIO()
        np.save(buffer, part)
        content = hashlib.sha256(buffer.getbuffer()).hexdigest()
        path = self.folder / f"part-{digest(keys)[:16]}-{content[:16]}.npy"
        with replacing(path) as file:
            file.write_bytes(buffer.getbuffer())
        return {keys[row]: (path, n) for n, row in enumerate(kept)}

    def _known(self) -> dict[str, Place]:
        """key -> where its vector lies, of all that is there, here or with the relatives."""
        places: dict[str, Place] = {}
        for folder in (*self._relatives, self.folder):
            for path in sorted(folder.glob("part-*.npy")):
                places.update({key: (path, row) for row, key in enumerate(part_keys(path))})
            try:
                manifest = read_manifest(folder, self._made_by)
            except UserError:
                continue  # a relative made by something else has nothing to give
            if rows := finished(folder, manifest):
                path = folder / f"vectors-{manifest['rows']}.npy"
                places.update({key: (path, row) for row, key in enumerate(rows.keys) if key})
        if places:
            latest, _ = list(places.values())[-1]
            keep_width(places, open_vectors(latest).shape[1])
        return places

    def _assemble(self, keys: list[str], places: Mapping[str, Place]) -> None:
        """The final files, the manifest last; then what they replace goes."""
        width = next((open_vectors(places[key][0]).shape[1] for key in keys if key), 0)
        name = digest(keys)[:16]
        with replacing(self.folder / f"vectors-{name}.npy") as file:
            out = np.lib.format.open_memmap(
                file, mode="w+", dtype=np.float32, shape=(len(keys), width)
            )
            for row, key in enumerate(keys):
                if key:
                    path, place = places[key]
                    out[row] = open_vectors(path)[place]
                if row % BLOCK == 0:
                    forget(out)
            out.flush()
            del out
            content = file_sha256(file)
        write_json(self.folder / f"rows-{name}.json", keys, indent=0)
        self._write_manifest(
            {
                "rows": name,
                "count": len(keys),
                "embedded": sum(map(bool, keys)),
                "dimension": width,
                "sha256": content,
            }
        )
        open_vectors.cache_clear()
        for pattern in ("part-*.npy", "vectors-*.npy", "rows-*.json"):
            for path in self.folder.glob(pattern):
                if path.name not in (f"vectors-{name}.npy", f"rows-{name}.json"):
                    path.unlink(missing_ok=True)

    def _write_manifest(self, changes: Mapping[str, Any], why: Mapping[str, str] = {}) -> None:
        stored = read_manifest(self.folder, self._made_by)  # another run may have written it
        mine = self.manifest.get("unreadable", {})  # another run may have overwritten it
        unreadable = {**mine, **stored.get("unreadable", {}), **why}
        manifest = {"format": FORMAT, "made_by": self._made_by, **stored, **changes}
        manifest["unreadable"] = unreadable
        write_json(self.folder / "manifest.json", manifest)
        self.manifest = manifest
