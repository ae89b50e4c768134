"""From a folder to an index: only what is new or has changed since last time is computed."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagescope.config import EncoderConfig, EngineName, ModelConfig, RunConfig, load_models
from imagescope.encoders.base import has_checkpoint
from imagescope.engines import is_remote
from imagescope.errors import UserError
from imagescope.models.checkpoints import fingerprint
from imagescope.own import library
from imagescope.own.changes import Changes, compare, survey
from imagescope.own.library import Entry, Manifest, place
from imagescope.own.models import portable, requirements
from imagescope.own.pace import MANY, first_vectors, tell
from imagescope.records import Gallery

if TYPE_CHECKING:
    from imagescope.gallery.database import ImageDB
    from imagescope.store.cache import Cache

log = logging.getLogger("imagescope")


@dataclass(frozen=True)
class Draft:
    """An index to be. manifest: with nothing in it yet.  captioned: whether its pictures get
    captions.  before: the index as it is, if it is there."""

    name: str
    manifest: Manifest
    captioned: bool
    before: Manifest | None

    @property
    def pictures(self) -> Mapping[str, Entry]:
        """The pictures that are in the index already."""
        return self.before.pictures if self.before else {}

    @property
    def local(self) -> list[tuple[str, ModelConfig | EncoderConfig]]:
        """The models that index, by role, as far as their checkpoints lie here."""
        models, engine = self.manifest.models, self.manifest.engine
        local: list[tuple[str, ModelConfig | EncoderConfig]] = []
        if self.captioned and not is_remote(models.role("captioner"), engine):
            local.append(("captioner", models.role("captioner")))
        if has_checkpoint(models.encoder):
            local.append(("encoder", models.encoder))
        return local


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
    captions: bool | None = None,
) -> Update:
    """Makes or updates the index of a folder.

    name: None takes the folder's.  models, engine, prompts, exclude, captions: None takes what the
    index was made with, for a new one the set `paper`, `auto`, the prompts that the models need,
    else `general`, no patterns (see own.folder.walk), and captions where the models have a
    captioner. Raises UserError for a folder without pictures, for a name that belongs to another
    folder's index, for checkpoints that are not there, and where IMAGESCOPE_HOME cannot be written.
    """
    return _update(prepare(folder, name, models, engine, prompts, exclude, captions))


def caption(name: str, models: str | None = None, engine: EngineName | None = None) -> Update:
    """Brings an index up to date, with captions where it was made without.

    models, engine: who captions, and who is asked in later searches; None: as the index was made.
    The encoder stays in any case, and so do the pictures' vectors. Raises UserError as build().
    """
    before = library.read_manifest(name)
    draft = prepare(before.folder, name, models, engine, captions=True)
    chosen = draft.manifest.models.model_copy(update={"encoder": before.models.encoder})
    manifest = draft.manifest.model_copy(update={"models": chosen})
    return _update(replace(draft, manifest=manifest))


def _update(draft: Draft) -> Update:
    start = time.monotonic()
    _check(draft)
    name, pictures = draft.name, draft.pictures
    entries, below = survey(name, draft.manifest, pictures)
    if not entries:
        reasons = [f"{n}: {why}" for n, why in list(below.skipped.items())[:3]]
        reasons += [f"{count} left out by {pattern}" for pattern, count in below.excluded.items()]
        why = "; ".join(reasons) or "none at all"
        raise UserError(f"{draft.manifest.folder}: no readable picture below it ({why})")
    manifest = _embed(draft, entries, below.skipped)
    changes = compare(pictures, manifest.pictures)
    library.write_manifest(name, manifest, draft.before)
    _sweep(name, manifest)
    seconds = time.monotonic() - start
    return Update(name, manifest, changes, below.others, below.excluded, seconds)


def prepare(
    folder: Path,
    name: str | None = None,
    models: str | None = None,
    engine: EngineName | None = None,
    prompts: str | None = None,
    exclude: Sequence[str] | None = None,
    captions: bool | None = None,
) -> Draft:
    """What build() would make, and of what; nothing is looked at below the folder, nothing asked.
    Raises UserError where build() does so before it looks at pictures."""
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
            f"(or, if the folder has moved, remove the index: imagescope index rm {name})"
        )
    if models or not before:
        chosen, models_name = load_models(models or "paper"), Path(models or "paper").stem
        prompts = prompts or chosen.prompts or "general"
    else:
        chosen, models_name = before.models, before.models_name
        prompts = prompts or before.prompts
    if captions is None:
        captions = before.captioned if before else "captioner" in chosen.roles
    if captions:
        chosen.role("captioner")  # refuses a set without one
    chosen, prompts = portable(chosen, prompts)
    if exclude is None:
        exclude = before.exclude if before else ()
    manifest = Manifest(
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
        seconds=before.seconds if before and before.models == chosen else {},
    )
    return Draft(name, manifest, captions, before)


def _check(draft: Draft) -> None:
    """Says what will be downloaded. Raises UserError for checkpoints that cannot be had, before
    any picture is looked at."""
    for _, config in draft.local:
        fingerprint(config.model, config.revision)
    for check, text in requirements(draft.local):
        if check.size:
            log.info("%s", text)


def _embed(draft: Draft, entries: Mapping[str, Entry], skipped: Mapping[str, str]) -> Manifest:
    """Captions and embeds what is new (the image database knows the rest, by content)."""
    from imagescope.encoders.base import open_encoder
    from imagescope.encoders.cached import CachedEncoder
    from imagescope.gallery.database import ImageDB
    from imagescope.methods.prompts import load_prompts
    from imagescope.store.cache import Cache, cache_path

    name, manifest = draft.name, draft.manifest
    config = library.settings(manifest)
    gallery = Gallery(tuple(entries), {n: manifest.folder / n for n in entries})
    captions: dict[str, str] = {}
    update: dict[str, Any] = {}
    pace = dict(manifest.seconds)
    with Cache.open(cache_path(config), record=False) as cache:
        db = ImageDB.open(config.image_db, name, "all", gallery, cache)
        if draft.captioned:
            prompt = load_prompts(config.prompts, "folder")["caption"]
            captions, captioner = _caption(config, db, cache, prompt, list(entries), pace)
            update["captioner"] = captioner
            update["caption_prompt"] = hashlib.sha256(prompt.encode()).hexdigest()[:16]
        encoder = open_encoder(config.models.encoder)
        try:
            done = {entry.sha256 for entry in draft.pictures.values()}
            new = [gallery.files[n] for n, entry in entries.items() if entry.sha256 not in done]
            first_vectors(encoder, new)
            texts, working = captions if draft.captioned else None, encoder.seconds
            vectors = db.vectors(encoder, CachedEncoder(encoder, cache), texts)
        finally:
            encoder.close()
    if computed := db.counts[2]:
        pace["vectors"] = (encoder.seconds - working) / computed
    ok = [n for n, fine in zip(vectors.names, vectors.ok, strict=True) if fine]
    file = library.write_vectors(name, vectors.images[vectors.ok], vectors.captions[vectors.ok])
    db.remove_others()  # the folder as it was before; what it shared has been taken over
    lost = dict.fromkeys(entries.keys() - set(ok), "could not be read")
    return manifest.model_copy(
        update={
            **update,
            "encoder": encoder.identity,
            "vectors": file,
            "pictures": {
                n: entries[n].model_copy(update={"caption": captions.get(n, "")}) for n in ok
            },
            "skipped": dict(sorted({**skipped, **lost}.items())),
            "seconds": pace,
        }
    )


def _caption(
    config: RunConfig,
    db: ImageDB,
    cache: Cache,
    prompt: str,
    names: Sequence[str],
    pace: dict[str, float],
) -> tuple[dict[str, str], dict[str, Any]]:
    """name -> caption, and the captioner's identity. pace["captions"]: set to the seconds that one
    took, which are told, with what they come to, after a first batch of many."""
    from imagescope.engines.failures import check
    from imagescope.engines.role import Step
    from imagescope.engines.roles import Models

    steps: dict[str, Step] = {}
    models = Models(config, cache, steps=steps)
    try:
        with models.role("captioner") as captioner:
            batch = captioner.config.batch_size
            if len(names) > MANY * batch:
                db.captions(captioner, prompt, names[:batch])  # the very first warms up
                asked, spent = steps["captions"].asked, steps["captions"].model_seconds
                db.captions(captioner, prompt, names[: 2 * batch])
                asked = steps["captions"].asked - asked
                spent = steps["captions"].model_seconds - spent
                if asked:
                    tell("captions", spent / asked, len(names) - 2 * batch)
            captions = db.captions(captioner, prompt)
            identity = captioner.engine.identity
    finally:
        models.close()
    step = steps.get("captions", Step())
    check("captions", step, limit=1)
    if step.asked:
        pace["captions"] = step.model_seconds / step.asked
    return captions, identity


def _sweep(name: str, manifest: Manifest) -> None:
    """Removes the thumbnails of pictures that are gone."""
    keep = {f"{entry.sha256}.jpg" for entry in manifest.pictures.values()}
    for path in (place(name) / "thumbnails").iterdir():
        if path.name not in keep:
            path.unlink(missing_ok=True)
