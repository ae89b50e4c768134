"""The stages in order, each model in memory once.

captioner (gallery) → reasoner (all rounds, both calls) → encoder (gallery, captions, descriptions)
→ retrieval → verifier → evaluator → rankings, metrics, submissions, report.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
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
from imagescope.failures import check, count_fallbacks, warnings
from imagescope.image_db import ImageDB
from imagescope.preflight import Preflight
from imagescope.prompts import PromptSet, load_prompts
from imagescope.records import STAGES, Ranking, Synthesis, Trace
from imagescope.runs import RunFolder
from imagescope.stages.evaluation import evaluate
from imagescope.stages.retrieval import retrieve
from imagescope.stages.synthesis import ask_questions, synthesise
from imagescope.stages.verification import verify
from imagescope.summary import HIDDEN, Result, details, log_summary

log = logging.getLogger("imagescope")
USED = "used.json"  # what the run took from the cache or put there: what a bundle of it holds
OF_REQUESTS = (  # of a role, what goes with each request, not with the engine
    *("max_tokens", "answer_tokens", "json_schema", "repetition_penalty", "stop", "chunk_size"),
)
SUBMITTED = 50  # names a server takes at most


class Models:
    """The roles of a run. Roles that name the same checkpoint share an engine; it is closed when
    the last role that needs it is done, or another is opened: one model in memory at a time."""

    def __init__(
        self,
        config: RunConfig,
        cache: Cache,
        strict: bool = False,
        steps: dict[str, Step] | None = None,
        preflight: Preflight | None = None,
    ):
        self._preflight = preflight
        self._config, self._cache = config, cache
        self._strict = strict or config.replay is not None  # nothing may be asked
        self._engines: dict[str, Cached] = {}
        self.roles: dict[str, Role] = {}
        self._steps = {} if steps is None else steps  # of all roles, filled as they are asked

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
                self._preflight.before(engine) if self._preflight else engine,
                self._cache,
                chunk_size=config.chunk_size,
                replay=self._strict,
            )
        role = self.roles.get(name) or Role(name, self._engines[key], config, self._steps)
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

    def check(self, step: str) -> None:
        """Raises UserError where too many of a step's requests were left without an answer."""
        check(step, self._steps.get(step, Step()), self._config.fail_on_error)

    def loads(self) -> dict[str, int]:
        """How often each role's engine was loaded."""
        return {name: role.engine.stats.loads for name, role in self.roles.items()}


def checkpoint(config: ModelConfig) -> ModelConfig:
    """What of a role's configuration belongs to the engine; decoding goes with each request."""
    plain = {name: ModelConfig.model_fields[name].default for name in OF_REQUESTS}
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
    preflight = None if config.replay else Preflight(config, benchmark)
    if preflight and not cache_path(config).is_file():  # else before the first question
        preflight()
    folder, steps = RunFolder(config), dict[str, Step]()

    def close(status: str) -> None:
        counts = {name: asdict(step) for name, step in steps.items()}
        folder.close(status, steps=counts, warnings=warnings(steps))

    try:
        with (
            Cache.replay(config.replay)
            if config.replay
            else Cache.open(cache_path(config)) as cache
        ):
            result = _run(config, benchmark, prompts, cache, folder, steps, preflight, start)
    except KeyboardInterrupt:
        log.info("interrupted: the same command goes on where this one stopped")
        close("interrupted")
        raise
    except OSError as error:  # a full disk, say, that may not hold the run's status either
        log.info("failed: %s", error)
        with suppress(OSError):
            close(f"failed: {error}")
        raise UserError(
            f"{error.filename or folder.path}: {error.strerror or error}. What was answered is "
            "kept; the same command goes on from there."
        ) from error
    except BaseException as error:
        log.info("failed: %s", error)
        close(f"failed: {error}")
        raise
    close("finished with warnings" if warnings(steps) else "finished")
    _report(folder.path, benchmark.gallery.files)
    return result


def _run(
    config: RunConfig,
    benchmark: Benchmark,
    prompts: PromptSet,
    cache: Cache,
    folder: RunFolder,
    steps: dict[str, Step],
    preflight: Preflight | None,
    start: float,
) -> Result:
    queries, gallery = benchmark.queries, benchmark.gallery
    models = Models(config, cache, steps=steps, preflight=preflight)
    details.info("arguments: %s", json.dumps(config.model_dump(mode="json")))
    log.info("%s %s: %s", benchmark.name, benchmark.split, benchmark.summary())
    try:
        db = ImageDB.open(config.image_db, benchmark.name, benchmark.split, gallery, cache)
        with models.role("captioner") as captioner:
            captions = db.captions(captioner, prompts.caption)
        models.check("captions")

        with models.role("reasoner") as reasoner:
            syntheses = synthesise(queries, captions, reasoner, prompts, config.reading)
            models.check("synthesis")
            if "s2" in config.stages:
                syntheses = ask_questions(queries, syntheses, reasoner, prompts, config.reading)
                models.check("questions")

        if config.ray_address:
            models.close()  # the encoder's replicas want the cluster's GPUs, too
        encoder = open_encoder(config.models.encoder, ray_address=config.ray_address)
        if preflight:
            encoder = preflight.before(encoder)
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
            models.check("verification")
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
            models.check("evaluation")
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
    log_summary(metrics, steps, fallbacks, models.loads())
    folder.update(
        benchmark=benchmark.describe(),
        cache=str(cache.path.absolute()),
        prompts=prompts.hashes(),
        models={name: role.engine.identity for name, role in models.roles.items()}
        | {"encoder": texts.identity},
        image_db=db.describe(),
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


def _report(folder: Path, files: Mapping[str, Path]) -> None:
    try:
        from imagescope.report import write_report

        log.info("report: %s", write_report(folder, files))
    except Exception as error:  # the results are written; a page must not take them along
        log.warning("no report: %s (later: imagescope report %s)", error, folder)
