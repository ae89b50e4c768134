"""Runs side by side: what each comes to, paired significance, cost, and papers' figures.

All of it is computed from traces: per-query values are what pairing needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from imagescope import benchmarks
from imagescope.benchmarks import Options, Spec, metrics
from imagescope.benchmarks.metrics import Difference, Values
from imagescope.benchmarks.published import Quoted, quoted
from imagescope.errors import UserError
from imagescope.methods.base import Description, stage_numbers
from imagescope.records import Estimate, Query, Ranking
from imagescope.runs.folder import iter_traces
from imagescope.runs.manifest import Manifest

Key = tuple[str, str, int]  # benchmark, query id, turn


@dataclass
class Part:
    """A run's queries, and per stage where their targets stood; names are dropped."""

    spec: Spec
    options: Options
    queries: list[Query]
    rankings: dict[str, list[Ranking]]

    def measure(self, stage: str, keys: set[Key]) -> dict[str, Values]:
        common = [i for i, q in enumerate(self.queries) if (self.spec.name, *q.key) in keys]
        queries = [self.queries[i] for i in common]
        if any(q.targets is None for q in queries) or stage not in self.rankings:
            return {}
        rankings = [self.rankings[stage][i] for i in common]
        measured = self.spec.measure(queries, rankings, self.options)
        return {name: v for name, v in measured.items() if isinstance(v, np.ndarray)}


@dataclass
class Cost:
    """Of a query, without the gallery's captions and vectors; None where the manifest does not say.
    whole: False where answers came from the cache, so that it is the least it can be."""

    tokens_in: float | None = None
    tokens_out: float | None = None
    model_seconds: float | None = None
    whole: bool = True


@dataclass
class Run:
    """A run, or a family's runs as one."""

    label: str
    paths: list[Path]
    manifests: list[Manifest]
    parts: list[Part]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifests[0].config

    @property
    def encoder(self) -> str:
        """Its checkpoint's name, and the family of its weights where that is known."""
        manifest = self.manifests[0]
        name = Path(str(manifest.part("config", "models", "encoder").get("model", ""))).name
        return f"{name} ({manifest.encoder_family})" if manifest.encoder_family else name

    @property
    def benchmark(self) -> str:
        spec = self.parts[0].spec
        return spec.name if len(self.parts) == 1 else f"{spec.family} average"

    @property
    def separate(self) -> tuple[str, ...]:
        return self.parts[0].spec.separate(self.parts[0].options)

    @property
    def group(self) -> tuple[Any, ...]:
        """Runs with the same are compared query by query."""
        galleries = tuple((m.get("benchmark") or {}).get("gallery") for m in self.manifests)
        return self.benchmark, self.config.get("split"), self.separate, galleries

    @property
    def method(self) -> Description:
        return self.manifests[0].method

    @property
    def stages(self) -> list[str]:
        """The ids of those that ran, in order."""
        return list(self.parts[0].rankings)

    def cost(self) -> Cost:
        steps = [
            step
            for manifest in self.manifests
            for name in stage_numbers(manifest.method.stages)
            if (step := manifest.part("steps", name))
        ]
        queries = sum(len(part.queries) for part in self.parts)
        if not steps:
            return Cost()
        tokens_in, tokens_out, seconds = (
            sum(step.get(name) or 0 for step in steps) / queries
            for name in ("prompt_tokens", "output_tokens", "model_seconds")
        )
        cached = any(step.get("cached") for step in steps)
        return Cost(tokens_in, tokens_out, seconds, not cached)

    def keys(self) -> set[Key]:
        return {(part.spec.name, *q.key) for part in self.parts for q in part.queries}

    def measure(self, stage: str, keys: set[Key]) -> dict[str, Values]:
        """Per-query values. Of several parts each counts the same, whatever its size."""
        parts = [part.measure(stage, keys) for part in self.parts]
        scaled = {}
        for name in parts[0]:
            if all(name in part for part in parts):
                values = [part[name] for part in parts]
                share = sum(map(len, values)) / len(values)
                scaled[name] = np.concatenate([v * share / max(len(v), 1) for v in values])
        return scaled


@dataclass
class Line:
    """A metric after each run's last stage: its estimate, and its difference from the first."""

    metric: str
    values: list[Estimate | None]
    differences: list[Difference | None]


@dataclass
class Column:
    """Which run it is: its folders, its method, and what that cost."""

    paths: list[str]
    method: Description
    cost: Cost


@dataclass
class Comparison:
    """Runs of one benchmark, and what papers say of it. encoders: run -> its checkpoint's name and
    family.  gains: run -> 'stage2 - stage1' -> metric -> difference."""

    title: str
    runs: dict[str, Column]
    encoders: dict[str, str]
    lines: list[Line]
    gains: dict[str, dict[str, dict[str, Difference]]]
    notes: list[str]
    quoted: list[Quoted]


def compare(folders: Sequence[Path], seed: int = 0, all_quoted: bool = False) -> list[Comparison]:
    """One comparison per benchmark, and one for a family's average where runs of all of it differ
    in nothing else. all_quoted: published figures of any encoder. Raises UserError for a folder
    that is no finished run's."""
    runs = [read_run(folder, _label(i)) for i, folder in enumerate(folders)]
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in [*runs, *family_averages(runs)]:
        groups.setdefault(run.group, []).append(run)
    return [_compare(group, seed, all_quoted) for group in groups.values()]


def _label(i: int) -> str:
    """A to Z, then AA, AB and so on, as spreadsheets name columns."""
    before, letter = divmod(i, 26)
    return (_label(before - 1) if before else "") + chr(ord("A") + letter)


def read_run(folder: Path, label: str) -> Run:
    """A run folder's manifest and the ranks in its traces."""
    manifest = Manifest.read(folder)
    try:
        config = manifest.config
        spec = benchmarks.spec(config["dataset"])
    except KeyError as error:
        raise UserError(f"{folder}/manifest.json: not a run's manifest: {error}") from None
    part = Part(spec, benchmarks.options_of(config), [], {})
    for trace in iter_traces(folder):
        part.queries.append(trace.query)
        for stage, ranking in trace.rankings.items():
            slim = Ranking((), ranks=ranking.ranks, pool=ranking.pool)
            part.rankings.setdefault(stage, []).append(slim)
    return Run(label, [folder], [manifest], [part])


def family_averages(runs: Sequence[Run]) -> list[Run]:
    """One run for those of all benchmarks of a family that differ in nothing else."""
    same: dict[tuple[str, str], dict[str, Run]] = {}
    for run in runs:
        if family := run.parts[0].spec.family:
            config = json.dumps({**run.config, "dataset": "", "prompts": ""}, sort_keys=True)
            same.setdefault((family, config), {})[run.benchmark] = run
    return [
        Run(
            "+".join(run.label for run in members.values()),
            [path for run in members.values() for path in run.paths],
            [run.manifests[0] for run in members.values()],
            [part for run in members.values() for part in run.parts],
        )
        for (family, _), members in same.items()
        if len(members) == len(benchmarks.family(family))
    ]


def _compare(runs: Sequence[Run], seed: int, all_quoted: bool) -> Comparison:
    keys = set.intersection(*(run.keys() for run in runs))
    notes = []
    if any(run.keys() != keys for run in runs):
        notes.append(f"the runs' queries differ: compared over the {len(keys)} that all have")
    if not keys:
        raise UserError(f"{runs[0].benchmark}: these runs have no query in common")
    lasts = [run.measure(run.stages[-1], keys) for run in runs]
    lines = []
    for name in dict.fromkeys(name for values in lasts for name in values):
        first, *others = values = [v.get(name) for v in lasts]
        estimates = [None if v is None else metrics.estimate(v, seed) for v in values]
        differences = [
            None if first is None or v is None else metrics.paired(first, v, seed) for v in others
        ]
        lines.append(Line(name, estimates, differences))
    if not lines:
        notes.append("targets are hidden: the servers score the submission files")
    config = runs[0].config
    return Comparison(
        ", ".join((f"{runs[0].benchmark} {config.get('split')}", *runs[0].separate)),
        {r.label: Column([str(path) for path in r.paths], r.method, r.cost()) for r in runs},
        {run.label: run.encoder for run in runs},
        lines,
        {run.label: gains for run in runs if (gains := _gains(run, keys, seed))},
        notes,
        quoted([m for run in runs for m in run.manifests], all_quoted),
    )


def _gains(run: Run, keys: set[Key], seed: int) -> dict[str, dict[str, Difference]]:
    """What each stage brought, and all of them: 'later - earlier' -> metric -> difference."""
    measured = {stage: run.measure(stage, keys) for stage in run.stages}
    pairs = list(pairwise(run.stages))
    if len(pairs) > 1:
        pairs.append((run.stages[0], run.stages[-1]))
    gains = {}
    for a, b in pairs:
        before, after = measured[a], measured[b]
        both = {n: metrics.paired(before[n], after[n], seed) for n in before if n in after}
        if differences := {name: gain for name, gain in both.items() if gain}:
            gains[f"{b} - {a}"] = differences
    return gains
