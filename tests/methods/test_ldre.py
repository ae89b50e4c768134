"""LDRE and SEIZE: their formulas by hand, on three images and two queries of two captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imagescope.engines.base import Request, Response
from imagescope.methods.base import Outcome, open_method
from imagescope.methods.ldre import softmax
from imagescope.methods.prompts import Prompts
from imagescope.records import Query, Ranking, Texts
from imagescope.search.scan import scan

IMAGES = np.eye(3, dtype=np.float32)
VECTORS = {  # of captions and their edits; images are the axes
    "a1": (1.0, 0.0, 0.0),
    "a2": (0.8, 0.6, 0.0),
    "a1!": (0.0, 1.0, 0.0),
    "a2!": (0.6, 0.8, 0.0),
    "b1": (0.0, 0.0, 1.0),
    "b2": (0.0, 0.6, 0.8),
    "b1!": (0.0, 0.6, 0.8),
    "b2!": (1.0, 0.0, 0.0),
}
QUERIES = [Query("1", "!", reference="x"), Query("2", "!", reference="y")]


class Reasoner:
    def ask(self, requests: Sequence[Request], label: str, about: Any) -> list[Response]:
        return [Response(f"Edited description: {request.prompt}") for request in requests]

    def unread(self, label: str, count: int) -> None:
        assert not count


def outcome(name: str, queries: Sequence[Query] = QUERIES, **options: Any) -> Outcome:
    @contextmanager
    def role(_: str) -> Iterator[Reasoner]:
        yield Reasoner()

    def search(queries: Sequence[Query], score: Any, keep: int | None = None) -> list[Ranking]:
        rows = SimpleNamespace(
            names=("x", "y", "z"), ok=np.ones(3, bool), index={"x": 0, "y": 1, "z": 2}
        )
        return scan(score, queries, rows, keep or 3)

    context: Any = SimpleNamespace(
        samples=lambda names, n, *_: {"x": ("a1", "a2")[:n], "y": ("b1", "b2")[:n]},
        role=role,
        prompts=Prompts(edit="[[REF_IMAGE_DESC]][[INSTRUCTION]]"),
        embed=lambda items, side: np.array([VECTORS[item.text] for item in items], np.float32),
        view=lambda kind: IMAGES,
        search=search,
    )
    (result,) = open_method(name, {"n": 2, **options}).run(queries, context)
    return result


def scores(result: Outcome) -> list[dict[str, float]]:
    return [dict(zip(r.names, r.scores, strict=True)) for r in result.rankings]


def test_ldres_weights_of_each_query() -> None:
    # query 1: losses (1, .2), so shares of the largest (1, .2); query 2: (.2, 1.4), so (1/7, 1)
    first, second = np.exp([1 / 0.5, 0.2 / 0.5]), np.exp([1 / 7 / 0.5, 1 / 0.5])
    w, u = first / first.sum(), second / second.sum()
    result = outcome("ldre", top=2, softmax_temperature=0.5)
    a, b = scores(result)
    assert a == pytest.approx({"x": 0.6 * w[1], "y": w[0] + 0.8 * w[1], "z": 0}, abs=1e-6)
    assert b == pytest.approx({"x": u[1], "y": 0.6 * u[0], "z": 0.8 * u[0]}, abs=1e-6)
    texts = result.findings[0]["edits"]
    assert isinstance(texts, Texts) and texts.rows[0] == (f"{w[0]:.2f}", "a1 → a1!")


def test_ldres_release_sums_over_all_queries() -> None:
    losses = np.array([1 + 0.2, 0.2 + 1.4])
    w = np.exp(losses / losses.max() / 0.5)
    w /= w.sum()
    (a, b) = scores(outcome("ldre", top=2, softmax_temperature=0.5, release=True))
    assert a == pytest.approx({"x": 0.6 * w[1], "y": w[0] + 0.8 * w[1], "z": 0}, abs=1e-6)
    assert b == pytest.approx({"x": w[1], "y": 0.6 * w[0], "z": 0.8 * w[0]}, abs=1e-6)
    # another query of the split changes the weights of this one: what the switch is about
    alone = scores(outcome("ldre", QUERIES[:1], top=2, softmax_temperature=0.5, release=True))
    assert alone[0]["y"] != pytest.approx(a["y"], abs=1e-3)
    mean = scores(outcome("ldre", weighting="none"))[0]
    assert mean == pytest.approx({"x": 0.3, "y": 0.9, "z": 0}, abs=1e-6)


def test_one_image_alone_weighs() -> None:
    """top 1: query 2's second caption loses .8 on z, not also .6 on y."""
    w = np.exp([0.2 / 0.8 / 0.5, 1 / 0.5])
    b = scores(outcome("ldre", top=1, softmax_temperature=0.5))[1]
    assert b["x"] == pytest.approx(w[1] / w.sum(), abs=1e-6)


def test_seize_counts_gain_and_loss_apart() -> None:
    result = outcome("seize", loss_weight=2.0, gain_weight=0.5, drop_reference=False)
    before, after = np.array([1.8, 0.6, 0]), np.array([0.6, 1.8, 0])  # sums: the norm is the same
    before, after = before / np.linalg.norm(before), after / np.linalg.norm(after)
    gain = after - before
    expected = after + 2.0 * np.minimum(gain, 0) + 0.5 * np.maximum(gain, 0)
    assert scores(result)[0] == pytest.approx(dict(zip("xyz", expected, strict=True)), abs=1e-6)
    dropped = outcome("seize").rankings
    assert "x" not in dropped[0].names and "y" not in dropped[1].names


def test_a_reference_without_captions_leaves_the_instruction() -> None:
    VECTORS["!"] = (0.0, 0.0, 1.0)
    queries = [QUERIES[0], Query("3", "!", reference="gone")]
    for name in ("ldre", "seize"):
        assert outcome(name, queries).rankings[1].names[0] == "z"


def test_softmax_where_nothing_is_lost_or_there() -> None:
    real = np.array([[True, True], [True, False]])
    assert softmax(np.zeros((2, 2)), real, 0.04).tolist() == [[0.5, 0.5], [1, 0]]
