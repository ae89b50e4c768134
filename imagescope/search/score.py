"""What images are ranked by: formulas over gallery views, evaluated a block of images at a time.

A view is a gallery column: float32 (images, d), one vector an image, usually memory-mapped.
Formulas are written as they stand in a paper,

    (1 - tau) * Dot(texts, images) + tau * Dot(texts, captions)            ImageScope, section 3.2
    e + 2.1 * Negative(e - b) + 0.13 * Positive(e - b)                     SEIZE

and a linear sum of Dots becomes one matrix product. A GPU computes them if there is one.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache, cached_property, reduce
from typing import TYPE_CHECKING

import numpy as np

from imagescope.arrays import Array, forget

if TYPE_CHECKING:
    from torch import Tensor

# Matrix libraries round differently for very small shapes (MKL: under 16 columns or 8 rows), but a
# query's scores must not depend on the queries beside it. Zeros fill shapes up to multiples.
ROWS, COLUMNS = 128, 16
STRIP = 512  # rows mixed and multiplied at once: they stay in a core's cache
PAIRS = 512  # single scores computed together, `at`
ALL = slice(None)
Index = slice | Array  # int64 numbers


class Score(ABC):
    """A number for every image and every query; the larger, the better the image.

    Scores are added, subtracted and multiplied, with one another and with numbers.
    """

    __array_ufunc__ = None  # numpy's numbers leave sums and products to us

    @abstractmethod
    def block(self, rows: Index, columns: Index = ALL) -> Tensor:
        """float32 (rows, columns), newly made: scores of some of the gallery's images for some of
        the queries. A score that is the same for all queries, or for all images, may have 1 there.
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


class Sum(Score):
    """A weighted sum of scores and numbers."""

    def __init__(self, *terms: tuple[float, Score | float]):
        self.dots: list[tuple[float, Array, Array]] = []  # weight, query vectors, view
        self.others: list[tuple[float, Score]] = []
        self.constant = 0.0
        for weight, term in terms:
            if isinstance(term, Sum):
                self.dots += [(weight * inner, vectors, view) for inner, vectors, view in term.dots]
                self.others += [(weight * inner, score) for inner, score in term.others]
                self.constant += weight * term.constant
            elif isinstance(term, Score):
                self.others.append((weight, term))
            else:
                self.constant += weight * term

    @cached_property
    def products(self) -> list[_Product]:
        """The dots as few matrix products: views that meet the same query vectors are mixed, query
        vectors that meet the same mixture are added. The same means the same array, or mixtures in
        the same proportion: their weights are scaled so that absolute values add up to 1."""
        views = {id(view): view for _, _, view in self.dots}
        mixtures = {
            id(vectors): (vectors, dict.fromkeys(views, 0.0)) for _, vectors, _ in self.dots
        }
        for weight, vectors, view in self.dots:
            mixtures[id(vectors)][1][id(view)] += weight
        products: dict[bytes, _Product] = {}
        for vectors, mixture in mixtures.values():
            weights = np.array(list(mixture.values()))
            scale = np.copysign(np.abs(weights).sum(), weights[np.abs(weights).argmax()]) or 1.0
            weights /= scale
            product = _Product(vectors * np.float32(scale), weights, list(views.values()))
            same = products.setdefault((weights.round(12) + 0.0).tobytes(), product)
            if same is not product:
                same.vectors = same.vectors + product.vectors
        return list(products.values())

    def block(self, rows: Index, columns: Index = ALL) -> Tensor:
        parts = [product.block(rows, columns) for product in self.products]
        parts += [weight * score.block(rows, columns) for weight, score in self.others]
        total = reduce(operator.add, parts)
        return total + self.constant if self.constant else total


class Dot(Sum):
    """The dot product of each query's vector with each image's.

    vectors: float32 (queries, d).  view: float32 (images, d).  Raises ValueError where d differs.
    """

    def __init__(self, vectors: Array, view: Array):
        super().__init__()
        self.dots.append((1.0, vectors, view))
        if vectors.ndim != 2 or view.ndim != 2 or vectors.shape[1] != view.shape[1]:
            raise ValueError(f"query vectors {vectors.shape} do not fit a view {view.shape}")


class Mean(Sum):
    """The mean of several scores."""

    def __init__(self, *scores: Score):
        super().__init__(*((1 / len(scores), score) for score in scores))


class _Product:
    """Query vectors times a weighted sum of views."""

    def __init__(self, vectors: Array, weights: Array, views: Sequence[Array]):
        self.vectors = vectors
        used = weights.nonzero()[0] if weights.any() else [0]
        self._weights = [float(weights[n]) for n in used]
        self._views = [views[n] for n in used]

    @cached_property
    def _columns(self) -> Tensor:
        return padded(on_device(self.vectors), COLUMNS).T.contiguous()

    def block(self, rows: Index, columns: Index) -> Tensor:
        import torch

        parts = [on_device(view[rows]) for view in self._views]
        queries = padded(self._columns[:, columns].T, COLUMNS).T
        count = len(parts[0])
        scores = queries.new_empty(count + -count % ROWS, queries.shape[1])
        for start in range(0, count, STRIP):
            strip = slice(start, start + STRIP)
            mixed = padded(self._mixed([part[strip] for part in parts]), ROWS)
            torch.mm(mixed, queries, out=scores[strip])
        for view in self._views:
            forget(view)
        return scores[:count, : len(self.vectors[columns])]

    def _mixed(self, parts: Sequence[Tensor]) -> Tensor:
        if len(parts) == 2 and sum(self._weights) == 1.0:
            return parts[0].lerp(parts[1], self._weights[1])
        pairs = zip(self._weights, parts, strict=True)
        return reduce(operator.add, (x if w == 1 else w * x for w, x in pairs))


class _Function(Score):
    """A function of scores, image by image and query by query."""

    def __init__(self, *scores: Score):
        self.scores = scores

    def block(self, rows: Index, columns: Index = ALL) -> Tensor:
        return self.of([score.block(rows, columns) for score in self.scores])

    @abstractmethod
    def of(self, parts: list[Tensor]) -> Tensor: ...


class Product(_Function):
    """The product of several scores."""

    def of(self, parts: list[Tensor]) -> Tensor:
        return reduce(operator.mul, parts)


class Max(_Function):
    """The largest of several scores."""

    def of(self, parts: list[Tensor]) -> Tensor:
        return reduce(lambda a, b: a.maximum(b), parts)


class Positive(_Function):
    """A score's positive part, max(0, score)."""

    def of(self, parts: list[Tensor]) -> Tensor:
        return parts[0].clamp(min=0)


class Negative(_Function):
    """A score's negative part, min(0, score): never positive."""

    def of(self, parts: list[Tensor]) -> Tensor:
        return parts[0].clamp(max=0)


class Bias(Score):
    """A number for each image, whatever the query, or for each query, whatever the image.

    images: (images,).  queries: (queries,).  One of them is given.
    """

    def __init__(self, *, images: Array | None = None, queries: Array | None = None):
        if (images is None) == (queries is None):
            raise ValueError("a Bias is of images or of queries")
        self.images, self.queries = images, queries

    def block(self, rows: Index, columns: Index = ALL) -> Tensor:
        if self.images is not None:
            return on_device(self.images[rows])[:, None].clone()
        assert self.queries is not None
        return on_device(self.queries[columns])[None].clone()


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

    def block(self, rows: Index, columns: Index = ALL) -> Tensor:
        low, span = on_device(self._low[columns]), on_device(self._range[columns])
        return (self.score.block(rows, columns) - low) / span


def at(score: Score, rows: Array, columns: Array) -> Array:
    """float32 (n,): the score of image rows[i] for query columns[i]."""
    values = np.empty(len(rows), np.float32)
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(rows), PAIRS):
        pairs = order[start : start + PAIRS]
        images, line = np.unique(rows[pairs], return_inverse=True)
        queries, column = np.unique(columns[pairs], return_inverse=True)
        values[pairs] = score.block(images, queries)[line, column].cpu()
    return values


@cache
def device() -> str:
    """Where scores are computed."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def on_device(values: Array) -> Tensor:
    """float32, there; of the array's own memory where that can be, so not to be written to."""
    import torch

    # by dlpack, since from_numpy warns of read-only arrays
    return torch.from_dlpack(values).to(device(), torch.float32)


def padded(rows: Tensor, multiple: int) -> Tensor:
    """Rows of zeros added up to a multiple."""
    import torch

    missing = -len(rows) % multiple
    return torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
