"""Stage 1, retrieval: an exact, blocked matrix product over the gallery (section 3.2).

With unit vectors t_j (descriptions), v_i (images) and c_i (captions), the score

    s_i = mean_j [ (1 - tau) t_j . v_i + tau t_j . c_i ]

is linear in t_j, so it is q . f_i with q = mean_j t_j and the fused row f_i = (1 - tau) v_i +
tau c_i. One pass over the gallery makes the fused rows block by block and keeps of each block's
scores only what may still be among the best: memory grows neither with the gallery nor with
queries x gallery.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from imagescope.records import Query, Ranking
from imagescope.vectors import Array, GalleryVectors, forget

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 2048  # gallery rows of one product: what it reads and writes stays in a core's cache
CHUNK = 512  # queries of one product
THREADS = 16  # at most
# Matrix libraries round differently for very small shapes (MKL: under 16 columns or 8 rows), but a
# query's scores must not depend on the queries beside it. Zeros fill shapes up to multiples.
ROWS, COLUMNS = 128, 16
NONE = -(1 << 63)  # the key below all others: no image
TURN = threading.Lock()


def retrieve(
    queries: Sequence[Query],
    texts: Array,
    vectors: GalleryVectors,
    *,
    tau: float,
    keep: int,
    device: str | None = None,
) -> list[Ranking]:
    """The `keep` best images of every query, and the exact rank of each of its targets.

    texts: float32 (queries, d), the mean of each query's unit description vectors, not normalised.
    tau: weight of captions against images, in [0, 1].  device: None takes a GPU if there is one.
    The pool of a query is the readable gallery, cut to its candidates, less its exclusions. Equal
    scores keep the gallery's order. A target outside the pool has no rank. Raises ValueError for
    shapes that do not fit.
    """
    import torch

    if texts.shape != (len(queries), vectors.images.shape[1]):
        raise ValueError(f"{len(queries)} queries, texts {texts.shape}: {vectors.images.shape}")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with _single_threads() as threads:
        chunks = [
            _Chunk(queries[a : a + CHUNK], texts[a : a + CHUNK], vectors, tau, keep, device)
            for a in range(0, len(queries), CHUNK)
        ]
        _scan(chunks, vectors, tau, device, threads)
        # Targets were scored in advance, apart from their blocks. Should a library round those
        # products differently, the pass has met the scores that count: ranks are taken by them.
        again = [chunk for chunk in chunks if chunk.correct_goals()]
        _scan(again, vectors, tau, device, threads)
        return [ranking for chunk in chunks for ranking in chunk.rankings()]


def _scan(
    chunks: Sequence[_Chunk], vectors: GalleryVectors, tau: float, device: str, threads: int
) -> None:
    """One pass: every chunk of queries sees every block of the gallery.

    On a CPU each thread takes whole blocks and works alone, rather than all share every operation:
    they need not wait for one another. The first block goes before, so that floors stand.
    """
    if not chunks:
        return

    def work(start: int) -> None:
        rows = slice(start, start + BLOCK)
        fused = _fuse(vectors.images[rows], vectors.captions[rows], tau, device)
        ok = np.asarray(vectors.ok[rows])
        for chunk in chunks:
            chunk.see(fused, start, ok)
        forget(vectors.images)
        forget(vectors.captions)

    work(0)
    following = range(BLOCK, len(vectors.names), BLOCK)
    with ThreadPoolExecutor(threads, "retrieve") as pool:
        list((pool.map if device == "cpu" else map)(work, following))


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


def _fuse(images: Array, captions: Array, tau: float, device: str) -> Tensor:
    """(1 - tau) images + tau captions, float32; rows of zeros up to a multiple of ROWS."""
    import torch

    # by dlpack, since from_numpy warns of read-only arrays
    v, c = torch.from_dlpack(images).to(device), torch.from_dlpack(captions).to(device)
    fused = v.new_empty(len(v) + -len(v) % ROWS, v.shape[1])
    torch.lerp(v, c, tau, out=fused[: len(v)])
    fused[len(v) :] = 0
    return fused


class _Chunk:
    """Some queries on their way through the gallery, and the best they have met so far.

    An image met is one integer: its score's bits, in an order-preserving form, above its row
    counted downwards. Larger is better, and ties fall to the earlier image by themselves.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        texts: Array,
        vectors: GalleryVectors,
        tau: float,
        keep: int,
        device: str,
    ):
        import torch

        self._queries, self._names, self._device = queries, vectors.names, device
        columns = np.zeros((texts.shape[1], len(queries) + -len(queries) % COLUMNS), np.float32)
        columns[:, : len(queries)] = texts.T
        self._texts = torch.from_numpy(columns).to(device)
        self._pools(vectors)
        self._k = max(1, min(keep, max(self._pool)))
        self._reset()
        # each target's score, plus infinity where `_places` has none
        self._goals = torch.full(self._places.shape, torch.inf, device=device)
        rows = np.unique(self._places[self._places >= 0])
        if len(rows):
            fused = _fuse(vectors.images[rows], vectors.captions[rows], tau, device)
            place = torch.as_tensor(np.searchsorted(rows, self._places), device=device)
            used = torch.as_tensor(self._places >= 0, device=device)
            self._goals[used] = (fused @ self._texts).gather(0, place)[used]

    def _pools(self, vectors: GalleryVectors) -> None:
        """Who is in each query's pool, and which of its targets."""
        ok, readable = np.asarray(vectors.ok), int(np.count_nonzero(vectors.ok))
        hidden: list[tuple[int, int]] = []  # (row, column) never ranked
        opened: list[tuple[int, int]] = []  # (row, column) ranked, of the columns in `limited`
        self._limited: list[int] = []
        self._pool: list[int] = []
        self._targets: list[dict[str, int]] = []  # in the pool: name -> row
        for column, query in enumerate(self._queries):
            apart = {vectors.index[name] for name in query.exclude if name in vectors.index}
            found = {t: vectors.index[t] for t in query.targets or () if t in vectors.index}
            pool: set[int] | None = None
            if query.candidates is None:
                hidden += [(row, column) for row in apart]
                self._pool.append(readable - sum(bool(ok[row]) for row in apart))
            else:
                rows = {vectors.index[name] for name in query.candidates if name in vectors.index}
                pool = {row for row in rows - apart if ok[row]}
                opened += [(row, column) for row in pool]
                self._limited.append(column)
                self._pool.append(len(pool))
            self._targets.append(
                {
                    target: row
                    for target, row in found.items()
                    if ok[row] and row not in apart and (pool is None or row in pool)
                }
            )
        self._hidden = np.array(sorted(hidden), np.int64).reshape(-1, 2)
        self._opened = np.array(sorted(opened), np.int64).reshape(-1, 2)
        # targets' rows, one line per place in a query's list; -1 where a query has fewer
        lines = max(len(found) for found in self._targets)
        self._places = np.full((lines, self._texts.shape[1]), -1, np.int64)
        for column, found in enumerate(self._targets):
            self._places[: len(found), column] = list(found.values())

    def _reset(self) -> None:
        import torch

        count, device = self._texts.shape[1], self._device
        self._best = torch.full((count, self._k), NONE, dtype=torch.int64, device=device)
        self._floor = torch.full((count,), -torch.inf, device=device)  # the worst of the best
        self._waiting: list[tuple[Tensor, Tensor]] = []  # (columns, keys) not yet among them
        self._above = torch.zeros(self._places.shape, dtype=torch.int64, device=device)
        self._found = torch.full(self._places.shape, torch.inf, device=device)
        self._lock = threading.Lock()

    def see(self, fused: Tensor, start: int, ok: Array) -> None:
        """Takes a block of fused rows, the first of which is the gallery's row `start`. Called from
        several threads, for blocks in any order."""
        import torch

        scores = fused @ self._texts
        scores[len(ok) :] = -torch.inf
        if not ok.all():
            scores[: len(ok)][torch.as_tensor(~ok, device=scores.device)] = -torch.inf
        if self._limited:
            rows, columns = _within(self._opened, start, scores)
            values = scores[rows, columns]
            scores[:, self._limited] = -torch.inf
            scores[rows, columns] = values
        if len(self._hidden):
            scores[_within(self._hidden, start, scores)] = -torch.inf
        for line in range(len(self._places)):
            self._rank(line, scores, start)
        self._keep(scores, start)

    def _keep(self, scores: Tensor, start: int) -> None:
        """Finds what may be among the best: all of the first block, so that a floor stands; then
        what is not below the floor, which other blocks may have raised meanwhile."""
        import torch

        if start == 0:
            rows = torch.arange(len(scores), device=scores.device)
            keys = _key(scores.T.contiguous(), rows)
            self._raise_floor(torch.cat((self._best, keys), 1))
            return
        width = scores.shape[1]
        hits = (scores >= self._floor).view(-1).nonzero().squeeze(1)
        keys = _key(scores.take(hits), hits // width + start)
        with self._lock:
            self._waiting.append((hits % width, keys))
            if sum(len(keys) for _, keys in self._waiting) > width * self._k // 2:
                self._merge()

    def _merge(self) -> None:
        """Puts what waits among the best."""
        import torch

        if not self._waiting:
            return
        columns, keys = (torch.cat(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting = []
        columns, order = columns.int().sort(stable=True)
        columns = columns.long()
        counts = columns.bincount(minlength=len(self._best))
        width = self._k + int(counts.max())
        # each key's place in its query's line, behind the best so far
        place = torch.arange(len(keys), device=keys.device) + self._k
        place += columns * width - (counts.cumsum(0) - counts).gather(0, columns)
        merged = keys.new_full((len(counts), width), NONE)
        merged[:, : self._k] = self._best
        merged.view(-1).scatter_(0, place, keys.gather(0, order))
        self._raise_floor(merged)

    def _raise_floor(self, keys: Tensor) -> None:
        import torch

        self._best = keys.topk(self._k, dim=1, sorted=False).values
        floor = _score(self._best.amin(1))
        floor[len(self._queries) :] = torch.inf  # nothing for the columns that fill up
        self._floor = floor

    def _rank(self, line: int, scores: Tensor, start: int) -> None:
        """Counts the images that stand above each query's target: more, or as much and earlier."""
        import torch

        goals, end = self._goals[line], start + len(scores)
        places = torch.as_tensor(self._places[line], device=scores.device)
        bars = torch.where(places >= end, goals.nextafter(goals.new_tensor(-torch.inf)), goals)
        # bytes, summed in groups that fit a byte: many times faster than a sum of booleans
        above = (scores > bars).view(torch.uint8).view(-1, ROWS, scores.shape[1])
        count = above.sum(1, dtype=torch.uint8).sum(0, dtype=torch.int64)
        inside = ((places >= start) & (places < end)).nonzero().squeeze(1)
        if len(inside):
            block, rows = scores[:, inside], places[inside] - start
            self._found[line, inside] = block.gather(0, rows[None])[0]
            earlier = torch.arange(len(scores), device=scores.device)[:, None] < rows
            count[inside] += ((block == goals[inside]) & earlier).sum(0)
        with self._lock:
            self._above[line] += count

    def correct_goals(self) -> bool:
        """Whether a target's score in its block was not what was expected; starts afresh then."""
        if not len(self._places) or bool((self._found == self._goals).all()):
            return False
        self._goals = self._found
        self._reset()
        return True

    def rankings(self) -> list[Ranking]:
        """What the pass came to, best first."""
        import torch

        self._merge()
        keys = self._best[: len(self._queries)].sort(dim=1, descending=True).values.cpu()
        scores = _score(keys)
        met = (scores > -torch.inf).sum(1).tolist()  # fewer than k where the pool is smaller
        rows = (0xFFFFFFFF - (keys & 0xFFFFFFFF)).tolist()
        above, names = self._above.T.tolist(), self._names
        return [
            Ranking(
                names=tuple([names[row] for row in rows[column][:count]]),
                scores=tuple(line[:count]),
                ranks=dict(zip(self._targets[column], above[column], strict=False)),
                pool=self._pool[column],
            )
            for column, (count, line) in enumerate(zip(met, scores.tolist(), strict=True))
        ]


def _within(pairs: Array, start: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Those (row, column) pairs, sorted by row, that lie in a block, counted from its start."""
    import torch

    low, high = np.searchsorted(pairs[:, 0], (start, start + len(scores)))
    found = torch.as_tensor(pairs[low:high], device=scores.device)
    return found[:, 0] - start, found[:, 1]


def _key(scores: Tensor, rows: Tensor) -> Tensor:
    """int64: the score in the upper half, so that larger is better; the row's complement below."""
    import torch

    bits = (scores + 0.0).view(torch.int32)  # + 0.0: minus zero equals zero
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) | (0xFFFFFFFF - rows)


def _score(keys: Tensor) -> Tensor:
    """float32 scores of keys; minus infinity for NONE."""
    import torch

    bits = (keys >> 32).int()
    scores = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
    return scores.masked_fill(keys == NONE, -torch.inf)
