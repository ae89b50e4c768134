"""Embeddings on disk: rows of float32 under the keys of what they embed, looked at in blocks."""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from imagescope.errors import UserError
from imagescope.files import replacing, write_json
from imagescope.hashing import digest
from imagescope.progress import track

log = logging.getLogger("imagescope")
Array = np.ndarray[Any, np.dtype[Any]]
LARGE = 1 << 30  # bytes; a larger array's pages are given back as soon as they were read
BLOCK = 8192  # rows copied at a time
ATTEMPTS = 5
Place = tuple[Path, int]  # a file of vectors, and the row


@dataclass(frozen=True)
class GalleryVectors:
    """What stage 1 ranks, row by row in gallery order (the order that breaks ties).

    images, captions: float32 (n, d), unit rows, usually memory-mapped. A picture that has no
        caption has its own image vector in `captions`: it is ranked by its image alone.
    ok: bool (n,); False where the picture could not be read: it is not ranked.
    """

    names: tuple[str, ...]
    images: Array
    captions: Array
    ok: Array

    @cached_property
    def index(self) -> Mapping[str, int]:
        """name -> row."""
        return {name: row for row, name in enumerate(self.names)}


def is_unit(vector: Array) -> bool:
    """Whether a vector is finite and of length 1, to 1e-3."""
    with np.errstate(all="ignore"):
        return bool(abs(float(np.dot(vector, vector)) - 1) < 2e-3)


def no_units(model: str, count: int, first: str) -> UserError:
    """What is wrong with a model whose vectors cannot be compared."""
    return UserError(
        f"{model}: {count} vectors are not finite or not of unit length; the first is that of "
        f"{first!r}. Is the checkpoint whole? dtype: float32 mends numbers that overflow."
    )


def forget(array: Array) -> None:
    """Gives a large memory-mapped array's pages back to the system (they stay on disk).

    A pass over a gallery so needs memory for a block, not for the gallery.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and array.nbytes > LARGE and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def read_manifest(folder: Path, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """A folder's manifest.json, {} where there is none yet.

    Raises UserError, naming the difference, where something else made the folder, or where the
    manifest cannot be read.
    """
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        kept = dict(found["made_by"])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}): remove its folder to make it anew") from None
    wanted = json.loads(json.dumps(made_by))
    for name in sorted(kept.keys() | wanted.keys()):
        if kept.get(name) != wanted.get(name):
            raise UserError(
                f"{folder} was made by something else: {name} is {kept.get(name)!r} there, here "
                f"{wanted.get(name)!r}. Move it away, or give another --image-db."
            )
    assert isinstance(found, dict)
    return found


class VectorStore:
    """The vectors of one gallery by one encoder, in a folder of their own:

        manifest.json         what made them, how many, what could not be embedded and why
        rows-<id>.json        the key of every row, "" where there is nothing
        vectors-<id>.npy      float32 (rows, d)
        part-<id>.npy         while they are being made: chunks of (key, vector)

    A key is the sha256 of what is embedded. Files are written whole or not at all, and named by
    what is in them: whoever is killed loses at most the chunk in work, and two at once write the
    same.  relatives: folders of the same kind, whose rows are taken over where keys agree.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any], relatives: Sequence[Path] = ()):
        self.folder = folder
        self._made_by, self._relatives = dict(made_by), relatives
        self.manifest = read_manifest(folder, made_by)

    def rows(
        self,
        keys: Sequence[str],
        embed: Callable[[list[str]], tuple[Array, Mapping[str, str]]],
        chunk_size: int,
        label: str,
    ) -> tuple[Array, Array, int]:
        """(vectors (len(keys), d) read-only, ok (len(keys),), how many were computed).

        embed: keys -> their vectors, and why for those that have none (rows of zeros); asked for
        chunks cut from the distinct keys, less what is known. An empty key is a row of zeros.
        """
        computed = 0
        for _ in range(ATTEMPTS):
            held, wanted = self._held(self.folder, self.manifest), self._wanted(keys)
            if held and held[0] == wanted:
                return held[1], np.array([bool(key) for key in wanted], bool), computed
            try:
                computed += self._fill(wanted, embed, chunk_size, label)
            except FileNotFoundError:
                log.debug("%s: another run has just finished these rows", self.folder)
            except OSError as error:
                raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from None
            self.manifest = read_manifest(self.folder, self._made_by)
        raise UserError(f"{self.folder}: other runs keep changing it; try again when they are done")

    def record(self, **more: Any) -> None:
        """Puts more into the manifest, where it does not say so yet."""
        if any(self.manifest.get(name) != value for name, value in more.items()):
            self._write_manifest(more)

    def _wanted(self, keys: Sequence[str]) -> list[str]:
        unreadable = self.manifest.get("unreadable", {})
        return ["" if key in unreadable else key for key in keys]

    def _fill(
        self,
        wanted: list[str],
        embed: Callable[[list[str]], tuple[Array, Mapping[str, str]]],
        chunk_size: int,
        label: str,
    ) -> int:
        """Makes what is missing and puts the rows together; returns how many were computed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        known = self._known()
        distinct = list(dict.fromkeys(key for key in wanted if key))
        missing = sum(key not in known for key in distinct)

        def made() -> Iterator[str]:
            for first in range(0, len(distinct), chunk_size):
                chunk = [k for k in distinct[first : first + chunk_size] if k not in known]
                if chunk:
                    vectors, why = embed(chunk)
                    known.update(self._store(chunk, vectors, why))
                    yield from chunk

        computed = sum(1 for _ in track(made(), missing, label))
        self._assemble(self._wanted(wanted), known)
        return computed

    def _store(self, keys: list[str], vectors: Array, why: Mapping[str, str]) -> dict[str, Place]:
        """Writes a part: the keys that have a vector, with it."""
        kept = [row for row, key in enumerate(keys) if key not in why]
        if why:  # before the part: who finds the part need not ask again
            self._write_manifest({}, why)
        kind = np.dtype([("key", "S64"), ("vector", "<f4", (vectors.shape[1],))])
        part = np.zeros(len(kept), kind)
        part["key"], part["vector"] = [keys[row] for row in kept], vectors[kept]
        path = self.folder / f"part-{digest(keys)[:16]}.npy"
        with replacing(path) as file, file.open("wb") as stream:
            np.save(stream, part)
        return {keys[row]: (path, n) for n, row in enumerate(kept)}

    def _known(self) -> dict[str, Place]:
        """key -> where its vector lies, of all that is there, here or with the relatives."""
        known: dict[str, Place] = {}
        for folder in (*self._relatives, self.folder):
            for path in sorted(folder.glob("part-*.npy")):
                try:
                    keys = np.load(path, mmap_mode="r")["key"].tolist()
                except (OSError, ValueError, IndexError, EOFError) as error:
                    log.warning("%s: damaged, made again (%s)", path, error)
                    continue
                known.update({key.decode(): (path, row) for row, key in enumerate(keys)})
            try:
                manifest = read_manifest(folder, self._made_by)
            except UserError:
                continue  # a relative made by something else has nothing to give
            if held := self._held(folder, manifest):
                path = folder / f"vectors-{manifest['rows']}.npy"
                known.update({key: (path, row) for row, key in enumerate(held[0]) if key})
        return known

    def _assemble(self, keys: list[str], known: Mapping[str, Place]) -> None:
        """The final files, the manifest last; then what they replace goes."""
        width = next((_open(known[key][0]).shape[1] for key in keys if key), 0)
        name = digest(keys)[:16]
        with replacing(self.folder / f"vectors-{name}.npy") as file:
            out = np.lib.format.open_memmap(
                file, mode="w+", dtype=np.float32, shape=(len(keys), width)
            )
            for row, key in enumerate(keys):
                if key:
                    path, place = known[key]
                    out[row] = _open(path)[place]
                if row % BLOCK == 0:
                    forget(out)
            out.flush()
            del out
        write_json(self.folder / f"rows-{name}.json", keys, indent=0)
        self._write_manifest(
            {
                "rows": name,
                "count": len(keys),
                "embedded": sum(map(bool, keys)),
                "dimension": width,
            }
        )
        _open.cache_clear()
        for pattern in ("part-*.npy", "vectors-*.npy", "rows-*.json"):
            for path in self.folder.glob(pattern):
                if name not in path.name:
                    path.unlink(missing_ok=True)

    def _write_manifest(self, changes: Mapping[str, Any], why: Mapping[str, str] = {}) -> None:
        found = read_manifest(self.folder, self._made_by)  # another run may have written it
        mine = self.manifest.get("unreadable", {})  # another run may have overwritten it
        unreadable = {**mine, **found.get("unreadable", {}), **why}
        made = {"made_by": self._made_by, **found, **changes, "unreadable": unreadable}
        write_json(self.folder / "manifest.json", made)
        self.manifest = made

    @staticmethod
    def _held(folder: Path, manifest: Mapping[str, Any]) -> tuple[list[str], Array] | None:
        """A folder's finished rows: their keys and the memory-mapped vectors."""
        name = manifest.get("rows")
        if not isinstance(name, str):
            return None
        try:
            keys = json.loads((folder / f"rows-{name}.json").read_text(encoding="utf-8"))
            vectors = np.load(folder / f"vectors-{name}.npy", mmap_mode="r")
        except (OSError, ValueError) as error:
            log.warning("%s: damaged, made again (%s)", folder, error)
            return None
        if len(vectors) != len(keys) or vectors.dtype != np.float32 or vectors.ndim != 2:
            log.warning("%s: damaged, made again (rows and vectors do not agree)", folder)
            return None
        return keys, vectors


@lru_cache(maxsize=8)
def _open(path: Path) -> Array:
    """The vectors of a part or of finished rows, memory-mapped."""
    found: Array = np.load(path, mmap_mode="r")
    return found["vector"] if found.dtype.names else found
