"""Approximate search against the exact scan: recall, time, and what the index costs.

Vectors are clustered, as pictures are: a centre of its own for every hundred images, rows at a
cosine of about 0.7 to it, captions at about 0.7 to their images, queries at about 0.7 to some
image. (Among vectors drawn uniformly nothing is near to anything, and an index has nothing to
find.) Recall at k is the share of the exact k best that the approximate k best hold. Queries come
one by one, as somebody asks them. The exact search of 100,000 own pictures is measured with

    python script/bench/approximate.py --images 100000 --json approximate.json
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from imagescope.arrays import Array
from imagescope.gallery.vectors import GalleryVectors
from imagescope.records import Query, Ranking
from imagescope.search.approximate import Approximate
from imagescope.search.scan import scan
from imagescope.search.score import Dot, Score

BLOCK = 8192
NEAR = 1.0  # noise as long as what it is added to: a cosine of about 0.7


def noisy(rng: np.random.Generator, rows: Array) -> Array:
    noise = rng.standard_normal(rows.shape, dtype=np.float32) / np.sqrt(rows.shape[1])
    mixed = rows + NEAR * noise
    unit: Array = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    return unit


def make(folder: Path, count: int, dimension: int) -> Array:
    """Rows [v, c], float32 (count, 2 * dimension), as an index of own pictures keeps them."""
    rng = np.random.default_rng(0)
    shape = (max(1, count // 100), dimension)
    centres = noisy(rng, np.zeros(shape, np.float32))
    rows = np.lib.format.open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(count, 2 * dimension)
    )
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        images = noisy(rng, centres[rng.integers(0, len(centres), size)])
        rows[start : start + size] = np.hstack([images, noisy(rng, images)])
    rows.flush()
    return np.load(folder / "vectors.npy", mmap_mode="r")


def clock(way: Callable[[Query, Score], list[Ranking]], asked: list[Any]) -> tuple[Any, float]:
    """Every query's ranking, and the median of seconds."""
    rankings, seconds = [], []
    for query, score in asked:
        start = time.perf_counter()
        rankings += way(query, score)
        seconds.append(time.perf_counter() - start)
    return rankings, median(seconds)


def shortlisted(index: Approximate, keep: int, query: Query, score: Score) -> list[Ranking]:
    return index.search([query], score, keep) or []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=512, help="of images and of captions")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--keep", type=int, default=100)
    parser.add_argument("--probes", type=int, nargs="+", default=(32, 128, 250, 500))
    parser.add_argument("--work", type=Path, help="a folder with room for the vectors (4.1 GB)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as name:
        folder = Path(name)
        rows = make(folder, args.images, args.dimension)
        names = tuple(f"{n:09d}.jpg" for n in range(args.images))
        images, captions = rows[:, : args.dimension], rows[:, args.dimension :]
        vectors = GalleryVectors(names, images, captions, np.ones(args.images, bool))
        len(vectors.index)
        rng = np.random.default_rng(1)
        texts = noisy(rng, images[np.sort(rng.choice(args.images, args.queries, replace=False))])
        asked = []
        for n, text in enumerate(texts):
            score = 0.85 * Dot(text[None], images) + 0.15 * Dot(text[None], captions)
            asked.append((Query(str(n), ""), score))

        exact, seconds = clock(lambda q, score: scan(score, [q], vectors, args.keep), asked)
        ways: list[dict[str, Any]] = [{"search": "exact", "seconds": seconds}]
        start = time.perf_counter()
        Approximate(vectors, folder / "vectors.npy")
        built = time.perf_counter() - start
        size = sum(path.stat().st_size for path in folder.glob("*.ivf"))
        for probes in args.probes:
            index = Approximate(vectors, folder / "vectors.npy", probes)
            rankings, seconds = clock(partial(shortlisted, index, args.keep), asked)
            way = {"search": f"{probes} lists", "seconds": seconds}
            for k in (10, 100):
                shares = [
                    len({*a.names[:k]} & {*b.names[:k]}) / k
                    for a, b in zip(exact, rankings, strict=True)
                ]
                way[f"recall_at_{k}"] = sum(shares) / len(shares)
            ways.append(way)
    table = Table("search", "ms a query", "recall at 10", "recall at 100")
    for way in ways:
        recalls = [f"{way[f'recall_at_{k}']:.3f}" if len(way) > 2 else "" for k in (10, 100)]
        table.add_row(way["search"], f"{way['seconds'] * 1e3:.1f}", *recalls)
    table.title = f"{args.images:,} x 2 x {args.dimension}, clustered; {args.queries} queries"
    Console().print(table)
    print(f"index: made in {built:.0f} s, {size / 2**30:.2f} GiB; load {os.getloadavg()[0]:.0f}")
    if args.json:
        figures = {
            "images": args.images,
            "dimension": args.dimension,
            "build_seconds": built,
            "index_bytes": size,
            "ways": ways,
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
