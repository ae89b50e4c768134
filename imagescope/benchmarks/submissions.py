"""The evaluation servers' files: written, checked, and scored where targets are public.

Each benchmark's Server says how its file looks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imagescope import benchmarks
from imagescope.benchmarks import Benchmark, Spec
from imagescope.benchmarks.json_records import record, repetitions
from imagescope.benchmarks.server import Finding, Server
from imagescope.errors import UserError
from imagescope.records import Estimate, Query, Ranking

OUTSIDE = "is not among the images to rank"


def write(benchmark: Benchmark, rankings: Sequence[Ranking]) -> str:
    """The server's file for one stage's rankings (aligned with the queries); '' for a benchmark
    that has no server."""
    server, options = benchmark.spec.server, benchmark.options
    if not server:
        return ""
    sent, length = server.head(options), server.length(options)
    for query, ranking in zip(benchmark.queries, rankings, strict=True):
        sent[query.id] = [server.entry(name) for name in ranking.names[:length]]
    return json.dumps(sent, separators=(",", ":"))  # servers take few MB: no blanks


def read(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """A submission file's entries, and the keys it has twice. Raises UserError for no JSON file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=record)
        findings = [Finding("occurs twice in the file", key) for _, key in repetitions(data)]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a mapping of queries expected, got {type(data).__name__}")
    return data, findings


def spec_of(entries: Mapping[str, Any], path: Path) -> tuple[Spec, Server]:
    """The benchmark whose server's file it looks like. Raises UserError where there is none."""
    for spec in reversed(benchmarks.specs()):  # CIRCO last: it claims any numbers
        if spec.server and spec.server.claims(entries):
            return spec, spec.server
    raise UserError(f"{path}: looks like no benchmark's submission")


def check(path: Path, data_root: Path | None = None, split: str = "test") -> list[Finding]:
    """Everything that would make a server refuse the file, or cost points.

    With data_root the ids and names are held against the annotations; without, what can be known
    without them is. split: the servers score test.  Raises UserError for a file that is no JSON
    mapping, and for annotations that cannot be read.
    """
    entries, findings = read(path)
    spec, server = spec_of(entries, path)
    split, options = benchmarks.split_of(spec.name, split), server.options(entries)
    benchmark = None if data_root is None else _load(spec, data_root, split, options)
    size = path.stat().st_size
    if server.max_bytes and size > server.max_bytes:
        takes = f"{server.max_bytes / 1e6:g} MB"
        findings.append(Finding(f"{size / 1e6:.1f} MB, the server takes {takes}"))
    return findings + examine(spec, server, entries, split, benchmark)


def _load(spec: Spec, data_root: Path, split: str, options: Mapping[str, Any]) -> Benchmark:
    """The annotations, with the gallery that a file may name: empty where it is not known.

    Where a list of the images is missing, as CIRCO's may be, a gallery is what lies in the folder,
    and an image that doesn't may be missing, not unknown. Another number of queries than published
    is other data, whose gallery is the folder.
    """
    listed = benchmarks.load_annotations(
        spec.name, data_root, split, options, lambda _: frozenset()
    )
    if len(listed.queries) == spec.splits[listed.split][0]:
        return listed
    return benchmarks.load_annotations(spec.name, data_root, split, options)


def examine(
    spec: Spec,
    server: Server,
    entries: Mapping[str, Any],
    split: str,
    benchmark: Benchmark | None,
) -> list[Finding]:
    """The findings in a file's entries. benchmark: with the file's options, None: not known."""
    options = spec.choose(server.options(entries))
    lists = {key: value for key, value in entries.items() if key not in server.header}
    queries = {q.id: q for q in benchmark.queries} if benchmark else {}
    gallery = set(benchmark.gallery.names) if benchmark else set()
    findings = _ids(spec, server, lists, split, queries)
    for key, value in lists.items():
        if not isinstance(value, list):
            findings.append(Finding(f"a list expected, got {type(value).__name__}", key))
            continue
        length = server.length(options)
        if gallery:  # a small one has no more to give
            length = min(length, len(gallery))
        if len(value) != length:
            text = f"{len(value)} images where the server expects {length}"
            findings.append(Finding(text, key, scorable=True))
        query, pool = queries.get(key), gallery
        if query and query.candidates:
            pool = {*query.candidates, query.reference or ""}
        findings += _entries(server, key, value, pool)
    return server.examine(entries, options, queries) + findings


def _ids(
    spec: Spec, server: Server, lists: Mapping[str, Any], split: str, queries: Mapping[str, Query]
) -> list[Finding]:
    count = len(queries) or spec.splits[split][0]
    expected = list(queries) or server.query_ids(count)
    findings = []
    if len(lists) != count:
        text = f"{len(lists)} queries where {split} has {count}"
        if split == "test" and len(lists) == spec.splits.get("val", (0, 0))[0]:
            text += "; are these val's? Servers score test only"
        findings.append(Finding(text))
    if expected:
        findings += [Finding("missing from the file", key) for key in expected if key not in lists]
        others = lists.keys() - set(expected)
        return findings + [Finding(f"no query of {split}", key) for key in lists if key in others]
    return findings + [Finding(doubt, key) for key in lists if (doubt := server.doubt(key))]


def _entries(server: Server, key: str, entries: Sequence[Any], pool: set[str]) -> list[Finding]:
    """One finding per kind of fault in a query's list. pool: '' known names, empty: not known."""
    faults: dict[str, list[Any]] = {}
    images: set[str] = set()
    for entry in entries:
        try:
            image = server.image(entry)
        except ValueError as error:
            faults.setdefault(str(error), []).append(entry)
            continue
        if image in images:
            faults.setdefault("occurs twice", []).append(entry)
        elif pool and image not in pool:
            faults.setdefault(OUTSIDE, []).append(entry)
        images.add(image)
    findings = []
    for reason, wrong in faults.items():
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        text = f"{wrong[0]!r:.60} {reason}{more}"
        findings.append(Finding(text, key, scorable=reason == OUTSIDE))
    return findings


def score(
    path: Path, name: str, data_root: Path, split: str, seed: int = 0
) -> tuple[dict[str, Estimate | dict[str, Estimate]], list[Finding]]:
    """The metrics of a file in its server's format, and what was found in it that costs points.

    Raises UserError where targets are hidden, for a benchmark without such a format, and for a file
    with faults that leave nothing to score.
    """
    spec = benchmarks.spec(name)
    server = spec.server
    if not server:
        those = " and ".join(s.name for s in benchmarks.specs() if s.server)
        raise UserError(f"{spec.name} has no server and no file format of one; {those} have")
    data, findings = read(path)
    benchmark = _load(spec, data_root, split, server.options(data))
    if benchmark.hidden:
        raise UserError(
            f"{spec.name} {split}: the targets are hidden; its server scores such files"
        )
    findings += examine(spec, server, data, benchmark.split, benchmark)
    fatal = [f for f in findings if not f.scorable and not f.warning]
    if fatal:
        more = f"\n  and {len(fatal) - 5} more" if len(fatal) > 5 else ""
        lines = "\n".join(f"  {fault}" for fault in fatal[:5])
        raise UserError(f"{path} cannot be scored on {spec.name} {benchmark.split}:\n{lines}{more}")
    rankings = []
    for query in benchmark.queries:
        names = tuple(map(server.image, data[query.id]))
        ranks = {t: names.index(t) for t in query.targets or () if t in names}
        rankings.append(Ranking(names, ranks=ranks, pool=len(names)))
    return benchmark.score(rankings, seed), findings
