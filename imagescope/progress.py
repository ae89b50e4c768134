"""Progress of long work: a bar with rate and time left on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
log = logging.getLogger("imagescope")
EVERY = 20.0  # seconds between log lines where there is no terminal
quiet = False  # set once, by the command line


def track(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yields `items`, showing how many of `total` are done, the rate and the time left."""
    if quiet or not total:
        yield from items
    elif sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=label, leave=False, smoothing=0.1, unit_scale=True)
    else:
        start = last = time.monotonic()
        for done, item in enumerate(items, 1):
            now = time.monotonic()
            # (answers come in chunks: the first of one says little about the rate)
            if now - last > EVERY and total // 4 <= done < total:
                rate = done / (now - start)
                left = (total - done) / rate
                log.info("%s: %d of %d, %.1f/s, %.0f s left", label, done, total, rate, left)
                last = now
            yield item
