"""The controls: what they embed, what they rank by, and what they say of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imagescope.methods.baselines import ImageText
from imagescope.records import Item, Query
from imagescope.registry import METHODS

REFERENCE = Path("r.png")
VECTORS = {"a dog": (1.0, 0.0), "a cat": (0.6, 0.8), REFERENCE: (0.0, 1.0), None: (0.0, 0.0)}
QUERIES = [Query("1", "a dog", reference="r"), Query("2", "a cat", reference="absent")]


def context(embed: Any) -> Any:
    """Two gallery images along the axes; the second query's reference is not there."""
    return SimpleNamespace(
        gallery=SimpleNamespace(files={"r": REFERENCE}),
        embed=embed,
        view=lambda kind: np.eye(2, dtype=np.float32),
        search=lambda queries, score: [],
    )


@pytest.mark.parametrize(
    ("name", "embedded", "scores"),
    [
        ("text-only", ["a dog", "a cat"], [[1.0, 0.6], [0.0, 0.8]]),
        ("image-only", [REFERENCE, None], [[0.0, 0.0], [1.0, 0.0]]),
        ("image+text", ["a dog", "a cat", REFERENCE, None], [[0.5, 0.3], [0.5, 0.4]]),
    ],
)
def test_a_control_embeds_what_it_ranks_by(name: str, embedded: Any, scores: Any) -> None:
    asked: list[Any] = []

    def embed(items: Sequence[Item], side: str) -> Any:
        assert side == "query"
        contents = [item.text or (item.images[0] if item.images else None) for item in items]
        asked.extend(contents)
        return np.array([VECTORS[content] for content in contents], np.float32)

    kind = METHODS.load(name)
    (outcome,) = kind(kind.Options()).run(QUERIES, context(embed))
    assert asked == embedded
    np.testing.assert_allclose(outcome.score.block(slice(0, 2)).numpy(), scores, atol=1e-6)
    said = [finding["synthesis"].descriptions for finding in outcome.findings]
    assert said == ([(), ()] if name == "image-only" else [("a dog",), ("a cat",)])


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_weight_of_nothing_asks_for_nothing(weight: float) -> None:
    kinds = set[str]()

    def embed(items: Sequence[Item], side: str) -> Any:
        kinds.update("text" if item.text else "image" for item in items)
        return np.zeros((len(items), 2), np.float32)

    list(ImageText(ImageText.Options(weight=weight)).run(QUERIES, context(embed)))
    assert kinds == {"image" if weight else "text"}


def test_every_method_says_how_near_it_is_to_its_paper() -> None:
    labels = {name: METHODS.load(name).label for name in METHODS}
    controls = dict.fromkeys(("text-only", "image-only", "image+text"), "control")
    papers = dict.fromkeys(("imagescope", "cirevl", "ldre"), "faithful")
    assert labels == {**papers, "seize": "from paper, settings ours", **controls}
