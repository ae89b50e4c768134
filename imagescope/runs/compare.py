"""Runs side by side: what each comes to, paired significance, cost, and papers' figures.

All of it is computed from traces: per-query values are what pairing needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from imagescope.benchmarks import metrics
from imagescope.benchmarks.metrics import Difference
from imagescope.benchmarks.published import Quoted, quoted
from imagescope.errors import UserError
from imagescope.records import Estimate
from imagescope.runs.manifest import Manifest
from imagescope.runs.measured import (
    Column,
    Key,
    Run,
    family_averages,
    read_run,
    run_folders,
    settings,
)

Gains = dict[str, dict[str, dict[str, Difference]]]


@dataclass
class Line:
    """A metric after each run's last stage: its estimate, and its difference from the first."""

    metric: str
    values: list[Estimate | None]
    differences: list[Difference | None]


@dataclass
class Comparison:
    """Runs of one benchmark, and what papers say of it. encoders: run -> its checkpoint's name and
    family.  settings: those in which runs differ -> run -> value, "" where a run has none.
    gains: run -> 'stage2 - stage1' -> metric -> difference.  main: the metric to rank runs by, None
    where there is none.  The p-values of all lines, and those of all gains, are corrected as one
    family each."""

    title: str
    runs: dict[str, Column]
    encoders: dict[str, str]
    settings: dict[str, dict[str, str]]
    lines: list[Line]
    gains: Gains
    notes: list[str]
    quoted: list[Quoted]
    main: str | None = None
    lower_is_better: tuple[str, ...] = ()

    @property
    def tests(self) -> int:
        """How many differences of the lines are tested."""
        return sum(d is not None for line in self.lines for d in line.differences)


def compare(folders: Sequence[Path], seed: int = 0, all_quoted: bool = False) -> list[Comparison]:
    """One comparison per benchmark, and one for a family's average where runs of all of it differ
    in nothing else. folders: of runs, or with finished runs below them. all_quoted: published
    figures of any encoder. Raises UserError for a folder that is no finished run's."""
    places = [run for folder in folders for run in run_folders(folder)]
    runs = [read_run(place, _label(i)) for i, place in enumerate(places)]
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in [*runs, *family_averages(runs)]:
        groups.setdefault(run.group, []).append(run)
    return [_compare(group, seed, all_quoted) for group in groups.values()]


def _label(i: int) -> str:
    """A to Z, then AA, AB and so on, as spreadsheets name columns."""
    before, letter = divmod(i, 26)
    return (_label(before - 1) if before else "") + chr(ord("A") + letter)


def _compare(runs: Sequence[Run], seed: int, all_quoted: bool) -> Comparison:
    keys = set.intersection(*(run.keys() for run in runs))
    notes = []
    if any(run.keys() != keys for run in runs):
        notes.append(f"the runs' queries differ: compared over the {len(keys)} that all have")
    if not keys:
        raise UserError(f"{runs[0].benchmark}: these runs have no query in common")
    lasts = [run.measure(run.stages[-1], keys) for run in runs]
    lines = list[Line]()
    for name in dict.fromkeys(name for values in lasts for name in values):
        first, *others = values = [v.get(name) for v in lasts]
        estimates = [None if v is None else metrics.estimate(v, seed) for v in values]
        differences = [
            None if first is None or v is None else metrics.paired(first, v, seed) for v in others
        ]
        lines.append(Line(name, estimates, differences))
    corrected = iter(metrics.corrected([d for line in lines for d in line.differences if d]))
    for line in lines:
        line.differences = [d and next(corrected) for d in line.differences]
    if not lines:
        notes.append("targets are hidden: the servers score the submission files")
    config, spec = runs[0].config, runs[0].parts[0].spec
    measured = [line.metric for line in lines]
    return Comparison(
        ", ".join((f"{runs[0].benchmark} {config.get('split')}", *runs[0].separate)),
        {run.label: run.column for run in runs},
        {run.label: run.encoder for run in runs},
        differing({run.label: run.manifests[0] for run in runs}),
        lines,
        _corrected({run.label: gains for run in runs if (gains := _gains(run, keys, seed))}),
        notes,
        quoted([m for run in runs for m in run.manifests], all_quoted),
        next((name for name in (*spec.headline, *measured) if name in measured), None),
        tuple(spec.lower_is_better),
    )


def differing(manifests: Mapping[str, Manifest]) -> dict[str, dict[str, str]]:
    """The settings in which runs differ: name -> run -> value. One that a run does not have says
    nothing, as it may be of another version; but a method's options do, which only its runs have.
    """
    own = {label: settings(manifest) for label, manifest in manifests.items()}
    different = {}
    for name in dict.fromkeys(name for run in own.values() for name in run):
        values = {label: run.get(name, "") for label, run in own.items()}
        counted = {text for text in values.values() if text or name.startswith("option.")}
        if len(counted) > 1:
            different[name] = values
    return different


def _corrected(gains: Gains) -> Gains:
    """With p-values corrected over all of them."""
    every = [d for run in gains.values() for pair in run.values() for d in pair.values()]
    corrected = iter(metrics.corrected(every))
    return {
        label: {
            stages: {name: next(corrected) for name in differences}
            for stages, differences in pairs.items()
        }
        for label, pairs in gains.items()
    }


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
