"""Pictures on their way to a model: decoded, padded, prepared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from imagescope.models.decoding import opened

RATIO = 1.25  # of the longer to the shorter side, above which a picture is padded


def target_pad(image: Image.Image) -> Image.Image:
    """A picture whose longer side is more than 1.25 times the shorter, with a black border on both
    sides of the shorter: each of floor((longer / 1.25 - shorter) / 2) pixels, so that the ratio is
    1.25 to within two pixels. Others stay as they are.

    What most releases of zero-shot composed retrieval put before CLIP's processor, which then
    crops less of the picture.
    """
    longer = max(image.size)
    across, down = (max(int((longer / RATIO - side) / 2), 0) for side in image.size)
    if not (across or down):
        return image
    padded = Image.new(image.mode, (image.width + 2 * across, image.height + 2 * down))
    padded.paste(image, (across, down))
    return padded


def read(path: Path, prepare: Callable[[Image.Image], Any] | None, padded: bool) -> Any:
    """What a model takes of a picture file: `prepare`d, None: the picture; padded before that.

    Raises ValueError: UnreadableImage, or for a picture that cannot be processed.
    """
    with opened(path) as image:
        shown = target_pad(image) if padded else image
        return prepare(shown) if prepare else shown
