"""Sampled answers whose draws depend on each request's seed alone, not on its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def sampler(temperature: float, top_p: float, seeds: Sequence[int]) -> Any:
    """A logits processor of transformers that turns greedy decoding into sampling.

    The most probable token of logits / temperature + Gumbel noise is a draw from their softmax
    (Gumbel, 1954). Each row of a batch has noise from its own seed. top_p: tokens outside of the
    most probable ones that make up this share are never drawn.
    """
    import torch

    class Sampler:
        def __init__(self) -> None:
            self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

        def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            scores = scores.float() / temperature
            if top_p < 1:
                ordered, order = scores.sort(dim=-1, descending=True)
                shares = ordered.softmax(-1)
                beyond = shares.cumsum(-1) - shares >= top_p  # never the most probable one
                outside = torch.zeros_like(beyond).scatter(-1, order, beyond)
                scores = scores.masked_fill(outside, float("-inf"))
            draws = [torch.rand(scores.shape[-1], generator=g) for g in self._generators]
            exponential = -torch.stack(draws).clamp(min=1e-20).log()
            noise = -exponential.clamp(min=1e-20).log()
            return scores + noise.to(scores.device)

    return Sampler()
