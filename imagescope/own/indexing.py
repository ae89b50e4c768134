"""From a folder to an index: what changed since last time, and only that is computed."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from imagescope.checkpoints import fingerprint
from imagescope.config import EngineName, load_models
from imagescope.datasets.folder import sha256, walk
from imagescope.errors import UserError
from imagescope.files import replacing
from imagescope.own import library
from imagescope.own.library import THUMBNAIL, Entry, Manifest, place, thumbnail
from imagescope.progress import track
from imagescope.records import Gallery

log = logging.getLogger("imagescope")


@dataclass
class Changes:
    """What an update found, by name; `moved` maps the new name to the old."""

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: dict[str, str] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0


@dataclass
class Update:
    """What `imagescope index` did. others: files that do not claim to be pictures."""

    name: str
    manifest: Manifest
    changes: Changes
    others: int
    seconds: float


def build(
    folder: Path,
    name: str | None = None,
    models: str | None = None,
    engine: EngineName | None = None,
    prompts: str | None = None,
) -> Update:
    """Makes or updates the index of a folder.

    name: None takes the folder's.  models, engine, prompts: None takes what the index was made
    with, for a new one the set `paper`, `auto`, and the prompts that the models need, else
    `general`. Raises UserError for a folder without pictures, for a name that belongs to another
    folder's index, and for checkpoints that are not there.
    """
    start = time.monotonic()
    folder = folder.expanduser().resolve()
    name = name or re.sub(r"[^\w.-]+", "-", folder.name)[:60].strip("-.") or "pictures"
    place(name)  # refuses what is no name, before anything is looked for
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    before = library.read_manifest(name) if name in library.names() else None
    if before and before.folder != folder:
        raise UserError(
            f"the index {name!r} is of {before.folder}: choose another with --name "
            f"(or, if the folder has moved, remove {place(name)})"
        )
    wanted = _wanted(folder, before, models, engine, prompts)
    _check(wanted)
    entries, skipped, others = survey(name, folder, before.pictures if before else {})
    if not entries:
        reasons = "; ".join(f"{n}: {why}" for n, why in list(skipped.items())[:3])
        raise UserError(f"{folder}: no readable picture below it ({reasons or 'none at all'})")
    manifest = _embed(name, wanted, entries, skipped)
    changes = compare(before.pictures if before else {}, manifest.pictures)
    library.write_manifest(name, manifest, before)
    _sweep(name, manifest)
    return Update(name, manifest, changes, others, time.monotonic() - start)


def _wanted(
    folder: Path,
    before: Manifest | None,
    models: str | None,
    engine: EngineName | None,
    prompts: str | None,
) -> Manifest:
    """The index to be, before anything is in it."""
    if models or not before:
        chosen, models_name = load_models(models or "paper"), Path(models or "paper").stem
        prompts = prompts or chosen.prompts or "general"
    else:
        chosen, models_name = before.models, before.models_name
        prompts = prompts or before.prompts
    chosen, prompts = library.portable(chosen, prompts)
    return Manifest(
        updated=datetime.now(UTC).isoformat(timespec="seconds"),
        folder=folder,
        models_name=models_name,
        models=chosen,
        engine=engine or (before.engine if before else "auto"),
        prompts=prompts,
        caption_prompt="",
        captioner={},
        encoder={},
        vectors="",
        pictures={},
        skipped={},
    )


def _check(wanted: Manifest) -> None:
    """Raises UserError for checkpoints that cannot be had, before any picture is looked at."""
    captioner, encoder = wanted.models.captioner, wanted.models.encoder
    if (captioner.engine or wanted.engine) != "openai":
        fingerprint(captioner.model, captioner.revision)
    fingerprint(encoder.model, encoder.revision)


def _embed(
    name: str, wanted: Manifest, entries: Mapping[str, Entry], skipped: Mapping[str, str]
) -> Manifest:
    """Captions and embeds what is new (the image database knows the rest, by content)."""
    from imagescope.cache import Cache, cache_path
    from imagescope.encoders import CachedTexts, open_encoder
    from imagescope.image_db import ImageDB
    from imagescope.pipeline import Models
    from imagescope.prompts import load_prompts

    config = library.settings(wanted)
    prompt = load_prompts(config.prompts, "folder").caption
    gallery = Gallery(tuple(entries), {n: wanted.folder / n for n in entries})
    with Cache.open(cache_path(config), record=False) as cache:
        models = Models(config, cache)
        try:
            db = ImageDB.open(config.image_db, name, "all", gallery, cache)
            with models.role("captioner") as captioner:
                captions = db.captions(captioner, prompt)
            encoder = open_encoder(config.models.encoder)
            try:
                vectors = db.vectors(encoder, CachedTexts(encoder, cache), captions)
            finally:
                encoder.close()
        finally:
            models.close()
    ok = [n for n, fine in zip(vectors.names, vectors.ok, strict=True) if fine]
    file = library.write_vectors(name, vectors.images[vectors.ok], vectors.captions[vectors.ok])
    db.remove_others()  # the folder as it was before; what it shared has been taken over
    lost = dict.fromkeys(entries.keys() - set(ok), "could not be read")
    return wanted.model_copy(
        update={
            "caption_prompt": hashlib.sha256(prompt.encode()).hexdigest()[:16],
            "captioner": captioner.engine.identity,
            "encoder": encoder.identity,
            "vectors": file,
            "pictures": {
                n: entries[n].model_copy(update={"caption": captions.get(n, "")}) for n in ok
            },
            "skipped": dict(sorted({**skipped, **lost}.items())),
        }
    )


def _sweep(name: str, manifest: Manifest) -> None:
    """Removes the thumbnails of pictures that are gone."""
    keep = {f"{entry.sha256}.jpg" for entry in manifest.pictures.values()}
    for path in (place(name) / "thumbnails").iterdir():
        if path.name not in keep:
            path.unlink(missing_ok=True)


def survey(
    name: str, folder: Path, known: Mapping[str, Entry]
) -> tuple[dict[str, Entry], dict[str, str], int]:
    """The readable pictures of a folder (without captions), the others with the reason, and how
    many files are no pictures at all.

    A file is hashed if its size or time changed, and opened if its content is new; a thumbnail is
    the proof that it could be read, so an interrupted survey goes on where it stopped.
    """
    found = walk(folder)
    (place(name) / "thumbnails").mkdir(parents=True, exist_ok=True)

    def examine(item: tuple[str, Path]) -> tuple[str, Entry | str]:
        return item[0], _examine(name, item[1], known.get(item[0]))

    entries, skipped = {}, dict(found.skipped)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = pool.map(examine, found.pictures.items())
        for picture, entry in track(results, len(found.pictures), "looking at pictures"):
            if isinstance(entry, Entry):
                entries[picture] = entry
            else:
                skipped[picture] = entry
    return entries, dict(sorted(skipped.items())), found.others


def _examine(name: str, path: Path, before: Entry | None) -> Entry | str:
    """A picture's entry, or why it is none."""
    from imagescope.engines.images import UnreadableImage, load_picture

    try:
        stat = path.stat()
        if before and (before.size, before.modified) == (stat.st_size, stat.st_mtime_ns):
            content = before.sha256
        else:
            content = sha256(path)
        entry = Entry(sha256=content, size=stat.st_size, modified=stat.st_mtime_ns)
        small = thumbnail(name, entry)
        if not small.exists():
            picture = load_picture(path)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            with replacing(small, durable=False) as part:
                picture.save(part, "JPEG", quality=85)
        return entry
    except UnreadableImage as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return error.strerror or type(error).__name__


def compare(old: Mapping[str, Entry], new: Mapping[str, Entry]) -> Changes:
    """What became of the pictures: by name, and by content where a name is gone."""
    gone: dict[str, list[str]] = {}
    for name in old.keys() - new.keys():
        gone.setdefault(old[name].sha256, []).append(name)
    changes = Changes()
    for name, entry in new.items():
        if name in old:
            if old[name].sha256 == entry.sha256:
                changes.unchanged += 1
            else:
                changes.changed.append(name)
        elif before := gone.get(entry.sha256):
            changes.moved[name] = before.pop()
        else:
            changes.new.append(name)
    changes.removed = sorted(name for left in gone.values() for name in left)
    return changes
