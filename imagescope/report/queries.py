"""Traces as the page reads them: a short row per query at once, the rest in chunks on demand.

A page opened from disk may load scripts but fetch nothing, so every data file is a script that
hands over one JSON value. Images are numbered; names from annotation files are never keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imagescope.methods.base import Stage
from imagescope.records import Query, Trace
from imagescope.report import findings
from imagescope.report.findings import Images
from imagescope.report.thumbnails import addresses, write_thumbnails

SHOWN = 10  # thumbnails per stage
CHUNK = 50  # queries per data file
FELL_BACK, REPAIRED, VERBATIM = 1, 2, 4  # a row's flags

Ranks = list[int | None]  # 0-based rank of the first target after each stage


def ranks(trace: Trace, stages: Sequence[str]) -> Ranks:
    """Where the first target stands after each stage; None where it is hidden or not ranked."""
    if not trace.query.targets:
        return [None] * len(stages)
    target = trace.query.targets[0]
    return [r.ranks.get(target) if (r := trace.rankings.get(s)) else None for s in stages]


def flags(trace: Trace) -> int:
    how = (trace.synthesis.parse, trace.synthesis.questions_parse)
    return (
        FELL_BACK * any(h.startswith("fallback") for h in how)
        + REPAIRED * ("repaired" in how)
        + VERBATIM * trace.query.verbatim
    )


def row(query: Query, where: Ranks, mark: int, images: Images) -> list[Any]:
    """[id, turn, instruction, reference, targets, ranks, flags]; -1 where there is no reference."""
    reference = -1 if query.reference is None else images(query.reference)
    targets = images.all(query.targets or ())
    return [query.id, query.turn, query.instruction, reference, targets, where, mark]


def detail(trace: Trace, stages: Sequence[Stage], images: Images) -> dict[str, Any]:
    """What one query's card shows of one run: for each stage that ran its number, from 1, its best
    images and how many it ranked; where the target stood; and what explains it."""
    ran = [(n, stage) for n, stage in enumerate(stages, 1) if stage.id in trace.rankings]
    rankings = [trace.rankings[stage.id] for _, stage in ran]
    return {
        "top": [
            [n, images.all(ranking.names[:SHOWN]), ranking.pool]
            for (n, _), ranking in zip(ran, rankings, strict=True)
        ],
        "ranks": ranks(trace, [stage.id for _, stage in ran]),
        "findings": [findings.data(trace, stage, images) for _, stage in ran],
    }


def chunks(details: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of CHUNK details, the last one shorter."""
    held: list[Any] = []
    for item in details:
        held.append(item)
        if len(held) == CHUNK:
            yield held
            held = []
    if held:
        yield held


def write_script(path: Path, target: str, value: Any) -> None:
    """A script that assigns a JSON value; safe inside HTML too, whatever the texts hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    path.write_text(f"{target} = {text};\n", encoding="utf-8", errors="replace")


def write_data(
    folder: Path,
    page: dict[str, Any],
    rows: list[Any],
    details: Iterable[Any],
    images: Images,
    sources: Callable[[], Sequence[Path | None]],
    kept: Path | None = None,
) -> list[int]:
    """Writes detail-<n>.js, then the images they name, then queries.js; returns which images are
    missing. sources: says where the images' files lie, as soon as all are numbered.  kept: as of
    write_thumbnails."""
    for number, chunk in enumerate(chunks(details)):
        write_script(folder / f"detail-{number}.js", f"imagescope.details[{number}]", chunk)
    files = sources()
    missing = write_thumbnails(folder, files, kept)
    write_script(folder / "originals.js", "imagescope.originals", addresses(files, folder.parent))
    data = {
        **page,
        "chunk": CHUNK,
        "shown": SHOWN,
        "images": images.names,
        "missing": missing,
        "queries": rows,
        "details": {},
    }
    write_script(folder / "queries.js", "globalThis.imagescope", data)
    return missing
