"""Pixels, made where the model runs: any image file as RGB, and the canvas of stage 3."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from imagescope.engines.base import Pair, Picture

ABSENT = "no such file"
MAX_PIXELS = 200_000_000  # a larger image is refused before it is decoded
SIDE = 800  # of each image on the canvas, pixels
CANVAS = (1645, 826)
STRIP, GAP, RULE, RULE_FROM = 26, 45, 5, 20
LABELS = ("Reference Image", "Candidate Image")
LABEL_SIZE = 20
REFUSED = {"EPS", "WMF"}  # programs rather than pictures: Pillow hands them to other software


class UnreadableImage(ValueError):
    """A file that is no image, or only part of one: the message says which and why."""


def load_picture(path: str | Path) -> Image.Image:
    """An image file as 8-bit RGB, upright (EXIF orientation applied), at its own size.

    Palette, grey, CMYK and 16-bit files are converted; transparent parts become white. Raises
    UnreadableImage for a file that is missing, empty, truncated, no image, or too large.
    """
    try:
        with Image.open(path, formats=formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{path}: {image.width}x{image.height} pixels: too large")
            return _rgb(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage(f"{path}: {ABSENT}") from None
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise UnreadableImage(f"{path}: {'empty' if empty else 'not an image'}") from None
    except Image.DecompressionBombError:
        raise UnreadableImage(f"{path}: too large") from None
    except Exception as error:  # decoders raise whatever a hostile file makes them raise
        raise UnreadableImage(f"{path}: {error or type(error).__name__}") from None


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """What Pillow may open: all it reads but REFUSED, and HEIC where pillow-heif is there."""
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in Image.OPEN if name not in REFUSED)


def _rgb(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit grey as 8-bit: PIL's own conversion clips at 255 where it should divide by 257.

    Modes I and F may hold 8-bit values too: the brightest pixel tells.
    """
    values = np.asarray(image, dtype=np.float64)
    top = float(np.nanmax(values, initial=0.0))
    scale = 1 / 257 if image.mode.startswith("I;16") or top > 255 else 255.0 if top <= 1 else 1.0
    scaled = np.nan_to_num(values * scale)
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


@lru_cache(maxsize=1)
def _font() -> Any:
    """DejaVu Sans where the system or matplotlib has it, else Pillow's own font."""
    candidates = ["DejaVuSans.ttf"]
    spec = importlib.util.find_spec("matplotlib")
    if spec and spec.origin:
        fonts = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
        candidates.append(str(fonts / "DejaVuSans.ttf"))
    for name in candidates:
        try:
            return ImageFont.truetype(name, LABEL_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(LABEL_SIZE)


@lru_cache(maxsize=1)
def _frame() -> Image.Image:
    """The canvas before the images are on it: labels and rule on white."""
    frame = Image.new("RGB", CANVAS, "white")
    draw = ImageDraw.Draw(frame)
    for text, left in zip(LABELS, (0, SIDE + GAP), strict=True):
        draw.text((left + SIDE / 2, STRIP / 2), text, fill="black", font=_font(), anchor="mm")
    x = SIDE + RULE_FROM
    draw.rectangle((x, STRIP, x + RULE - 1, CANVAS[1] - 1), fill="black")
    return frame


def canvas(left: Image.Image | None, right: Image.Image) -> Image.Image:
    """Reference and candidate side by side, 1645x826, as pairwise evaluation shows them.

    Each is resized to 800x800; above them a strip of 26 pixels with their labels, between them 45
    pixels with a black rule of 5. Without a reference a black image takes its place.
    """
    size = (SIDE, SIDE)
    result = _frame().copy()
    first = Image.new("RGB", size) if left is None else left.resize(size, Image.Resampling.BICUBIC)
    result.paste(first, (0, STRIP))
    result.paste(right.resize(size, Image.Resampling.BICUBIC), (SIDE + GAP, STRIP))
    return result


def prepare(image: Picture | Pair) -> Image.Image:
    """The RGB pixels that a request's image stands for. Raises UnreadableImage."""
    if isinstance(image, Picture):
        return load_picture(image.path)
    left = load_picture(image.left) if image.left is not None else None
    return canvas(left, load_picture(image.right))
