"""Runs side by side: metrics per stage, paired significance, the paper's figures where they fit.

All of it is computed from traces: per-query values are what pairing needs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from imagescope import benchmarks
from imagescope.benchmarks import Options, Spec, metrics
from imagescope.benchmarks.metrics import Difference, Values
from imagescope.benchmarks.published import Quoted, quoted
from imagescope.errors import UserError
from imagescope.records import STAGES, Estimate, Query, Ranking
from imagescope.runs.folder import iter_traces, to_json
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
        kept = [i for i, q in enumerate(self.queries) if (self.spec.name, *q.key) in keys]
        queries = [self.queries[i] for i in kept]
        if any(q.targets is None for q in queries) or stage not in self.rankings:
            return {}
        found = self.spec.measure(queries, [self.rankings[stage][i] for i in kept], self.options)
        return {name: v for name, v in found.items() if isinstance(v, np.ndarray)}


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

    def keys(self) -> set[Key]:
        return {(part.spec.name, *q.key) for part in self.parts for q in part.queries}

    def measure(self, stage: str, keys: set[Key]) -> dict[str, Values]:
        """Per-query values. Of several parts each counts the same, whatever its size."""
        found = [part.measure(stage, keys) for part in self.parts]
        common = {name for name in found[0] if all(name in part for part in found)}
        scaled = {}
        for name in found[0]:
            if name in common:
                values = [part[name] for part in found]
                share = sum(map(len, values)) / len(values)
                scaled[name] = np.concatenate([v * share / max(len(v), 1) for v in values])
        return scaled


@dataclass
class Line:
    """A metric at a stage: each run's estimate, and its difference from the first."""

    stage: str
    metric: str
    values: list[Estimate | None]
    differences: list[Difference | None]


@dataclass
class Comparison:
    """Runs of one benchmark, and what papers say of it. encoders: run -> its checkpoint's name and
    family.  gains: run -> 'stage2 - stage1' -> metric -> difference."""

    title: str
    runs: dict[str, list[str]]
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
            "+".join(run.label for run in found.values()),
            [path for run in found.values() for path in run.paths],
            [run.manifests[0] for run in found.values()],
            [part for run in found.values() for part in run.parts],
        )
        for (family, _), found in same.items()
        if len(found) == len(benchmarks.family(family))
    ]


def _compare(runs: Sequence[Run], seed: int, all_quoted: bool) -> Comparison:
    keys = set.intersection(*(run.keys() for run in runs))
    notes = []
    if any(run.keys() != keys for run in runs):
        notes.append(f"the runs' queries differ: compared over the {len(keys)} that all have")
    if not keys:
        raise UserError(f"{runs[0].benchmark}: these runs have no query in common")
    lines, measured = [], {}
    for stage in STAGES:
        found = [run.measure(stage, keys) for run in runs]
        measured[stage] = found
        names = dict.fromkeys(name for values in found for name in values)
        for name in names:
            values = [v.get(name) for v in found]
            lines.append(
                Line(
                    stage,
                    name,
                    [None if v is None else metrics.estimate(v, seed) for v in values],
                    [_paired(values[0], v, seed) for v in values[1:]],
                )
            )
    if not any(line.values[0] for line in lines):
        notes.append("targets are hidden: the servers score the submission files")
    gains: dict[str, dict[str, dict[str, Difference]]] = {}
    for i, run in enumerate(runs):
        for a, b in (("stage1", "stage2"), ("stage2", "stage3"), ("stage1", "stage3")):
            before, after = measured[a][i], measured[b][i]
            found_gains = {n: _paired(before[n], after[n], seed) for n in before if n in after}
            kept = {name: gain for name, gain in found_gains.items() if gain}
            if kept:
                gains.setdefault(run.label, {})[f"{b} - {a}"] = kept
    config = runs[0].config
    title = ", ".join((f"{runs[0].benchmark} {config.get('split')}", *runs[0].separate))
    where = {run.label: [str(path) for path in run.paths] for run in runs}
    published = quoted([m for run in runs for m in run.manifests], all_quoted)
    encoders = {run.label: run.encoder for run in runs}
    return Comparison(title, where, encoders, lines, gains, notes, published)


def _paired(a: Values | None, b: Values | None, seed: int) -> Difference | None:
    return None if a is None or b is None else metrics.paired(a, b, seed)


def show(found: Comparison, console: Console) -> None:
    """Prints a comparison: which run is which, the metrics, and what the stages brought."""
    for label, paths in found.runs.items():
        encoder = f", encoder {found.encoders[label]}" if found.encoders[label] else ""
        console.print(f"{label}: {' '.join(paths)}{encoder}", highlight=False, soft_wrap=True)
    table = Table("stage", "metric", title=f"{found.title}, 95 % intervals")
    labels = list(found.runs)
    for label in labels:
        table.add_column(label, justify="right")
    for label in labels[1:]:
        table.add_column(f"{label} - {labels[0]}", justify="right")
    for line in found.lines:
        table.add_row(
            line.stage,
            line.metric,
            *(_estimate(value) for value in line.values),
            *(_difference(difference) for difference in line.differences),
        )
    if found.lines:
        console.print(table)
    if found.gains:
        gains = Table("run", "stages", "metric", "difference", title="what the stages brought")
        for label, pairs in found.gains.items():
            for pair, differences in pairs.items():
                for name, difference in differences.items():
                    gains.add_row(label, pair, name, _difference(difference))
        console.print(gains)
    for note in found.notes:
        console.print(note)
    if found.quoted:
        console.print(_quoted_table(found.quoted))


def _quoted_table(rows: Sequence[Quoted]) -> Table:
    metrics = list(dict.fromkeys(name for row in rows for name in row.figures))
    table = Table("method", "encoder", title="quoted, not measured here")
    for name in metrics:
        table.add_column(name, justify="right", style="italic")
    table.add_column("source")
    for row in rows:
        figures = (f"{row.figures[m]:.2f}" if m in row.figures else "" for m in metrics)
        encoder = "; ".join(filter(None, (row.encoder, *row.unsaid)))
        table.add_row(row.method, encoder, *figures, row.source)
    return table


def _estimate(e: Estimate | None) -> str:
    return f"{e:.2f}" if e else ""


def _difference(d: Difference | None) -> str:
    return f"{d:.2f}" if d else ""


def to_plain(found: Sequence[Comparison]) -> list[Any]:
    """Comparisons as JSON values."""
    return [to_json(asdict(comparison)) for comparison in found]
