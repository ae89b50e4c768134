"""The stages in order, each model in memory once.

captioner (gallery) → reasoner (all rounds, both calls) → encoder (gallery, captions, descriptions)
→ retrieval → verifier → evaluator → rankings, metrics, submissions, report.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from imagescope import datasets, submissions
from imagescope.bundle import write_used
from imagescope.cache import Cache, cache_path
from imagescope.config import ROLES, ModelConfig, RunConfig
from imagescope.datasets.base import Benchmark
from imagescope.encoders import CachedTexts, Encoder, open_encoder
from imagescope.engines import open_engine
from imagescope.engines.cached import Cached
from imagescope.engines.role import Role, Step
from imagescope.errors import UserError
from imagescope.image_db import ImageDB
from imagescope.prompts import PromptSet, load_prompts
from imagescope.records import STAGES, Ranking, Synthesis, Trace
from imagescope.runs import RunFolder
from imagescope.stages.evaluation import evaluate
from imagescope.stages.retrieval import retrieve
from imagescope.stages.synthesis import ask_questions, synthesise
from imagescope.stages.verification import verify

log = logging.getLogger("imagescope")
details = log.getChild("details")  # lines for output.log; a terminal shows the summary instead
HIDDEN = "the targets of this split are hidden: the submission files are the result"
USED = "used.json"  # what the run took from the cache or put there: what a bundle of it holds
SUBMITTED = 50  # names a server takes at most


@dataclass
class Result:
    """What a run came to. `steps` says what each cost, in the order they ran."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    traces: list[Trace]
    steps: dict[str, Step]
    seconds: float
    files: list[Path] = field(default_factory=list)


class Models:
    """The roles of a run. Roles that name the same checkpoint share an engine; it is closed when
    the last role that needs it is done, or another is opened: one model in memory at a time."""

    def __init__(self, config: RunConfig, cache: Cache, strict: bool = False):
        self._config, self._cache = config, cache
        self._strict = strict or config.replay is not None  # nothing may be asked
        self._engines: dict[str, Cached] = {}
        self.roles: dict[str, Role] = {}

    def _shared(self, name: str) -> str:
        return checkpoint(self._config.models.role(name)).model_dump_json()

    def open(self, name: str) -> Role:
        """The role, with its engine; nothing is loaded before something is asked."""
        config, key = self._config.models.role(name), self._shared(name)
        if key not in self._engines:
            engine = open_engine(
                checkpoint(config), self._config.engine, ray_address=self._config.ray_address
            )
            self._engines[key] = Cached(
                engine,
                self._cache,
                chunk_size=config.chunk_size,
                replay=self._strict,
            )
        role = self.roles.get(name) or Role(name, self._engines[key], config)
        self.roles[name] = role
        return role

    @contextmanager
    def role(self, name: str) -> Iterator[Role]:
        """The role for one part of the run; afterwards its memory is free unless shared."""
        self.close(all_but=name)  # one that a later role shares may still be open
        try:
            yield self.open(name)
        finally:
            later = ROLES[ROLES.index(name) + 1 :]
            if not any(self._shared(other) == self._shared(name) for other in later):
                self._engines[self._shared(name)].close()

    def close(self, all_but: str | None = None) -> None:
        """Gives the memory of all engines back, or of all that this role does not need."""
        kept = self._shared(all_but) if all_but else None
        for key, engine in self._engines.items():
            if key != kept:
                engine.close()

    def loads(self) -> dict[str, int]:
        """How often each role's engine was loaded."""
        return {name: role.engine.stats.loads for name, role in self.roles.items()}


def checkpoint(config: ModelConfig) -> ModelConfig:
    """What of a role's configuration belongs to the engine; decoding goes with each request."""
    plain = {
        name: ModelConfig.model_fields[name].default
        for name in ("max_tokens", "repetition_penalty", "stop", "chunk_size")
    }
    return config.model_copy(update=plain)


def load_benchmark(config: RunConfig) -> Benchmark:
    """The benchmark's split as the run's options want it. In a replay those images are there that
    the bundled run had, whatever lies on this disk."""

    def bundled(folder: Path) -> frozenset[str]:
        assert config.replay
        with Cache.replay(config.replay) as bundle:
            return bundle.files_in(folder)

    benchmark = datasets.load(
        config.dataset,
        config.data_root,
        config.split,
        exclude_reference=config.exclude_reference,
        first_round=config.first_round,
        subset=config.subset,
        shared_concept=config.shared_concept,
        listing=bundled if config.replay else datasets.files_in,
    )
    return replace(benchmark, queries=benchmark.queries[: config.limit])


def run(config: RunConfig) -> Result:
    """Runs all stages of one benchmark and writes its run folder.

    Raises UserError for what the user can mend. An interrupted run repeats, when the same command
    is given again, only the chunk that was in flight: every response lies in the cache.
    """
    start = time.monotonic()
    benchmark = load_benchmark(config)
    prompts = load_prompts(config.prompts, config.dataset)
    folder = RunFolder(config)
    try:
        with (
            Cache.replay(config.replay)
            if config.replay
            else Cache.open(cache_path(config)) as cache
        ):
            result = _run(config, benchmark, prompts, cache, folder, start)
    except KeyboardInterrupt:
        log.info("interrupted: the same command goes on where this one stopped")
        folder.close("interrupted")
        raise
    except OSError as error:  # a full disk, say, that may not hold the run's status either
        log.info("failed: %s", error)
        with suppress(OSError):
            folder.close(f"failed: {error}")
        raise UserError(
            f"{error.filename or folder.path}: {error.strerror or error}. What was answered is "
            "kept; the same command goes on from there."
        ) from error
    except BaseException as error:
        log.info("failed: %s", error)
        folder.close(f"failed: {error}")
        raise
    folder.close("finished")
    _report(folder.path, benchmark.gallery.files)
    return result


def _run(
    config: RunConfig,
    benchmark: Benchmark,
    prompts: PromptSet,
    cache: Cache,
    folder: RunFolder,
    start: float,
) -> Result:
    queries, gallery, models = benchmark.queries, benchmark.gallery, Models(config, cache)
    details.info("arguments: %s", json.dumps(config.model_dump(mode="json")))
    log.info("%s %s: %s", benchmark.name, benchmark.split, benchmark.summary())
    steps: dict[str, Step] = {}
    try:
        db = ImageDB.open(config.image_db, benchmark.name, benchmark.split, gallery, cache)
        with models.role("captioner") as captioner:
            captions = db.captions(captioner, prompts.caption)
        steps |= captioner.steps

        with models.role("reasoner") as reasoner:
            syntheses = synthesise(queries, captions, reasoner, prompts, config.reading)
            if "s2" in config.stages:
                syntheses = ask_questions(queries, syntheses, reasoner, prompts, config.reading)
        steps |= reasoner.steps

        if config.ray_address:
            models.close()  # the encoder's replicas want the cluster's GPUs, too
        encoder = open_encoder(config.models.encoder, ray_address=config.ray_address)
        texts = CachedTexts(encoder, cache, replay=config.replay is not None)
        try:
            with _timed(steps, "embedding", encoder) as step:
                vectors = db.vectors(encoder, texts, captions)
                step.wanted, step.cached, step.asked = db.counts
            with _timed(steps, "retrieval", encoder) as step:
                first = _retrieve(config, benchmark, syntheses, texts, vectors)
                step.wanted, step.cached, step.asked = texts.take_counts()
                step.duplicates = step.wanted - step.cached - step.asked
        finally:
            encoder.close()
        rankings = {"stage1": first}
        verified: list[Any] = [None] * len(queries)
        evaluated: list[Any] = [None] * len(queries)
        if "s2" in config.stages:
            with models.role("verifier") as verifier:
                found = verify(
                    queries,
                    syntheses,
                    first,
                    gallery.files,
                    verifier,
                    config.top_k,
                    config.reading,
                )
            steps |= verifier.steps
            verified, rankings["stage2"] = [v for v, _ in found], [r for _, r in found]
        if "s3" in config.stages:
            with models.role("evaluator") as evaluator:
                judged = evaluate(
                    queries,
                    rankings["stage2"],
                    gallery.files,
                    evaluator,
                    prompts.evaluation,
                    config.alpha,
                    config.reading,
                )
            steps |= evaluator.steps
            evaluated, rankings["stage3"] = [e for e, _ in judged], [r for _, r in judged]
    finally:
        models.close()

    traces = [
        Trace(query, synthesis, {s: rankings[s][i] for s in rankings}, verified[i], evaluated[i])
        for i, (query, synthesis) in enumerate(zip(queries, syntheses, strict=True))
    ]
    metrics = _score(config, benchmark, rankings)
    files = _write(config, benchmark, folder, traces, metrics, rankings)
    folder.write(USED, write_used(cache.used))
    seconds = time.monotonic() - start
    fallbacks = count_fallbacks(traces)
    _log(metrics, steps, fallbacks, models.loads())
    folder.update(
        benchmark=benchmark.describe(),
        cache=str(cache.path.absolute()),
        prompts=prompts.hashes(),
        models={name: role.engine.identity for name, role in models.roles.items()}
        | {"encoder": texts.identity},
        image_db=db.describe(),
        steps={name: asdict(step) for name, step in steps.items()},
        loads=models.loads(),
        fallbacks=fallbacks,
        files=[path.name for path in files],
    )
    return Result(folder.path, metrics, traces, steps, seconds, files)


def _retrieve(
    config: RunConfig,
    benchmark: Benchmark,
    syntheses: Sequence[Synthesis],
    texts: CachedTexts,
    vectors: Any,
) -> list[Ranking]:
    return retrieve(
        benchmark.queries,
        texts.means([s.descriptions for s in syntheses]),
        vectors,
        tau=config.tau,
        keep=max(config.keep, config.top_k, SUBMITTED),
    )


@contextmanager
def _timed(steps: dict[str, Step], name: str, encoder: Encoder) -> Iterator[Step]:
    """A step whose model is the encoder."""
    start, working, loading = time.monotonic(), encoder.seconds, encoder.load_seconds
    steps[name] = step = Step()
    yield step
    step.seconds = time.monotonic() - start
    step.model_seconds = encoder.seconds - working
    step.load_seconds = encoder.load_seconds - loading


def _score(
    config: RunConfig, benchmark: Benchmark, rankings: Mapping[str, Sequence[Ranking]]
) -> dict[str, dict[str, Any]]:
    if benchmark.hidden:
        return {stage: {} for stage in rankings}
    return {stage: benchmark.score(found, seed=config.seed) for stage, found in rankings.items()}


def _write(
    config: RunConfig,
    benchmark: Benchmark,
    folder: RunFolder,
    traces: Iterable[Trace],
    metrics: Mapping[str, Any],
    rankings: Mapping[str, Sequence[Ranking]],
) -> list[Path]:
    folder.write_traces(traces)
    folder.write_metrics(metrics, HIDDEN if benchmark.hidden else None)
    files = []
    for stage, action in zip(STAGES, ("retrieve", "rerank", "eval"), strict=True):
        if stage in rankings and (text := submissions.write(benchmark, rankings[stage])):
            name = f"{folder.stamp}_{config.dataset}_{config.split}_{stage}_{action}.json"
            files.append(folder.write(name, text))
    return files


def count_fallbacks(traces: Iterable[Trace]) -> dict[str, int]:
    """How often each part had to cope, by kind; 'ok' is not counted."""
    counts: Counter[str] = Counter()
    for trace in traces:
        s = trace.synthesis
        counts[f"synthesis {s.parse}"] += s.parse != "ok"
        counts[f"questions {s.questions_parse}"] += s.questions_parse != "ok"
        if trace.verification:
            unread = sum(a is None for row in trace.verification.answers for a in row)
            counts["verification: answers missing"] += unread
        if trace.evaluation:
            unjudged = sum(j.text.startswith("(not judged") for j in trace.evaluation.judgements)
            counts["evaluation: not judged"] += unjudged
    return {kind: n for kind, n in sorted(counts.items()) if n}


def _log(
    metrics: Mapping[str, Mapping[str, Any]],
    steps: Mapping[str, Step],
    fallbacks: Mapping[str, int],
    loads: Mapping[str, int],
) -> None:
    for name, step in steps.items():
        details.info(
            "%s: %d requests wanted, %d duplicates, %d cached, %d asked; %d tokens in, %d out; "
            "%.1f s (model %.1f, loading %.1f)",
            *(name, step.wanted, step.duplicates, step.cached, step.asked, step.prompt_tokens),
            *(step.output_tokens, step.seconds, step.model_seconds, step.load_seconds),
        )
    for name, count in loads.items():
        details.info("%s loaded %d time%s", name, count, "" if count == 1 else "s")
    for kind, count in fallbacks.items():
        details.info("fallback, %s: %d", kind, count)
    for stage, found in metrics.items():
        details.info("%s", stage)
        for name, value in found.items():
            for label, estimate in _flat(name, value):
                details.info("%s: %.2f [%.2f, %.2f]", label, *estimate)


def _flat(name: str, value: Any) -> Iterator[tuple[str, tuple[float, float, float]]]:
    if isinstance(value, Mapping):
        for inner, found in value.items():
            yield from _flat(f"{name} {inner}", found)
    elif hasattr(value, "low"):
        yield name, (value.value, value.low, value.high)


def _report(folder: Path, files: Mapping[str, Path]) -> None:
    try:
        from imagescope.report import write_report

        log.info("report: %s", write_report(folder, files))
    except Exception as error:  # the results are written; a page must not take them along
        log.warning("no report: %s (later: imagescope report %s)", error, folder)
