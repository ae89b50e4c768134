"""From a folder to an index: what changed since last time, and only that is computed."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from imagescope.config import EngineName, load_models
from imagescope.encoders.base import has_checkpoint
from imagescope.engines import is_remote
from imagescope.errors import UserError
from imagescope.files import replacing
from imagescope.models.checkpoints import fingerprint
from imagescope.own import library
from imagescope.own.folder import Walk, sha256, walk
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
    """What `imagescope index` did. others: files that do not claim to be pictures.  excluded:
    pattern -> how many files and folders it left out."""

    name: str
    manifest: Manifest
    changes: Changes
    others: int
    excluded: Mapping[str, int]
    seconds: float


def build(
    folder: Path,
    name: str | None = None,
    models: str | None = None,
    engine: EngineName | None = None,
    prompts: str | None = None,
    exclude: Sequence[str] | None = None,
) -> Update:
    """Makes or updates the index of a folder.

    name: None takes the folder's.  models, engine, prompts, exclude: None takes what the index was
    made with, for a new one the set `paper`, `auto`, the prompts that the models need, else
    `general`, and no patterns (see own.folder.walk). Raises UserError for a folder without
    pictures, for a name that belongs to another folder's index, for checkpoints that are not
    there, and where IMAGESCOPE_HOME cannot be written.
    """
    start = time.monotonic()
    folder = folder.expanduser().resolve()
    name = name or re.sub(r"[^\w.-]+", "-", folder.name)[:60].strip("-.") or "pictures"
    place(name)  # refuses what is no name, before anything is looked for
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise UserError(f"{folder!r}: the folder's name is not valid UTF-8") from None
    if folder.is_relative_to(library.home().resolve()):
        raise UserError(f"{folder}: is where ImageScope keeps its own files (IMAGESCOPE_HOME)")
    before = library.read_manifest(name) if name in library.names() else None
    if before and before.folder != folder:
        raise UserError(
            f"the index {name!r} is of {before.folder}: choose another with --name "
            f"(or, if the folder has moved, remove {place(name)})"
        )
    draft = _draft(folder, before, models, engine, prompts, exclude)
    _check(draft)
    entries, below = survey(name, draft, before.pictures if before else {})
    if not entries:
        reasons = [f"{n}: {why}" for n, why in list(below.skipped.items())[:3]]
        reasons += [f"{count} left out by {pattern}" for pattern, count in below.excluded.items()]
        why = "; ".join(reasons) or "none at all"
        raise UserError(f"{folder}: no readable picture below it ({why})")
    manifest = _embed(name, draft, entries, below.skipped)
    changes = compare(before.pictures if before else {}, manifest.pictures)
    library.write_manifest(name, manifest, before)
    _sweep(name, manifest)
    seconds = time.monotonic() - start
    return Update(name, manifest, changes, below.others, below.excluded, seconds)


def _draft(
    folder: Path,
    before: Manifest | None,
    models: str | None,
    engine: EngineName | None,
    prompts: str | None,
    exclude: Sequence[str] | None,
) -> Manifest:
    """The index to be, before anything is in it."""
    if models or not before:
        chosen, models_name = load_models(models or "paper"), Path(models or "paper").stem
        prompts = prompts or chosen.prompts or "general"
    else:
        chosen, models_name = before.models, before.models_name
        prompts = prompts or before.prompts
    chosen, prompts = library.portable(chosen, prompts)
    if exclude is None:
        exclude = before.exclude if before else ()
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
        exclude=tuple(pattern for pattern in exclude if pattern),
    )


def _check(draft: Manifest) -> None:
    """Raises UserError for checkpoints that cannot be had, before any picture is looked at."""
    captioner, encoder = draft.models.captioner, draft.models.encoder
    if not is_remote(captioner, draft.engine):
        fingerprint(captioner.model, captioner.revision)
    if has_checkpoint(encoder):
        fingerprint(encoder.model, encoder.revision)


def _embed(
    name: str, draft: Manifest, entries: Mapping[str, Entry], skipped: Mapping[str, str]
) -> Manifest:
    """Captions and embeds what is new (the image database knows the rest, by content)."""
    from imagescope.encoders.base import open_encoder
    from imagescope.encoders.cached import CachedEncoder
    from imagescope.engines.failures import check
    from imagescope.engines.role import Step
    from imagescope.engines.roles import Models
    from imagescope.gallery.database import ImageDB
    from imagescope.methods.prompts import load_prompts
    from imagescope.store.cache import Cache, cache_path

    config = library.settings(draft)
    prompt = load_prompts(config.prompts, "folder")["caption"]
    gallery = Gallery(tuple(entries), {n: draft.folder / n for n in entries})
    with Cache.open(cache_path(config), record=False) as cache:
        steps: dict[str, Step] = {}
        models = Models(config, cache, steps=steps)
        try:
            db = ImageDB.open(config.image_db, name, "all", gallery, cache)
            with models.role("captioner") as captioner:
                captions = db.captions(captioner, prompt)
            check("captions", steps.get("captions", Step()), limit=1)
            encoder = open_encoder(config.models.encoder)
            try:
                vectors = db.vectors(encoder, CachedEncoder(encoder, cache), captions)
            finally:
                encoder.close()
        finally:
            models.close()
    ok = [n for n, fine in zip(vectors.names, vectors.ok, strict=True) if fine]
    file = library.write_vectors(name, vectors.images[vectors.ok], vectors.captions[vectors.ok])
    db.remove_others()  # the folder as it was before; what it shared has been taken over
    lost = dict.fromkeys(entries.keys() - set(ok), "could not be read")
    return draft.model_copy(
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
    name: str, draft: Manifest, before: Mapping[str, Entry]
) -> tuple[dict[str, Entry], Walk]:
    """The readable pictures of the index' folder (without captions), and what else lies there:
    unreadable ones are added to Walk.skipped.

    A file is hashed if its size or time changed, and opened if its content is new; a thumbnail is
    the proof that it could be read, so an interrupted survey goes on where it stopped. Raises
    UserError where a thumbnail cannot be written.
    """
    below = walk(draft.folder, draft.exclude, library.home())
    with library.writing(place(name) / "thumbnails") as folder:
        folder.mkdir(parents=True, exist_ok=True)

    def examine(item: tuple[str, Path]) -> tuple[str, Entry | str]:
        return item[0], _examine(name, item[1], before.get(item[0]))

    entries = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = pool.map(examine, below.pictures.items())
        for picture, entry in track(results, len(below.pictures), "looking at pictures"):
            if isinstance(entry, Entry):
                entries[picture] = entry
            else:
                below.skipped[picture] = entry
    return entries, below


def _examine(name: str, path: Path, before: Entry | None) -> Entry | str:
    """A picture's entry, or why it is none."""
    from imagescope.models.decoding import UnreadableImage
    from imagescope.models.decoding import thumbnail as shrink

    try:
        stat = path.stat()
        if before and (before.size, before.modified) == (stat.st_size, stat.st_mtime_ns):
            content = before.sha256
        else:
            content = sha256(path)
        entry = Entry(sha256=content, size=stat.st_size, modified=stat.st_mtime_ns)
        small = thumbnail(name, entry)
        if small.exists():
            return entry
        picture = shrink(path, THUMBNAIL)
    except UnreadableImage as error:
        return str(error).removeprefix(f"{path}: ")
    except OSError as error:
        return error.strerror or type(error).__name__
    # outside: what the disk says against a thumbnail is no property of the picture
    with library.writing(small), replacing(small, durable=False) as part:
        picture.save(part, "JPEG", quality=85)
    return entry


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
