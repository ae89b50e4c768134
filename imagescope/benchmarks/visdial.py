"""VisDial as ChatIR made it retrieval: a caption, then ten rounds of question and answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from imagescope.benchmarks.base import Option, Options, Spec
from imagescope.benchmarks.circo import COCO
from imagescope.benchmarks.metrics import Measured, measure_dialogues
from imagescope.benchmarks.source import Row, Source
from imagescope.records import Gallery, Query, Ranking

SPACE, DIALOGUES = "Search_Space_val_50k.json", "VisDial_v1.0_queries_val.json"
ROUNDS = 10
ENTRY = re.compile(r"unlabeled2017/(\d{12}\.jpg)")


class _Dialogue(Row):
    img: str
    dialog: list[str] = Field(min_length=ROUNDS + 1, max_length=ROUNDS + 1)


def read(source: Source) -> tuple[list[Query], Gallery]:
    gallery = _gallery(source, source.find(SPACE, f"ChatIR_Protocol/{SPACE}"))
    path = source.find(DIALOGUES, f"dialogues/{DIALOGUES}")
    queries: list[Query] = []
    seen: set[str] = set()
    for index, row in source.rows(path, _Dialogue):
        match = ENTRY.fullmatch(row.img)
        if not match or match[1] not in gallery.files:
            source.fault(path, index, f"img: unknown image {row.img}: not in the search space")
        elif row.img in seen:
            source.fault(path, index, f"img: {row.img} occurs twice")
        else:
            seen.add(row.img)
            queries += [
                Query(str(index), text, turn, targets=(match[1],), verbatim=turn == 0)
                for turn, text in enumerate(row.dialog)
            ]
    return queries, gallery


def _gallery(source: Source, path: Path) -> Gallery:
    folder = source.image_folder(*COCO, beside=["", "CIRCO"])
    files = {}
    for index, entry in enumerate(source.names(path)):
        match = ENTRY.fullmatch(entry)
        if match:
            files[match[1]] = folder / match[1]
        else:
            source.fault(path, index, f"unlabeled2017/<12 digits>.jpg expected, got {entry!r:.80}")
    return Gallery(tuple(files), files)


def measure(queries: Sequence[Query], rankings: Sequence[Ranking], options: Options) -> Measured:
    return measure_dialogues(queries, rankings, options["first_round"])


SPEC = Spec(
    name="VisDial",
    folder="VisDial",
    splits={"val": (2064, 50_000)},  # dialogues
    headline=("Hits@10/10", "BRI"),
    homepage="https://github.com/levymsn/ChatIR",
    licence="MIT (ChatIR's files), CC BY 4.0 (VisDial); images from COCO 2017 unlabeled",
    citation="Levy et al., Chatting Makes Perfect: Chat-based Image Retrieval, NeurIPS 2023; "
    "Das et al., Visual Dialog, CVPR 2017",
    read=read,
    measure=measure,
    also=("ChatIR",),
    download="git clone https://github.com/levymsn/ChatIR; copy Search_Space_val_50k.json and "
    "VisDial_v1.0_queries_val.json to {root}/VisDial; the images are CIRCO's",
    options={
        "first_round": Option(
            "the first round scored: 0 is the caption alone, and BRI needs it", 1, {"official": 0}
        )
    },
    lower_is_better=("BRI",),
    dialogue=True,
)
