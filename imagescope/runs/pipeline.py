"""A run: a benchmark's queries through a method, to rankings, metrics and submissions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from imagescope import benchmarks
from imagescope.benchmarks import submissions
from imagescope.benchmarks.base import Benchmark
from imagescope.config import BENCHMARK_OPTIONS, RunConfig
from imagescope.encoders.family import family
from imagescope.engines.failures import count_fallbacks, warnings
from imagescope.engines.role import Step
from imagescope.errors import UserError
from imagescope.gallery.database import ImageDB
from imagescope.methods.base import Method, add_findings, check_queries, describe, open_method
from imagescope.methods.context import RunContext
from imagescope.methods.prompts import Prompts
from imagescope.records import Ranking, Synthesis, Trace, plain
from imagescope.runs.folder import RunFolder
from imagescope.runs.preflight import Preflight
from imagescope.runs.result import HIDDEN, Result, details, log_summary
from imagescope.store.bundle import write_used
from imagescope.store.cache import Cache, cache_path

log = logging.getLogger("imagescope")
USED = "used.json"  # what the run took from the cache or put there: what a bundle of it holds
SUBMITTED = 50  # names a server takes at most


def load_benchmark(config: RunConfig) -> Benchmark:
    """The benchmark's split as the run's options want it. In a replay those images are there that
    the bundled run had, whatever lies on this disk."""

    def bundled(folder: Path) -> frozenset[str]:
        assert config.replay
        with Cache.replay(config.replay) as bundle:
            return bundle.files_in(folder)

    chosen = {name: getattr(config, name) for name in BENCHMARK_OPTIONS} | config.dataset_options
    benchmark = benchmarks.load(
        config.dataset,
        config.data_root,
        config.split,
        listing=bundled if config.replay else benchmarks.files_in,
        **benchmarks.spec(config.dataset).choose(chosen, config.protocol),
    )
    return replace(benchmark, queries=benchmark.queries[: config.limit])


def run(config: RunConfig) -> Result:
    """Runs all stages of one benchmark and writes its run folder.

    Raises UserError for what the user can mend. An interrupted run repeats, when the same command
    is given again, only the chunk that was in flight: every response lies in the cache.
    """
    start = time.monotonic()
    method, benchmark = open_method(config.method, config.options), load_benchmark(config)
    config = config.model_copy(update={"options": method.options.model_dump()})  # defaults, too
    check_queries(method, benchmark.queries, benchmark.name)
    prompts = method.load_prompts(config.prompts, config.dataset)
    preflight = None if config.replay else Preflight(config, benchmark)
    if preflight and not cache_path(config).is_file():  # else before the first question
        preflight()
    folder, steps = RunFolder(config), dict[str, Step]()
    folder.update(method=describe(method))

    def close(status: str) -> None:
        counts = {name: plain(step) for name, step in steps.items()}
        folder.close(status, steps=counts, warnings=warnings(steps))

    try:
        with (
            Cache.replay(config.replay)
            if config.replay
            else Cache.open(cache_path(config)) as cache
        ):
            result = _run(
                config, benchmark, method, prompts, cache, folder, steps, preflight, start
            )
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
    return result


def _run(
    config: RunConfig,
    benchmark: Benchmark,
    method: Method,
    prompts: Prompts,
    cache: Cache,
    folder: RunFolder,
    steps: dict[str, Step],
    preflight: Preflight | None,
    start: float,
) -> Result:
    queries, gallery = benchmark.queries, benchmark.gallery
    details.info("arguments: %s", json.dumps(config.model_dump(mode="json")))
    log.info("%s %s: %s", benchmark.name, benchmark.split, benchmark.summary())
    db = ImageDB.open(config.image_db, benchmark.name, benchmark.split, gallery, cache)
    keep = max(config.keep, getattr(method.options, "top_k", 0), SUBMITTED)
    before = preflight.before if preflight else None
    context = RunContext(config, gallery, cache, db, prompts, keep, steps, before)
    rankings: dict[str, list[Ranking]] = {}
    findings: list[dict[str, Any]] = [{"synthesis": Synthesis("", (), ())} for _ in queries]
    try:
        for outcome in method.run(queries, context):
            rankings[outcome.stage] = outcome.rankings
            for explained, more in zip(findings, outcome.findings, strict=True):
                add_findings(explained, outcome.stage, more)
    finally:
        context.close()
    traces = [
        Trace(query=query, rankings={s: rankings[s][i] for s in rankings}, **findings[i])
        for i, query in enumerate(queries)
    ]
    metrics = _score(config, benchmark, rankings)
    files = _write(config, benchmark, method, folder, traces, metrics, rankings)
    folder.write(USED, write_used(cache.used))
    seconds = time.monotonic() - start
    fallbacks, models = count_fallbacks(traces), context.models
    log_summary(metrics, steps, fallbacks, models.loads())
    folder.update(
        benchmark=benchmark.describe(),
        cache=str(cache.path.absolute()),
        prompts=prompts.hashes(),
        models={name: role.engine.identity for name, role in models.roles.items()}
        | {"encoder": context.vectors.identity},
        encoder_family=family(config.models.encoder.model),
        image_db=db.describe(),
        loads=models.loads(),
        fallbacks=fallbacks,
        files=[path.name for path in files],
    )
    return Result(
        *(folder.path, metrics, traces, steps, seconds, files, gallery.files, method.stages),
        image_db=None if cache.bundle else db.folder,
    )


def _score(
    config: RunConfig, benchmark: Benchmark, rankings: Mapping[str, Sequence[Ranking]]
) -> dict[str, dict[str, Any]]:
    if benchmark.hidden:
        return {stage: {} for stage in rankings}
    return {stage: benchmark.score(found, seed=config.seed) for stage, found in rankings.items()}


def _write(
    config: RunConfig,
    benchmark: Benchmark,
    method: Method,
    folder: RunFolder,
    traces: Iterable[Trace],
    metrics: Mapping[str, Any],
    rankings: Mapping[str, Sequence[Ranking]],
) -> list[Path]:
    folder.write_traces(traces)
    folder.write_metrics(metrics, HIDDEN if benchmark.hidden else None)
    files = []
    for stage in method.stages:
        if stage.id in rankings and (text := submissions.write(benchmark, rankings[stage.id])):
            name = f"{folder.stamp}_{config.dataset}_{config.split}_{stage.id}_{stage.action}.json"
            files.append(folder.write(name, text))
    return files
