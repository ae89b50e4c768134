"""One exact pass over a gallery: every query's best images, and the exact ranks of its targets.

Some queries at a time, the pass takes the gallery in blocks and keeps of a block's scores those
above the floor, the worst of a query's best so far: memory grows neither with the gallery nor with
queries x gallery.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from imagescope.arrays import Array
from imagescope.records import Query, Ranking
from imagescope.search.pools import Images, Pools
from imagescope.search.score import STRIP, Score, at, device

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("imagescope")
BLOCK, CHUNK = 2048, 512  # images and queries of one product: it stays in a core's cache
THREADS = 16  # at most
LAST = float(np.finfo(np.float32).min)  # instead of a score that is not a finite number
LOW = (1 << 32) - 1  # a key's lower half
NONE = np.iinfo(np.int64).min  # the key of no image
TURN = threading.Lock()

Hits = tuple[Array, Array]  # columns, and keys of images that may be among the best


def scan(
    score: Score,
    queries: Sequence[Query],
    images: Images,
    keep: int,
    tell: Callable[[int], None] = lambda count: None,
) -> list[Ranking]:
    """The `keep` best images of every query, and the exact rank of each of its targets.

    The pool of a query is the readable images, cut to its candidates, less its exclusions. Equal
    scores keep the images' order. A target outside the pool has no rank. Scores that are not finite
    stand last, as float32's lowest number; they are warned of, and `tell` gets their count. Raises
    ValueError where the score is not one of these queries and images.
    """
    if queries and (columns := score.block(slice(0, 0)).shape[1]) != len(queries):
        raise ValueError(f"{len(queries)} queries, but scores of {columns}")
    with _single_threads() as threads, ThreadPoolExecutor(threads, "scan") as pool:
        starts = range(0, len(queries), CHUNK)
        many = len(starts) >= 2 * threads

        def work(start: int) -> tuple[list[Ranking], int]:
            chunk = _Pass(score, start, queries[start : start + CHUNK], images, keep)
            return chunk.rankings(1 if many else threads), chunk.odd

        # Each thread works alone, rather than all share every operation: they need not wait for one
        # another. It takes whole chunks of queries, or blocks of images where chunks are few.
        parts = list((pool.map if many else map)(work, starts))
    if odd := sum(odd for _, odd in parts):
        log.warning("%d scores are not finite numbers: those images stand last", odd)
        tell(odd)
    return [ranking for rankings, _ in parts for ranking in rankings]


class _Pass:
    """Some queries' pass through the gallery. Matrices are (images, queries); targets' are (lines,
    queries), a line for each place in a query's list of targets."""

    def __init__(
        self, score: Score, first: int, queries: Sequence[Query], images: Images, keep: int
    ):
        import torch

        self._score, self._images, self._pools = score, images, Pools(queries, images)
        self._columns = slice(first, first + len(queries))
        self._keep = max(1, min(keep, max(self._pools.sizes)))
        places = self._pools.places
        goals = np.full(places.shape, np.inf, np.float32)  # nothing is above infinity
        lines, columns = (places >= 0).nonzero()
        values = at(score, places[lines, columns], columns + first)
        goals[lines, columns] = np.where(np.isfinite(values), values, LAST)
        self._goals = torch.from_numpy(goals).to(device())
        self._places = torch.from_numpy(places).to(device())

    def rankings(self, threads: int) -> list[Ranking]:
        """What comes of it, best first."""
        # Targets are scored in advance, apart from their blocks. Should a library round those
        # products differently, the pass has met the scores that count: ranks are taken by them.
        if not self._run(threads):
            self._run(threads)
        names, targets, sizes = self._images.names, self._pools.targets, self._pools.sizes
        best = np.sort(self._best)[:, ::-1]
        counts = (best > NONE).sum(1)
        arrays = counts, LOW - (best & LOW), _score(best), self._above.T
        return [
            Ranking(
                names=tuple([names[row] for row in rows[:count]]),
                scores=tuple(scores[:count]),
                ranks=dict(zip(own, above, strict=False)),
                pool=size,
            )
            for count, rows, scores, above, own, size in zip(
                *(array.tolist() for array in arrays), targets, sizes, strict=True
            )
        ]

    def _run(self, threads: int) -> bool:
        """Passes once; returns whether targets scored in their blocks as they did in advance."""
        self._best = np.full((len(self._pools.sizes), self._keep), NONE)  # keys, in any order
        self._floor = self._goals.new_full((len(self._best),), -np.inf)  # the worst of their scores
        self._above, self._met = self._places * 0, self._goals.clone()
        self.odd = 0
        hits: list[Hits] = []
        for seen, above, odd in self._blocks(threads):
            self._above += above
            self.odd += odd
            hits.append(seen)
            if sum(len(keys) for _, keys in hits) >= self._best.size:
                self._merge(hits)
                hits = []
        self._merge(hits)
        agree: bool = self._met.equal(self._goals)
        self._goals = self._met
        return agree

    def _blocks(self, threads: int) -> Iterator[tuple[Hits, Tensor, int]]:
        """What every block comes to, in the gallery's order."""
        yield self._look(0)  # before the others, so that a floor stands
        ahead: deque[Future[tuple[Hits, Tensor, int]]] = deque()
        with ThreadPoolExecutor(threads, "scan") as pool:
            for start in range(BLOCK, len(self._images.names), BLOCK):
                ahead.append(pool.submit(self._look, start))
                if len(ahead) > threads:  # no further than that: the floor is to be recent
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _look(self, start: int) -> tuple[Hits, Tensor, int]:
        """Of a block's scores: those above the floor, how many are above each target, and how many
        are not finite."""
        import torch

        stop = min(start + BLOCK, len(self._images.names))
        scores = self._score.block(slice(start, stop), self._columns)
        if scores.shape != (stop - start, self._goals.shape[1]):
            raise ValueError(f"images {start} to {stop}, but scores {tuple(scores.shape)}")
        finite = bool(scores.sum().isfinite())  # one odd number makes the sum odd
        if not finite:
            scores.masked_fill_(~scores.isfinite(), LAST)
        self._pools.hide(scores, start)
        if start == 0 and stop > self._keep:
            top = scores.T.cpu().numpy().copy()  # numpy's partition is several times torch's topk
            top.partition(stop - self._keep, axis=1)
            self._floor = _below(torch.from_numpy(top[:, -self._keep]).to(scores.device))
        cells = (scores > self._floor).flatten().nonzero()[:, 0]
        values, cells = scores.take(cells).cpu().numpy(), cells.cpu().numpy()
        rows, columns = np.divmod(cells, scores.shape[1])
        hits = columns.astype(np.int16), _key(values, rows + start)

        goals, places = self._goals, self._places
        bars = torch.where(places >= stop, _below(goals), goals)  # if earlier, equals are above
        above = places * 0
        for line, bar in enumerate(bars):
            for strip in scores.split(STRIP):  # a sum of booleans makes numbers of all of them
                above[line] += (strip > bar).sum(0, dtype=torch.int32)
        lines, columns = ((places >= start) & (places < stop)).nonzero(as_tuple=True)
        rows = places[lines, columns] - start
        equal = scores.index_select(1, columns) == goals[lines, columns]
        earlier = torch.arange(stop - start, device=scores.device)[:, None] < rows
        above[lines, columns] += (equal & earlier).sum(0)
        self._met[lines, columns] = scores[rows, columns]
        return hits, above, 0 if finite else int((scores == LAST).sum())

    def _merge(self, hits: list[Hits]) -> None:
        """Puts hits among the best. They come in the gallery's order: of images yet to come only
        those above the floor can be among the best."""
        import torch

        if not hits:
            return
        columns, keys = (np.concatenate(parts) for parts in zip(*hits, strict=True))
        order = np.argsort(columns, kind="stable")  # of int16 the fastest
        counts = np.bincount(columns, minlength=len(self._best))
        both = np.full((len(counts), self._keep + counts.max()), NONE)
        both[:, : self._keep] = self._best
        place = np.arange(len(keys)) - np.repeat(counts.cumsum() - counts, counts)
        both[columns[order], place + self._keep] = keys[order]
        both.partition(counts.max(), axis=1)
        self._best = both[:, -self._keep :].copy()
        floor = _score(self._best.min(1))
        self._floor = torch.from_numpy(floor).to(self._goals.device)


def _key(scores: Array, rows: Array) -> Array:
    """int64: the larger, the better the image. The score's bits, made to grow with it, stand above
    the row's complement, so that of equal scores the earlier image's key is larger."""
    bits = (scores + np.float32(0)).view(np.int32)  # minus zero equals zero
    keys: Array = (_ordered(bits).astype(np.int64) << 32) | (LOW - rows)
    return keys


def _score(keys: Array) -> Array:
    """float32 scores of keys, minus infinity for NONE."""
    scores = _ordered((keys >> 32).astype(np.int32)).view(np.float32)
    return np.where(keys > NONE, scores, np.float32(-np.inf))


def _ordered(bits: Array) -> Array:
    """A float32's bits as an int32 of the same order, and back."""
    ordered: Array = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return ordered


def _below(values: Tensor) -> Tensor:
    """The next smaller numbers."""
    return values.nextafter(values.new_tensor(float("-inf")))


@contextmanager
def _single_threads() -> Iterator[int]:
    """torch's operations on one thread each; yields how many threads there are to be, on a GPU one.
    The setting is the process's: one pass at a time changes it."""
    import torch

    with TURN:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield 1 if device() == "cuda" else min(usual, THREADS)
        finally:
            torch.set_num_threads(usual)
