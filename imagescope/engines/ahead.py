"""A batch's images: processed once, and only small ones held."""

from __future__ import annotations

import weakref
from typing import Any

from PIL import Image

from imagescope.engines.base import Pair, Picture
from imagescope.models.images import prepare

HELD = 4_000_000  # pixels: a larger image is decoded again when it is processed, and not held


class Late(Image.Image):
    """An image that was decoded once, to know that it can be, and is decoded again when somebody
    asks for its pixels."""

    def __init__(self, source: Picture | Pair, size: tuple[int, int]):
        super().__init__()
        self._mode, self._size, self.source = "RGB", size, source

    def load(self) -> Any:
        if self._im is None:
            self.im = prepare(self.source).im
        return super().load()


def prepare_small(source: Picture | Pair) -> Image.Image:
    image = prepare(source)
    return image if image.width * image.height <= HELD else Late(source, image.size)


class Remembering:
    """An image processor that keeps what it made of an image as long as the image lives, for
    stages that ask several questions about each. What it makes of images one by one is joined
    along the first axis."""

    def __init__(self, processor: Any):
        self._processor = processor
        self._made: dict[tuple[int, str], Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, images: Any, **options: Any) -> Any:
        import torch

        flat = [i for item in images for i in (item if isinstance(item, list) else [item])]
        parts = [self._one(image, options) for image in flat]
        joined: dict[str, Any] = {}
        for key, value in parts[0].items():
            values = [part[key] for part in parts]
            if not isinstance(value, torch.Tensor):
                joined[key] = [x for v in values for x in v]
            elif len({v.shape[1:] for v in values}) == 1:
                joined[key] = torch.cat(values)
            else:  # tiles of differing number: the processor knows how it pads them
                return self._processor(images, **options)
        return type(parts[0])(joined)

    def _one(self, image: Any, options: dict[str, Any]) -> Any:
        key = (id(image), repr(sorted(options.items())))
        if key not in self._made:
            pixels = prepare(image.source) if isinstance(image, Late) else image
            self._made[key] = self._processor([pixels], **options)
            # an id is unique only as long as its object lives
            weakref.finalize(image, self._made.pop, key, None).atexit = False
        return self._made[key]
