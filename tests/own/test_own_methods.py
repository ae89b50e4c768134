"""Own pictures with any method: those there are, and one that brings findings of every kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from own_oracle import ASKED, LOADED, oracle, scenes
from PIL import Image
from typer.testing import CliRunner

from imagescope.cli.app import app
from imagescope.errors import UserError
from imagescope.methods.base import Context, Method, Options, Outcome, Stage, open_method
from imagescope.own import library, show
from imagescope.own.conversation import Conversation
from imagescope.own.indexing import build
from imagescope.own.scope import ImageScope
from imagescope.records import Images, Query, Ranking, Table, Texts
from imagescope.registry import METHODS, Registry

__all__ = ["oracle"]
HOSTILE = "</p><img src=x onerror=alert(1)>"
Register = Callable[[Registry, str, Any], None]


class AboveOptions(Options):
    base: str = "text-only"


class Above(Method):
    """Ranks by a base's score, then by the other end of it; says something of every kind."""

    name = "above"
    summary = "for a test"
    Options = AboveOptions
    stages = (Stage("look", "Look around", "look"), Stage("turn", "Turn around", "turn"))

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        base = open_method(self.options.base)
        *_, before = base.run(queries, context)
        assert before.score is not None
        best = before.rankings[0].names
        texts = Texts(f"Atoms {HOSTILE}", (("object", HOSTILE), ("", "red")))
        shown = Images("Near", ((best[0], HOSTILE), ("gone.png", "no more")))
        drawn = Images("Drawn", (("drawn/1.png", "seed 0"), ("../x.png", "")), files=True)
        found = {"a": texts, "b": shown, "c": drawn, "d": None}
        yield Outcome("look", before.rankings, [found], before.score)
        rankings = context.search(queries, -1.0 * before.score)
        last = rankings[0].names[0]
        rows = ((last, (True, False, 0.25)), (best[0], (None, True, HOSTILE)))
        table = Table("checks", ("Is it red?", "Is it old?", "share"), rows, (True, True, None))
        yield Outcome("turn", rankings, [{"table": table}], -1.0 * before.score)


class Unscored(Method):
    name, summary = "unscored", "rankings without scores"
    stages = (Stage("only", "Only", "only"),)

    def run(self, queries: Sequence[Query], context: Context) -> Iterator[Outcome]:
        names = context.gallery.names
        yield Outcome("only", [Ranking(names[: context.keep], pool=len(names))], [{}])


@pytest.fixture
def captions(oracle: str, tmp_path: Path, register: Register) -> list[str]:
    """Thirty scenes, indexed as 'n'; a picture that a model might have drawn."""
    texts = scenes(tmp_path / "in", 30)
    build(tmp_path / "in", "n", oracle)
    drawn = library.home() / "image_db" / "drawn"
    drawn.mkdir()
    for path in (drawn / "1.png", drawn.parent.parent / "x.png"):
        Image.new("RGB", (800, 400), "red").save(path)
    register(METHODS, "above", Above)
    register(METHODS, "unscored", Unscored)
    ASKED.clear()
    return texts


def test_the_controls_ask_no_model(captions: list[str], tmp_path: Path) -> None:
    for method in ("image-only", "image+text"):
        with ImageScope.open("n", method=method) as scope:
            (answer,) = scope.stages(captions[7], "003.png", glance=True)
        assert (answer.method, answer.stage, answer.upcoming) == (method, "s1", "")
        assert len(answer) == 10 and "003.png" not in [r.name for r in answer]
    with ImageScope.open("n", method="text-only") as scope:
        (answer,) = scope.stages(captions[7], glance=True)
    assert answer[0].name == "007.png" and not ASKED and not LOADED
    assert [show.verdict(result) for result in answer] == ["by similarity"] * 10


def test_cirevl_says_what_it_looked_for(captions: list[str]) -> None:
    with ImageScope.open("n", method="cirevl") as scope:
        first, answer = scope.stages("keep it", "005.png", glance=True)
        assert (first.stage, first.upcoming) == ("s0", "Caption edit and retrieval")
        assert show.understanding(answer) == [f"looking for: {captions[5]} keep it"]
        assert [f"Image: {captions[5]}\nEdit: keep it"] == ASKED
        with pytest.raises(UserError, match="cirevl starts from a reference picture, and there is"):
            scope.search("a red circle")
    with pytest.raises(UserError, match="method cirevl has no option stages"):
        ImageScope.open("n", method="cirevl", options={"stages": "s1"})
    with pytest.raises(UserError, match="no method is named cirvel"):
        ImageScope.open("n", method="cirvel")


def test_a_method_without_dialogues_gets_all_that_was_said(captions: list[str]) -> None:
    talk = Conversation()
    with ImageScope.open("n", method="text-only") as scope:
        list(talk.say(scope, "a red circle"))
        *_, answer = talk.say(scope, "and a blue cross")
        alone = scope.search("a red circle, and a blue cross")
    assert answer.carried == "a red circle, and a blue cross"
    assert [r.score for r in answer] == [r.score for r in alone]


def test_a_score_stands_on_anothers(captions: list[str]) -> None:
    """Both searches rank by the base's score, and the last one's is shown; its best is far below
    what the first stage kept."""
    with ImageScope.open("n", method="text-only") as scope:
        base = scope.search(captions[4], top=30)
    with ImageScope.open("n", method="above") as scope:
        first, second = scope.stages(captions[4], top=5)
    assert [r.name for r in first] == [r.name for r in base[:5]]
    assert [r.score for r in first] == [r.score for r in base[:5]]
    scores = {r.name: r.score for r in base}
    assert second[0].score == pytest.approx(-min(scores.values()))
    assert all(r.score == pytest.approx(-scores[r.name]) for r in second)
    assert [r.explanation.first_rank for r in second] == [None] * 5
    assert "was not among the best" in show.verdict(second[0])


def test_findings_of_every_kind_are_shown(captions: list[str]) -> None:
    with ImageScope.open("n", method="above") as scope:
        first, answer = scope.stages(captions[4], top=30)
        picture = first[0].thumbnail
    assert first.upcoming == "Turn around" and answer.title == "Turn around"
    assert show.understanding(answer) == [
        f"Atoms {HOSTILE}, object: {HOSTILE}",
        f"Atoms {HOSTILE}: red",
        f"Near: {HOSTILE}: 004.png",
        "Near: no more: gone.png",
        "Drawn: seed 0: drawn/1.png",
        "Drawn: ../x.png",
    ]
    drawn = library.home() / "image_db" / "drawn" / "1.png"
    assert [file for _, file in answer.lines] == [None, None, picture, None, drawn, None]
    best = answer[0]
    assert show.verdict(best).startswith("1 of 2 passed (checks); not: Is it old? no, wanted yes")
    assert [line.strip() for line in show.explain(best)][-3:] == [
        "passed: Is it red? yes",
        "failed: Is it old? no, wanted yes",
        "share: 0.25",
    ]
    found = json.loads(json.dumps(show.as_json(answer), allow_nan=False))
    assert found["results"][0]["notes"][1]["passed"] is False and len(found["findings"]) == 6
    for html in (
        show.page(answer, "n"),
        show.meaning(answer) + show.cards(answer[-1:], show.Served(False), True),
    ):
        assert HOSTILE not in html and "&lt;img src=x" in html and str(drawn) not in html
        assert "seed 0" in html and html.count(" (no image)") == 2
        small = show.data_uri(drawn, shrink=True)
        assert small in html and len(small) < 20_000 and show.data_uri(picture) in html


def test_rankings_without_scores(captions: list[str]) -> None:
    with ImageScope.open("n", method="unscored") as scope:
        answer = scope.search("anything", top=2)
    assert [show.score(r) for r in answer] == ["–", "–"] and answer.carried == "anything"
    assert show.as_json(answer)["results"][0]["score"] is None and "NaN" not in show.page(
        answer, "n"
    )


def test_the_commands_take_a_method(captions: list[str], tmp_path: Path) -> None:
    def search(*words: str) -> Any:
        return CliRunner().invoke(app, ["search", "n", "keep it", *words])

    page, words = tmp_path / "out.html", ("--method", "image+text", "--option", "weight=1")
    told = search(*words, "--reference", "003.png", "--html", str(page))
    assert (
        told.exit_code == 0 and "by similarity" in told.output and "image+text" in page.read_text()
    )
    told = search("--method", "cirevl", "--reference", "003.png")
    assert f"looking for: {captions[3]} keep it" in " ".join(told.output.split())
    for words in (("--method", "image+text"), ("--method", "cirevl", "--stages", "s1")):
        told = search(*words)
        assert isinstance(told.exception, UserError) and "\n" not in str(told.exception)
    told = CliRunner().invoke(app, ["chat", "n", "--method", "cirevl"], input="a red circle\n")
    assert told.exit_code == 0 and "starts from a reference picture" in " ".join(
        told.output.split()
    )


def test_a_server_warms_a_method_that_needs_a_reference(captions: list[str]) -> None:
    from imagescope.own.desk import Desk

    desk = Desk(lambda: ImageScope.open("n", method="cirevl"))
    desk.warm()
    desk.close()
    assert "warming up" in ASKED[0] and ASKED[0].startswith(f"Image: {captions[0]}")
