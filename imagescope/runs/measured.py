"""A run as comparisons see it: values query by query, settings and cost, from its traces and
manifest. A family's runs may stand as one."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imagescope import benchmarks
from imagescope.benchmarks import Options, Spec
from imagescope.benchmarks.metrics import Values
from imagescope.errors import UserError
from imagescope.methods.base import Description, stage_numbers
from imagescope.methods.imagescope import ImageScope
from imagescope.records import Query, Ranking
from imagescope.runs.folder import iter_traces
from imagescope.runs.manifest import Manifest

log = logging.getLogger("imagescope")
MANIFEST = "manifest.json"
Key = tuple[str, str, int]  # benchmark, query id, turn
# of a configuration: where things lie, and what is compared or shown by itself
PLACES = ("runs", "image_db", "cache", "data_root", "ray_address", "run_name")
APART = (
    *PLACES,
    "dataset",
    "split",
    "method",
    "options",
    "models",
    *ImageScope.Options.model_fields,
)


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
class Column:
    """Which run it is: its folders, its name, its models' name, its method, and what that cost."""

    paths: list[str]
    name: str
    models: str
    method: Description
    cost: Cost


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
    def column(self) -> Column:
        name, models = (str(self.config.get(n) or "") for n in ("run_name", "models_name"))
        return Column([str(p) for p in self.paths], name, models, self.method, self.cost())

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


def run_folders(folder: Path) -> list[Path]:
    """The folder itself where it is a run's, or has no run below it; else the finished runs there.
    How many others there are is logged."""
    if (folder / MANIFEST).is_file():
        return [folder]
    places = []
    for place, inner, files in os.walk(folder):
        if MANIFEST in files:
            places.append(Path(place))
            inner.clear()
    finished = [run for run in places if Manifest.read(run, lenient=True).finished]
    if places and not finished:
        raise UserError(f"{folder}: none of the {len(places)} runs below it has finished")
    if len(finished) < len(places):
        log.warning("%s: left out: %d unfinished runs", folder, len(places) - len(finished))
    return sorted(finished) if places else [folder]


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


def settings(manifest: Manifest) -> dict[str, str]:
    """All that may change a run's results or its cost, by its dotted name; what is not set is left
    out."""
    config = {k: v for k, v in manifest.config.items() if k not in APART}
    roles = manifest.part("models") or manifest.part("config", "models")
    used = {role: manifest.part("models", role) for role in roles}
    return {
        "method": manifest.method.name,
        **_flat({"option": manifest.method.options}),
        **_flat(config),
        **_flat({role: manifest.part("config", "models", role) for role in roles}),
        **_flat({"weights": {r: m.get("revision") or m.get("sha256") for r, m in used.items()}}),
        **_flat({"prompt": manifest.part("prompts"), "version": manifest.part("versions")}),
        **_flat({"missing": manifest.part("benchmark", "missing"), "commit": manifest.get("git")}),
        **_flat({name: manifest.part("machine").get(name) for name in ("gpus", "cores")}),
    }


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested settings by their dotted names, as texts; what is None is left out."""
    if isinstance(value, Mapping):
        parts = (_flat(inner, f"{name}.{key}".lstrip(".")) for key, inner in value.items())
        return {key: text for part in parts for key, text in part.items()}
    if value is None:
        return {}
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
