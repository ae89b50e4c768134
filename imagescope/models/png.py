"""PNG files without what is no pixel: text and colour profiles, which Pillow unpacks and refuses
the picture for when they are large."""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LEFT_OUT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
# The only texts that say how a picture is to be turned.
ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type exif")
LONGEST = 1 << 19  # bytes of such a text, packed and unpacked


def without_text(file: BinaryIO) -> BinaryIO:
    """The file from its beginning; a PNG with texts or profiles as a copy in memory without them.

    A text that may hold the orientation stays if it is short. What is no PNG, or a broken one, is
    returned as it is.
    """
    parts = _kept(file)
    if parts is None:
        file.seek(0)
        return file
    copy = io.BytesIO()
    for start, end in parts:
        file.seek(start)
        copy.write(file.read(end - start))
    copy.seek(0)
    return copy


def _kept(file: BinaryIO) -> list[tuple[int, int]] | None:
    """Where in the file the chunks lie that stay (start, end); None where all do."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        return None
    position, start, parts, changed = len(SIGNATURE), 0, list[tuple[int, int]](), False
    while position + 12 <= size:
        file.seek(position)
        length, kind = struct.unpack(">I4s", file.read(8))
        end = position + 12 + length
        if kind in LEFT_OUT and not _says_orientation(kind, file, length):
            parts.append((start, position))
            start, changed = min(end, size), True
        position = end
    return [*parts, (start, size)] if changed else None


def _says_orientation(kind: bytes, file: BinaryIO, length: int) -> bool:
    if kind == b"iCCP" or length > LONGEST:
        return False
    keyword, _, text = file.read(length).partition(b"\0")
    if keyword not in ORIENTATION:
        return False
    if kind == b"zTXt":
        unpacker = zlib.decompressobj()
        try:
            unpacker.decompress(text[1:], LONGEST)
        except zlib.error:
            return False
        return not unpacker.unconsumed_tail
    return kind == b"tEXt" or text[:1] == b"\0"  # an iTXt may be packed, too; none with XMP is
