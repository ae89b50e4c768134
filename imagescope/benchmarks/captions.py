"""Flickr30K and MSCOCO, text to image: a CSV of images with their captions, one query a caption."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from imagescope.benchmarks.base import Options, Spec
from imagescope.benchmarks.metrics import Measured, recall, target_ranks
from imagescope.benchmarks.source import Source, is_safe
from imagescope.records import Gallery, Query, Ranking

KS = (1, 5, 10)
COLUMNS = ("raw", "split", "filename")  # the others differ from copy to copy
LONGEST = 10_000_000  # characters of a cell; csv's own limit is 131,072


def reader(file: str, *folders: str) -> Callable[[Source], tuple[list[Query], Gallery]]:
    """Reads the rows of a CSV whose `split` is the wanted one. `raw` is a JSON list of captions;
    a cell is data and never run. Query ids count the captions. folders: where images may lie."""

    def read(source: Source) -> tuple[list[Query], Gallery]:
        path, folder = source.folder / file, source.image_folder("images", *folders)
        csv.field_size_limit(LONGEST)
        rows = csv.DictReader(io.StringIO(source.text(path), newline=""), strict=True)
        files: dict[str, Path] = {}
        seen: set[Path] = set()  # "a.jpg" and "./a.jpg" are one file
        queries: list[Query] = []
        try:
            absent = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if absent:
                source.fault(path, None, f"no column {', '.join(absent)}")
                return [], Gallery((), {})
            for name in COLUMNS:
                if rows.fieldnames and rows.fieldnames.count(name) > 1:
                    source.fault(path, None, f"column {name} is there twice")
            for index, row in enumerate(rows):
                if row.get(None):
                    source.fault(path, index, "the row has more cells than there are columns")
                if row["split"] != source.split:
                    if row["split"] is None:
                        source.fault(path, index, "the row is cut off")
                    continue
                name, captions = row["filename"], _captions(row["raw"])
                if not name or not is_safe(name):
                    source.fault(path, index, f"filename: not the name of an image: {name!r:.80}")
                elif (file_path := folder / name) in seen:
                    source.fault(path, index, f"filename: {name} occurs twice")
                elif isinstance(captions, str):
                    source.fault(path, index, f"raw: {captions}")
                else:
                    files[name] = file_path
                    seen.add(file_path)
                    queries += [
                        Query(str(len(queries) + i), caption, targets=(name,))
                        for i, caption in enumerate(captions)
                    ]
        except csv.Error as error:
            source.fault(path, None, f"not valid CSV (cut off?), line {rows.line_num}: {error}")
        return queries, Gallery(tuple(files), files)

    return read


def _captions(cell: str | None) -> list[str] | str:
    """The captions of a cell, or what is wrong with it."""
    try:
        captions = json.loads(cell or "")
    except (ValueError, RecursionError):
        return f"a JSON list of captions expected, got {cell!r:.80}"
    if not isinstance(captions, list) or not all(isinstance(c, str) for c in captions):
        return f"a list of texts expected, got {cell!r:.80}"
    return captions or "no caption"


def measure(queries: Sequence[Query], rankings: Sequence[Ranking], options: Options) -> Measured:
    return recall(target_ranks(queries, rankings), KS)


HEADLINE = ("Recall@1", "Recall@5", "Recall@10")
FLICKR30K = Spec(
    name="Flickr30K",
    folder="Flickr30K",
    splits={"test": (5000, 1000)},
    headline=HEADLINE,
    homepage="https://shannon.cs.illinois.edu/DenotationGraph/",
    licence="research and education only; images from Flickr",
    citation="Young et al., From image descriptions to visual denotations, TACL 2014; split of "
    "Karpathy and Fei-Fei, CVPR 2015",
    read=reader("test_1k_flickr.csv", "images_flickr_1k_test", "flickr30k-images"),
    measure=measure,
    download="hf download nlphuji/flickr_1k_test_image_text_retrieval --repo-type dataset "
    "--local-dir {root}/Flickr30K; unzip its images to images/",
)
MSCOCO = Spec(
    name="MSCOCO",
    folder="MSCOCO",
    splits={"test": (25_010, 5000)},
    headline=HEADLINE,
    homepage="https://cocodataset.org",
    licence="CC BY 4.0 (annotations); images under their Flickr licences",
    citation="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014; split of Karpathy "
    "and Fei-Fei, CVPR 2015",
    read=reader("test_5k_mscoco_2014.csv", "images_mscoco_2014_5k_test", "val2014"),
    measure=measure,
    download="hf download nlphuji/mscoco_2014_5k_test_image_text_retrieval --repo-type dataset "
    "--local-dir {root}/MSCOCO; unzip its images to images/",
)
