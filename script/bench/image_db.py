"""What it costs to put a gallery into the image database, apart from captioning.

Photographs of COCO's size are made (random, JPEG), and embedded by a checkpoint of random weights
at real size: as the encoder does it (files read, decoded and prepared in threads, ahead of the
model), against the bare model's forward pass in a loop over one prepared batch of the same size.
"chunk by chunk" waits for the first pictures at the start of each of four chunks; "one stream", as
the database is made, does not. "Pictures alone" are decoded and prepared without a model, in
threads and in processes. Then the database is made from nothing, opened again, and opened after
one image changed.

    python script/bench/image_db.py --size ViT-L-14 --images 2048 --json image_db.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from imagescope.config import EncoderConfig
from imagescope.encoders.base import Encoder, open_encoder
from imagescope.encoders.cached import CachedEncoder
from imagescope.encoders.pixels import read
from imagescope.gallery.database import ImageDB
from imagescope.models.processes import Processes
from imagescope.records import Gallery, Item
from imagescope.store.cache import Cache

TOKENIZER = Path(__file__).parents[2] / "data" / "tiny" / "models" / "encoder"
SIZES: dict[str, dict[str, int]] = {  # the vision tower; the text tower is the tiny checkpoint's
    "tiny": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
             "num_attention_heads": 4, "patch_size": 32},
    "ViT-B-32": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                 "num_attention_heads": 12, "patch_size": 32},
    "ViT-L-14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                 "num_attention_heads": 16, "patch_size": 14},
}  # fmt: skip


def make_checkpoint(folder: Path, size: str) -> None:
    """A CLIP checkpoint of random weights whose vision tower has the given size."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    folder.mkdir()
    text = json.loads((TOKENIZER / "config.json").read_text())["text_config"]
    vision = {"image_size": 224, "hidden_act": "quick_gelu", **SIZES[size]}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    for path in TOKENIZER.glob("tokenizer*"):
        shutil.copy(path, folder)


def make_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of 640x480, as noisy as photographs; every one different."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (count, 24, 32, 3), np.uint8)

    def write(n: int) -> Path:
        path = folder / f"{n:06d}.jpg"
        Image.fromarray(coarse[n]).resize((640, 480), Image.Resampling.BICUBIC).save(
            path, quality=90
        )
        return path

    with ThreadPoolExecutor() as pool:
        return list(pool.map(write, range(count)))


def forward(encoder: Encoder, paths: list[Path]) -> Callable[[], None]:
    """The bare forward pass, as often as there are batches, over pixels that lie ready."""
    from transformers import CLIPModel

    from imagescope.models.images import load_picture

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = CLIPModel.from_pretrained(encoder.config.model).eval().to(device)
    size = encoder.config.batch_size
    prepare = encoder._load()[0].prepare  # the same preparation
    pixels = np.stack([prepare(load_picture(p)) for p in paths[:size]])
    pixels = torch.from_numpy(pixels).to(device)

    def run() -> None:
        with torch.inference_mode():
            for first in range(0, len(paths), size):
                model.get_image_features(pixel_values=pixels[: len(paths) - first])
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def clock(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def database(folder: Path, paths: list[Path], encoder: Encoder) -> dict[str, float]:
    """Seconds to make the database, to open it again, and after one image changed."""
    gallery = Gallery(tuple(p.name for p in paths), {p.name: p for p in paths})
    captions = {p.name: f"a picture called {p.stem}" for p in paths}

    def work() -> None:
        with Cache.open(folder / "responses.sqlite") as cache:
            db = ImageDB.open(folder, "bench", "all", gallery, cache)
            db.vectors(encoder, CachedEncoder(encoder, cache), captions)

    made, again = clock(work), clock(work)
    Image.new("RGB", (640, 480), "red").save(paths[0])
    return {"made": made, "opened again": again, "one image changed": clock(work)}


def main() -> None:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="ViT-L-14" if gpu else "ViT-B-32")
    parser.add_argument("--images", type=int, default=2048 if gpu else 64)
    parser.add_argument("--batch-size", type=int, default=64 if gpu else 16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_checkpoint(work / args.size, args.size)
        paths = make_photos(work / "photos", args.images)
        encoder = open_encoder(
            EncoderConfig(model=str(work / args.size), batch_size=args.batch_size)
        )
        items = [Item(images=(path,)) for path in paths]
        ways = {
            "bare forward pass": forward(encoder, paths),
            "encoder, chunk by chunk": lambda: [encoder.embed(c, "gallery") for c in chunks],
            "encoder, one stream": lambda: list(encoder.embed_chunks(chunks, "gallery")),
        }
        chunks = [items[first::4] for first in range(4)]
        reader = partial(read, prepare=encoder._load()[0].prepare, padded=False)
        seconds: dict[str, list[float]] = defaultdict(list)
        with Processes(reader) as processes, ThreadPoolExecutor(os.cpu_count()) as pool:
            for name, call in (("threads", reader), ("processes", processes)):
                ways[f"pictures alone, {name}"] = partial(
                    lambda call: deque(pool.map(call, paths), 0), call
                )
            for way in ways.values():
                way()  # warm
            for _ in range(args.repeats):
                for way, call in ways.items():
                    seconds[way].append(clock(call))
        costs = database(work / "db", paths, encoder)
    medians = {way: median(times) for way, times in seconds.items()}
    ratio = medians["bare forward pass"] / medians["encoder, one stream"]
    table = Table("", "seconds", "images/s")
    for way, value in {**medians, **{f"database, {k}": v for k, v in costs.items()}}.items():
        table.add_row(way, f"{value:.2f}", f"{args.images / value:.0f}")
    where = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads"
    table.title = f"{args.size}, {args.images} images, batches of {args.batch_size}, {where}"
    console = Console()
    console.print(table)
    console.print(f"throughput against the bare forward pass: {ratio:.2f}")
    if args.json:
        figures = {
            "size": args.size,
            "images": args.images,
            "batch_size": args.batch_size,
            "device": where,
            "seconds": {**medians, **costs},
            "ratio_to_forward": ratio,
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
