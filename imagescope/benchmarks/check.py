"""Looking at a benchmark before anything runs on it: counts, faults, images; queries as JSON."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from imagescope import benchmarks
from imagescope.benchmarks import Benchmark, Fault, Spec
from imagescope.benchmarks.base import find_missing
from imagescope.errors import UserError
from imagescope.files import write_text
from imagescope.progress import track

EXPORTED = ("id", "turn", "reference", "instruction", "targets", "candidates")


@dataclass
class Checked:
    """What a check found. missing, unreadable: images of the gallery, and references, by name."""

    benchmark: Benchmark
    faults: list[Fault]
    missing: frozenset[str]
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not (self.faults or self.missing or self.unreadable or self.no_gallery)

    @property
    def no_gallery(self) -> bool:
        return not self.benchmark.gallery.names

    def counts(self) -> dict[str, int | None]:
        """Queries, dialogues' texts and images; None where targets are hidden."""
        benchmark = self.benchmark
        queries, unusable = benchmark.queries, self.missing | set(self.unreadable)
        heads = [q for q in queries if q.turn == 0]
        targets = None if benchmark.hidden else {t for q in queries for t in q.targets or ()}
        return {
            "queries": len(heads),
            "texts": len(queries),
            "gallery": len(benchmark.gallery.names),
            "targets": None if targets is None else len(targets),
            "images missing": len(self.missing),
            "images unreadable": len(self.unreadable),
            "queries whose target is lost": sum((q.targets or ("",))[0] in unusable for q in heads),
            "queries whose reference is lost": sum(q.reference in unusable for q in heads),
            "faults in annotations": len(self.faults),
        }

    def costs(self) -> dict[str, str]:
        """Missing or unreadable image -> the queries that need it, in words."""
        unusable = self.missing | set(self.unreadable)
        uses: dict[str, dict[str, list[str]]] = {}
        for query in self.benchmark.queries:
            for role, names in (("target", query.targets or ()), ("reference", [query.reference])):
                for name in unusable.intersection(names):
                    uses.setdefault(name, {}).setdefault(role, []).append(query.id)
        return {name: f" ({_uses(roles)})" for name, roles in uses.items()}


def _uses(roles: dict[str, list[str]]) -> str:
    parts = []
    for role, query_ids in roles.items():
        ids = list(dict.fromkeys(query_ids))  # a dialogue has many texts
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        parts.append(f"{role} of query {', '.join(ids[:5])}{more}")
    return "; ".join(parts)


def check(name: str, data_root: Path, split: str, decode: bool = True) -> Checked:
    """Reads a split's annotations, looks for every image and, with decode, opens it.

    Raises UserError where there is nothing to look at.
    """
    benchmark, faults = benchmarks.inspect(name, data_root, split)
    files = benchmark.gallery.files
    missing = find_missing(files)
    present = [image for image in files if image not in missing]
    unreadable: dict[str, str] = {}
    if decode and present:
        with ThreadPoolExecutor() as pool:  # decoders let go of the interpreter
            results = pool.map(_unreadable, (files[image] for image in present))
            reasons = track(results, len(present), "images opened")
            unreadable = {i: why for i, why in zip(present, reasons, strict=True) if why}
    return Checked(benchmark, [*faults, *_count_faults(benchmark, data_root)], missing, unreadable)


def _count_faults(benchmark: Benchmark, data_root: Path) -> list[Fault]:
    """What is not as many as it should be. A gallery that is not there at all is said elsewhere."""
    here = (len({query.id for query in benchmark.queries}), len(benchmark.gallery.names))
    whole = benchmark.counts or here
    return [
        Fault(
            benchmarks.folder_of(benchmark.spec, data_root) or data_root,
            None,
            f"{count:,} {what}, not {right:,}",
        )
        for what, count, right in zip(("queries", "images"), here, whole, strict=True)
        if count != right and (what == "queries" or count)
    ]


def _unreadable(path: Path) -> str | None:
    from imagescope.models.images import UnreadableImage, load_picture

    try:
        load_picture(path)
    except UnreadableImage as error:
        return str(error)
    return None


def check_all(
    name: str, data_root: Path, split: str | None, decode: bool = True
) -> tuple[list[Checked], list[str]]:
    """A split of a benchmark, or of a family's benchmarks, and what could not be read.

    Without `split` those that are there are checked; that one is not there, with none of its files,
    is no error then.
    """
    checks: list[Checked] = []
    absent: list[str] = []
    for spec in benchmarks.family(name) or [benchmarks.spec(name)]:
        errors, before = dict[str, str](), len(checks)
        for each in [split] if split else spec.splits:
            try:
                checks.append(check(spec.name, data_root, each, decode))
            except UserError as error:
                errors[each] = str(error)
        nothing = len(checks) == before
        absent += [e for s, e in errors.items() if split or nothing or _begun(spec, data_root, s)]
    return checks, absent


def _begun(spec: Spec, data_root: Path, split: str) -> bool:
    """Whether any annotation file of a split is there, readable or not, by what they are named:
    captions/cap.rc2.test1.json, annotations/val.json."""
    folder = benchmarks.folder_of(spec, data_root) or data_root
    names = {split, *(alias for alias, name in benchmarks.ALIASES.items() if name == split)}
    return any(
        path.stem.rpartition(".")[2] in names
        for place in ("annotations", "captions", "image_splits")
        for path in (*folder.glob(f"{place}/*.json"), *folder.glob(f"*/{place}/*.json"))
    )


def export(name: str, data_root: Path, split: str, output: Path) -> int:
    """Writes one JSON object a query (a dialogue: a turn), in file order; returns how many.

    Keys: EXPORTED; absent values are null. candidates are the images that a subset metric is
    confined to, where there is one. The annotations alone count: a reference whose image is missing
    is still named.
    """
    options = {"subset": True} if "subset" in benchmarks.spec(name).options else {}
    queries = benchmarks.load_annotations(name, data_root, split, options).queries
    objects = ({name: getattr(query, name) for name in EXPORTED} for query in queries)
    lines = (json.dumps(each, ensure_ascii=False) + "\n" for each in objects)
    try:
        write_text(output, lines)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None
    return len(queries)
