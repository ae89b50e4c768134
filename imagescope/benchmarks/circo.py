"""CIRCO: composed queries with several ground truths, over all of COCO 2017 unlabeled."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from imagescope.benchmarks.base import Option, Options, Spec
from imagescope.benchmarks.metrics import (
    Measured,
    by_aspect,
    mean_average_precision,
    recall,
    target_ranks,
)
from imagescope.benchmarks.server import Server, lettered
from imagescope.benchmarks.source import Row, Source
from imagescope.records import Gallery, Query, Ranking

# COCO 2017's unlabeled images: as the paper has them, and as CIRCO's own repository says
COCO = ("unlabeled2017", "COCO2017_unlabeled/unlabeled2017")
KS = (5, 10, 25, 50)
FILE = re.compile(r"\d{12}\.jpg")
# COCO 2017's largest id is a little below. Without the official list that is all one can know of an
# id: an image that is not in the folder is missing, not unknown.
MAX_ID = 600_000


class _Query(Row):
    id: int
    reference_img_id: int
    relative_caption: str
    shared_concept: str
    target_img_id: int | None = None  # public on val, as the next two
    gt_img_ids: list[int] | None = Field(default=None, min_length=1)
    semantic_aspects: list[str] = Field(default_factory=list)


class _Image(Row):
    file_name: str


def file_name(image: int) -> str:
    """COCO's name of an image id: 8 -> 000000000008.jpg."""
    return f"{image:012d}.jpg"


def read(source: Source) -> tuple[list[Query], Gallery]:
    folder = source.image_folder(*COCO, beside=["", "VisDial"])
    path = source.find(*(f"{place}/{source.split}.json" for place in ("annotations", "captions")))
    listed = _listed(source)
    names = listed or sorted(n for n in source.listing(folder) if FILE.fullmatch(n))
    doubts = partial(_doubts, listed=set(listed), hidden=source.split == "test")
    rows = source.sound_rows(path, _Query, "id", doubts)
    queries = [_query(row, source.options) for row in rows]
    return queries, _gallery(names, folder, queries)


def _listed(source: Source) -> list[str]:
    """The gallery by COCO's own list, where the user has it; else nothing."""
    info = "image_info_unlabeled2017.json"
    path = source.find(
        *(f"annotations/{info}", f"captions/{info}", info),
        *(f"COCO2017_unlabeled/annotations/{info}", f"../COCO2017_unlabeled/annotations/{info}"),
    )
    if not path.is_file():
        return []
    names = set()
    for index, image in enumerate(source.json(path, dict).get("images", [])):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not FILE.fullmatch(name):
            source.fault(path, index, f"file_name: not one of COCO's: {name!r:.80}")
        elif name in names:
            source.fault(path, index, f"file_name: {name} is listed twice")
        else:
            names.add(name)
    return sorted(names)


def _gallery(names: Sequence[str], folder: Path, queries: Sequence[Query]) -> Gallery:
    used = {n for q in queries for n in (q.reference, *(q.targets or ())) if n}
    return Gallery(tuple(names), {name: folder / name for name in (*names, *sorted(used))})


def _doubts(row: _Query, listed: set[str], hidden: bool) -> list[str]:
    truths, reasons = row.gt_img_ids or [], []
    if not hidden and (row.gt_img_ids is None or row.target_img_id is None):
        reasons.append("gt_img_ids, target_img_id: fields required")
    elif truths and truths[0] != row.target_img_id:
        reasons.append(f"target_img_id: {row.target_img_id} is not the first of gt_img_ids")
    if len(set(truths)) < len(truths):
        reasons.append("gt_img_ids: an image occurs twice")
    for image in dict.fromkeys((row.reference_img_id, *truths)):
        if not 0 < image <= MAX_ID or (listed and file_name(image) not in listed):
            reasons.append(f"unknown image {image}: not in COCO 2017 unlabeled")
    return reasons


def _query(row: _Query, options: Options) -> Query:
    instruction = row.relative_caption
    if options["shared_concept"]:
        instruction = f"{row.shared_concept.strip()}, {instruction.strip()}"
    truths = row.gt_img_ids
    return Query(
        id=str(row.id),
        instruction=instruction,
        reference=file_name(row.reference_img_id),
        targets=tuple(map(file_name, truths)) if truths else None,
        aspects=tuple(row.semantic_aspects),
    )


def measure(queries: Sequence[Query], rankings: Sequence[Ranking], options: Options) -> Measured:
    precision = mean_average_precision(queries, rankings, KS)
    return {
        **precision,
        **recall(target_ranks(queries, rankings), KS),
        "semantic_aspects": by_aspect(queries, precision["mAP@10"]),
    }


class CIRCOServer(Server):
    """{"<query id>": [50 image ids]}, numbers or texts of their digits"""

    def claims(self, entries: Mapping[str, Any]) -> bool:
        return not {"version", "metric"} & set(entries) and not lettered(entries)

    def entry(self, image: str) -> int:
        return int(Path(image).stem)

    def image(self, entry: Any) -> str:
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

    def query_ids(self, count: int) -> list[str]:
        return [str(i) for i in range(count)]


SPEC = Spec(
    name="CIRCO",
    folder="CIRCO",
    splits={"val": (220, 123_403), "test": (800, 123_403)},
    headline=("mAP@5", "mAP@10", "mAP@25", "mAP@50"),
    homepage="https://github.com/miccunifi/CIRCO",
    licence="CC BY-NC 4.0 (annotations); images from COCO 2017 unlabeled",
    citation="Baldrati et al., Zero-Shot Composed Image Retrieval with Textual Inversion, "
    "ICCV 2023",
    read=read,
    measure=measure,
    download="git clone https://github.com/miccunifi/CIRCO {root}/CIRCO; the images are COCO "
    "2017's unlabeled ones (unlabeled2017.zip, cocodataset.org)",
    options={"shared_concept": Option("the shared concept goes with the instruction")},
    groups={"semantic_aspects": "mAP@10 by semantic aspect"},
    server=CIRCOServer(),
)
