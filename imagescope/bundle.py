"""Bundles: what one run used, as one file that replays it without images, models or a GPU."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePath

import numpy as np

from imagescope.cache import Cache, Entry, Used, read_response
from imagescope.errors import UserError
from imagescope.files import replacing

PARTS = 4  # of an image's path that a bundle keeps
INSERT = "INSERT OR REPLACE INTO"


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
        data = json.loads(path.read_text(encoding="utf-8"))
        failed = [
            Entry(**entry | {"response": read_response(json.dumps(entry["response"]), path)})
            for entry in data["failed"]
        ]
        return Used(
            set(data["responses"]),
            {space: set(keys) for space, keys in data["vectors"].items()},
            dict(data["files"]),
            {entry.key: entry for entry in failed},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
    query = "SELECT * FROM responses WHERE key IN (SELECT value FROM json_each(?))"
    rows = cache.rows(query, (json.dumps(sorted(used.responses)),))
    rows += [entry.row() for entry in used.failed.values()]
    with bundle.write() as db:
        db.executemany(f"{INSERT} responses VALUES (?, ?, ?, ?, ?)", rows)
    for space, wanted in used.vectors.items():
        held = cache.vectors(space, sorted(wanted))
        if len(held) < len(wanted):
            raise UserError(f"{cache.path}: {len(wanted) - len(held)} vectors are gone (pruned?)")
        bundle.put_vectors(space, held)
    for space, vectors in more:
        bundle.put_vectors(space, vectors)
    files = {"/".join(PurePath(path).parts[-PARTS:]): sha for path, sha in used.files.items()}
    rows = bundle.rows("SELECT identity FROM responses UNION SELECT space FROM vectors")
    needed = {name for (name,) in rows} | (cache.only or set())  # some roles answer nothing
    query = "SELECT * FROM identities WHERE id IN (SELECT value FROM json_each(?))"
    identities = cache.rows(query, (json.dumps(sorted(needed)),))
    with bundle.write() as db:
        db.executemany(f"{INSERT} files VALUES (?, NULL, NULL, ?)", sorted(files.items()))
        db.executemany(f"{INSERT} identities VALUES (?, ?, ?)", identities)
