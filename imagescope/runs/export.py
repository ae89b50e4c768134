"""A finished run as one file that replays it: `imagescope cache export RUN`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from imagescope import benchmarks
from imagescope.config import BENCHMARK_OPTIONS, RunConfig
from imagescope.encoders.base import open_encoder
from imagescope.encoders.cached import CachedEncoder
from imagescope.engines.roles import Models
from imagescope.errors import UserError
from imagescope.files import parse_json
from imagescope.gallery.database import ImageDB
from imagescope.methods.base import open_method
from imagescope.runs.manifest import Manifest
from imagescope.runs.pipeline import USED, load_benchmark
from imagescope.store import bundle
from imagescope.store.cache import Cache, cache_path
from imagescope.store.cache_file import without_address
from imagescope.store.entries import Used
from imagescope.store.hashing import digest


def read_manifest(folder: Path) -> tuple[RunConfig, list[dict[str, Any]]]:
    """What a run folder's manifest holds: the configuration, its places as they were where the run
    was started, and the identities of the models that answered. Raises UserError."""
    manifest = Manifest.read(folder)
    try:
        identities = [dict(identity) for identity in manifest["models"].values()]
        # options that came, or went, since the run was made are no reason to refuse it
        config = RunConfig.model_validate(manifest["config"], extra="ignore")
        places = {n: manifest.as_started(getattr(config, n)) for n in ("data_root", "image_db")}
        recorded = Path(str(manifest.get("cache", "")))
        usual = cache_path(config.model_copy(update=places))
        places["cache"] = recorded if recorded.is_file() else manifest.as_started(usual)
        options = dict.fromkeys(BENCHMARK_OPTIONS) | {
            "dataset_options": benchmarks.options_of(manifest.config)
        }
        return config.model_copy(update=places | options), identities
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: not the manifest of a run ({error})") from None


def export_run(folder: Path, target: Path) -> dict[str, int]:
    """Bundles responses, text vectors, and the image database's vectors, names and content hashes.

    No model is loaded: everything was made by the run. Returns the counts of bundle.export.
    Raises UserError for a run that did not finish, or one whose cache was pruned.
    """
    if not (folder / USED).is_file():
        raise UserError(f"{folder}: no {USED}; is this the folder of a finished run?")
    used = bundle.read_used(folder / USED)
    config, identities = read_manifest(folder)
    if config.replay:
        raise UserError(f"{folder}: this run is itself a replay of {config.replay}: copy that file")
    benchmark = load_benchmark(config)
    method = open_method(config.method, config.options)
    prompts = method.load_prompts(config.prompts, config.dataset)
    assert config.cache
    if not config.cache.is_file():
        raise UserError(f"{config.cache}: the cache of this run is gone; it held its responses")
    with Cache.open(config.cache) as cache:
        # a checkpoint may have been retrained in its place since: the cache then knows several
        cache.only = {digest(without_address(identity)) for identity in identities}
        used = _as_kept(used, cache, identities)
        cache.failed = {key: entry.response for key, entry in used.failed.items()}
        models = Models(config, cache, strict=True)
        db = ImageDB.open(
            config.image_db, benchmark.name, benchmark.split, benchmark.gallery, cache
        )
        captions = None
        vectors = Manifest.read(folder).part("steps", "embedding").get("wanted", 0)
        if vectors > len(benchmark.gallery.names):  # the gallery's captions, too
            captions = db.captions(models.open("captioner"), prompts["caption"])
        encoder = open_encoder(config.models.encoder)
        db.vectors(encoder, CachedEncoder(encoder, cache, replay=True), captions)
        return bundle.export(cache, target, used, db.bundle())


def _as_kept(used: Used, cache: Cache, identities: list[dict[str, Any]]) -> Used:
    """What a run used, under the cache's keys of today: those of an older run were made with the
    endpoint's address in the identity."""
    now = {digest(old): digest(without_address(old)) for old in identities if "base_url" in old}
    keys: dict[str, str] = {}
    for old, new in now.items():
        for key, _, request, *_ in cache.table("responses", "identity = ?", new):
            keys[digest([old, parse_json(request)])] = key
    failed = {}
    for entry in used.failed.values():
        if entry.identity in now:
            identity = now[entry.identity]
            key = digest([identity, entry.request])
            entry = replace(entry, key=key, identity=identity)
        failed[entry.key] = entry
    return replace(used, responses={keys.get(k, k) for k in used.responses}, failed=failed)
