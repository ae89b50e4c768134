"""Pixels, made where the model runs: a request's picture, and the canvas of stage 3."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from imagescope.models.decoding import ABSENT, UnreadableImage, load_picture, opened
from imagescope.records import Pair, Picture

__all__ = ["ABSENT", "UnreadableImage", "canvas", "load_picture", "prepare", "prepared"]

SIDE = 800  # of each image on the canvas, pixels
CANVAS = (1645, 826)
STRIP, GAP = 26, 45
RULE = (818, 822)  # first and last column
LABELS = ("Reference Image", "Candidate Image")
LABEL_SIZE = 20
LABEL_TOP = 3  # row where the 20 rows begin that a label's ink is centred in


@lru_cache(maxsize=1)
def _font() -> Any:
    """DejaVu Sans where the system or matplotlib has it, else Pillow's own font."""
    spec = importlib.util.find_spec("matplotlib")
    beside = Path(spec.origin).parent if spec and spec.origin else Path()
    for name in ("DejaVuSans.ttf", str(beside / "mpl-data/fonts/ttf/DejaVuSans.ttf")):
        with suppress(OSError):
            return ImageFont.truetype(name, LABEL_SIZE)
    return ImageFont.load_default(LABEL_SIZE)


@lru_cache(maxsize=1)
def _frame() -> Image.Image:
    """The canvas before the images are on it: labels and rule on white, where the paper's code
    has them."""
    frame = Image.new("RGB", CANVAS, "white")
    draw = ImageDraw.Draw(frame)
    for text, left in zip(LABELS, (0, SIDE + GAP), strict=True):
        start, top, end, bottom = draw.textbbox((0, 0), text, font=_font())
        x = left + (SIDE - int(end - start)) // 2
        y = LABEL_TOP + (LABEL_SIZE - int(bottom - top)) // 2
        draw.text((x, y), text, fill="black", font=_font())
    draw.rectangle((RULE[0], 0, RULE[1], CANVAS[1] - 1), fill="black")
    return frame


def canvas(left: Image.Image | None, right: Image.Image) -> Image.Image:
    """Reference and candidate side by side, 1645x826, as pairwise evaluation shows them.

    Each is resized to 800x800; above them a strip of 26 pixels with their labels, between them 45
    pixels with a black rule in columns 818 to 822. Without a reference a black image takes its
    place.
    """
    result = _frame().copy()
    first = Image.new("RGB", (SIDE, SIDE)) if left is None else _square(left)
    result.paste(first, (0, STRIP))
    result.paste(_square(right), (SIDE + GAP, STRIP))
    return result


def _square(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def prepare(image: Picture | Pair) -> Image.Image:
    """The RGB pixels that a request's image stands for. Raises UnreadableImage."""
    if isinstance(image, Picture):
        return load_picture(image.path)
    # the left one is made small before the right one is decoded
    left = _square(load_picture(image.left)) if image.left is not None else None
    return canvas(left, load_picture(image.right))


@contextmanager
def prepared(image: Picture | Pair) -> Iterator[Image.Image]:
    """The same for the length of a block, whose memory is bounded as `opened`'s is."""
    if isinstance(image, Picture):
        with opened(image.path) as picture:
            yield picture
    else:
        yield prepare(image)
