"""What may pass the border between a role and its model, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imagescope.config import ModelConfig
from imagescope.engines.base import EngineClass, Request, Response, collect
from imagescope.engines.cached import Cached
from imagescope.engines.role import Role
from imagescope.engines.text import SILENT, harmless, received
from imagescope.store.cache import Cache


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Ünï ☃ \r\n\t\u2028 é 👩\u200d🚀",
            "Ünï ☃ \r\n\t\u2028 é 👩\u200d🚀",
        ),  # ordinary text stays
        ("a\x00b\x1b[31mc\x85", "a b [31mc "),
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),  # two halves
        ("\u202egnp.cat\u2066\u200f", "gnp.cat"),
    ],
)
def test_harmless_text(text: str, expected: str) -> None:
    assert harmless(text) == expected
    harmless(text).encode()
    assert received(Response(text, 3, 4)) == Response(expected, 3, 4)


class Says(EngineClass):
    """An engine that answers what its prompt says as JSON's texts do."""

    def __init__(self) -> None:
        self.identity: dict[str, Any] = {"engine": "says"}
        self.prompts: list[str] = []

    def answer(self, request: Request) -> Response:
        self.prompts.append(request.prompt)
        return Response(json.loads(f'"{request.prompt}"'))


def test_an_answer_without_text_is_an_error_and_not_kept(tmp_path: Path) -> None:
    engine, blank, odd = Says(), r"  \n", r"\ud800 \u0000"
    with Cache.open(tmp_path / "cache.sqlite") as cache:
        for _ in range(2):
            first, second = collect(Cached(engine, cache), [Request(blank), Request(odd)])
            assert (first.finish, first.error) == ("error", SILENT)
            assert (second.text, second.error) == ("\ufffd  ", None)
    assert engine.prompts == [blank, odd, blank]


def test_what_a_role_asks_is_harmless(tmp_path: Path) -> None:
    engine, request = Says(), Request("a\ud800\x00b\u202e")
    with Cache.open(tmp_path / "cache.sqlite") as cache:
        role = Role("reasoner", Cached(engine, cache), ModelConfig(model="m"))
        role.ask([request], "synthesis", ["query 1"])
        assert engine.prompts == ["a\ufffd b"]
        assert role.missing([request]) == 0
