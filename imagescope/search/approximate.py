"""Approximate search for very large galleries: a shortlist by faiss, scored exactly.

An inverted file (IVF) of the images' rows, a byte a number, is made once and kept in a file. A
query looks into the lists that are nearest to it; what stands foremost there is scored by the
formula itself, so that only images missing from the shortlist make a difference to `scan`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from imagescope.arrays import Array, forget
from imagescope.errors import UserError
from imagescope.files import replacing
from imagescope.gallery.vectors import GalleryVectors
from imagescope.records import Query, Ranking
from imagescope.search.scan import scan
from imagescope.search.score import ALL, Index, Score, Sum

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("imagescope")
BLOCK = 8192  # rows added at a time
SAMPLE = 64  # rows a list that the lists are learned from
LISTS = 2  # a query looks into one of so many
SHORTLIST = 10  # times as many images as are kept


class Approximate:
    """A gallery's images by their image and caption vectors.

    path: the file of these vectors, never written to again, beside which the index is kept. Its
    name says which rows it is of; those of other rows are removed.  probes: how many lists a query
    looks into, half of them by default. Raises UserError where faiss is not installed.
    """

    def __init__(self, vectors: GalleryVectors, path: Path, probes: int | None = None):
        self._vectors, self._faiss = vectors, _faiss()
        file = path.with_name(f"approximate-{_digest(vectors, path.name)}.ivf")
        try:
            self._index = self._faiss.read_index(str(file))
        except RuntimeError:  # not there, or damaged
            self._index = self._build(file)
        for other in path.parent.glob("approximate-*.ivf"):
            if other != file:
                other.unlink(missing_ok=True)
        self._index.nprobe = probes or max(1, self._index.nlist // LISTS)

    def _build(self, file: Path) -> Any:
        vectors = self._vectors
        count = len(vectors.names)
        lists = max(1, int(count**0.5))
        log.warning("%s: made once, for approximate search of %d pictures", file, count)
        kind, metric = f"IVF{lists},SQ8", self._faiss.METRIC_INNER_PRODUCT
        index = self._faiss.index_factory(2 * vectors.images.shape[1], kind, metric)
        index.cp.min_points_per_centroid = 1
        rng = np.random.default_rng(0)
        index.train(_rows(vectors, np.sort(rng.permutation(count)[: SAMPLE * lists])))
        for start in range(0, count, BLOCK):
            index.add(_rows(vectors, slice(start, start + BLOCK)))
            forget(vectors.images)
        try:
            with replacing(file) as part:
                self._faiss.write_index(index, str(part))
        except (OSError, RuntimeError) as error:
            log.warning("%s: cannot be written (%s): it is made again next time", file, error)
        return index

    def search(self, queries: Sequence[Query], score: Score, keep: int) -> list[Ranking] | None:
        """The `keep` best images of every query, as far as they are on its shortlist, with exact
        scores; targets have no ranks. None where it is for `scan`: the score is no sum of dot
        products with the gallery's images and captions, a query has candidates, or a shortlist
        would be as long as the gallery."""
        rows, length = self._linear(score), SHORTLIST * keep
        limited = any(query.candidates is not None for query in queries)
        if rows is None or limited or length >= len(self._vectors.names):
            return None
        shortlists = self._index.search(rows, length)[1]
        return list(self._exact(queries, score, shortlists, keep))

    def _exact(
        self, queries: Sequence[Query], score: Score, shortlists: Array, keep: int
    ) -> Iterator[Ranking]:
        names, ok = self._vectors.names, np.asarray(self._vectors.ok)
        readable = int(np.count_nonzero(ok))
        for column, (query, shortlist) in enumerate(zip(queries, shortlists, strict=True)):
            rows = np.sort(shortlist[shortlist >= 0])  # -1: the lists had no more
            images = [names[row] for row in rows]
            part = _Shortlist(tuple(images), ok[rows], {n: i for i, n in enumerate(images)})
            alone = replace(query, targets=None)
            (ranking,) = scan(_Part(score, rows, column), [alone], part, keep)
            apart = {self._vectors.index[n] for n in query.exclude if n in self._vectors.index}
            yield replace(ranking, pool=readable - int(ok[sorted(apart)].sum()))

    def _linear(self, score: Score) -> Array | None:
        """float32 (queries, 2d) whose products with rows are the score's, up to a constant."""
        places = [self._vectors.images, self._vectors.captions]
        if not isinstance(score, Sum) or score.others or not score.dots:
            return None
        parts = np.zeros((2, *score.dots[0][1].shape), np.float32)
        for weight, vectors, view in score.dots:
            place = next((n for n, own in enumerate(places) if own is view), None)
            if place is None:
                return None
            parts[place] += np.float32(weight) * vectors
        return np.hstack(list(parts))


@dataclass(frozen=True)
class _Shortlist:
    """See Images."""

    names: tuple[str, ...]
    ok: Array
    index: dict[str, int]


class _Part(Score):
    """A score of some images for one query."""

    def __init__(self, score: Score, rows: Array, column: int):
        self._score, self._rows, self._columns = score, rows, np.array([column])

    def block(self, rows: Index, columns: Index = ALL) -> Tensor:
        return self._score.block(self._rows[rows], self._columns[columns])


def _rows(vectors: GalleryVectors, rows: Index) -> Array:
    return np.hstack([vectors.images[rows], vectors.captions[rows]])


def _digest(vectors: GalleryVectors, file: str) -> str:
    """16 digits that tell rows from others: by the name of their file, their number, and the
    content of evenly spaced ones. All would be gigabytes to read."""
    count = len(vectors.names)
    rows = np.unique(np.linspace(0, max(count - 1, 0), 1024).astype(np.int64))
    content = hashlib.sha256(f"{file} {count}".encode())
    content.update(np.ascontiguousarray(_rows(vectors, rows)).tobytes())
    return content.hexdigest()[:16]


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise UserError(
            "approximate search needs faiss: pip install 'imagescope[faiss]' (or leave "
            "--approximate out: search is exact then)"
        ) from None
    module: ModuleType = faiss
    return module
