"""Model text, however broken, becomes something; and it is said how."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagescope.parsing import accepts, find_json, parse_questions, parse_synthesis, says_yes
from imagescope.records import Edit, Question

GOOD = {
    "step1": [["Addition", "add a dog"], ["Retention", "keep the beach"]],
    "step2": ["a dog", "a dog on a beach", "a brown dog runs on a sandy beach"],
}


def answer(data: object, fence: str = "json") -> str:
    return f"Let me think.\n```{fence}\n{json.dumps(data)}\n```\nDone."


@pytest.mark.parametrize(
    "text", [answer(GOOD), json.dumps(GOOD), "So: " + json.dumps(GOOD) + " {not this}"]
)
def test_well_formed(text: str) -> None:
    edits, descriptions, how = parse_synthesis(text, "instruction", "caption")
    assert edits == (Edit("Addition", "add a dog"), Edit("Retention", "keep the beach"))
    assert descriptions == tuple(GOOD["step2"])
    assert how == "ok"


def test_the_first_fenced_block_wins_over_an_earlier_brace() -> None:
    text = 'I think {"step2": ["wrong"]} but\n' + answer(GOOD) + answer({"step2": ["late"]})
    assert parse_synthesis(text, "i", "c")[1] == tuple(GOOD["step2"])


@pytest.mark.parametrize(
    "text",
    [
        answer(GOOD)[:-20],  # fence never closed, last brackets lost
        answer(GOOD).replace('"a dog",', "'a dog',"),
        answer(GOOD).replace("]]", "],]"),
    ],
)
def test_malformed_json_is_repaired(text: str) -> None:
    edits, descriptions, how = parse_synthesis(text, "instruction", "caption")
    assert edits[0] == Edit("Addition", "add a dog")
    assert descriptions[0] == "a dog"
    assert how == "repaired"


@pytest.mark.parametrize("text", ["", "   ", "no json here", "{", "{}", "```json\n```", "[1, 2]"])
def test_nothing_there_falls_back(text: str) -> None:
    edits, descriptions, how = parse_synthesis(text, "make it red", "a blue car")
    assert edits == (Edit("Modification", "make it red"),)
    assert descriptions == ("a blue car",)
    assert how.startswith("fallback")
    questions, how = parse_questions(text)
    assert questions == () and how.startswith("fallback")


def test_missing_step1_is_one_modification() -> None:
    edits, descriptions, how = parse_synthesis(answer({"step2": ["a cat"]}), "make it a cat", "c")
    assert edits == (Edit("Modification", "make it a cat"),)
    assert descriptions == ("a cat",)
    assert how == "fallback: no edits"


def test_missing_step2_is_the_given_description() -> None:
    text = answer({"step1": [["Addition", "x"]], "step2": [" ", 3, None]})
    edits, descriptions, how = parse_synthesis(text, "i", "the caption")
    assert (edits, descriptions) == ((Edit("Addition", "x"),), ("the caption",))
    assert how == "fallback: no description"


def test_entries_that_are_no_pairs_are_left_out() -> None:
    data = {"step1": [["Addition", "x"], "y", ["a", "b", "c"], [1, 2], ["", "z"]], "step2": ["d"]}
    edits, _, how = parse_synthesis(answer(data), "i", "c")
    assert edits == (Edit("Addition", "x"),)
    assert how == "repaired"


def test_questions_and_their_expected_answers() -> None:
    data = {
        "step1": ["The picture shows a dog."],
        "step2": [["Is there a dog?", "True"], ["Is there a cat?", "False"]],
    }
    assert parse_questions(answer(data)) == (
        (Question("Is there a dog?", True), Question("Is there a cat?", False)),
        "ok",
    )


def test_deviation_unfenced_json_and_other_words_for_true() -> None:
    """Named deviation: the paper reads only fenced JSON and the strings True and False."""
    data = {"step2": [["a?", True], ["b?", "Yes"], ["c?", "yes"], ["d?", "no"], ["e?", False]]}
    questions, how = parse_questions(json.dumps(data))
    assert [q.expected for q in questions] == [True, True, True, False, False]
    assert how == "ok"


def test_questions_that_are_no_pairs_are_dropped() -> None:
    data = {"step2": [["a?", "maybe"], ["b?"], "c?", ["d?", "True"], ["e?", 1], {"f": "True"}]}
    assert parse_questions(answer(data)) == ((Question("d?", True),), "repaired")


def test_verifier_and_evaluator_rules() -> None:
    assert says_yes("Yes") and says_yes("oh, YES.") and says_yes("yesterday")
    assert not says_yes("no") and not says_yes("")
    assert accepts("ANSWER: Yes, the dog is there") and accepts("Well. ANSWER: Yes")
    assert not accepts("answer: yes") and not accepts("ANSWER: No") and not accepts("ANSWER:Yes")


@given(st.text() | st.text(alphabet='{}[]"\\,:`json step12TrueAddition\n'))
def test_no_text_raises(text: str) -> None:
    edits, descriptions, how = parse_synthesis(text, "instruction", "description")
    assert edits and descriptions
    assert how == "ok" or how == "repaired" or how.startswith("fallback")
    parse_questions(text)
    json.dumps([edits[0].text, *descriptions]).encode()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"step2":' * 50_000,
        '{"a":' + "[" * 5_000 + "]" * 5_000 + "}",
        "```json\n{" * 20_000,
        '{"step2": ["' + "x" * 300_000,
        "\ud800{\x00}\u2028",
    ],
    ids=["brackets", "nested", "deep", "fences", "long", "surrogate"],
)
def test_hostile_text_costs_little(text: str) -> None:
    start = time.monotonic()
    _, descriptions, how = parse_synthesis(text, "i", "c")
    parse_questions(text)
    assert descriptions and (how == "repaired" or how.startswith("fallback"))
    assert time.monotonic() - start < 20


def test_control_characters_do_not_survive() -> None:
    _, descriptions, _ = parse_synthesis(json.dumps({"step2": ["a\ud800\x00b\nc"]}), "i", "c")
    assert descriptions == ("a? b c",)


def test_find_json_says_how() -> None:
    assert find_json('{"a": 1}') == ({"a": 1}, "ok")
    assert find_json('{"a": 1')[1] == "repaired"
    assert find_json("none") == (None, "fallback: no JSON")
