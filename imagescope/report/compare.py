"""Two runs side by side: what one finds and the other does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imagescope.benchmarks.metrics import Difference, corrected, paired, tested
from imagescope.errors import UserError
from imagescope.files import write_text
from imagescope.records import Query, Trace
from imagescope.report import facts, queries
from imagescope.report.build import (
    data_folder,
    image_databases,
    image_files,
    page_link,
    read_scores,
    render,
)
from imagescope.report.findings import Images
from imagescope.report.queries import Ranks
from imagescope.runs.compare import differing
from imagescope.runs.folder import iter_traces
from imagescope.runs.manifest import Manifest

FOUND = (1, 5, 10, 50)


def write_comparison(a: Path, b: Path, out: Path | None = None) -> Path:
    """Writes a page of the queries that both runs asked; returns its path.

    out: a folder (None: compare-<b's name> inside a's). A query is in both where id, turn and
    instruction agree. Raises UserError where there is none.
    """
    a, b = Path(a), Path(b)
    out = Path(out) if out else a / f"compare-{b.resolve().name}"
    manifests = [Manifest.read(run, lenient=True) for run in (a, b)]
    stages = [manifest.method.stages for manifest in manifests]
    other = {_key(t.query): t for t in iter_traces(b)}
    rows: list[Any] = []
    ranks: list[Ranks] = []
    images = Images()

    def details() -> Iterator[Any]:
        for trace in iter_traces(a):
            twin = other.get(_key(trace.query))
            if twin:
                both = [_last(trace), _last(twin)]
                ranks.append(both)
                mark = queries.flags(trace) | queries.flags(twin)
                rows.append(queries.row(trace.query, both, mark, images))
                pairs = zip((trace, twin), stages, strict=True)
                yield [queries.detail(t, own, images) for t, own in pairs]

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the comparison to {out}: {error.strerror}") from None
    databases = [folder for m in manifests for folder in image_databases(m)]
    names = [_name(run, m) for run, m in zip((a, b), manifests, strict=True)]
    with data_folder(out) as folder:
        queries.write_data(
            folder,
            {
                "mode": "compare",
                "columns": ["A", "B"],
                "runs": names,
                "top": 10,
                "reach": 0,
                "stages": [[stage.title for stage in own] for own in stages],
            },
            rows,
            details(),
            images,
            lambda: images.sources(_files(manifests), databases),
        )
        if not rows:
            raise UserError(f"{a} and {b} have no query in common: nothing to compare")
    spec = facts.spec_of(manifests[0])
    context = {
        "title": manifests[0].config.get("dataset") or "Two runs",
        "runs": [
            {"name": n, "facts": dict(facts.facts(m)), "link": page_link(run, out / "index.html")}
            for n, m, run in zip(names, manifests, (a, b), strict=True)
        ],
        "labels": list(dict.fromkeys(k for m in manifests for k, _ in facts.facts(m))),
        "metrics": _metrics(a, b),
        "queries": len(rows),
        "settings": differing(dict(zip("AB", manifests, strict=True))),
        "found": _counts(ranks),
        "tested": tested(len(FOUND)),
        "hidden": all(r is None for pair in ranks for r in pair),
        "lower_is_better": spec.lower_is_better if spec else (),
    }
    write_text(out / "index.html", render("compare.html.jinja", context))
    return out / "index.html"


def _key(query: Query) -> tuple[str, int, str]:
    return (*query.key, query.instruction)


def _last(trace: Trace) -> int | None:
    return queries.ranks(trace, list(trace.rankings)[-1:])[0]


def _name(run: Path, manifest: Manifest) -> str:
    config = manifest.config
    models = config.get("models_name", "")
    return " · ".join(
        str(part) for part in (config.get("run_name"), models, run.resolve().name) if part
    )


def _files(manifests: list[Manifest]) -> Mapping[str, Path]:
    return {name: path for m in reversed(manifests) for name, path in image_files(m).items()}


def _metrics(a: Path, b: Path) -> list[dict[str, Any]]:
    """Single-valued metrics of each run's last stage: name, (A's, B's)."""
    last = {}
    for label, run in (("A", a), ("B", b)):
        found = read_scores(run)
        last[label] = found[list(found)[-1]] if found else {}
    return facts.metric_table(last)


def _counts(ranks: list[Ranks]) -> list[tuple[int, list[int], Difference | None]]:
    """For each k of FOUND: queries found in the top k by A alone, B alone, both, neither; and how B
    differs, in percent."""
    counts, differences = [], []
    for k in FOUND:
        found = np.array([[r is not None and r < k for r in pair] for pair in ranks], bool)
        a, b = found.T
        counts.append([int(part.sum()) for part in (a & ~b, ~a & b, a & b, ~a & ~b)])
        differences.append(paired(100.0 * a, 100.0 * b))
    own = iter(corrected([d for d in differences if d]))
    return [(k, n, d and next(own)) for k, n, d in zip(FOUND, counts, differences, strict=True)]
