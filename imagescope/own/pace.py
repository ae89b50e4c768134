"""How long an index takes, told after a first batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from imagescope.encoders.base import Encoder
from imagescope.records import Item

log = logging.getLogger("imagescope")
MANY = 4  # batches, from which on a first one says how long the rest will take


def first_vectors(encoder: Encoder, files: Sequence[Path]) -> None:
    """Embeds a first batch of many pictures, to tell how long all will take at most."""
    batch = encoder.config.batch_size
    if len(files) <= MANY * batch:
        return
    items = [Item(images=(file,)) for file in files[:batch]]
    encoder.embed(items[:1], "gallery")  # the very first warms up
    before = encoder.seconds
    encoder.embed(items, "gallery")
    tell("vectors", (encoder.seconds - before) / batch, len(files))


def tell(what: str, each: float, count: int) -> None:
    """each: seconds of one.  count: how many are to come."""
    log.info(
        "%s: %s for %s pictures, by the first ones", what, duration(each * count), f"{count:,}"
    )


def duration(seconds: float) -> str:
    """Words for a time that is only roughly known: about 2 h 10 min."""
    minutes = round(seconds / 60)
    if seconds < 10:
        return "a few seconds"
    if minutes < 2:
        return f"about {seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"
