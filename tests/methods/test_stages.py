"""The stages as functions from records to records, against models whose answers are written here.

The scripted engine stands where a model would; it lives in the tests alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from imagescope.config import ModelConfig
from imagescope.engines.base import (
    Answers,
    EngineClass,
    Pair,
    Picture,
    Request,
    Requests,
    Response,
    blocks,
)
from imagescope.engines.cached import EngineStats
from imagescope.engines.role import Role
from imagescope.engines.text import received
from imagescope.methods.evaluation import evaluate
from imagescope.methods.parsing import QUESTIONS_SCHEMA, SYNTHESIS_SCHEMA
from imagescope.methods.prompts import Prompts
from imagescope.methods.ranking import reorder
from imagescope.methods.synthesis import ask_questions, synthesise
from imagescope.methods.verification import verify
from imagescope.records import BLANK_IMAGE, Edit, Query, Question, Ranking, Synthesis

PROMPTS = Prompts(
    caption="c",
    synthesis="S|[[REF_IMAGE_DESC]]|[[INSTRUCTION]]",
    questions="Q|[[INSTRUCTION]]|[[ATOMIC_INST]]",
    evaluation="E|[[INSTRUCTION]]",
)
FILES = {name: Path(f"{name}.png") for name in "abcdefgh"}


class Scripted(EngineClass):
    """Answers by a function, last request first, as an engine may."""

    def __init__(self, answer: Callable[[Request], Response]):
        self.answer, self.requests, self.batches = answer, list[Request](), 0
        self.identity: dict[str, Any] = {}
        self.stats = EngineStats()

    def generate(self, requests: Requests) -> Iterator[Answers]:
        for block in blocks(requests):
            self.batches += bool(block)
            self.requests += [request for _, request in block]
            yield {i: self.answer(request) for i, request in reversed(block)}


def role(answer: Callable[[Request], str | Response], **config: Any) -> tuple[Role, Scripted]:
    def respond(request: Request) -> Response:
        found = answer(request)
        return Response(found) if isinstance(found, str) else found

    engine = Scripted(respond)
    return Role("test", engine, ModelConfig(model="m", **config)), engine  # type: ignore[arg-type]


def ranking(names: str, **ranks: int) -> Ranking:
    return Ranking(tuple(names), ranks=ranks, pool=100)


# -- synthesis ------------------------------------------------------------------------------


def fold(request: Request) -> str:
    _, reference, instruction = request.prompt.split("|")
    return json.dumps(
        {"step1": [["Addition", instruction]], "step2": [f"{reference}+{instruction}", "x"]}
    )


def test_composed_text_and_dialogue_in_one_list() -> None:
    queries = [
        Query("1", "add a dog", reference="a"),
        Query("2", "a cat"),
        Query("3", "opening", verbatim=True),
        Query("3", "q? yes", turn=1),
        Query("3", "r? no", turn=2),
    ]
    reasoner, engine = role(fold, max_tokens=99)
    found = synthesise(queries, {"a": " a beach "}, reasoner, PROMPTS)
    assert found[0].descriptions == ("a beach+add a dog", "x")  # [[REF_IMAGE_DESC]] is stripped
    assert found[1].reference_description == BLANK_IMAGE
    assert found[2].descriptions == ("opening",) and found[2].edits == ()
    # a round's descriptions are all ranked by; the first alone goes on to the next round
    assert found[3].descriptions == ("opening+q? yes", "x")
    assert found[4].descriptions == ("opening+q? yes+r? no", "x")
    assert engine.batches == 2  # an opening is not asked about, so the first round goes with others
    assert {r.max_tokens for r in engine.requests} == {99}


def test_dialogues_advance_together() -> None:
    queries = [
        Query(str(d), f"q{d}{t}", turn=t, verbatim=t == 0) for d in range(5) for t in range(4)
    ]
    reasoner, engine = role(fold)
    synthesise(queries, {}, reasoner, PROMPTS)
    assert engine.batches == 3 and len(engine.requests) == 15


def test_a_round_without_description_carries_the_previous_on() -> None:
    """Named deviation: within the same dialogue only."""
    queries = [
        Query("1", "first caption", verbatim=True),
        Query("1", "bad", turn=1),
        Query("1", "good", turn=2),
        Query("2", "other caption", verbatim=True),
        Query("2", "bad", turn=1),
    ]
    reasoner, _ = role(lambda r: "nonsense" if "bad" in r.prompt else fold(r))
    found = synthesise(queries, {}, reasoner, PROMPTS)
    assert found[1].descriptions == ("first caption",)
    assert found[2].descriptions == ("first caption+good", "x")
    assert found[4].descriptions == ("other caption",)


def test_fallbacks_of_the_description() -> None:
    """Named deviation: text-to-image falls back to the instruction, not to a blank image."""
    queries = [Query("1", "add a dog", reference="a"), Query("2", "a cat"), Query("3", " ")]
    reasoner, _ = role(lambda r: "")
    found = synthesise(queries, {"a": "a beach"}, reasoner, PROMPTS)
    assert [f.descriptions for f in found] == [("a beach",), ("a cat",), (BLANK_IMAGE,)]
    assert all(f.parse.startswith("fallback") for f in found)
    assert found[0].edits == (Edit("Modification", "add a dog"),)


def test_a_reference_without_caption_runs_on_the_instruction() -> None:
    reasoner, engine = role(fold)
    synthesise([Query("1", "add a dog", reference="gone")], {}, reasoner, PROMPTS)
    assert engine.requests[0].prompt == f"S|{BLANK_IMAGE}|add a dog"


def test_an_engine_error_is_a_fallback_that_says_why() -> None:
    reasoner, _ = role(lambda r: Response("", error="prompt too long"))
    (found,) = synthesise([Query("1", "a cat")], {}, reasoner, PROMPTS)
    assert found.parse == "fallback: prompt too long"


def test_questions_see_the_edits_and_skip_the_opening() -> None:
    queries = [Query("1", "opening", verbatim=True), Query("2", "do it")]
    syntheses = [
        Synthesis("", (), ("opening",)),
        Synthesis("", (Edit("Addition", "a dog"), Edit("Removal", "a cat")), ("d",)),
    ]
    reasoner, engine = role(lambda r: '{"step2": [["Is there a dog?", "True"]]}')
    found = ask_questions(queries, syntheses, reasoner, PROMPTS)
    assert [r.prompt for r in engine.requests] == [
        "Q|do it|\n   (1) Addition: a dog\n   (2) Removal: a cat"
    ]
    assert found[0].questions == ()
    assert found[1].questions == (Question("Is there a dog?", True),)


# -- verification ---------------------------------------------------------------------------


def with_questions(*questions: tuple[str, bool]) -> Synthesis:
    return Synthesis("", (), ("d",), tuple(Question(t, e) for t, e in questions))


def test_verification_sorts_the_head_stably() -> None:
    yes = {("b", "dog?"), ("d", "dog?"), ("a", "cat?"), ("b", "cat?")}

    def answer(request: Request) -> Response:
        (image,) = request.images
        assert isinstance(image, Picture) and request.max_tokens == 1
        question = request.prompt.removeprefix("Answer the question with Yes or No. ")
        said = (Path(image.path).stem, question) in yes
        return Response("Yes" if said else "no", probabilities=(0.9, 0.1) if said else (0.2, 0.8))

    verifier, engine = role(answer)
    synthesis = with_questions(("dog?", True), ("cat?", False))
    ((found,), (after,)) = verify(
        [Query("1", "x")], [synthesis], [ranking("abcde", b=1, d=3, e=4, z=77)], FILES, verifier, 4
    )
    # a: no dog, cat -> 0; b: dog, cat -> 1; c: no dog, no cat -> 1; d: dog, no cat -> 2
    assert found is not None and found.scores == (0, 1, 1, 2)
    assert after.names == ("d", "b", "c", "a", "e")
    assert after.ranks == {"b": 1, "d": 0, "e": 4, "z": 77}
    assert found.candidates == tuple("abcd") and found.answers[0] == (False, True)
    assert found.yes[3] == (0.9, 0.2)
    assert len(engine.requests) == 8


def test_requests_are_ordered_by_image_and_asked_once() -> None:
    verifier, engine = role(lambda r: "yes")
    synthesis = with_questions(("dog?", True), ("cat?", True))
    queries = [Query("1", "x"), Query("2", "x")]
    verify(queries, [synthesis] * 2, [ranking("ab"), ranking("ba")], FILES, verifier, 20)
    assert [str(r.images[0].path) for r in engine.requests] == ["a.png"] * 2 + ["b.png"] * 2
    assert verifier.steps["verification"].duplicates == 4


def test_no_question_keeps_the_ranking_and_an_unread_image_satisfies_nothing() -> None:
    verifier, _ = role(
        lambda r: Response("", error="broken") if r.images[0].path == "a.png" else "no"
    )
    none, some = with_questions(), with_questions(("dog?", False))
    queries = [Query("1", "x"), Query("2", "x")]
    before = ranking("abc", a=0)
    (v0, v1), (r0, r1) = verify(queries, [none, some], [before, before], FILES, verifier, 20)
    assert (v0, r0) == (None, before)
    assert r1.names == ("b", "c", "a") and r1.ranks == {"a": 2}
    assert v1 is not None and v1.answers[0] == (None,)


def test_what_is_not_understood_is_counted_and_satisfies_nothing() -> None:
    said = {"a": "Ja", "b": "No", "c": ""}
    verifier, _ = role(lambda r: received(Response(said[Path(r.images[0].path).stem])))
    synthesis = with_questions(("dog?", False))
    ((found,), (after,)) = verify(
        [Query("1", "x")], [synthesis], [ranking("abc")], FILES, verifier, 3
    )
    assert found is not None and found.answers == ((None,), (False,), (None,))
    assert found.scores == (0, 1, 0) and after.names == tuple("bac")
    assert found.unread == ((0, 0, "Ja"),)  # c was not answered at all
    step = verifier.steps["verification"]
    assert (step.unread, step.errors) == (1, 1)
    ((paper,), _) = verify(
        [Query("1", "x")], [synthesis], [ranking("ab")], FILES, verifier, 3, "paper"
    )
    assert paper is not None and paper.answers == ((False,), (False,)) and paper.unread == ()


def test_a_verifier_that_thinks_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    verifier, engine = role(lambda r: "<think>", answer_tokens=7)
    for _ in range(2):
        verify(
            [Query("1", "x")],
            [with_questions(("dog?", True))],
            [ranking("ab")],
            FILES,
            verifier,
            2,
        )
    (message,) = [r.message for r in caplog.records if r.levelname == "WARNING"]
    assert "2 of 2" in message and "enable_thinking: false" in message
    assert {r.max_tokens for r in engine.requests} == {7}


def test_the_first_tokens_probabilities_are_no_thinkers() -> None:
    said = {"a": "<think>hm</think>Yes", "b": "Yes"}
    verifier, _ = role(
        lambda r: Response(said[Path(r.images[0].path).stem], probabilities=(0.9, 0.1))
    )
    ((found,), _) = verify(
        [Query("1", "x")], [with_questions(("dog?", True))], [ranking("ab")], FILES, verifier, 2
    )
    assert found is not None and found.answers == ((True,), (True,))
    assert math.isnan(found.yes[0][0]) and found.yes[1] == (0.9,)


def test_the_reasoner_is_held_to_a_schema_where_its_role_asks() -> None:
    for asks in (False, True):
        reasoner, engine = role(fold, json_schema=asks)
        found = synthesise([Query("1", "a cat")], {}, reasoner, PROMPTS)
        ask_questions([Query("1", "a cat")], found, reasoner, PROMPTS)
        schemas = [r.schema for r in engine.requests]
        assert schemas == ([SYNTHESIS_SCHEMA, QUESTIONS_SCHEMA] if asks else [None, None])


def test_a_reasoner_that_is_not_understood_is_counted() -> None:
    reasoner, _ = role(lambda r: fold(r) if "cat" in r.prompt else "<think>so")
    queries = [Query("1", "a cat"), Query("2", "a dog")]
    found = synthesise(queries, {}, reasoner, PROMPTS)
    assert found[1].parse == "fallback: only reasoning"
    ask_questions(queries, found, reasoner, PROMPTS)
    assert reasoner.steps["synthesis"].unread == 1
    assert reasoner.steps["questions"].unread == 2


# -- evaluation -----------------------------------------------------------------------------


def test_the_first_yes_moves_up_and_ends_the_query() -> None:
    accepted = {("x", "c"), ("x", "b"), ("y", "d"), (None, "a")}

    def answer(request: Request) -> str:
        (pair,) = request.images
        assert isinstance(pair, Pair)
        left = Path(pair.left).stem if pair.left else None
        return "ANSWER: Yes" if (left, Path(pair.right).stem) in accepted else "ANSWER: No. yes"

    evaluator, engine = role(answer)
    files = {**FILES, "x": Path("x.png"), "y": Path("y.png")}
    queries = [
        Query("1", " Make it RED. ", reference="x"),
        Query("2", "no", reference="y"),
        Query("3", "text"),
        Query("4", "opening", verbatim=True),
    ]
    before = ranking("abcdef", a=0, b=1, c=2, d=3)
    found, after = evaluate(queries, [before] * 4, files, evaluator, PROMPTS["evaluation"], 3)
    assert after[0].names == tuple("bacdef")
    assert after[0].ranks == {"a": 1, "b": 0, "c": 2, "d": 3}
    assert [j.candidate for j in found[0].judgements] == ["a", "b"]  # type: ignore[union-attr]
    assert after[1] == before and len(found[1].judgements) == 3  # type: ignore[union-attr]
    assert after[2].names == before.names
    assert (found[3], after[3]) == (None, before)
    assert "E|make it red" in {r.prompt for r in engine.requests}
    assert engine.batches == 3


def test_alpha_beyond_the_ranking_and_what_cannot_be_judged() -> None:
    evaluator, engine = role(lambda r: Response("ANSWER: Yes", error="unreadable"))
    before = ranking("ab", a=0)
    ((found,), (after,)) = evaluate([Query("1", "x")], [before], FILES, evaluator, "E", 10)
    assert after.names == ("a", "b") and len(engine.requests) == 2
    assert found is not None and found.judgements[0].text == "(not judged: unreadable)"


def test_a_judgement_that_is_not_understood_is_counted_and_not_accepted() -> None:
    evaluator, _ = role(lambda r: "Ja" if r.images[0].right == "a.png" else "**ANSWER:** yes")
    ((found,), (after,)) = evaluate([Query("1", "x")], [ranking("abc")], FILES, evaluator, "E", 3)
    assert found is not None and after.names == tuple("bac")
    assert [(j.accepted, j.unread) for j in found.judgements] == [(False, True), (True, False)]
    assert evaluator.steps["evaluation"].unread == 1


def test_reorder_keeps_what_lies_behind_the_head() -> None:
    after = reorder(ranking("abcd", c=2, d=3, far=999), ["b", "a"])
    assert after.names == tuple("bacd") and after.ranks == {"c": 2, "d": 3, "far": 999}
