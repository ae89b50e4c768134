"""One exact pass over a gallery: every query's best images, and the exact ranks of its targets.

The pass takes the gallery in blocks and keeps of a block's scores those that are above the floor,
the worst of a query's best so far: memory grows neither with the gallery nor with queries x
gallery.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from imagescope.records import Query, Ranking
from imagescope.search.pools import Images, Pools
from imagescope.search.score import BLOCK, Score, at, block_size

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("imagescope")
THREADS = 16  # at most
LAST = float(np.finfo(np.float32).min)  # instead of a score that is not a finite number
TURN = threading.Lock()


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
    if not queries:
        return []
    with _single_threads() as threads:
        passing = _Pass(score, queries, images, keep)
        # Targets are scored in advance, apart from their blocks. Should a library round those
        # products differently, the pass has met the scores that count: ranks are taken by them.
        if not passing.run(threads):
            passing.run(threads)
        if passing.odd:
            log.warning("%d scores are not finite numbers: those images stand last", passing.odd)
            tell(passing.odd)
        return passing.rankings()


class _Seen(NamedTuple):
    """What a block of images comes to."""

    hits: tuple[Tensor, Tensor, Tensor]  # columns, rows and scores above the floor
    above: Tensor  # how many images stand above each target
    targets: tuple[Tensor, Tensor, Tensor]  # lines, columns and scores of the targets in it
    odd: int  # scores that are not finite


class _Pass:
    """A pass through the gallery. Matrices are (images, queries); targets' are (lines, queries),
    a line for each place in a query's list of targets."""

    def __init__(self, score: Score, queries: Sequence[Query], images: Images, keep: int):
        import torch

        empty = score.block(slice(0, 0))
        if empty.shape[1] != len(queries):
            raise ValueError(f"{len(queries)} queries, but scores of {empty.shape[1]}")
        self._score, self._images = score, images
        self._pools = pools = Pools(queries, images)
        self._keep = max(1, min(keep, max(pools.sizes)))
        self._step = block_size(len(queries))
        used = pools.places >= 0
        goals = np.full(used.shape, np.inf, np.float32)  # nothing is above infinity
        goals[used] = at(score, pools.places[used], used.nonzero()[1])
        goals[used & ~np.isfinite(goals)] = LAST
        self._goals = torch.from_numpy(goals).to(empty.device)
        self._places = torch.from_numpy(pools.places).to(empty.device)

    def run(self, threads: int) -> bool:
        """Passes once; returns whether targets scored in their blocks as they did in advance.

        On a CPU each thread takes whole blocks and works alone, rather than all share every
        operation: they need not wait for one another. Blocks come back in the gallery's order.
        """
        import torch

        count = self._goals.shape[1]
        self._floor = self._goals.new_full((count,), -torch.inf)
        self._above = torch.zeros_like(self._places)
        self._best: list[tuple[Tensor, Tensor, Tensor]] = []
        goals, waiting, self.odd = torch.full_like(self._goals, torch.inf), 0, 0
        for seen in self._blocks(threads):
            self._above += seen.above
            lines, columns, scores = seen.targets
            goals[lines, columns] = scores
            self.odd += seen.odd
            self._best.append(seen.hits)
            waiting += len(seen.hits[0])
            if waiting >= count * self._keep:
                self._raise_floor()
                waiting = 0
        agree: bool = torch.equal(goals, self._goals)
        self._goals = goals
        return agree

    def _blocks(self, threads: int) -> Iterator[_Seen]:
        # the first before the others, so that a floor stands, and so large that it is a high one
        first = min(BLOCK, max(self._step, 8 * self._keep))
        yield self._look(0, first)
        following = range(first, len(self._images.names), self._step)
        if self._goals.is_cuda:
            yield from map(self._look, following)
            return
        ahead: deque[Future[_Seen]] = deque()  # no further than that: the floor is to be recent
        with ThreadPoolExecutor(threads, "scan") as pool:
            for start in following:
                ahead.append(pool.submit(self._look, start))
                if len(ahead) > threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _look(self, start: int, size: int | None = None) -> _Seen:
        """A block's scores, less what is not in the pool."""
        import torch

        stop = min(start + (size or self._step), len(self._images.names))
        scores = self._score.block(slice(start, stop))
        if scores.shape != (stop - start, self._goals.shape[1]):
            raise ValueError(f"images {start} to {stop}, but scores {tuple(scores.shape)}")
        finite = bool(scores.sum().isfinite())  # one odd number makes the sum odd
        if not finite:
            scores.masked_fill_(~scores.isfinite(), LAST)
        self._pools.hide(scores, start)
        if start == 0 and self._keep <= stop:
            self._floor = _below(scores.topk(self._keep, 0).values[-1])
        rows, columns = (scores > self._floor).nonzero(as_tuple=True)
        hits = columns, rows + start, scores[rows, columns] + 0.0  # minus zero equals zero

        goals, places = self._goals, self._places
        bars = torch.where(places >= stop, _below(goals), goals)  # if earlier, equals are above
        above = (scores > bars[:, None]).sum(1, dtype=torch.int32)
        lines, columns = ((places >= start) & (places < stop)).nonzero(as_tuple=True)
        rows = places[lines, columns] - start
        equal = scores[:, columns] == goals[lines, columns]
        earlier = torch.arange(stop - start, device=scores.device)[:, None] < rows
        above[lines, columns] += (equal & earlier).sum(0, dtype=torch.int32)
        targets = lines, columns, scores[rows, columns]
        return _Seen(hits, above, targets, 0 if finite else int((scores == LAST).sum()))

    def _raise_floor(self) -> None:
        """Cuts the hits to each query's best. They come in the gallery's order: of later images
        only those above the worst of the best can still be among them."""
        import torch

        columns, rows, scores = (torch.cat(parts) for parts in zip(*self._best, strict=True))
        columns, order = columns.sort(stable=True)
        rows, scores = rows[order], scores[order]
        counts = columns.bincount(minlength=len(self._floor))
        place = torch.arange(len(columns), device=columns.device)
        place -= (counts.cumsum(0) - counts)[columns]  # among the query's own
        lines = scores.new_full((len(counts), max(int(counts.max()), self._keep)), -torch.inf)
        lines[columns, place] = scores
        self._floor = lines.topk(self._keep, 1, sorted=False).values.amin(1)
        best = scores >= self._floor[columns]
        self._best = [(columns[best], rows[best], scores[best])]

    def rankings(self) -> list[Ranking]:
        """What the pass came to, best first."""
        import torch

        columns, rows, scores = (torch.cat(parts) for parts in zip(*self._best, strict=True))
        order = scores.sort(descending=True, stable=True).indices  # ties stay in order
        order = order[columns[order].sort(stable=True).indices]
        counts = columns.bincount(minlength=len(self._floor)).tolist()
        names, above = self._images.names, self._above.T.tolist()
        return [
            Ranking(
                names=tuple([names[row] for row in best[: self._keep].tolist()]),
                scores=tuple(values[: self._keep].tolist()),
                ranks=dict(zip(targets, line, strict=False)),
                pool=size,
            )
            for best, values, targets, line, size in zip(
                rows[order].cpu().split(counts),
                scores[order].cpu().split(counts),
                self._pools.targets,
                above,
                self._pools.sizes,
                strict=True,
            )
        ]


def _below(values: Tensor) -> Tensor:
    """The next smaller numbers."""
    return values.nextafter(values.new_tensor(float("-inf")))


@contextmanager
def _single_threads() -> Iterator[int]:
    """torch's operations on one thread each; yields how many threads there would be. The setting
    is the process's: one pass at a time changes it."""
    import torch

    with TURN:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield min(usual, THREADS)
        finally:
            torch.set_num_threads(usual)
