"""The embeddings of a gallery, as retrieval reads them: arrays on disk, looked at in blocks."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
LARGE = 1 << 30  # bytes; a larger array's pages are given back as soon as they were read


@dataclass(frozen=True)
class GalleryVectors:
    """What stage 1 ranks, row by row in gallery order (the order that breaks ties).

    images, captions: float32 (n, d), unit rows, usually memory-mapped. A picture that has no
        caption has its own image vector in `captions`: it is ranked by its image alone.
    ok: bool (n,); False where the picture could not be read: it is not ranked.
    """

    names: tuple[str, ...]
    images: Array
    captions: Array
    ok: Array

    @cached_property
    def index(self) -> Mapping[str, int]:
        """name -> row."""
        return {name: row for row, name in enumerate(self.names)}


def forget(array: Array) -> None:
    """Gives a large memory-mapped array's pages back to the system (they stay on disk).

    A pass over a gallery so needs memory for a block, not for the gallery.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and array.nbytes > LARGE and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
