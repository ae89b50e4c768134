"""What a run would ask of the models, before anything runs: `imagescope plan`.

The method itself runs, in a context that only counts (plan_context.py). No model is loaded, no
weights need be there, nothing is downloaded, and nothing is written.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from imagescope.config import EncoderConfig, ModelConfig, RunConfig
from imagescope.encoders.base import has_checkpoint
from imagescope.errors import UserError
from imagescope.gallery.database import ImageDB
from imagescope.methods.base import check_queries, open_method
from imagescope.models.checkpoints import locate
from imagescope.runs.folder import machine
from imagescope.runs.manifest import Manifest
from imagescope.runs.pipeline import load_benchmark
from imagescope.runs.plan_context import Forecast, PlanContext, ReadOnly
from imagescope.store.cache import cache_path


def forecast(config: RunConfig) -> dict[str, Forecast]:
    """Every step of the run, in order, with what the cache holds of it."""
    method, benchmark = open_method(config.method, config.options), load_benchmark(config)
    check_queries(method, benchmark.queries, benchmark.name)
    steps: dict[str, Any] = {}
    path = cache_path(config)
    with (
        tempfile.TemporaryDirectory() as temporary,
        ReadOnly.open(path if path.is_file() else Path(temporary, "cache.sqlite")) as cache,
    ):
        root = _links(config.image_db, Path(temporary, "image_db"))
        context = PlanContext(
            config,
            method.typical,
            cache,
            gallery=benchmark.gallery,
            db=ImageDB.open(root, benchmark.name, benchmark.split, benchmark.gallery, cache),
            prompts=method.load_prompts(config.prompts, config.dataset),
            keep=max(config.keep, getattr(method.options, "top_k", 0)),
            steps=steps,
        )
        for _ in method.run(benchmark.queries, context):
            pass
    _remember(config, steps)
    return steps


def _links(image_db: Path, copy: Path) -> Path:
    """An image database of links to this one's files: what is written into it goes with it."""
    for folder in sorted(image_db.absolute().glob("*/")):
        shutil.copytree(folder, copy / folder.name, copy_function=os.symlink)
    return copy


def _remember(config: RunConfig, steps: Mapping[str, Forecast]) -> None:
    """Tokens and time as an earlier run of these models on this machine measured them: the newest
    of this dataset, else of another."""
    here, earlier = machine(), []
    for path in config.runs.glob("*/*/*/manifest.json"):
        manifest = Manifest.read(path.parent, lenient=True)
        if manifest.get("machine") == here and (started := manifest.started):
            same = manifest.config.get("dataset") == config.dataset
            earlier.append((same, started, manifest))
    earlier.sort(key=lambda run: run[:2], reverse=True)
    for (_, _, manifest), (step, row) in product(earlier, steps.items()):
        model = getattr(config.models, row.role).model_dump(mode="json")
        cost = manifest.part("steps", step)
        same = manifest.part("config", "models", row.role) == model
        if row.expected_seconds is None and same and cost.get("asked"):
            row.expected_tokens = row.wanted * cost["prompt_tokens"] / cost["asked"]
            row.expected_output = row.to_ask * cost["output_tokens"] / cost["asked"]
            each = cost["model_seconds"] / cost["asked"]
            row.expected_seconds = row.to_ask * each + cost["load_seconds"] * (row.to_ask > 0)


def memory(config: ModelConfig | EncoderConfig) -> str:
    """A checkpoint's weights in GB, and what the engine takes of each GPU."""
    if isinstance(config, EncoderConfig) and not has_checkpoint(config):
        return "needs no weights"
    try:
        folder = Path(locate(config.model))
    except UserError:
        return "weights not here yet"
    files = list(folder.glob("*.safetensors"))
    if not files:
        return "weights not here yet"
    size = sum(f.stat().st_size for f in files) / 1e9
    if isinstance(config, EncoderConfig):
        return f"{size:.2f} GB of weights"
    return f"{size:.2f} GB of weights; {config.gpu_memory_utilization:.0%} of a GPU under vLLM"
