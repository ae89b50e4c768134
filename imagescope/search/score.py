"""What images are ranked by: formulas over gallery views, evaluated a block of images at a time.

A view is a gallery column: float32 (images, d), one vector an image, usually memory-mapped.
Formulas are written as they stand in a paper,

    (1 - tau) * Dot(texts, images) + tau * Dot(texts, captions)            ImageScope, section 3.2
    e + 2.1 * Negative(e - b) + 0.13 * Positive(e - b)                     SEIZE

and a linear sum of Dots becomes one matrix product: views that meet the same query vectors are
mixed row by row, query vectors that meet the same mixture are added.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, reduce
from math import copysign
from typing import TYPE_CHECKING

import numpy as np

from imagescope.arrays import Array, forget

if TYPE_CHECKING:
    from torch import Tensor

# Matrix libraries round differently for very small shapes (MKL: under 16 columns or 8 rows), but a
# query's scores must not depend on the queries beside it. Zeros fill shapes up to multiples.
ROWS, COLUMNS = 128, 16
BLOCK = 2048  # images of one product: what it reads and writes stays in a core's cache
SCORES = 1 << 20  # of one block, where there are many queries


class Score(ABC):
    """A number for every image and every query; the larger, the better the image.

    Scores are added, subtracted and multiplied, with one another and with numbers. Leaves take a
    `device` ("cpu", "cuda"; None: a GPU if there is one), which is the same for all of a formula.
    """

    __array_ufunc__ = None  # numpy's numbers leave sums and products to us

    @abstractmethod
    def block(self, rows: slice | Array) -> Tensor:
        """float32 (rows, queries), newly made: the scores of some of the gallery's images.

        rows: a slice, or int64 row numbers. A score that is the same for all queries, or for all
        images, may have 1 in that place.
        """

    def __add__(self, other: Score | float) -> Score:
        return Sum((1.0, self), (1.0, other))

    def __sub__(self, other: Score | float) -> Score:
        return Sum((1.0, self), (-1.0, other))

    def __rsub__(self, other: float) -> Score:
        return Sum((1.0, other), (-1.0, self))

    def __neg__(self) -> Score:
        return Sum((-1.0, self))

    def __mul__(self, other: Score | float) -> Score:
        return Product(self, other) if isinstance(other, Score) else Sum((other, self))

    __radd__, __rmul__ = __add__, __mul__


class Dot(Score):
    """The dot product of each query's vector with each image's.

    vectors: float32 (queries, d).  view: float32 (images, d).  Raises ValueError where d differs.
    """

    def __init__(self, vectors: Array, view: Array, device: str | None = None):
        self.vectors, self.device = vectors, device_or_default(device)
        self.mixture: list[tuple[float, Array]] = [(1.0, view)]
        if vectors.ndim != 2 or view.ndim != 2 or vectors.shape[1] != view.shape[1]:
            raise ValueError(f"query vectors {vectors.shape} do not fit a view {view.shape}")

    @cached_property
    def _columns(self) -> Tensor:
        return as_columns(self.vectors, self.device)

    def block(self, rows: slice | Array) -> Tensor:
        images = self._mixed(rows)
        scores = padded_rows(images) @ self._columns
        for _, view in self.mixture:
            forget(view)
        return scores[: len(images), : len(self.vectors)]

    def _mixed(self, rows: slice | Array) -> Tensor:
        """float32 (rows, d): the views' rows, weighted and added."""
        import torch

        weights = [weight for weight, _ in self.mixture]
        views = [view_rows(view, rows, self.device) for _, view in self.mixture]
        if weights == [1.0]:
            return views[0]
        if len(views) == 2 and sum(weights) == 1.0:
            return torch.lerp(*views, weights[1])
        total = weights[0] * views[0]
        for weight, view in zip(weights[1:], views[1:], strict=True):
            total.add_(view, alpha=weight)
        return total


def fold(terms: Sequence[tuple[float, Dot]]) -> list[Dot]:
    """The same weighted sum with as few matrix products as it needs.

    Query vectors and views are the same where they are the same array. A mixture's weights are
    scaled so that their absolute values add up to 1: mixtures in the same proportion are one.
    """
    mixtures: dict[int, tuple[Dot, dict[int, tuple[float, Array]]]] = {}
    for weight, dot in terms:
        _, mixture = mixtures.setdefault(id(dot.vectors), (dot, {}))
        for share, view in dot.mixture:
            before, _ = mixture.get(id(view), (0.0, view))
            mixture[id(view)] = (before + weight * share, view)
    folded: dict[object, Dot] = {}
    for dot, mixture in mixtures.values():
        weights = [weight for weight, _ in mixture.values()]
        scale = copysign(sum(map(abs, weights)), weights[0]) or 1.0
        views = [(weight / scale, view) for weight, view in mixture.values()]
        key = (dot.device, frozenset((id(view), round(weight, 12)) for weight, view in views))
        vectors = scale * dot.vectors
        if key in folded:
            vectors = folded[key].vectors + vectors
        folded[key] = Dot(vectors, views[0][1], dot.device)
        folded[key].mixture = views
    return list(folded.values())


class Sum(Score):
    """A weighted sum of scores and numbers."""

    def __init__(self, *terms: tuple[float, Score | float]):
        self.terms: list[tuple[float, Score]] = []
        self.constant = 0.0
        for weight, score in terms:
            if isinstance(score, Sum):
                self.terms += [(weight * inner, part) for inner, part in score.terms]
                self.constant += weight * score.constant
            elif isinstance(score, Score):
                self.terms.append((weight, score))
            else:
                self.constant += weight * score

    @cached_property
    def _folded(self) -> tuple[list[Dot], list[tuple[float, Score]]]:
        dots = [(weight, score) for weight, score in self.terms if isinstance(score, Dot)]
        return fold(dots), [term for term in self.terms if not isinstance(term[1], Dot)]

    def block(self, rows: slice | Array) -> Tensor:
        dots, others = self._folded
        parts = [dot.block(rows) for dot in dots]
        parts += [weight * score.block(rows) for weight, score in others]
        total = reduce(lambda a, b: a + b, parts)
        return total + self.constant if self.constant else total


class Mean(Sum):
    """The mean of several scores."""

    def __init__(self, *scores: Score):
        super().__init__(*((1 / len(scores), score) for score in scores))


class Product(Score):
    """The product of several scores."""

    def __init__(self, *scores: Score):
        self.scores = scores

    def block(self, rows: slice | Array) -> Tensor:
        return reduce(lambda a, b: a * b, (score.block(rows) for score in self.scores))


class Max(Score):
    """The largest of several scores."""

    def __init__(self, *scores: Score):
        self.scores = scores

    def block(self, rows: slice | Array) -> Tensor:
        import torch

        return reduce(torch.maximum, (score.block(rows) for score in self.scores))


class Positive(Score):
    """A score's positive part, max(0, score)."""

    def __init__(self, score: Score):
        self.score = score

    def block(self, rows: slice | Array) -> Tensor:
        return self.score.block(rows).clamp(min=0)


class Negative(Score):
    """A score's negative part, min(0, score): never positive."""

    def __init__(self, score: Score):
        self.score = score

    def block(self, rows: slice | Array) -> Tensor:
        return self.score.block(rows).clamp(max=0)


class Bias(Score):
    """A number for each image, whatever the query, or for each query, whatever the image.

    images: (images,).  queries: (queries,).  One of them is given.
    """

    def __init__(
        self,
        *,
        images: Array | None = None,
        queries: Array | None = None,
        device: str | None = None,
    ):
        if (images is None) == (queries is None):
            raise ValueError("a Bias is of images or of queries")
        self.images, self.queries, self.device = images, queries, device_or_default(device)

    def block(self, rows: slice | Array) -> Tensor:
        import torch

        values = self.queries if self.images is None else self.images[rows][:, None]
        values = np.array(values, np.float32, ndmin=2)
        return torch.from_numpy(values).to(self.device)


class MinMax(Score):
    """A score moved and scaled, for each query, so that over some images of its own it goes from 0
    to 1; where it is the same for all of them, it is 0 there.

    It is not cut off: an image outside may be below 0 or above 1.
    top: for each query the gallery's rows of those images, as a rule the first K of a base score's
        ranking. A query without any keeps its score.
    """

    def __init__(self, score: Score, top: Sequence[Sequence[int]]):
        self.score = score
        counts = [len(rows) for rows in top]
        rows = np.array([row for rows in top for row in rows], np.int64)
        values = at(score, rows, np.repeat(np.arange(len(top)), counts))
        self._low = np.zeros(len(top), np.float32)
        self._range = np.ones(len(top), np.float32)
        for query, own in enumerate(np.split(values, np.cumsum(counts)[:-1])):
            own = own[np.isfinite(own)]
            if len(own):
                self._low[query] = own.min()
                self._range[query] = np.ptp(own) or 1.0

    def block(self, rows: slice | Array) -> Tensor:
        scores = self.score.block(rows)
        low, span = (scores.new_tensor(values) for values in (self._low, self._range))
        return (scores - low) / span


def at(score: Score, rows: Array, columns: Array) -> Array:
    """float32 (n,): the score of image rows[i] for query columns[i]."""
    import torch

    images, place = np.unique(rows, return_inverse=True)
    values = np.empty(len(rows), np.float32)
    size = block_size(int(columns.max(initial=0)) + 1)
    for start in range(0, len(images), size):
        inside = (place >= start) & (place < start + size)
        scores = score.block(images[start : start + size])
        places = np.stack((place[inside] - start, columns[inside]))
        values[inside] = scores[tuple(torch.from_numpy(places).to(scores.device))].cpu().numpy()
    return values


def block_size(queries: int) -> int:
    """How many images a block has."""
    return min(BLOCK, max(1, SCORES // max(1, queries) // ROWS) * ROWS)


def device_or_default(device: str | None) -> str:
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def view_rows(view: Array, rows: slice | Array, device: str) -> Tensor:
    """A view's rows, where they are to be computed with."""
    import torch

    # by dlpack, since from_numpy warns of read-only arrays
    return torch.from_dlpack(view[rows]).to(device, torch.float32)


def padded_rows(rows: Tensor) -> Tensor:
    """Rows of zeros added up to a multiple of ROWS."""
    missing = -len(rows) % ROWS
    if not missing:
        return rows
    import torch

    return torch.cat((rows, rows.new_zeros(missing, rows.shape[1])))


def as_columns(vectors: Array, device: str) -> Tensor:
    """float32 (d, n), n a multiple of COLUMNS: the vectors as columns, then zeros."""
    import torch

    columns = np.zeros((vectors.shape[1], len(vectors) + -len(vectors) % COLUMNS), np.float32)
    columns[:, : len(vectors)] = vectors.T
    return torch.from_numpy(columns).to(device)
