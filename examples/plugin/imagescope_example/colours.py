"""An encoder: a picture is the histogram of its colours, a text that of the colours it names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from imagescope.arrays import Array
from imagescope.config import Side
from imagescope.encoders.base import Encoder
from imagescope.models.decoding import UnreadableImage, load_picture
from imagescope.records import Item

PALETTE = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 70, 200),
    "yellow": (240, 220, 50),
}


class Colours(Encoder):
    """`model` may be any word."""

    dimension = len(PALETTE)
    identity = {"library": "example-colours", "palette": PALETTE}

    def embed(self, items: Sequence[Item], side: Side) -> tuple[Array, dict[int, str]]:
        vectors, reasons = np.zeros((len(items), self.dimension), np.float32), dict[int, str]()
        for row, item in enumerate(items):
            try:
                vectors[row] = picture(item) if self.kind(item) == "image" else words(item.text)
            except UnreadableImage as error:
                reasons[row] = str(error)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), reasons


def words(text: str) -> Any:
    said = [name for name in re.findall(r"\w+", text.lower()) if name in PALETTE]
    return [said.count(name) for name in PALETTE] if said else np.ones(len(PALETTE))


def picture(item: Item) -> Any:
    small = load_picture(item.images[0]).resize((32, 32), Image.Resampling.NEAREST)
    pixels = np.asarray(small, float).reshape(-1, 1, 3)
    nearest = ((pixels - np.array(list(PALETTE.values()))) ** 2).sum(axis=2).argmin(axis=1)
    return np.bincount(nearest, minlength=len(PALETTE))
