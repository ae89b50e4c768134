"""How a result's reasons read where a model gave no answer, or none that was understood."""

from __future__ import annotations

from math import nan

from imagescope.own.answers import Explanation, State
from imagescope.own.show import decision, statement
from imagescope.records import (
    UNJUDGED,
    Evaluation,
    Judgement,
    Query,
    Question,
    Ranking,
    Synthesis,
    Verification,
)


def test_not_understood_is_neither_no_nor_silence() -> None:
    questions = (Question("Is it red?", True), Question("Is it old?", True))
    seen = Verification(("a",), ((nan, nan),), ((None, None),), (0,), ((0, 0, "Perhaps"),))
    judged = Evaluation(
        (Judgement("a", False, "Hm.", True), Judgement("b", False, f"{UNJUDGED}: unreadable)"))
    )
    synthesis = Synthesis("", (), ("x",), questions)
    state = State("s3", Query("1", "x"), None, synthesis, Ranking(("a", "b")), {}, seen, judged)
    assert [statement(check) for check in state.checks("a")] == [
        "Is it red? not understood, wanted yes",
        "Is it old? no answer, wanted yes",
    ]
    said = [decision(Explanation("", 1, (), *state.judgement(name))) for name in "abc"]
    assert said == ["not understood", "not judged", ""]
