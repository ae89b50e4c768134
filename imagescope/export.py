"""A finished run as one file that replays it: `imagescope cache export RUN`."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from imagescope import bundle
from imagescope.cache import Cache, cache_path, digest
from imagescope.config import RunConfig
from imagescope.encoders import CachedTexts, open_encoder
from imagescope.errors import UserError
from imagescope.image_db import ImageDB
from imagescope.pipeline import USED, Models, load_benchmark
from imagescope.prompts import load_prompts
from imagescope.runs import as_started


def read_manifest(folder: Path) -> tuple[RunConfig, set[str]]:
    """What a run folder's manifest holds: the configuration, its places as they were where the run
    was started, and the ids of the identities that answered. Raises UserError."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        made_by = {digest(identity) for identity in manifest["models"].values()}
        config = RunConfig.model_validate(manifest["config"])
        places = {n: as_started(manifest, getattr(config, n)) for n in ("data_root", "image_db")}
        recorded = Path(str(manifest.get("cache", "")))
        usual = cache_path(config.model_copy(update=places))
        places["cache"] = recorded if recorded.is_file() else as_started(manifest, usual)
        return config.model_copy(update=places), made_by
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise UserError(f"{path}: not the manifest of a run ({error})") from None


def export_run(folder: Path, target: Path) -> dict[str, int]:
    """Bundles responses, text vectors, and the image database's vectors, names and content hashes.

    No model is loaded: everything was made by the run. Returns the counts of bundle.export.
    Raises UserError for a run that did not finish, or one whose cache was pruned.
    """
    if not (folder / USED).is_file():
        raise UserError(f"{folder}: no {USED}; is this the folder of a finished run?")
    used = bundle.read_used(folder / USED)
    config, made_by = read_manifest(folder)
    if config.replay:
        raise UserError(f"{folder}: this run is itself a replay of {config.replay}: copy that file")
    benchmark = load_benchmark(config)
    prompts = load_prompts(config.prompts, config.dataset)
    assert config.cache
    if not config.cache.is_file():
        raise UserError(f"{config.cache}: the cache of this run is gone; it held its responses")
    with Cache.open(config.cache) as cache:
        # a checkpoint may have been retrained in its place since: the cache then knows several
        cache.only = made_by
        models = Models(config, cache, strict=True)
        db = ImageDB.open(
            config.image_db, benchmark.name, benchmark.split, benchmark.gallery, cache
        )
        captions = db.captions(models.open("captioner"), prompts.caption)
        encoder = open_encoder(config.models.encoder)
        db.vectors(encoder, CachedTexts(encoder, cache, replay=True), captions)
        return bundle.export(cache, target, used, db.bundle())
