"""Small JPEGs of the images that a page shows, each made once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from imagescope.models.decoding import UnreadableImage, thumbnail
from imagescope.store.hashing import digest

SIDE = 112  # pixels of the longer side
QUALITY = 80
PER_FOLDER = 1000


def write_thumbnails(
    folder: Path, sources: Sequence[Path | None], kept: Path | None = None
) -> list[int]:
    """Writes <folder>/<n // 1000>/<n>.jpg for the n-th file; returns the numbers left out because
    there is no file, or none that is a readable image.

    kept: a folder of thumbnails that were made before, by path, size and time of their pictures.
        They are linked, where the file system can, and new ones are added.
    """
    if kept:
        try:
            kept.mkdir(exist_ok=True)
        except OSError:  # a folder that is not there, or not ours
            kept = None

    def make(number: int) -> bool:
        source = sources[number]
        if source is None:
            return False
        target = folder / str(number // PER_FOLDER) / f"{number}.jpg"
        before = _before(kept, source) if kept else None
        if before and _linked(before, target):
            return True
        try:
            small = thumbnail(source, SIDE)
        except UnreadableImage:
            return False  # the tile says "no image"
        small.save(target, "JPEG", quality=QUALITY, optimize=False)
        if before:
            _linked(target, before)
        return True

    for part in range(-(-len(sources) // PER_FOLDER)):
        (folder / str(part)).mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:  # decoders release the GIL
        made = pool.map(make, range(len(sources)))
        return [number for number, ok in enumerate(made) if not ok]


def addresses(sources: Sequence[Path | None], page: Path) -> list[str | None]:
    """Where the images' own files lie, as seen from a page in this folder; None: there is none."""
    start = page.resolve()
    return [quote(os.path.relpath(s.absolute(), start)) if s else None for s in sources]


def _before(kept: Path, source: Path) -> Path | None:
    """Where a picture's thumbnail is kept; None where there is no picture."""
    try:
        stat = os.stat(source)
    except OSError:
        return None
    name = digest([os.path.abspath(source), stat.st_size, stat.st_mtime_ns, SIDE, QUALITY])
    return kept / f"{name[:32]}.jpg"


def _linked(old: Path, new: Path) -> bool:
    """Gives a file a second name, if it is there and has content (a crash may have taken it)."""
    try:
        if not os.stat(old).st_size:
            old.unlink()
            return False
        os.link(old, new)
    except OSError:
        return False
    return True
