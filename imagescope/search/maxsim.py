"""Late interaction (ColBERT: Khattab and Zaharia, SIGIR 2020): tokens against tokens."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from imagescope.arrays import Array, forget
from imagescope.search.score import ALL, COLUMNS, ROWS, Index, Score, on_device, padded

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
    ):
        if tokens.ndim != 3 or view.ndim != 3 or tokens.shape[2] != view.shape[2]:
            raise ValueError(f"query tokens {tokens.shape} do not fit a view {view.shape}")
        self.tokens, self.view, self.mean = tokens, view, mean
        self.used = np.ones(tokens.shape[:2], bool) if used is None else used
        self.view_used = np.ones(view.shape[:2], bool) if view_used is None else view_used

    @cached_property
    def _on_device(self) -> tuple[Tensor, Tensor]:
        """Query tokens (queries, K, d), and what each one's best match counts for (queries, K)."""
        counts = self.used.sum(1, keepdims=True).clip(1) if self.mean else 1
        return on_device(self.tokens), on_device(self.used / counts)

    def block(self, rows: Index, columns: Index = ALL) -> Tensor:
        import torch

        tokens, weights = (part[columns] for part in self._on_device)
        images = on_device(self.view[rows])
        hidden = torch.from_numpy(~self.view_used[rows]).to(images.device)
        step = max(1, CELLS // max(1, images.shape[1] * weights.numel()))
        parts = zip(images.split(step), hidden.split(step), strict=True)
        scores = torch.cat([_best(*part, tokens, weights) for part in parts])
        forget(self.view)
        return scores


def _best(images: Tensor, hidden: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
    """(rows, columns), of images' tokens (rows, L, d) of which some are hidden, (rows, L)."""
    pairs = padded(images.flatten(0, 1), ROWS) @ padded(tokens.flatten(0, 1), COLUMNS).T
    cells = pairs[: hidden.numel(), : weights.numel()].unflatten(0, hidden.shape)
    if hidden.any():
        cells = cells.masked_fill(hidden[..., None], float("-inf"))
    best = cells.amax(1).unflatten(1, weights.shape)
    best = best.masked_fill(weights == 0, 0.0)  # 0 * infinity is not a number
    return (best * weights).sum(2)
