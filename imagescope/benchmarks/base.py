"""What a benchmark is, and how its annotation files are read and doubted.

A benchmark's file reads annotations through a Source, which gathers every Fault instead of stopping
at the first: `load` refuses a benchmark with faults, `imagescope data check` lists them all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from imagescope.benchmarks import metrics
from imagescope.benchmarks.json_records import record, repetitions, whole_records
from imagescope.errors import UserError
from imagescope.files import open_regular
from imagescope.records import Estimate, Gallery, Query, Ranking

COUNTS = "counts.json"
DOCS = "docs/benchmarks.md says where to get it and how to lay it out"


@dataclass(frozen=True, slots=True)
class Options:
    """How a benchmark is scored (see the README's table of protocols).

    exclude_reference: CIRR's reference is no candidate.  first_round: of a dialogue, 0 or 1.
    subset: CIRR's image set alone is ranked.  shared_concept: CIRCO's goes with the instruction.
    """

    exclude_reference: bool = False
    first_round: int = 1
    subset: bool = False
    shared_concept: bool = False


Listing = Callable[[Path], frozenset[str]]


@dataclass(frozen=True)
class Spec:
    """A benchmark's metadata and its two functions.

    folder: below the data root; `also`: other names of it.  splits: split -> published (queries,
    gallery).
    read: makes queries and gallery.  measure: per-query values of its metrics.
    """

    name: str
    folder: str
    splits: Mapping[str, tuple[int, int]]
    main_metric: str
    homepage: str
    licence: str
    citation: str
    read: Callable[[Source], tuple[list[Query], Gallery]]
    measure: Callable[[Sequence[Query], Sequence[Ranking], Options], metrics.Measured]
    also: tuple[str, ...] = ()

    @property
    def folders(self) -> tuple[str, ...]:
        return (self.folder, *self.also)


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
    options: Options = Options()
    missing: frozenset[str] = frozenset()
    incomplete: Mapping[tuple[str, int], tuple[str, ...]] = field(default_factory=dict)
    image_places: tuple[Path, ...] = ()
    counts: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def info(self) -> Spec:
        return self.spec

    @property
    def hidden(self) -> bool:
        """Whether the targets are kept by a server."""
        return any(query.targets is None for query in self.queries)

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
        found = metrics.estimates(self.measure(rankings), seed)
        if self.incomplete:
            whole = [i for i, q in enumerate(self.queries) if q.key not in self.incomplete]
            queries, kept = [self.queries[i] for i in whole], [rankings[i] for i in whole]
            over = metrics.estimates(self.spec.measure(queries, kept, self.options), seed)
            found["complete"] = {k: v for k, v in over.items() if isinstance(v, Estimate)}
        return found

    def _lacking(self, what: str) -> int:
        return sum(what in self.incomplete.get(query.key, ()) for query in self.queries)

    def describe(self) -> dict[str, Any]:
        """Counts, for the manifest."""
        return {
            "name": self.name,
            "split": self.split,
            "queries": len(self.queries),
            "gallery": len(self.gallery.names),
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


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in an annotation file. index: 0-based record (CSV: row), None: the file."""

    file: Path
    index: int | None
    reason: str

    def __str__(self) -> str:
        place = "" if self.index is None else f", index {self.index}"
        return f"{self.file}{place}: {self.reason}"


class Row(BaseModel):
    """An annotation record: types are not coerced, further fields are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


RowT = TypeVar("RowT", bound=Row)


def files_in(folder: Path) -> frozenset[str]:
    """Names of a folder's files; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


@dataclass
class Source:
    """Where a benchmark is read from, and what was found wrong on the way.

    listing: a folder of images -> its files' names. On disk; in a replay, as the run saw them.
    """

    root: Path
    folder: Path
    split: str
    options: Options
    listing: Listing = files_in
    faults: list[Fault] = field(default_factory=list)
    image_places: list[Path] = field(default_factory=list)
    _tried: dict[Path, list[Path]] = field(default_factory=dict)

    def fault(self, file: Path, index: int | None, reason: str) -> None:
        self.faults.append(Fault(file, index, reason))

    def find(self, *places: str) -> Path:
        """The first of several places of an annotation file that exists, else the first."""
        tries = [self.folder / place for place in places]
        found = next((path for path in tries if path.is_file()), tries[0])
        self._tried[found] = tries
        return found

    def json(self, path: Path, kind: type) -> Any:
        """A JSON file's list or mapping; a fault, and nothing in it, where it is none."""
        text = self.text(path)
        try:
            data = json.loads(text, object_pairs_hook=record)
            repeated = list(repetitions(data))
        except ValueError as error:
            index = whole_records(text) if kind is list else None
            self.fault(path, index, f"not valid JSON (cut off?): {error}")
            return kind()
        except RecursionError:
            self.fault(path, None, "not an annotation file: nested too deeply")
            return kind()
        if not isinstance(data, kind):
            wanted = "a list" if kind is list else "a mapping"
            self.fault(path, None, f"{wanted} expected, got {type(data).__name__}")
            return kind()
        for index, key in repeated:
            self.fault(path, index, f"{key!r:.80} is there twice")
        return data

    def text(self, path: Path) -> str:
        """A file's text. Raises UserError where it cannot be read."""
        try:
            with open_regular(path) as file:
                return file.read().decode("utf-8-sig")
        except FileNotFoundError:
            others = [str(place) for place in self._tried.get(path, ()) if place != path]
            looked = f" (looked for {', '.join(others)}, too)" if others else ""
            raise UserError(f"{path}: no such file; {DOCS}{looked}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 text ({error}); download it again") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None

    def rows(self, path: Path, model: type[RowT]) -> list[tuple[int, RowT]]:
        """The well-formed records of a JSON list, with their indices; faults for the others."""
        rows = []
        for index, value in enumerate(self.json(path, list)):
            try:
                rows.append((index, model.model_validate(value)))
            except ValidationError as error:
                for e in error.errors():
                    place = ".".join(map(str, e["loc"])) or "record"
                    self.fault(path, index, f"{place}: {e['msg'].lower()}")
        return rows

    def names(self, path: Path) -> list[str]:
        """A JSON list of distinct strings."""
        names: dict[str, None] = {}
        for index, name in enumerate(self.json(path, list)):
            if not isinstance(name, str):
                self.fault(path, index, f"a string expected, got {name!r:.80}")
            elif name in names:
                self.fault(path, index, f"{name} is listed twice")
            else:
                names[name] = None
        return list(names)

    def image_folder(self, *places: str, beside: Sequence[str] = ()) -> Path:
        """The first of several folders of images that exists, else the first: below the
        benchmark's folder, then below others of the data root ("" is the root itself)."""
        bases = [self.folder, *(self.root / other for other in beside)]
        tries = [base / place for base in bases for place in places]
        self.image_places += tries
        return next((path for path in tries if path.is_dir()), tries[0])


def declared_counts(folder: Path, name: str, split: str) -> tuple[int, int] | None:
    """(queries, gallery) that a copy of a benchmark declares in its own counts.json, where it has
    one: {name: {split: [queries, gallery]}}. Raises UserError for a file of another kind."""
    path = folder / COUNTS
    try:
        with open_regular(path) as file:
            counts = json.loads(file.read())[name][split]
    except (FileNotFoundError, LookupError):
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: declares no counts: {error}") from None
    match counts:
        case [int(queries), int(gallery)]:
            return queries, gallery
    raise UserError(f"{path}: [queries, gallery] of {name} {split} expected, got {counts!r:.80}")


def is_safe(path: str) -> bool:
    """Whether a name from an annotation file stays inside the folder it is looked up in."""
    parts = PurePosixPath(path).parts
    plain = bool(parts) and not path.startswith("/") and not set(path) & set("\\\0")
    return plain and not any(part == ".." or part.startswith("._") for part in parts)


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
        lost = tuple(role for role, name in lacks.items() if name in missing)
        if lost:
            incomplete[query.key] = lost
        queries.append(replace(query, reference=None) if "reference" in lost else query)
    return replace(benchmark, queries=tuple(queries), missing=missing, incomplete=incomplete)
