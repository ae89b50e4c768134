"""What a run would ask of the models, before anything runs: `imagescope plan`.

The stages themselves run, against the cache alone: a response that is not there stays unanswered,
and is counted. Where that leaves a later step unknown (which questions, which candidates), its
count is the most it can be, or an estimate, and is marked so. No model is loaded, no weights need
be there, nothing is downloaded, and nothing is written.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from imagescope.arrays import Array
from imagescope.config import EncoderConfig, ModelConfig, RunConfig
from imagescope.encoders.base import CachedTexts, Encoder
from imagescope.engines import open_engine
from imagescope.engines.base import Picture, Request, Response
from imagescope.engines.cached import Cached
from imagescope.engines.role import Role
from imagescope.engines.roles import checkpoint
from imagescope.errors import UserError
from imagescope.gallery.database import LONGEST, ImageDB
from imagescope.methods.evaluation import evaluate
from imagescope.methods.prompts import VERIFICATION, load_prompts
from imagescope.methods.synthesis import ask_questions, synthesise
from imagescope.methods.verification import verify
from imagescope.models.checkpoints import locate
from imagescope.runs.folder import machine
from imagescope.runs.pipeline import load_benchmark
from imagescope.runs.preflight import identifiable
from imagescope.search.retrieval import retrieve
from imagescope.store.cache import Cache, cache_path

CHARACTERS = 4.0  # a token, in English text, where no earlier run tells
QUESTIONS = 3.0  # a query, where none is known yet
ROLE = {
    "captions": "captioner",
    "synthesis": "reasoner",
    "questions": "reasoner",
    "embedding": "encoder",
    "retrieval": "encoder",
    "verification": "verifier",
    "evaluation": "evaluator",
}


@dataclass
class Forecast:
    """A step that is still to come. exact: whether the counts are, or the most they can be.
    identified: whether the checkpoint is here, so that its answers could be looked up at all."""

    step: str
    wanted: int
    cached: int
    images: int
    prompt_tokens: float
    exact: bool = True
    output_tokens: float | None = None
    seconds: float | None = None
    identified: bool = True

    @property
    def to_ask(self) -> int:
        return self.wanted - self.cached


class _Foreseen(Cached):
    """Answers from the cache; what is not there stays unanswered and is counted as asked."""

    characters = 0

    @property
    def identified(self) -> bool:
        return "unidentified" not in self.identity

    @cached_property
    def identity(self) -> dict[str, Any]:
        try:
            if self._declared.get("engine") == "openai" or identifiable(
                self._declared["model"], self._declared["revision"]
            ):
                return super().identity
        except UserError:  # incomplete, say
            pass
        return {"unidentified": self._declared}  # nothing is held under this

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        places, _, unread = self._places(requests)
        held = self._cache.responses(places)
        self.stats.wanted += len(requests)
        self.stats.duplicates += len(requests) - len(unread) - len(places)
        self.stats.cached += len(held)
        self.stats.asked += len(places) - len(held)
        self.characters += sum(len(r.prompt) for r in requests)
        yield from unread.items()
        unknown = Response("", finish="error", error="not asked yet")
        for key, indices in places.items():
            for i in indices:
                yield i, held.get(key, unknown)


class _ReadOnly(Cache):
    """A cache in which nothing is kept."""

    def insert(self, table: str, rows: Sequence[Any], conflict: str = "REPLACE") -> None: ...


class _Unloaded(Encoder):
    """An encoder that may not be asked: what it would have to embed is not known yet."""

    def images(self, paths: Sequence[str | os.PathLike[str]]) -> tuple[Array, Array]:
        raise _Unknown

    def texts(self, texts: Sequence[str]) -> Array:
        raise _Unknown


class _Unknown(Exception):
    """Something that only a model can say."""


def forecast(config: RunConfig) -> list[Forecast]:
    """Every step of the run, in order, with what the cache holds of it."""
    benchmark = load_benchmark(config)
    prompts = load_prompts(config.prompts, config.dataset)
    queries, gallery = benchmark.queries, benchmark.gallery
    path = cache_path(config)
    with (
        tempfile.TemporaryDirectory() as temporary,
        _ReadOnly.open(path if path.is_file() else Path(temporary, "cache.sqlite")) as cache,
    ):

        def role(name: str) -> Role:
            model = config.models.role(name)
            engine = open_engine(checkpoint(model), config.engine, ray_address=config.ray_address)
            return Role(name, _Foreseen(engine, cache), model)

        captioner, reasoner = role("captioner"), role("reasoner")
        named = [name for name in gallery.files if name not in benchmark.missing]
        requests = [
            Request(prompts["caption"], (Picture(str(gallery.files[name])),), max_tokens=LONGEST)
            for name in named
        ]
        answers = captioner.ask(requests, "captions", named)
        spoken = {n: r.text.strip() for n, r in zip(named, answers, strict=True)}
        captions = {name: caption for name, caption in spoken.items() if caption}
        syntheses = synthesise(queries, captions, reasoner, prompts, config.reading)
        if "s2" in config.stages:
            syntheses = ask_questions(queries, syntheses, reasoner, prompts, config.reading)
        found = [_counted(r, step) for r in (captioner, reasoner) for step in r.steps]
        asking = sum(not query.verbatim for query in queries)
        pool = len(gallery.names)
        encoder = _Unloaded(config.models.encoder)
        texts = CachedTexts(encoder, cache)
        descriptions = [text for s in syntheses for text in s.descriptions]
        identified = identifiable(encoder.config.model, encoder.config.revision)
        rows = Forecast("embedding", 2 * pool, 0, pool, 0, exact=False, identified=identified)
        said = Forecast("retrieval", len(descriptions), 0, 0, 0, exact=False, identified=identified)
        unanswered = any(row.to_ask for row in found)
        found += [rows, said]
        try:
            if unanswered or not identified:
                raise _Unknown
            said.cached, said.exact = said.wanted - texts.missing(descriptions), True
            root = _links(config.image_db, Path(temporary, "image_db"))
            db = ImageDB.open(root, benchmark.name, benchmark.split, gallery, cache)
            vectors = db.vectors(encoder, texts, db.captions(captioner, prompts["caption"]))
            rows.cached, rows.exact = rows.wanted, True
            means = texts.means([s.descriptions for s in syntheses])
            first = retrieve(queries, means, vectors, tau=config.tau, keep=config.top_k)
            if "s2" in config.stages:
                verifier = role("verifier")
                seen = verify(
                    queries,
                    syntheses,
                    first,
                    gallery.files,
                    verifier,
                    config.top_k,
                    config.reading,
                )
                found.append(_counted(verifier, "verification"))
                first = [ranking for _, ranking in seen]
            if "s3" in config.stages:
                if found[-1].to_ask:
                    raise _Unknown
                evaluator = role("evaluator")
                evaluate(
                    queries,
                    first,
                    gallery.files,
                    evaluator,
                    prompts["evaluation"],
                    config.alpha,
                    config.reading,
                )
                found.append(_counted(evaluator, "evaluation"))
        except _Unknown:
            known = [len(s.questions) for s in syntheses if s.questions]
            mean = sum(known) / len(known) if known else QUESTIONS
            wanted = round(asking * min(config.top_k, pool) * mean)
            if "s2" in config.stages and found[-1].step != "verification":
                tokens = wanted * (len(VERIFICATION) + 20) / CHARACTERS
                found.append(Forecast("verification", wanted, 0, wanted, tokens, exact=False))
            if "s3" in config.stages:
                wanted = asking * min(config.alpha, pool)
                tokens = wanted * len(prompts["evaluation"]) / CHARACTERS
                found.append(Forecast("evaluation", wanted, 0, 2 * wanted, tokens, exact=False))
    _remember(config, found)
    return found


def _counted(role: Role, step: str) -> Forecast:
    engine, cost = role.engine, role.steps[step]
    assert isinstance(engine, _Foreseen)
    total = sum(s.wanted for s in role.steps.values()) or 1
    tokens = engine.characters / CHARACTERS * cost.wanted / total
    pictures = {"captions": 1, "verification": 1, "evaluation": 2}.get(step, 0)
    cached, images = cost.wanted - cost.asked, pictures * cost.wanted
    return Forecast(step, cost.wanted, cached, images, tokens, identified=engine.identified)


def _links(image_db: Path, copy: Path) -> Path:
    """An image database of links to this one's files: what is written into it goes with it."""
    for folder in sorted(image_db.absolute().glob("*/")):
        shutil.copytree(folder, copy / folder.name, copy_function=os.symlink)
    return copy


def _remember(config: RunConfig, found: Sequence[Forecast]) -> None:
    """Tokens and time as an earlier run of these models on this machine measured them: the newest
    of this dataset, else of another."""
    here, earlier = machine(), []
    for path in sorted(config.runs.glob("*/*/*/manifest.json"), reverse=True):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            settings, steps = manifest["config"], manifest["steps"]
            same = settings["dataset"] == config.dataset
            started = datetime.fromisoformat(manifest["started"]).astimezone()
            models = settings["models"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # unfinished, or not ours
        if manifest.get("machine") == here:
            earlier.append((same, started, models, steps))
    for _, _, models, steps in sorted(earlier, key=lambda run: run[:2], reverse=True):
        for row in found:
            cost, name = steps.get(row.step), ROLE[row.step]
            same = models[name] == getattr(config.models, name).model_dump(mode="json")
            if row.seconds is None and same and cost and cost["asked"]:
                row.prompt_tokens = row.wanted * cost["prompt_tokens"] / cost["asked"]
                row.output_tokens = row.to_ask * cost["output_tokens"] / cost["asked"]
                each = cost["model_seconds"] / cost["asked"]
                row.seconds = row.to_ask * each + cost["load_seconds"] * (row.to_ask > 0)


def memory(config: ModelConfig | EncoderConfig) -> str:
    """A checkpoint's weights in GB, and what the engine takes of each GPU."""
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


def print_plan(config: RunConfig, console: Console) -> None:
    """The forecast as a table, the models' memory, and what it all adds up to."""
    found = forecast(config)
    table = Table("step", "requests", "cached", "to ask", "images", "tokens in", "out", "time")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in found:
        about = "" if row.exact else "≤ " if row.step == "evaluation" else "~ "
        table.add_row(
            row.step,
            f"{about}{row.wanted:,}",
            f"{row.cached:,}" if row.exact and row.identified else "?",
            f"{about}{row.to_ask:,}",
            f"{row.images:,}" if row.images else "",
            f"{row.prompt_tokens:,.0f}",
            f"{row.output_tokens:,.0f}" if row.output_tokens is not None else "?",
            f"{row.seconds:,.0f} s" if row.seconds is not None else "?",
        )
    console.print(table)
    for name in dict.fromkeys(ROLE[row.step] for row in found):
        model = getattr(config.models, name)
        console.print(f"{name}: {model.model}, {memory(model)}", highlight=False)
    console.print(_note(found), highlight=False)


def _note(found: Sequence[Forecast]) -> str:
    known: list[Any] = [row.seconds for row in found if row.seconds is not None]
    if len(known) < len(found):
        return "time: unknown until a run of these models has been measured on this machine"
    return f"time: about {sum(known):,.0f} s, by the newest runs on this machine"
