"""What half the bits change: the same rankings by an encoder in float32, bfloat16 and float16.

Each caption of a text-to-image benchmark ranks the gallery's images by their cosine. Against
float32: the smallest cosine of an image's two vectors, the share of the 10 and the 50 best that
stay, and Recall@1 and @10.

    python script/bench/encoder_dtype.py --data-root data/tiny --models tiny --json dtype.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from imagescope.config import load_run
from imagescope.encoders.base import open_encoder
from imagescope.records import Item
from imagescope.runs.pipeline import load_benchmark

DTYPES = ("float32", "bfloat16", "float16")


def embedded(config: Any, dtype: str, texts: list[Item], images: list[Item]) -> dict[str, Any]:
    """The vectors of texts and images, and the seconds of the images."""
    encoder = open_encoder(config.model_copy(update={"dtype": dtype}))
    queries, _ = encoder.embed(texts, "query")
    start = time.perf_counter()
    gallery, lost = encoder.embed(images, "gallery")
    assert not lost
    return {"queries": queries, "gallery": gallery, "seconds": time.perf_counter() - start}


def compare(exact: dict[str, Any], other: dict[str, Any], targets: np.ndarray) -> dict[str, float]:
    """Figures of one dtype; targets: the row of each query's image."""
    order = [np.argsort(-(v["queries"] @ v["gallery"].T), axis=1, kind="stable")
             for v in (exact, other)]  # fmt: skip
    figures = {"cosine": float((exact["gallery"] * other["gallery"]).sum(1).min())}
    for k in (10, 50):
        same = [len(set(a[:k]) & set(b[:k])) / k for a, b in zip(*order, strict=True)]
        figures[f"overlap@{k}"] = float(np.mean(same))
    for k in (1, 10):
        figures[f"R@{k}"] = float((order[1][:, :k] == targets[:, None]).any(1).mean()) * 100
    return {**figures, "seconds": other["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="MSCOCO", help="a text-to-image benchmark")
    parser.add_argument("--data-root", type=Path, default=Path("data/tiny"))
    parser.add_argument("--models", default="tiny", help="the set whose encoder is compared")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()

    options = {"data_root": args.data_root, "models": args.models, "split": "test"}
    config = load_run(args.dataset, options)
    benchmark = load_benchmark(config)
    names = list(benchmark.gallery.names)
    images = [Item(images=(benchmark.gallery.files[name],)) for name in names]
    queries = [query for query in benchmark.queries if query.targets]
    texts = [Item(query.instruction) for query in queries]
    targets = np.array([names.index((query.targets or ("",))[0]) for query in queries])
    made = {dtype: embedded(config.models.encoder, dtype, texts, images) for dtype in DTYPES}
    rows = {dtype: compare(made["float32"], v, targets) for dtype, v in made.items()}

    title = f"{config.models.encoder.model}: {len(queries)} texts, {len(names)} images"
    table = Table("", *rows["float32"], title=title)
    for dtype, figures in rows.items():
        table.add_row(dtype, *(f"{value:.4f}" for value in figures.values()))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
