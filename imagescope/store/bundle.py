"""Bundles: what one run used, as one file that replays it without images, models or a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePath

import numpy as np
from pydantic import TypeAdapter

from imagescope.errors import UserError
from imagescope.files import parse_json, replacing
from imagescope.store.cache import Cache
from imagescope.store.entries import Entry, Used
from imagescope.store.hashing import AMONG, storable

PARTS = 4  # of an image's path that a bundle keeps
_ENTRY, _USED = TypeAdapter(Entry), TypeAdapter(Used)


def write_used(used: Used) -> str:
    """As JSON, for the run folder."""
    return json.dumps(
        {
            "responses": sorted(used.responses),
            "vectors": {space: sorted(keys) for space, keys in sorted(used.vectors.items())},
            "files": dict(sorted(used.files.items())),
            "failed": [asdict(entry) for _, entry in sorted(used.failed.items())],
        },
        indent=0,
    )


def read_used(path: Path) -> Used:
    """What write_used wrote. Raises UserError."""
    try:
        data = dict(parse_json(path.read_bytes()))
        failed = [_ENTRY.validate_python(entry) for entry in data["failed"]]
        return _USED.validate_python(data | {"failed": {entry.key: entry for entry in failed}})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a run's list of what it used: {error}") from None


def export(
    cache: Cache,
    target: str | Path,
    used: Used,
    more: Iterable[tuple[str, Mapping[str, np.ndarray]]] = (),
) -> dict[str, int]:
    """Writes the bundle of what a run used; returns how many of each kind it holds, and its bytes.

    more: further vectors (the image database's), as batches of (space, key -> vector); their
    spaces must be registered in the cache. Raises UserError where the cache no longer holds
    something.
    """
    target = Path(target)
    lacking = len(used.responses) - len(cache.responses(used.responses))
    if lacking:
        raise UserError(f"{cache.path}: {lacking} responses of that run are gone (pruned?)")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as part, Cache.open(part) as bundle:
            _fill(bundle, cache, used, more)
            counts = bundle.info()
            bundle.seal()
    except OSError as error:
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None
    kinds = ("responses", "vectors", "files")
    return {name: int(counts[name]) for name in kinds} | {"bytes": target.stat().st_size}


def _fill(
    bundle: Cache,
    cache: Cache,
    used: Used,
    more: Iterable[tuple[str, Mapping[str, np.ndarray]]],
) -> None:
    rows = cache.table("responses", "key" + AMONG, among=used.responses)
    bundle.insert("responses", rows + [entry.row() for entry in used.failed.values()])
    for space, keys in used.vectors.items():
        stored = cache.vectors(space, sorted(keys))
        if len(stored) < len(keys):
            raise UserError(f"{cache.path}: {len(keys) - len(stored)} vectors are gone (pruned?)")
        bundle.put_vectors(space, stored)
    for space, vectors in more:
        bundle.put_vectors(space, vectors)
    files = {"/".join(PurePath(path).parts[-PARTS:]): sha for path, sha in used.files.items()}
    rows = bundle.rows("SELECT identity FROM responses UNION SELECT space FROM vectors")
    needed = {name for (name,) in rows} | (cache.only or set())  # some roles answer nothing
    bundle.insert("identities", cache.table("identities", "id" + AMONG, among=needed))
    bundle.insert("files", [(storable(p), None, None, sha) for p, sha in sorted(files.items())])
