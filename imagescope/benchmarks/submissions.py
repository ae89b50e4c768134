"""The evaluation servers' files: written, checked, and scored where targets are public.

CIRR   {"version": "rc2", "metric": "recall" | "recall_subset", "<pairid>": [names without .png]}
CIRCO  {"<query id>": [50 image ids]}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagescope import benchmarks
from imagescope.benchmarks import Benchmark, Options
from imagescope.benchmarks.circo import MAX_ID, file_name
from imagescope.benchmarks.cirr import RECALL, SUBSET
from imagescope.errors import UserError
from imagescope.records import Estimate, Query, Ranking

LENGTHS = {"recall": 50, "recall_subset": 3, "CIRCO": 50}
RECALL_AT = {"recall": RECALL, "recall_subset": SUBSET}
MAX_BYTES = 5_000_000  # CIRR's server
HEADER = ("version", "metric")
OUTSIDE = "is not among the images to rank"


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a file, or a warning.

    query: the id it is about, '' for the file.  scorable: what is there can be scored all the same.
    """

    text: str
    query: str = ""
    warning: bool = False
    scorable: bool = False

    def __str__(self) -> str:
        return f"query {self.query}: {self.text}" if self.query else self.text


def write(benchmark: Benchmark, rankings: Sequence[Ranking]) -> str:
    """The server's file for one stage's rankings (aligned with the queries); '' for a benchmark
    that has no server."""
    pairs = list(zip(benchmark.queries, rankings, strict=True))
    if benchmark.name == "CIRCO":
        sent: dict[str, Any] = {
            q.id: [int(Path(name).stem) for name in r.names[: LENGTHS["CIRCO"]]] for q, r in pairs
        }
    elif benchmark.name == "CIRR":
        metric = "recall_subset" if benchmark.options.subset else "recall"
        sent = {"version": "rc2", "metric": metric}
        sent |= {q.id: list(r.names[: LENGTHS[metric]]) for q, r in pairs}
    else:
        return ""
    return json.dumps(sent, separators=(",", ":"))  # the server takes 5 MB: no blanks


def read(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """A submission file's entries, and the keys it has twice. Raises UserError for no JSON file."""
    findings: list[Finding] = []

    def entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                findings.append(Finding("occurs twice in the file", key))
            found[key] = value
        return found

    try:
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=entries)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: a mapping of queries expected, got {type(data).__name__}")
    return data, findings


def benchmark_of(data: Mapping[str, Any]) -> str:
    """CIRR or CIRCO, by what the file looks like."""
    if any(key in data for key in HEADER):
        return "CIRR"
    names = [n for v in data.values() if isinstance(v, list) for n in v if isinstance(n, str)]
    lettered = (n for n in names if not n.endswith(".jpg") and any(c.isalpha() for c in n))
    return "CIRR" if any(lettered) else "CIRCO"


def check(path: Path, data_root: Path | None = None, split: str = "test") -> list[Finding]:
    """Everything that would make a server refuse the file, or cost points.

    With data_root the ids and names are held against the annotations; without, what can be known
    without them is. split: the servers score test.  Raises UserError for a file that is no JSON
    mapping, and for annotations that cannot be read.
    """
    data, findings = read(path)
    name = benchmark_of(data)
    split = benchmarks.split_of(name, split)
    benchmark = None
    if data_root is not None:
        benchmark = _load(name, data_root, split, subset=name == "CIRR")
    size = path.stat().st_size
    if name == "CIRR" and size > MAX_BYTES:
        findings.append(Finding(f"{size / 1e6:.1f} MB, the server takes {MAX_BYTES / 1e6:g} MB"))
    return findings + examine(name, data, split, benchmark)


def _load(name: str, data_root: Path, split: str, subset: bool) -> Benchmark:
    """The annotations, with the gallery that a file may name: empty where it is not known.

    Of the published CIRCO only COCO's own list tells it: an image that is not in the folder is
    missing, not unknown. Another number of queries is other data, whose gallery is the folder.
    """
    options = Options(subset=subset)
    listed = benchmarks.load_annotations(name, data_root, split, options, lambda _: frozenset())
    if len(listed.queries) == listed.spec.splits[listed.split][0]:
        return listed
    return benchmarks.load_annotations(name, data_root, split, options)


def examine(
    name: str, data: Mapping[str, Any], split: str, benchmark: Benchmark | None
) -> list[Finding]:
    """The findings in a file's entries. benchmark: CIRR's with its image sets as candidates."""
    findings = _header(data) if name == "CIRR" else []
    metric = str(data.get("metric")) if name == "CIRR" else name
    lists = {key: value for key, value in data.items() if key not in HEADER}
    queries = {q.id: q for q in benchmark.queries} if benchmark else {}
    gallery = set(benchmark.gallery.names) if benchmark else set()
    findings += _ids(name, lists, split, queries)
    for key, value in lists.items():
        if not isinstance(value, list):
            findings.append(Finding(f"a list expected, got {type(value).__name__}", key))
            continue
        wanted = LENGTHS.get(metric, len(value))
        if gallery:  # a small one has no more to give
            wanted = min(wanted, len(gallery))
        if len(value) != wanted:
            text = f"{len(value)} images where the server expects {wanted}"
            findings.append(Finding(text, key, scorable=True))
        query = queries.get(key)
        pool = gallery
        if query and metric == "recall_subset":
            pool = {*(query.candidates or ()), query.reference or ""}
        findings += _entries(name, key, value, pool)
    if name == "CIRR" and queries:
        findings += _references(metric, lists, queries)
    return findings


def _header(data: Mapping[str, Any]) -> list[Finding]:
    findings = []
    if data.get("version") != "rc2":
        findings.append(Finding(f'version: "rc2" expected, got {_shown(data.get("version"))}'))
    if data.get("metric") not in tuple(RECALL_AT):
        expected = '"recall" or "recall_subset"'
        findings.append(Finding(f"metric: {expected} expected, got {_shown(data.get('metric'))}"))
    return findings


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"


def _ids(
    name: str, lists: Mapping[str, Any], split: str, queries: Mapping[str, Query]
) -> list[Finding]:
    published = benchmarks.spec(name).splits
    expected, count = list(queries), len(queries) or published[split][0]
    if name == "CIRCO" and not queries:
        expected = [str(i) for i in range(count)]
    findings = []
    if len(lists) != count:
        text = f"{len(lists)} queries where {split} has {count}"
        if split == "test" and len(lists) == published["val"][0]:
            text += "; are these val's? Servers score test only"
        findings.append(Finding(text))
    if expected:
        findings += [Finding("missing from the file", key) for key in expected if key not in lists]
        known = set(expected)
        findings += [Finding(f"no query of {split}", key) for key in lists if key not in known]
    else:
        findings += [Finding("not a pairid", key) for key in lists if not key.isdecimal()]
    return findings


def image_name(name: str, entry: Any) -> str:
    """The benchmark's name of a file's entry. Raises ValueError saying what is wrong with it."""
    if name == "CIRR":
        if not isinstance(entry, str):
            raise ValueError("is not a name")
        if entry.endswith(".png"):
            raise ValueError("is to be given without .png")
        return entry
    if isinstance(entry, bool) or not isinstance(entry, (int, str)):
        raise ValueError("is not an image id")
    if isinstance(entry, str):
        if not (entry.isascii() and entry.isdecimal()):
            raise ValueError("is not an image id")
        if entry.startswith("0"):
            raise ValueError("is padded with zeros")
    if not 0 < int(entry) <= MAX_ID:
        raise ValueError("is not one of COCO's ids")
    return file_name(int(entry))


def _entries(name: str, key: str, entries: Sequence[Any], pool: set[str]) -> list[Finding]:
    """One finding per kind of fault in a query's list. pool: '' known names, empty: not known."""
    faults: dict[str, list[Any]] = {}
    seen: set[str] = set()
    for entry in entries:
        try:
            image = image_name(name, entry)
        except ValueError as error:
            faults.setdefault(str(error), []).append(entry)
            continue
        if image in seen:
            faults.setdefault("occurs twice", []).append(entry)
        elif pool and image not in pool:
            faults.setdefault(OUTSIDE, []).append(entry)
        seen.add(image)
    findings = []
    for reason, wrong in faults.items():
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        text = f"{wrong[0]!r:.60} {reason}{more}"
        findings.append(Finding(text, key, scorable=reason == OUTSIDE))
    return findings


def _references(
    metric: str, lists: Mapping[str, Any], queries: Mapping[str, Query]
) -> list[Finding]:
    """A warning where references are among the candidates, and what that costs."""
    places = [
        lists[key].index(query.reference)
        for key, query in queries.items()
        if isinstance(lists.get(key), list) and query.reference in lists[key]
    ]
    if not places:
        return []
    ks = RECALL_AT.get(metric, RECALL_AT["recall"])
    cost = ", ".join(f"{sum(p < k for p in places):,} at k = {k}" for k in ks)
    return [
        Finding(
            f"the reference image is among the candidates of {len(places):,} queries. It is never "
            f"the target and takes a place: these queries have k - 1 chances instead of k: {cost} "
            "(protocol official leaves references out)",
            warning=True,
        )
    ]


def score(
    path: Path, name: str, data_root: Path, split: str, seed: int = 0
) -> tuple[dict[str, Estimate | dict[str, Estimate]], list[Finding]]:
    """The metrics of a file in its server's format, and what was found in it that costs points.

    Raises UserError where targets are hidden, for a benchmark without such a format, and for a file
    with faults that leave nothing to score.
    """
    name = benchmarks.spec(name).name
    if name not in ("CIRR", "CIRCO"):
        raise UserError(f"{name} has no server and no file format of one; CIRR and CIRCO have")
    data, findings = read(path)
    subset = name == "CIRR" and data.get("metric") == "recall_subset"
    benchmark = _load(name, data_root, split, subset)
    if benchmark.hidden:
        raise UserError(f"{name} {split}: the targets are hidden; its server scores such files")
    findings += examine(name, data, benchmark.split, benchmark)
    fatal = [f for f in findings if not f.scorable and not f.warning]
    if fatal:
        more = f"\n  and {len(fatal) - 5} more" if len(fatal) > 5 else ""
        lines = "\n".join(f"  {fault}" for fault in fatal[:5])
        raise UserError(f"{path} cannot be scored on {name} {benchmark.split}:\n{lines}{more}")
    rankings = []
    for query in benchmark.queries:
        names = tuple(image_name(name, entry) for entry in data[query.id])
        ranks = {t: names.index(t) for t in query.targets or () if t in names}
        rankings.append(Ranking(names, ranks=ranks, pool=len(names)))
    return benchmark.score(rankings, seed), findings
