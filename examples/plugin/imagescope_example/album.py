"""A benchmark: a folder of pictures, and a file with a query a line, as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from imagescope.benchmarks.base import Options, Spec
from imagescope.benchmarks.metrics import Measured, recall, target_ranks
from imagescope.benchmarks.source import Row, Source
from imagescope.records import Gallery, Query, Ranking


class Line(Row):
    instruction: str
    target: str
    reference: str | None = None


def read(source: Source) -> tuple[list[Query], Gallery]:
    path, folder = source.find("queries.jsonl"), source.image_folder("pictures")
    names = tuple(sorted(source.listing(folder)))
    queries = []
    for index, text in enumerate(source.text(path).splitlines()):
        try:
            line = Line.model_validate_json(text)
        except ValidationError as error:
            source.fault(path, index, error.errors()[0]["msg"])
            continue
        for name in filter(None, (line.target, line.reference)):
            if name not in names:
                source.fault(path, index, f"{name!r:.80} is not in {folder}")
        queries.append(Query(str(index), line.instruction, 0, line.reference, (line.target,)))
    return queries, Gallery(names, {name: folder / name for name in names})


def measure(queries: Sequence[Query], rankings: Sequence[Ranking], options: Options) -> Measured:
    return {**recall(target_ranks(queries, rankings), (1, 5))}


SPEC = Spec(
    name="ExampleAlbum",
    folder="album",
    splits={"test": (3, 6)},
    headline=("Recall@1",),
    homepage="https://example.org/album",
    licence="CC0",
    citation="none: six drawn pictures",
    read=read,
    measure=measure,
)
