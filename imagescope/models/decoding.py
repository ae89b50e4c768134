"""One decoder for every picture file: 8-bit RGB, upright, within our own limits.

Pictures of up to LARGE pixels keep every pixel. The limits are in docs/deviations.md.
"""

from __future__ import annotations

import importlib.util
import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageChops, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from imagescope.files import open_regular
from imagescope.models.png import without_text

ABSENT = "no such file"
MAX_PIXELS = 200_000_000  # a larger image is refused before it is decoded
LARGE = 16_000_000  # pixels: above, a picture is halved until it has no more
LONGEST = 50  # times the shorter side: image processors enlarge the shorter side to some 400 pixels
MEMORY = 1 << 30  # bytes that pictures may take together while they are being decoded
BYTES_A_PIXEL = 8  # Pillow keeps RGB in four bytes, and a conversion holds two pictures
PROCESSED = 512  # pixels that a processor may make of the shorter side
REFUSED = {"EPS", "WMF"}  # programs rather than pictures: Pillow hands them to other software
TURNS = {  # EXIF orientation -> how the stored picture is turned to be upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION, BITS, WHITE_IS_ZERO, TOP_VALUE = 0x0112, 258, 262, 281  # tags of EXIF and TIFF


class UnreadableImage(ValueError):
    """A file that is no image, or only part of one: the message says which and why."""


def load_picture(path: str | Path) -> Image.Image:
    """An image file as 8-bit RGB, upright (EXIF orientation applied), at its own size.

    Palette, grey, CMYK and deeper files are converted; transparent parts become white. A picture
    of more than LARGE pixels is halved until it has no more; one whose longer side is more than
    LONGEST times the shorter is squeezed to that. Raises UnreadableImage for a file that is
    missing, no regular file, empty, truncated, no image, or of more than MAX_PIXELS pixels.
    """
    with opened(path) as picture:
        return picture


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """The same for the length of a block, whose memory is bounded: threads that decode large
    pictures at the same time wait for each other, until the block has ended."""
    with ExitStack() as stack:
        yield _decode(path, None, stack)


def thumbnail(path: str | Path, side: int) -> Image.Image:
    """The picture in small, its longer side at most `side` pixels; raises as load_picture does.

    A JPEG is decoded at the nearest fraction of its size, so this costs less than the picture.
    """
    with ExitStack() as stack:
        small = _decode(path, side, stack)
        small.thumbnail((side, side))
        return small


def _decode(path: str | Path, side: int | None, stack: ExitStack) -> Image.Image:
    """Decodes a file; what it takes is counted in _memory until the stack is left."""
    try:
        with open_regular(path) as file, _own_limit():
            image = Image.open(without_text(file), formats=formats())
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableImage(f"{path}: {image.width}x{image.height} pixels: too large")
            factor = _factor(image, side)
            if factor > 1:  # does nothing where the format cannot be decoded at a fraction
                image.draft("RGB", (-(-image.width // factor), -(-image.height // factor)))
            stack.enter_context(_memory.reserve(_cost(image)))
            whole = _loaded(image, file)
            turn = TURNS.get(_orientation(whole))
            picture = _rgb(whole)
            if (factor := _factor(picture, None)) > 1:
                picture = picture.reduce(factor)
            picture = _squeezed(picture)
            return picture.transpose(turn) if turn is not None else picture
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage(f"{path}: {ABSENT}") from None
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise UnreadableImage(f"{path}: {'empty' if empty else 'not an image'}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableImage(f"{path}: too large") from None
    except OSError as error:
        raise UnreadableImage(f"{path}: {error.strerror or error}") from None
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


class _Memory:
    """Bytes that are shared out to threads; whoever wants more than there are goes alone."""

    def __init__(self) -> None:
        self._used, self._changed = 0, threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + size <= MEMORY)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


_memory = _Memory()


class _Limit:
    """Pillow's own limit, a global of half our size, is ours while any thread decodes here and
    as it was before when none does. Meanwhile its warning, which says what we say, is not shown."""

    def __init__(self) -> None:
        self._lock, self._threads = threading.Lock(), 0
        self._before: int | None = None
        self._hushed = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._threads:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
                self._hushed = warnings.catch_warnings()
                self._hushed.__enter__()
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            self._threads += 1
        try:
            yield
        finally:
            with self._lock:
                self._threads -= 1
                if not self._threads:
                    self._hushed.__exit__(None, None, None)
                    Image.MAX_IMAGE_PIXELS = self._before


_own_limit = _Limit()


def _factor(image: Image.Image, side: int | None) -> int:
    """1, 2, 4 or 8: by how much a picture may be shrunk while it is decoded."""
    if side is None:
        return next(f for f in (1, 2, 4, 8) if image.width * image.height <= LARGE * f * f or f > 4)
    # twice the size that is wanted, so that the rest is averaged
    return next((f for f in (8, 4, 2) if max(image.size) >= 2 * side * f), 1)


def _cost(image: Image.Image) -> int:
    """Bytes of a picture, or of what a processor makes of a thin one."""
    short, long = sorted(image.size)
    thin = min(long / max(short, 1), LONGEST) * PROCESSED**2
    return int(BYTES_A_PIXEL * max(image.width * image.height, thin))


def _squeezed(image: Image.Image) -> Image.Image:
    short, long = sorted(image.size)
    if long <= LONGEST * short:
        return image
    return image.resize((min(image.width, LONGEST * short), min(image.height, LONGEST * short)))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # metadata that cannot be read does not spoil the picture
        return 1


def _loaded(image: Image.Image, file: BinaryIO) -> Image.Image:
    """The decoded picture, also of a JPEG that lacks nothing but its end marker."""
    try:
        image.load()
    except OSError:
        whole = _without_end(file) if isinstance(image, JpegImageFile) else None
        if whole is None:
            raise
        return whole
    return image


def _without_end(file: BinaryIO) -> Image.Image | None:
    """A JPEG without end marker, if all its rows are there.

    What follows a whole scan is passed over; in a scan that is cut off it is taken for pixels.
    """
    file.seek(0)
    content = file.read().rstrip(b"\xff")
    noise = bytes(range(17, 255, 7)) * 4
    plain, noisy = (
        Image.open(io.BytesIO(content + tail + b"\xff\xd9"), formats=["JPEG"])
        for tail in (b"", noise)
    )
    return None if ImageChops.difference(plain, noisy).getbbox() else plain


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_grey(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as 8-bit: Pillow's own conversion clips at 255.

    What the file declares to be white is white; where it declares nothing (32-bit integers and
    floats), the range of its values tells. Infinite values and NaN have no part in that.
    """
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    low, high = 0.0, float(_first(tags.get(TOP_VALUE)) or 0)
    if image.mode.startswith("I;16"):
        high = high or float(2 ** (_first(tags.get(BITS)) or 16) - 1)
    elif (
        image.format == "PPM" and image.mode == "I"
    ):  # Pillow stretches it to 16 bits, whatever it declares
        high = 65535.0
    else:
        low, high = _range(values)
    rows = [_scaled(row, low, high) for row in np.array_split(values, max(1, len(values) // 256))]
    grey = np.concatenate(rows)
    return Image.fromarray(255 - grey if _first(tags.get(WHITE_IS_ZERO)) == 0 else grey)


def _first(value: Any) -> Any:
    """A tag's value: Pillow gives a tuple or the one value in it."""
    return value[0] if isinstance(value, tuple) and value else value


def _range(values: np.ndarray) -> tuple[float, float]:
    """Black and white of values that declare neither: 0 to 1, 0 to 255, 0 to the next power of
    two; where there are negative ones, the lowest to the highest."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low < 0:
        return low, high if high > low else low + 1
    if high <= 1 and values.dtype.kind == "f":
        return 0.0, 1.0
    return 0.0, 2.0 ** max(8, int(high).bit_length()) - 1


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8 of the same shape: low becomes 0, high 255, NaN 0."""
    with np.errstate(all="ignore"):
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.clip(np.rint(np.nan_to_num(scaled, nan=0.0)), 0, 255).astype(np.uint8)
