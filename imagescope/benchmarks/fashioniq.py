"""FashionIQ: composed queries on product photographs; dress, shirt and toptee are three benchmarks.

Many copies lack images (dead links): see `base.without_missing` for what becomes of their queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from imagescope.benchmarks.base import Options, Spec
from imagescope.benchmarks.metrics import Measured, recall, target_ranks
from imagescope.benchmarks.source import Row, Source, is_safe
from imagescope.records import Gallery, Query, Ranking

KS = (10, 50)


class _Caption(Row):
    candidate: str  # the reference, in the words of the other benchmarks
    target: str
    captions: list[str] = Field(min_length=2, max_length=2)


def instruction(captions: Sequence[str]) -> str:
    """The captions, stripped of blanks, full stops and question marks, joined by "and".

    An empty one is left out (the paper's pipeline gives " and <second>": a named deviation).
    """
    return " and ".join(text for c in captions if (text := c.strip(".? ")))


def _read(source: Source, category: str) -> tuple[list[Query], Gallery]:
    splits = source.folder / "image_splits" / f"split.{category}.{source.split}.json"
    gallery = _gallery(source, splits)
    path = source.folder / "captions" / f"cap.{category}.{source.split}.json"
    queries: list[Query] = []
    seen: set[tuple[str, ...]] = set()
    for index, row in source.rows(path, _Caption):
        unknown = [name for name in (row.candidate, row.target) if name not in gallery.files]
        for name in unknown:
            source.fault(path, index, f"unknown image {name}: not in {splits.name}")
        text = instruction(row.captions)
        same = (row.candidate, row.target, *row.captions)
        if same in seen:
            source.fault(path, index, f"the same query occurs twice ({row.candidate}, {text!r})")
        elif not text:
            source.fault(path, index, "captions: both are empty")
        elif not unknown:
            queries.append(Query(str(index), text, reference=row.candidate, targets=(row.target,)))
        seen.add(same)
    return queries, gallery


def _gallery(source: Source, path: Path) -> Gallery:
    folder = source.image_folder("images", "resized_image")
    present = source.listing(folder)
    files = {}
    for index, name in enumerate(source.names(path)):
        if not is_safe(name) or "/" in name:
            source.fault(path, index, f"not an ASIN: {name!r:.80}")
            continue
        # the links led to JPEG files, and some copies keep them as such
        jpeg = f"{name}.jpg"
        use_jpeg = jpeg in present and f"{name}.png" not in present
        files[name] = folder / (jpeg if use_jpeg else f"{name}.png")
    return Gallery(tuple(files), files)


def measure(queries: Sequence[Query], rankings: Sequence[Ranking], options: Options) -> Measured:
    return recall(target_ranks(queries, rankings), KS)


def _spec(category: str, queries: int, images: int) -> Spec:
    def read(source: Source) -> tuple[list[Query], Gallery]:
        return _read(source, category)

    return Spec(
        name=f"FashionIQ-{category}",
        folder="FashionIQ",
        splits={"val": (queries, images)},
        headline=("Recall@10", "Recall@50"),
        homepage="https://github.com/XiaoxiaoGuo/fashion-iq",
        licence="Community Data License Agreement (variant unstated); images from Amazon",
        citation="Wu et al., Fashion IQ: A New Dataset Towards Retrieving Images by Natural "
        "Language Feedback, CVPR 2021",
        read=read,
        measure=measure,
        also=("fashion-iq", "fashionIQ_dataset"),
        download="git clone https://github.com/XiaoxiaoGuo/fashion-iq {root}/FashionIQ; its README "
        "says where the images come from",
        family="FashionIQ",
    )


DRESS = _spec("dress", 2017, 3817)
SHIRT = _spec("shirt", 2038, 6346)
TOPTEE = _spec("toptee", 1961, 5373)
