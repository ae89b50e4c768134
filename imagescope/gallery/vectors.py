"""Embeddings on disk: rows of float32 under the keys of what they embed, looked at in blocks."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imagescope.arrays import Array, forget
from imagescope.errors import UserError
from imagescope.files import parse_json
from imagescope.store.hashing import digest

log = logging.getLogger("imagescope")
BLOCK = 8192  # rows copied at a time
FORMAT = 1  # of manifest.json
# what this version reads of it; each may be absent, others are passed over and kept
MANIFEST = {
    "format": int,
    "made_by": dict,
    "rows": str,
    "dimension": int,
    "sha256": str,
    "unreadable": dict,
    "skipped": dict,
}
NAME = re.compile("[0-9a-f]{16}")
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


def read_manifest(folder: Path, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """A folder's manifest.json, {} where there is none yet or it is damaged (which is logged).

    Raises UserError, naming the difference, where something else made the folder, or a newer
    version of ImageScope wrote it.
    """
    path = folder / "manifest.json"
    try:
        manifest = parse_json(path.read_bytes())
        if not isinstance(manifest, dict) or "made_by" not in manifest:
            raise ValueError("no made_by")
        for name, kind in MANIFEST.items():
            if not isinstance(manifest.get(name, kind()), kind):
                raise ValueError(f"{name} is {manifest[name]!r:.60}")
        for name in {"unreadable", "skipped"} & manifest.keys():
            manifest[name] = {key: str(why) for key, why in manifest[name].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s: damaged, made again (%s)", path, error)
        return {}
    if manifest.get("format", FORMAT) > FORMAT:
        raise UserError(
            f"{folder} was written by a newer version of ImageScope (format {manifest['format']}, "
            f"here {FORMAT}): use that version, or give another --image-db"
        )
    there, here = manifest["made_by"], json.loads(json.dumps(made_by))
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise UserError(
                f"{folder} was made by something else: {name} is {there.get(name)!r} there, here "
                f"{here.get(name)!r}. Move it away, or give another --image-db."
            )
    return manifest


class Finished(NamedTuple):
    """A folder's finished rows: their keys, the memory-mapped vectors and the file's sha256."""

    keys: list[str]
    vectors: Array
    sha256: str


def finished(folder: Path, manifest: Mapping[str, Any]) -> Finished | None:
    """What a manifest says is there, looked through once; None where it is not, or is damaged."""
    name = manifest.get("rows")
    if name is None:
        return None
    path = folder / f"vectors-{name}.npy"
    try:
        if not NAME.fullmatch(name):
            raise ValueError("no name of rows")
        keys = parse_json((folder / f"rows-{name}.json").read_bytes())
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("rows are no keys")
        vectors, content = _load(path), file_sha256(path)
        width = manifest.get("dimension", vectors.shape[-1] if vectors.ndim else 0)
        if vectors.dtype != np.float32 or vectors.shape != (len(keys), width):
            raise ValueError("rows and vectors do not agree")
        if digest(keys)[:16] != name or manifest.get("sha256", content) != content:
            raise ValueError("not what was written")
        _require_units(vectors, np.array([bool(key) for key in keys], bool))
    except (OSError, ValueError) as error:
        log.warning("%s: damaged, made again (%s)", folder, error)
        return None
    return Finished(keys, vectors, content)


def part_keys(path: Path) -> list[str]:
    """The keys of a part's rows; [] where it is damaged."""
    try:
        part, named = _load(path), path.stem.split("-")[2:]
        if named and named != [file_sha256(path)[:16]]:
            raise ValueError("not what was written")
        if part.ndim != 1 or part.dtype.names != ("key", "vector"):
            raise ValueError("no rows of keys and vectors")
        if part["vector"].dtype != np.float32 or part["vector"].ndim != 2:
            raise ValueError("no vectors")
        keys = [bytes(key).decode() for key in part["key"].tolist()]
        _require_units(part["vector"], np.ones(len(part), bool))
    except (OSError, ValueError, TypeError) as error:
        log.warning("%s: damaged, made again (%s)", path, error)
        return []
    return keys


def _require_units(vectors: Array, there: Array) -> None:
    """Raises ValueError where rows (n, d) that are there, bool (n,), are not of unit length."""
    for first in range(0, len(vectors), BLOCK):
        block = vectors[first : first + BLOCK]
        with np.errstate(all="ignore"):
            off = ~(abs(np.einsum("nd,nd->n", block, block) - 1) < 2e-3)
        if (off & there[first : first + BLOCK]).any():
            raise ValueError("vectors are not of unit length")
        forget(vectors)


def keep_width(places: dict[str, Place], width: int) -> None:
    """Leaves out what is in files of vectors of another length."""
    paths = {path for path, _ in places.values()}
    others = {path for path in paths if open_vectors(path).shape[1] != width}
    for path in sorted(others):
        log.warning("%s: damaged, made again (its vectors are not of length %d)", path, width)
    for key in [key for key, (path, _) in places.items() if path in others]:
        del places[key]


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path) -> Array:
    """An .npy file, memory-mapped. Raises OSError or ValueError."""
    try:
        array: Array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        raise
    except Exception as error:  # numpy's reader of a damaged header may raise anything
        raise ValueError(f"no array: {type(error).__name__}") from None
    return array


@lru_cache(maxsize=8)
def open_vectors(path: Path) -> Array:
    """The vectors of a part or of finished rows, memory-mapped."""
    array = _load(path)
    return array["vector"] if array.dtype.names else array
