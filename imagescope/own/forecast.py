"""What an index would take, before anything runs: `imagescope index FOLDER --plan`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress

from imagescope.engines import is_remote
from imagescope.errors import UserError
from imagescope.own import library
from imagescope.own.folder import walk
from imagescope.own.indexing import Draft
from imagescope.own.library import Manifest
from imagescope.own.models import requirements
from imagescope.own.pace import duration
from imagescope.redaction import redact

PICTURE = 45_000  # bytes that a picture takes: a thumbnail, vectors in the index and by content


def forecast(draft: Draft) -> Iterator[str]:
    """Line by line: pictures, questions, checkpoints, disk and time. Pictures are told by name,
    size and time; none is opened, no model is loaded, nothing is downloaded or written."""
    manifest, models = draft.manifest, draft.manifest.models
    below = walk(manifest.folder, manifest.exclude, library.home())
    new = sum(_changed(draft, name) for name in below.pictures)
    total = len(below.pictures)
    yield f"{draft.name}: {total:,} pictures below {manifest.folder}, {new:,} new or changed"
    captions, vectors = _to_make(draft, new, total)
    if captions + vectors == 0:
        yield "nothing to do: the index has them all"
        return
    if draft.captioned:
        yield f"captions: at most {captions:,}, by {models.role('captioner').model}"
    else:
        yield "captions: none; the encoder alone will search"
    yield f"vectors: at most {vectors:,}, by {models.encoder.model}"
    for role in models.roles if draft.captioned else ():
        config = models.role(role)
        if is_remote(config, manifest.engine):
            yield f"{role}: {config.model} at {redact(config.base_url or 'an endpoint')}"
    for _, text in requirements(draft.local):
        yield text
    if models.note:
        yield f"{manifest.models_name}: {models.note.strip()}"
    existing = next(p for p in (library.home(), *library.home().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    yield (
        f"disk: about {new * PICTURE / 1e6:,.0f} MB for thumbnails and vectors in "
        f"{library.home()}, {free / 1e9:,.0f} GB free"
    )
    pace = _pace(manifest)
    counts = {"captions": captions, "vectors": vectors}
    if all(name in pace for name, count in counts.items() if count):
        seconds = sum(pace.get(name, 0) * count for name, count in counts.items())
        yield f"time: {duration(seconds)} and the models' loading, as these models took here before"
    else:
        yield "time: not known before a first batch has been done here; `index` then says it"


def _to_make(draft: Draft, new: int, total: int) -> tuple[int, int]:
    """How many captions and vectors at most: of all pictures where other models make them."""
    before, models = draft.before, draft.manifest.models
    captions = 0
    if draft.captioned:
        same = (
            before is not None
            and before.captioned
            and before.models.captioner == models.captioner
            and before.prompts == draft.manifest.prompts
        )
        captions = new if same else total
    if before is not None and before.models.encoder == models.encoder:
        return captions, new + captions
    return captions, total + (total if draft.captioned else 0)


def _changed(draft: Draft, name: str) -> bool:
    """Whether size or time say that a file is not the one that the index has by this name."""
    entry = draft.pictures.get(name)
    try:
        stat = (draft.manifest.folder / name).stat()
    except OSError:
        return True
    return not entry or (entry.size, entry.modified) != (stat.st_size, stat.st_mtime_ns)


def _pace(manifest: Manifest) -> dict[str, float]:
    """The seconds that one picture took with these models, in any index."""
    pace: dict[str, float] = {}
    for name in library.names():
        with suppress(UserError):
            other = library.read_manifest(name)
            same = {
                "captions": other.models.captioner == manifest.models.captioner,
                "vectors": other.models.encoder == manifest.models.encoder,
            }
            pace |= {k: v for k, v in other.seconds.items() if same.get(k)}
    return pace
