"""CIRR: composed queries on real-life photographs, in sets of six look-alikes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from imagescope.benchmarks.base import Option, Options, Spec
from imagescope.benchmarks.metrics import Measured, recall, target_ranks
from imagescope.benchmarks.server import Finding, Server, lettered
from imagescope.benchmarks.source import Row, Source, is_safe
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
    doubts = partial(_doubts, gallery=gallery, hidden=source.split == "test")
    rows = source.sound_rows(path, _Caption, "pairid", doubts)
    return [_query(row, source.options) for row in rows], gallery


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


def _doubts(row: _Caption, gallery: Gallery, hidden: bool) -> list[str]:
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
        candidates=others(row.img_set.members, row.reference) if options["subset"] else None,
        exclude=(row.reference,) if options["exclude_reference"] else (),
    )


def others(members: Sequence[str], reference: str) -> tuple[str, ...]:
    """The five of an image set that the subset metrics rank."""
    return tuple(name for name in members if name != reference)


def measure(queries: Sequence[Query], rankings: Sequence[Ranking], options: Options) -> Measured:
    ranks = target_ranks(queries, rankings)
    if options["subset"]:
        return recall(ranks, SUBSET, "Recall_subset")
    return recall(ranks, RECALL)


class CIRRServer(Server):
    """{"version": "rc2", "metric": "recall" | "recall_subset", "<pairid>": [names without .png]}"""

    max_bytes = 5_000_000
    header = ("version", "metric")

    def claims(self, entries: Mapping[str, Any]) -> bool:
        return any(key in entries for key in self.header) or lettered(entries)

    def options(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        return {"subset": entries.get("metric") == "recall_subset"}

    def head(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"version": "rc2", "metric": "recall_subset" if options["subset"] else "recall"}

    def length(self, options: Mapping[str, Any]) -> int:
        return max(SUBSET if options["subset"] else RECALL)

    def image(self, entry: Any) -> str:
        if super().image(entry).endswith(".png"):
            raise ValueError("is to be given without .png")
        return str(entry)

    def doubt(self, query_id: str) -> str:
        return "" if query_id.isdecimal() else "not a pairid"

    def examine(
        self, entries: Mapping[str, Any], options: Mapping[str, Any], queries: Mapping[str, Query]
    ) -> list[Finding]:
        """The header, and a warning where references are candidates, with what that costs."""
        findings = []
        version, metric = (entries.get(key) for key in self.header)
        if version != "rc2":
            findings.append(Finding(f'version: "rc2" expected, got {_shown(version)}'))
        if metric not in ("recall", "recall_subset"):
            expected = '"recall" or "recall_subset"'
            findings.append(Finding(f"metric: {expected} expected, got {_shown(metric)}"))
        places = [
            entries[key].index(query.reference)
            for key, query in queries.items()
            if isinstance(entries.get(key), list) and query.reference in entries[key]
        ]
        if places:
            ks = SUBSET if options["subset"] else RECALL
            cost = ", ".join(f"{sum(p < k for p in places):,} at k = {k}" for k in ks)
            text = (
                f"the reference image is among the candidates of {len(places):,} queries. It is "
                "never the target and takes a place: these queries have k - 1 chances instead of "
                f"k: {cost} (protocol official leaves references out)"
            )
            findings.append(Finding(text, warning=True))
        return findings


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{value!r:.60}"


SPEC = Spec(
    name="CIRR",
    folder="CIRR",
    splits={"val": (4181, 2297), "test": (4148, 2315)},
    headline=(*(f"Recall@{k}" for k in RECALL), *(f"Recall_subset@{k}" for k in SUBSET)),
    homepage="https://github.com/Cuberick-Orion/CIRR",
    licence="MIT (annotations); images from NLVR2",
    citation="Liu et al., Image Retrieval on Real-life Images with Pre-trained Vision-and-Language "
    "Models, ICCV 2021",
    read=read,
    measure=measure,
    also=("cirr_dataset",),
    download="git clone -b cirr_dataset https://github.com/Cuberick-Orion/CIRR {root}/CIRR; the "
    "images (dev, test1) are NLVR2's and are asked for at lil.nlp.cornell.edu/nlvr",
    options={
        "exclude_reference": Option(
            "the reference image is no candidate (in the subset it never is)",
            protocols={"official": True},
        ),
        "subset": Option("the image set alone is ranked", separate=True),
    },
    server=CIRRServer(),
)
