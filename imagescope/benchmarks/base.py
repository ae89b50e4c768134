"""What a benchmark is: its Spec says everything about it, a Benchmark is a split ready to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imagescope.benchmarks import metrics
from imagescope.benchmarks.server import Server
from imagescope.benchmarks.source import Listing, Source, files_in
from imagescope.errors import UserError
from imagescope.records import Estimate, Gallery, Query, Ranking

Options = Mapping[str, Any]  # option -> value, every option of the benchmark


@dataclass(frozen=True)
class Option:
    """A choice in how a benchmark is asked or scored: `default`, or what the protocol has for it.

    protocols: protocol -> value.  separate: runs that differ in it have different tasks: they are
    never compared, and its name stands in the title of those that have it.
    """

    description: str
    default: bool | int = False
    protocols: Mapping[str, bool | int] = field(default_factory=dict)
    separate: bool = False


@dataclass(frozen=True)
class Spec:
    """Everything that is known about a benchmark; nothing else knows it by name.

    folder: below the data root; `also`: other names of it.  splits: split -> published (queries,
    gallery).  headline: metrics by importance; the first that a run has is its main one.
    read: makes queries and gallery.  measure: metric -> per-query values, in percent; a nested
    mapping is a group of parts.
    download: the command that brings it, or what one has to do; {root} is the data root.
    options: those that `load` and a run's configuration take.
    family: benchmarks of one family are averaged, each counting the same.
    lower_is_better: metrics.  groups: nested metric -> its title on the page.
    dialogue: a query's turns build on each other.  server: of hidden targets, None: there is none.
    """

    name: str
    folder: str
    splits: Mapping[str, tuple[int, int]]
    headline: tuple[str, ...]
    homepage: str
    licence: str
    citation: str
    read: Callable[[Source], tuple[list[Query], Gallery]]
    measure: Callable[[Sequence[Query], Sequence[Ranking], Options], metrics.Measured]
    also: tuple[str, ...] = ()
    download: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    family: str = ""
    lower_is_better: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    dialogue: bool = False
    server: Server | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        return (self.folder, *self.also)

    def choose(self, choices: Mapping[str, Any], protocol: str = "paper") -> dict[str, Any]:
        """Every option's value: the chosen one, else the protocol's. Choices of None, and of False
        for an option that the benchmark doesn't have, are none. Raises UserError for others."""
        unknown = [n for n, value in choices.items() if value and n not in self.options]
        if unknown:
            its = f"its options are {', '.join(self.options)}" if self.options else "it has none"
            raise UserError(f"{self.name} has no option {', '.join(unknown)}; {its}")
        values = {}
        for name, option in self.options.items():
            preset = option.protocols.get(protocol, option.default)
            value = preset if choices.get(name) is None else choices[name]
            if type(value) is not type(option.default):
                kind = type(option.default).__name__
                raise UserError(f"{self.name}, option {name}: {kind} expected, got {value!r:.80}")
            values[name] = value
        return values

    def separate(self, options: Options) -> tuple[str, ...]:
        """The names of the options that are on and make a task of its own."""
        return tuple(n for n, o in self.options.items() if o.separate and options.get(n))


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's split, ready to run.

    missing: images of the gallery, and references, without a file. incomplete: keys of the queries
    whose "target" is missing (a miss), or "reference" (it runs on the instruction alone), or both.
    image_places: the folders where images were looked for.  counts: (queries, gallery) that the
    split should have: as published, or as the folder's counts.json declares.
    """

    spec: Spec
    split: str
    queries: tuple[Query, ...]
    gallery: Gallery
    options: Options = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    incomplete: Mapping[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    image_places: tuple[Path, ...] = ()
    counts: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def hidden(self) -> bool:
        """Whether the targets are kept by a server."""
        return any(query.targets is None for query in self.queries)

    @property
    def absent(self) -> list[str]:
        """The gallery's images without a file."""
        names, files = self.gallery.names, self.gallery.files
        return [name for name in names if name in self.missing or name not in files]

    def measure(self, rankings: Sequence[Ranking]) -> metrics.Measured:
        """Per-query values of every metric; rankings are aligned with the queries."""
        return self.spec.measure(self.queries, rankings, self.options)

    def score(
        self, rankings: Sequence[Ranking], seed: int = 0
    ) -> dict[str, Estimate | dict[str, Estimate]]:
        """Every metric, in percent (BRI: nats) with a 95 % interval; {} where targets are hidden.

        Where images are missing, "complete" holds the metrics over the queries that lack none.
        """
        if self.hidden or not self.queries:
            return {}
        scores = metrics.estimates(self.measure(rankings), seed)
        if self.incomplete:
            whole = [i for i, q in enumerate(self.queries) if q.key not in self.incomplete]
            complete = replace(self, queries=tuple(self.queries[i] for i in whole), incomplete={})
            over = complete.score([rankings[i] for i in whole], seed)
            scores["complete"] = {k: v for k, v in over.items() if isinstance(v, Estimate)}
        return scores

    def _lacking(self, what: str) -> int:
        return sum(what in self.incomplete.get(query.key, ()) for query in self.queries)

    def describe(self) -> dict[str, Any]:
        """Counts, for the manifest."""
        return {
            "name": self.name,
            "split": self.split,
            "queries": len(self.queries),
            "gallery": len(self.gallery.names),
            "options": dict(self.options),
            "missing": {
                "images": len(self.missing),
                "queries without target": self._lacking("target"),
                "queries without reference": self._lacking("reference"),
            },
        }

    def summary(self) -> str:
        """One line for the log."""
        line = f"{len(self.queries):,} queries, gallery of {len(self.gallery.names):,} images"
        if self.missing:
            line += (
                f"; {len(self.missing):,} images missing: {self._lacking('target'):,} queries "
                f"cannot be answered, {self._lacking('reference'):,} run without their reference"
            )
        return line


def find_missing(files: Mapping[str, Path], listing: Listing = files_in) -> frozenset[str]:
    """The names whose file is absent. Each folder is listed once: a gallery may be 123,403."""
    folders: dict[Path, frozenset[str]] = {}
    missing = []
    for name, path in files.items():
        parent = path.parent
        if parent not in folders:
            folders[parent] = listing(parent)
        if path.name not in folders[parent]:
            missing.append(name)
    return frozenset(missing)


def without_missing(benchmark: Benchmark, listing: Listing = files_in) -> Benchmark:
    """The benchmark as the images that are there allow it: a query whose reference is missing runs
    on its instruction alone. Where no image is there at all, only annotations are looked at:
    nothing changes but the count."""
    files = benchmark.gallery.files
    missing = find_missing(files, listing)
    if not missing or len(missing) == len(files):
        return replace(benchmark, missing=missing)
    incomplete: dict[tuple[str, int], tuple[str, ...]] = {}
    queries = []
    for query in benchmark.queries:
        lacks = {
            "reference": query.reference,
            "target": query.targets[0] if query.targets else None,
        }
        roles = tuple(role for role, name in lacks.items() if name in missing)
        if roles:
            incomplete[query.key] = roles
        queries.append(replace(query, reference=None) if "reference" in roles else query)
    return replace(benchmark, queries=tuple(queries), missing=missing, incomplete=incomplete)
