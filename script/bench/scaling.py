"""Retrieval's cost as the gallery grows, from 1,000 to 1,000,000 images.

Each size runs in a process of its own, over embeddings on disk; its memory is the process's
largest, mapped pages and libraries included. Time is the median of several passes, divided by the
number of queries; 'per million' divides it by the gallery's size as well: constant or falling
means linear or better.

    python script/bench/scaling.py --json scaling.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from imagescope.search.score import device

SIZES = (1_000, 10_000, 100_000, 300_000, 1_000_000)


def make(folder: Path, images: int, dimension: int, queries: int) -> None:
    """Random unit vectors, written block by block."""
    rng = np.random.default_rng(0)
    for name, count in (("images", images), ("captions", images), ("texts", queries)):
        rows = np.lib.format.open_memmap(
            folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=(count, dimension)
        )
        for first in range(0, count, 8192):
            shape = (min(8192, count - first), dimension)
            block = rng.standard_normal(shape, dtype=np.float32)
            rows[first : first + 8192] = block / np.linalg.norm(block, axis=1, keepdims=True)
        rows.flush()


def measure(folder: Path, size: int, keep: int, repeats: int) -> dict[str, Any]:
    """Seconds a query and the largest memory of this process."""
    from imagescope.gallery.vectors import GalleryVectors
    from imagescope.records import Query
    from imagescope.search.scan import scan
    from imagescope.search.score import Dot

    images, captions = (
        np.load(folder / f"{name}.npy", mmap_mode="r")[:size] for name in ("images", "captions")
    )
    texts = np.load(folder / "texts.npy")
    names = tuple(str(n) for n in range(size))
    vectors = GalleryVectors(names, images, captions, np.ones(size, bool))
    queries = [Query(str(n), "", targets=(names[n * 7 % size],)) for n in range(len(texts))]
    times = []
    for _ in range(repeats + 1):  # the first pass warms up
        start = time.perf_counter()
        score = 0.85 * Dot(texts, images) + 0.15 * Dot(texts, captions)
        scan(score, queries, vectors, keep)
        times.append(time.perf_counter() - start)
    return {
        "images": size,
        "seconds_per_query": median(times[1:]) / len(texts),
        "peak_bytes": peak(),
    }


def peak() -> int:
    """The most memory this process ever had, bytes. (getrusage would count its parent's.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="gallery sizes")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--keep", type=int, default=100, help="names kept of a ranking")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--work", type=Path, help="a folder with room for the embeddings (6.2 GB)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:  # a child, for one size
        found = measure(args.folder, args.measure, args.keep, args.repeats)
        print(json.dumps(found))
        return

    rows = []
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        make(Path(folder), max(args.sizes), args.dimension, args.queries)
        for size in sorted(args.sizes):
            line = [sys.executable, __file__, "--measure", str(size), "--folder", folder]
            line += ["--keep", str(args.keep), "--repeats", str(args.repeats)]
            said = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append(json.loads(said))
    table = Table("images", "ms a query", "ms a query, per million", "peak memory")
    for row in rows:
        each = row["seconds_per_query"] * 1e3
        table.add_row(
            f"{row['images']:,}",
            f"{each:.3f}",
            f"{each * 1e6 / row['images']:.1f}",
            f"{row['peak_bytes'] / 2**30:.2f} GiB",
        )
    table.title = f"{args.queries} queries, dimension {args.dimension}, keep {args.keep}"
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"device": device(), "sizes": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
