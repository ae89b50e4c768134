"""CIReVL: an edited caption, and what stands in for it where the reasoner gives none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from imagescope.engines.base import Response
from imagescope.methods.cirevl import CIReVL, CIReVLOptions
from imagescope.methods.parsing import labelled
from imagescope.methods.prompts import Prompts, load_prompts
from imagescope.records import Item, Query


@pytest.mark.parametrize(
    ("text", "edit"),
    [
        ("Edited description: A black dog.", "A black dog."),
        ("Sure.\n**Edited Description:** A black dog.\nBye", "A black dog."),
        ("- edited description : a dog: black", "a dog: black"),
        ("The edited description is missing", ""),
        ("", ""),
    ],
)
def test_the_line_behind_the_label(text: str, edit: str) -> None:
    assert labelled(text, "Edited description") == edit
    if ":" in edit:
        assert labelled(text, "Edited description", cut_at_colon=True) == "a dog"


class Reasoner:
    """Answers with what it is given; keeps what it was asked."""

    def __init__(self, *answers: str):
        self.answers, self.prompts, self.not_understood = answers, list[str](), 0

    def ask(self, requests: Any, label: str, about: Sequence[str]) -> list[Response]:
        self.prompts += [request.prompt for request in requests]
        return [Response(text) for text in self.answers]

    def unread(self, label: str, count: int) -> None:
        self.not_understood += count


def test_it_ranks_by_the_edit_or_else_by_the_instruction() -> None:
    """Two images, two queries; vectors of texts are written here."""
    reasoner = Reasoner("Edited description: a black dog", "I cannot say.")
    vectors = {"a black dog": (0.6, 0.8), "make it a cat": (1.0, 0.0)}

    @contextmanager
    def role(name: str) -> Iterator[Reasoner]:
        assert name == "reasoner"
        yield reasoner

    def embed(items: Sequence[Item], side: str) -> Any:
        assert side == "query"
        return np.array([vectors[item.text] for item in items], np.float32)

    scores: list[Any] = []
    context: Any = SimpleNamespace(
        prompts=Prompts(edit="[[REF_IMAGE_DESC]] | [[INSTRUCTION]]"),
        captions=lambda names: {"r": "a white dog"},
        role=role,
        embed=embed,
        view=lambda kind: np.eye(2, dtype=np.float32),
        search=lambda queries, score: scores.append(score.block(slice(0, 2))) or [],
    )
    queries = [
        Query("1", "make it black", reference="r"),
        Query("2", "make it a cat", reference="x"),
    ]
    (outcome,) = CIReVL(CIReVLOptions()).run(queries, context)
    assert reasoner.prompts == ["a white dog | make it black", " | make it a cat"]
    found: list[Any] = [finding["synthesis"] for finding in outcome.findings]
    assert [s.descriptions for s in found] == [("a black dog",), ("make it a cat",)]
    assert [s.parse for s in found] == ["ok", "fallback: no edited description"]
    assert reasoner.not_understood == 1
    np.testing.assert_allclose(scores[0].numpy(), [[0.6, 1.0], [0.8, 0.0]], atol=1e-6)


@pytest.mark.parametrize("name", ["general", "dress", "tiny"])
def test_its_prompts_load_with_every_set(name: str) -> None:
    prompts = load_prompts(name, "CIRR", CIReVL.prompts, CIReVL.name)
    assert set(prompts) == {"caption", "edit"}
    assert ("garment" in prompts["edit"]) == (name == "dress")
