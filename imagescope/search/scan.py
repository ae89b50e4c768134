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

from imagescope.records import Query, Ranking
from imagescope.search.pools import Images, Pools
from imagescope.search.score import Score, at, device

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("imagescope")
BLOCK, CHUNK = 2048, 512  # images and queries of one product: it stays in a core's cache
THREADS = 16  # at most
LAST = float(np.finfo(np.float32).min)  # instead of a score that is not a finite number
TURN = threading.Lock()

Hits = tuple["Tensor", "Tensor", "Tensor"]  # columns, rows and scores


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
        counts = (self._best > -np.inf).sum(1)
        tensors = (counts, self._rows, self._best, self._above.T)
        return [
            Ranking(
                names=tuple([names[row] for row in rows[:count]]),
                scores=tuple(scores[:count]),
                ranks=dict(zip(own, above, strict=False)),
                pool=size,
            )
            for count, rows, scores, above, own, size in zip(
                *(tensor.tolist() for tensor in tensors), targets, sizes, strict=True
            )
        ]

    def _run(self, threads: int) -> bool:
        """Passes once; returns whether targets scored in their blocks as they did in advance."""
        shape = len(self._pools.sizes), self._keep
        self._best = self._goals.new_full(shape, -np.inf)  # scores, sorted
        self._rows = self._places.new_zeros(shape)
        self._floor = self._best[:, -1]  # the worst of them
        self._above, self._met = self._places * 0, self._goals.clone()
        self.odd = 0
        hits: list[Hits] = []
        for seen, above, odd in self._blocks(threads):
            self._above += above
            self.odd += odd
            hits.append(seen)
            if sum(len(rows) for _, rows, _ in hits) >= self._best.numel():
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
            self._floor = _below(scores.topk(self._keep, 0).values[-1])
        rows, columns = (scores > self._floor).nonzero(as_tuple=True)
        hits = columns, rows + start, scores[rows, columns] + 0.0  # minus zero equals zero

        goals, places = self._goals, self._places
        bars = torch.where(places >= stop, _below(goals), goals)  # if earlier, equals are above
        above = (scores > bars[:, None]).sum(1, dtype=torch.int32)
        lines, columns = ((places >= start) & (places < stop)).nonzero(as_tuple=True)
        rows = places[lines, columns] - start
        equal = scores.index_select(1, columns) == goals[lines, columns]
        earlier = torch.arange(stop - start, device=scores.device)[:, None] < rows
        above[lines, columns] += (equal & earlier).sum(0, dtype=torch.int32)
        self._met[lines, columns] = scores[rows, columns]
        return hits, above, 0 if finite else int((scores == LAST).sum())

    def _merge(self, hits: list[Hits]) -> None:
        """Puts hits among the best. They are of later images than those, and in the gallery's
        order: a stable sort keeps ties in it, and of images yet to come only those above the floor
        can be among the best."""
        import torch

        if not hits:
            return
        columns, rows, scores = (torch.cat(parts) for parts in zip(*hits, strict=True))
        columns, order = columns.sort(stable=True)
        counts = columns.bincount(minlength=len(self._best))
        place = torch.arange(len(columns), device=columns.device) + self._keep
        place -= (counts.cumsum(0) - counts)[columns]  # among the query's own, behind the best
        wider = (0, int(counts.max()))
        best = torch.nn.functional.pad(self._best, wider, value=-np.inf)
        best[columns, place] = scores[order]
        images = torch.nn.functional.pad(self._rows, wider)
        images[columns, place] = rows[order]
        best, order = best.sort(dim=1, descending=True, stable=True)
        self._best, self._floor = best[:, : self._keep], best[:, self._keep - 1].contiguous()
        self._rows = images.gather(1, order[:, : self._keep])


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
