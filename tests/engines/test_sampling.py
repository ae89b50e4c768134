"""Sampled answers: draws from the softmax, by each request's own seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from imagescope.config import ModelConfig
from imagescope.engines.base import Request, collect
from imagescope.engines.cached import _material
from imagescope.engines.sampling import sampler
from imagescope.engines.transformers import Transformers

REASONER = Path(__file__).parents[2] / "data" / "tiny" / "models" / "reasoner"


def test_draws_follow_the_softmax() -> None:
    import torch

    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8)):
        draw = sampler(temperature, top_p, range(4000))
        counts = draw(torch.zeros(0), logits.repeat(4000, 1)).argmax(-1).bincount(minlength=4)
        expected = (logits / temperature).softmax(-1)
        if top_p < 1:  # the first two make up 0.88, the first alone 0.64
            expected = torch.tensor([*expected[:2].tolist(), 0.0, 0.0])
            expected /= expected.sum()
            assert counts[2:].sum() == 0
        assert (counts / 4000 - expected).abs().max() < 0.03  # four standard deviations


def test_a_seed_decides_and_company_does_not() -> None:
    if not REASONER.is_dir():
        pytest.skip("no tiny reasoner here")
    engine = Transformers(ModelConfig(model=str(REASONER)))
    request = Request("Image: a red circle\nEdit: make it", max_tokens=12, temperature=1.5)
    several = [replace(request, seed=seed) for seed in range(6)]
    together = [r.text for r in collect(engine, [*several, replace(request, temperature=0.0)])]
    assert len(set(together)) > 3
    assert [collect(engine, [r])[0].text for r in several[::-1]] == together[5::-1]


def test_greedy_requests_keep_their_keys() -> None:
    assert "temperature" not in _material(Request("a"), {})
    sampled = Request("a", temperature=1.0, seed=2)
    assert {"temperature", "seed"} <= _material(sampled, {}).keys()
