"""Late interaction (ColBERT: Khattab and Zaharia, SIGIR 2020): tokens against tokens."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from imagescope.arrays import Array, forget
from imagescope.search.score import Score, as_columns, device_or_default, padded_rows, view_rows

if TYPE_CHECKING:
    from torch import Tensor

CELLS = 1 << 24  # token similarities in memory at once


class MaxSim(Score):
    """Each of a query's tokens takes its best match among an image's tokens.

    With one token a query it is a vector against tokens; with one token each, it is Dot.

    tokens: float32 (queries, K, d).  view: float32 (images, L, d).  `used` and `view_used`, bool
    (queries, K) and (images, L), say which tokens count where numbers of tokens differ; None: all.
    mean: the mean over a query's tokens, otherwise their sum. A query without tokens scores 0
    everywhere, an image without tokens minus infinity. Raises ValueError where shapes do not fit.
    """

    def __init__(
        self,
        tokens: Array,
        view: Array,
        *,
        used: Array | None = None,
        view_used: Array | None = None,
        mean: bool = True,
        device: str | None = None,
    ):
        if tokens.ndim != 3 or view.ndim != 3 or tokens.shape[2] != view.shape[2]:
            raise ValueError(f"query tokens {tokens.shape} do not fit a view {view.shape}")
        self.tokens, self.view, self.mean = tokens, view, mean
        self.device = device_or_default(device)
        self.used = np.ones(tokens.shape[:2], bool) if used is None else used
        self.view_used = view_used

    @cached_property
    def _columns(self) -> Tensor:
        return as_columns(self.tokens.reshape(-1, self.tokens.shape[2]), self.device)

    @cached_property
    def _weights(self) -> Tensor:
        """(queries, K): what each query token's best match counts for."""
        import torch

        counts = self.used.sum(1, keepdims=True).clip(1) if self.mean else 1
        return torch.from_numpy((self.used / counts).astype(np.float32)).to(self.device)

    def block(self, rows: slice | Array) -> Tensor:
        import torch

        images = view_rows(self.view, rows, self.device)
        hidden = None if self.view_used is None else torch.from_numpy(~self.view_used[rows])
        step = max(1, CELLS // (images.shape[1] * self._columns.shape[1]))
        blocks = [
            self._best(images[a : a + step], None if hidden is None else hidden[a : a + step])
            for a in range(0, max(1, len(images)), step)
        ]
        forget(self.view)
        return torch.cat(blocks)

    def _best(self, images: Tensor, hidden: Tensor | None) -> Tensor:
        """(rows, queries) of images' tokens (rows, L, d)."""
        import torch

        queries, count = self.tokens.shape[:2]
        cells = padded_rows(images.flatten(0, 1)) @ self._columns
        cells = cells[: images.shape[0] * images.shape[1], : queries * count]
        cells = cells.unflatten(0, images.shape[:2])
        if hidden is not None:
            cells = cells.masked_fill(hidden[..., None].to(cells.device), -torch.inf)
        best = cells.amax(1).unflatten(1, (queries, count))
        best = best.masked_fill(self._weights == 0, 0.0)  # 0 * infinity is not a number
        return (best * self._weights).sum(2)
