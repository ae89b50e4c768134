"""Stage 1 at CIRCO's size: ours against the authors' way and against the bare matrix product.

The authors' way is written here as their released code goes about it: whole queries are gathered
until there are at least 128 descriptions; these are multiplied with the whole gallery twice, its
images and its captions; then, query by query, all scores are sorted and become three Python lists
over the whole gallery: indices, scores and names. What it does with the lists is left out. Ours is
`scan`, from embeddings on disk to rankings with exact ranks, the fused matrix made on the way;
ratios are those of keeping 100 names a query, as a run does, and keeping 1,000 is shown beside it.
The bare product is q @ F.T, with F there already; the libraries' faster order of the same product
(F @ q.T), and faiss where it is installed, are shown too. Vectors are random; all ways take turns
within each repeat, on a GPU if there is one.

    python script/bench/retrieval.py --json retrieval.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from imagescope.gallery.vectors import GalleryVectors
from imagescope.records import Query, Ranking
from imagescope.search.scan import scan
from imagescope.search.score import Dot, device

BATCH = 128  # descriptions that the authors' code multiplies at once, at least
FLOAT_TIE = 1e-6  # of scores below 1 in float32


def make(folder: Path, images: int, dimension: int, queries: int, descriptions: int) -> None:
    """Random unit vectors: the gallery's pictures and captions, and the descriptions."""
    torch.manual_seed(0)
    for name, shape in (
        ("images", (images, dimension)),
        ("captions", (images, dimension)),
        ("descriptions", (queries, descriptions, dimension)),
    ):
        rows = torch.nn.functional.normalize(torch.randn(shape), dim=-1)
        np.save(folder / f"{name}.npy", rows.numpy())


class Problem:
    """The inputs, mapped from disk and read once, so that they are in memory for everyone."""

    def __init__(self, folder: Path, tau: float, keep: int, first: int | None = None):
        """first: how many of the gallery's images, None for all."""
        self.tau, self.keep, self.device = tau, keep, device()
        images, captions = (
            np.load(folder / f"{n}.npy", mmap_mode="r")[:first] for n in ("images", "captions")
        )
        self.descriptions = np.load(folder / "descriptions.npy")
        count = len(images)
        self.names = [f"{n:012d}.jpg" for n in range(count)]
        ok = np.ones(count, bool)
        self.vectors = GalleryVectors(tuple(self.names), images, captions, ok)
        asked = len(self.descriptions)
        self.targets = [self.names[n * count // asked] for n in range(asked)]
        self.queries = [Query(str(i), "", targets=(t,)) for i, t in enumerate(self.targets)]
        float(images.sum(dtype=np.float64) + captions.sum(dtype=np.float64))
        len(self.vectors.index)  # made once a run, as the names are

    def authors(self) -> list[tuple[list[int], list[float], list[str]]]:
        """Every query's whole gallery, best first: indices, scores and names."""
        v, c = (
            torch.from_numpy(rows).to(self.device)
            for rows in (self.vectors.images, self.vectors.captions)
        )
        _, m, d = self.descriptions.shape
        together = -(-BATCH // m)  # whole queries of one product
        ranked = []
        for t in torch.from_numpy(self.descriptions).to(self.device).split(together):
            flat = t.reshape(-1, d)
            scores = (1 - self.tau) * (flat @ v.T) + self.tau * (flat @ c.T)
            for row in scores.reshape(len(t), m, -1).mean(1):
                order = row.argsort(descending=True)
                indices = order.tolist()
                ranked.append((indices, row[order].tolist(), [self.names[i] for i in indices]))
        return ranked

    def ours(self, keep: int | None = None) -> list[Ranking]:
        texts, keep = self.descriptions.mean(1), keep or self.keep
        images = Dot(texts, self.vectors.images)
        captions = Dot(texts, self.vectors.captions)
        score = (1 - self.tau) * images + self.tau * captions
        return scan(score, self.queries, self.vectors, keep)


def products(problem: Problem) -> dict[str, Callable[[], Any]]:
    """The bare product of one vector a query with the fused matrix, both given."""
    images, captions = problem.vectors.images, problem.vectors.captions
    fused = torch.lerp(torch.tensor(images), torch.tensor(captions), problem.tau)
    texts = torch.from_numpy(problem.descriptions.mean(1))
    fused, texts = fused.to(problem.device), texts.to(problem.device)

    def finished(found: torch.Tensor) -> None:
        if found.is_cuda:
            torch.cuda.synchronize()

    ways: dict[str, Callable[[], Any]] = {
        "q @ F.T": lambda: finished(texts @ fused.T),
        "F @ q.T": lambda: finished(fused @ texts.T),
    }
    if find_spec("faiss") and problem.device == "cpu":
        import faiss

        index = faiss.IndexFlatIP(fused.shape[1])
        index.add(fused.numpy())
        ways["faiss, top 100"] = lambda: index.search(texts.numpy(), 100)
    return ways


def clock(way: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall, and of the processor (all threads)."""
    start, processor = time.perf_counter(), time.process_time()
    way()
    return time.perf_counter() - start, time.process_time() - processor


def same(problem: Problem) -> dict[str, float]:
    """Share of queries with the same 100 best: but for float ties, and name by name."""
    alike = identical = 0
    images, captions = problem.vectors.images, problem.vectors.captions
    ranked, rankings = problem.authors(), problem.ours()
    for (_, _, names), ours, t in zip(ranked, rankings, problem.descriptions, strict=True):
        mine = list(ours.names[:100])
        head = names[: len(mine)]
        identical += head == mine
        rows = [problem.vectors.index[name] for name in (*head, *mine)]
        fused = (1 - problem.tau) * images[rows].astype(float) + problem.tau * captions[rows]
        exact = fused @ t.astype(float).mean(0)
        # the same scores at every rank: names may differ only where scores tie
        alike += bool(np.abs(exact[: len(head)] - exact[len(head) :]).max() < FLOAT_TIE)
    return {"same_top_100": alike / len(ranked), "identical_top_100": identical / len(ranked)}


def status(field: str) -> int:
    """A size from the kernel's account of this process, bytes (VmRSS: now; VmHWM: its peak)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def peak(folder: Path, way: str, tau: float, keep: int) -> int:
    """Bytes above the inputs that one way needs at most, in a process of its own."""
    line = [sys.executable, __file__, "--measure", way, "--folder", str(folder)]
    line += ["--tau", str(tau), "--keep", str(keep)]
    return int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=123_403, help="gallery size (CIRCO's)")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--descriptions", type=int, default=3, help="of each query")
    parser.add_argument("--tau", type=float, default=0.15)
    parser.add_argument("--keep", type=int, default=100, help="names that ours keeps of a ranking")
    parser.add_argument("--more", type=int, default=1000, help="names kept in a second measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--measure", choices=("authors", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")

    if args.measure:  # a child that peak() started
        problem = Problem(args.folder, args.tau, args.keep)
        # libraries' code and buffers are nobody's: a few images bring them into memory
        getattr(Problem(args.folder, args.tau, args.keep, first=BATCH), args.measure)()
        before = status("VmRSS")
        getattr(problem, args.measure)()
        print(status("VmHWM") - before)
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.images, args.dimension, args.queries, args.descriptions)
        problem = Problem(folder, args.tau, args.keep)
        ways = {
            "the authors' way": problem.authors,
            "ours": problem.ours,
            f"ours, keeping {args.more:,}": lambda: problem.ours(args.more),
            **products(problem),
        }
        agreement = same(problem)
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(args.repeats):
            for way, call in ways.items():
                times[way].append(clock(call))
        peaks = {
            label: peak(folder, way, args.tau, args.keep)
            for label, way in (("the authors' way", "authors"), ("ours", "ours"))
        }
    medians = {way: median(wall for wall, _ in pairs) for way, pairs in times.items()}
    processor = {way: median(spent for _, spent in pairs) for way, pairs in times.items()}
    ours = medians["ours"]
    figures = {
        "images": args.images,
        "dimension": args.dimension,
        "queries": args.queries,
        "descriptions": args.descriptions,
        "keep": args.keep,
        "device": problem.device,
        "threads": torch.get_num_threads(),
        "repeats": args.repeats,
        "seconds": medians,
        "processor_seconds": processor,
        "peak_bytes": peaks,
        "ratio_to_authors": medians["the authors' way"] / ours,
        "processor_ratio_to_authors": processor["the authors' way"] / processor["ours"],
        "ratio_to_matmul": medians["q @ F.T"] / ours,
        "ratio_to_fastest_matmul": min(medians["q @ F.T"], medians["F @ q.T"]) / ours,
        "memory_ratio": peaks["ours"] / peaks["the authors' way"],
        **agreement,
    }
    table = Table("", "seconds", "times ours", "processor", "peak above the inputs")
    for way, value in medians.items():
        memory = f"{peaks[way] / 2**20:,.0f} MiB" if way in peaks else ""
        spent = f"{processor[way]:.2f} s"
        table.add_row(way, f"{value:.3f}", f"{value / ours:.2f}", spent, memory)
    title = f"{args.images:,} x {args.dimension}, {args.queries} queries of {args.descriptions}"
    table.title = f"{title}; medians of {args.repeats}"
    console = Console()
    console.print(table)
    console.print(
        f"times the authors' speed: {figures['ratio_to_authors']:.1f}; "
        f"of their extra memory: 1/{1 / figures['memory_ratio']:.0f}; "
        f"same 100 best, but for float ties: {agreement['same_top_100']:.1%} of queries "
        f"(name by name: {agreement['identical_top_100']:.1%})"
    )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
