"""Vectors: what they are, when they can be compared, and how large ones are let go of."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np

from imagescope.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
LARGE = 1 << 30  # bytes; a larger array's pages are given back as soon as they were read


def is_unit(vector: Array) -> bool:
    """Whether a vector is finite and of length 1, to 1e-3."""
    with np.errstate(all="ignore"):
        return bool(abs(float(np.dot(vector, vector)) - 1) < 2e-3)


def no_units(model: str, count: int, first: str) -> UserError:
    """What is wrong with a model whose vectors cannot be compared."""
    return UserError(
        f"{model}: {count} vectors are not finite or not of unit length; the first is that of "
        f"{first!r}. Is the checkpoint whole? dtype: float32 mends numbers that overflow."
    )


def forget(array: Array) -> None:
    """Gives a large memory-mapped array's pages back to the system (they stay on disk).

    A pass over a gallery so needs memory for a block, not for the gallery.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and array.nbytes > LARGE and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
