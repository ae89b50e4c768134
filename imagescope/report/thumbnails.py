"""Small JPEGs of the images that a page shows, each made once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imagescope.models.decoding import UnreadableImage, thumbnail

SIDE = 112  # pixels of the longer side
QUALITY = 80
PER_FOLDER = 1000


def write_thumbnails(folder: Path, names: Sequence[str], files: Mapping[str, Path]) -> list[int]:
    """Writes <folder>/<n // 1000>/<n>.jpg for the n-th name; returns the numbers left out because
    the file is absent or no readable image."""

    def make(number: int) -> bool:
        source = files.get(names[number])
        if source is None:
            return False
        try:
            small = thumbnail(source, SIDE)
        except UnreadableImage:
            return False  # the tile says "no image"
        target = folder / str(number // PER_FOLDER) / f"{number}.jpg"
        small.save(target, "JPEG", quality=QUALITY, optimize=False)
        return True

    for part in range(-(-len(names) // PER_FOLDER)):
        (folder / str(part)).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:  # decoders release the GIL
        made = pool.map(make, range(len(names)))
        return [number for number, ok in enumerate(made) if not ok]
