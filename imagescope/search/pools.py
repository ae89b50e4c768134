"""Which images a query ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from imagescope.arrays import Array
from imagescope.records import Query

if TYPE_CHECKING:
    from torch import Tensor


class Images(Protocol):
    """What is ranked, in the order that breaks ties; `ok` (n,) says which could be read."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def ok(self) -> Array: ...
    @property
    def index(self) -> Mapping[str, int]: ...


class Pools:
    """Which images each query ranks, and which of its targets are among them.

    sizes: images in each pool.  targets: name -> row of those in the pool, for each query.
    places: int64 (lines, queries), the targets' rows; -1 where a query has fewer.
    """

    def __init__(self, queries: Sequence[Query], images: Images):
        index, ok = images.index, np.asarray(images.ok)

        def readable(names: Iterable[str] | None) -> dict[str, int]:
            return {name: index[name] for name in names or () if name in index and ok[index[name]]}

        count = int(np.count_nonzero(ok))
        excluded: list[tuple[int, int]] = []  # (row, column)
        candidates: list[tuple[int, int]] = []  # (row, column), of the columns in `limited`
        self._ok, self._limited = ok, list[int]()
        self.sizes: list[int] = []
        self.targets: list[dict[str, int]] = []
        for column, query in enumerate(queries):
            apart, targets = set(readable(query.exclude).values()), readable(query.targets)
            if query.candidates is None:
                excluded += [(row, column) for row in apart]
                self.sizes.append(count - len(apart))
                targets = {name: row for name, row in targets.items() if row not in apart}
            else:
                pool = set(readable(query.candidates).values()) - apart
                candidates += [(row, column) for row in pool]
                self._limited.append(column)
                self.sizes.append(len(pool))
                targets = {name: row for name, row in targets.items() if row in pool}
            self.targets.append(targets)
        self._excluded = np.array(sorted(excluded), np.int64).reshape(-1, 2)
        self._candidates = np.array(sorted(candidates), np.int64).reshape(-1, 2)
        lines = max(len(targets) for targets in self.targets)
        self.places = np.full((lines, len(queries)), -1, np.int64)
        for column, targets in enumerate(self.targets):
            self.places[: len(targets), column] = list(targets.values())

    def hide(self, scores: Tensor, start: int) -> None:
        """Sets to minus infinity what is not in the pool. `start`: the gallery's row of the block's
        first."""
        import torch

        stop = start + len(scores)
        if self._limited:
            places = _within(self._candidates, start, scores)
            values = scores[places]
            scores[:, self._limited] = -torch.inf
            scores[places] = values
        scores[_within(self._excluded, start, scores)] = -torch.inf
        if not self._ok[start:stop].all():
            scores[torch.from_numpy(~self._ok[start:stop]).to(scores.device)] = -torch.inf


def _within(pairs: Array, start: int, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Those (row, column) pairs, sorted by row, whose row is in a block, counted from its start."""
    import torch

    low, high = np.searchsorted(pairs[:, 0], (start, start + len(scores)))
    inside = torch.from_numpy(pairs[low:high]).to(scores.device)
    return inside[:, 0] - start, inside[:, 1]
