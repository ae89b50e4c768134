"""CIRR: composed queries on real-life photographs, in sets of six look-alikes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from imagescope.benchmarks.base import Options, Row, Source, Spec, is_safe
from imagescope.benchmarks.metrics import Measured, recall, target_ranks
from imagescope.records import Gallery, Query, Ranking

RECALL, SUBSET = (1, 5, 10, 50), (1, 2, 3)
ANNOTATIONS = ("", "cirr/")  # where they are in the benchmark's own download, and in others' copies
BLANK = "the same image"  # pairid 27098 of test1 has no caption; the paper gives it this one


class _Set(Row):
    members: list[str] = Field(min_length=6, max_length=6)


class _Caption(Row):
    pairid: int
    reference: str
    target_hard: str | None = None  # public on val
    caption: str
    img_set: _Set


def read(source: Source) -> tuple[list[Query], Gallery]:
    split = {"test": "test1"}.get(source.split, source.split)
    gallery = _gallery(source, split)
    path = source.find(*(f"{place}captions/cap.rc2.{split}.json" for place in ANNOTATIONS))
    queries: dict[int, Query] = {}
    for index, row in source.rows(path, _Caption):
        reasons = _doubt(row, gallery, hidden=source.split == "test")
        if row.pairid in queries:
            reasons.append(f"pairid {row.pairid} occurs twice")
        for reason in reasons:
            source.fault(path, index, reason)
        if not reasons:
            queries[row.pairid] = _query(row, source.options)
    return list(queries.values()), gallery


def _gallery(source: Source, split: str) -> Gallery:
    path = source.find(*(f"{place}image_splits/split.rc2.{split}.json" for place in ANNOTATIONS))
    part = {"val": "dev"}.get(split, split)
    folder = source.image_folder(part, f"img_raw/{part}").parent
    files: dict[str, Path] = {}
    names: dict[Path, str] = {}
    for index, (name, place) in enumerate(source.json(path, dict).items()):
        if not isinstance(place, str) or not is_safe(place) or not is_safe(name):
            source.fault(path, index, f"{name}: not the path of an image: {place!r:.80}")
        elif (file := folder / place) in names:
            source.fault(path, index, f"{name}: {place} is {names[file]}'s file, too")
        else:
            files[name], names[file] = file, name
    return Gallery(tuple(files), files)


def _doubt(row: _Caption, gallery: Gallery, hidden: bool) -> list[str]:
    members, named = row.img_set.members, [row.reference, *row.img_set.members]
    reasons = []
    if row.target_hard is not None:
        named.append(row.target_hard)
        if row.target_hard not in members:
            reasons.append(f"target_hard: {row.target_hard} is not in img_set")
    elif not hidden:
        reasons.append("target_hard: field required")
    if row.reference not in members:
        reasons.append(f"reference: {row.reference} is not in img_set")
    if len(set(members)) < len(members):
        reasons.append("img_set.members: an image occurs twice")
    unknown = sorted({name for name in named if name not in gallery.files})
    return reasons + [f"unknown image {name}: not in image_splits" for name in unknown]


def _query(row: _Caption, options: Options) -> Query:
    return Query(
        id=str(row.pairid),
        instruction=row.caption if row.caption.strip() else BLANK,
        reference=row.reference,
        targets=(row.target_hard,) if row.target_hard else None,
        candidates=others(row.img_set.members, row.reference) if options.subset else None,
        exclude=(row.reference,) if options.exclude_reference else (),
    )


def others(members: Sequence[str], reference: str) -> tuple[str, ...]:
    """The five of an image set that the subset metrics rank."""
    return tuple(name for name in members if name != reference)


def measure(queries: Sequence[Query], rankings: Sequence[Ranking], options: Options) -> Measured:
    ranks = target_ranks(queries, rankings)
    if options.subset:
        return {**recall(ranks, SUBSET, "Recall_subset")}
    return {**recall(ranks, RECALL)}


SPEC = Spec(
    name="CIRR",
    folder="CIRR",
    splits={"val": (4181, 2297), "test": (4148, 2315)},
    main_metric="Recall@1",
    homepage="https://github.com/Cuberick-Orion/CIRR",
    licence="MIT (annotations); images from NLVR2",
    citation="Liu et al., Image Retrieval on Real-life Images with Pre-trained Vision-and-Language "
    "Models, ICCV 2021",
    read=read,
    measure=measure,
    also=("cirr_dataset",),
)
