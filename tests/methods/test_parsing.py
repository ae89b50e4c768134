"""Model text, however broken, becomes something; and it is said how."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagescope.methods.parsing import (
    accepts,
    find_json,
    parse_questions,
    parse_synthesis,
    says_yes,
    understood,
)
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
    data = {"step2": [["a?", "maybe"], ["b?"], "c?", ["d?", "True"], ["", "True"], [3, "True"]]}
    assert parse_questions(answer(data)) == ((Question("d?", True),), "repaired")


def test_step1_without_a_usable_pair() -> None:
    """Named deviation: the authors' code has no edits then."""
    edits, _, how = parse_synthesis(answer({"step1": [], "step2": ["d"]}), "make it red", "c")
    assert (edits, how) == ((Edit("Modification", "make it red"),), "fallback: no edits")
    assert understood(how)  # what stage 1 needs is there


def test_pairs_and_questions_without_text_are_dropped() -> None:
    pairs = [["Addition", 3], ["Addition", ["x"]], ["Addition", " "], ["Removal", "the hat"]]
    edits, _, how = parse_synthesis(answer({"step1": pairs, "step2": ["d"]}), "i", "c")
    assert (edits, how) == ((Edit("Removal", "the hat"),), "repaired")
    questions, how = parse_questions(answer({"step2": [["", "True"], [4, "True"], ["a?", "no"]]}))
    assert (questions, how) == ((Question("a?", False),), "repaired")


def test_json_far_behind_is_not_seen() -> None:
    assert parse_synthesis("x" * 39_000 + SOUND, "i", "c")[2] == "ok"
    assert parse_synthesis("x" * 40_000 + SOUND, "i", "c")[2] == "fallback: no JSON"


# Reasoning before the answer

SOUND = '{"step1": [["Modification","make the dog black"]], "step2": ["A black dog."]}'
READ = ((Edit("Modification", "make the dog black"),), ("A black dog.",))
DRAFT = '{"step1": [["Addition","x"]], "step2": ["WRONG DRAFT"]}'


@pytest.mark.parametrize(
    "text",
    [
        f'<think>The form is {{"step2": ["..."]}}. Draft {{"draft": true}}.</think>\n{SOUND}',
        f"<think>{DRAFT}</think>\n{SOUND}",
        f"<THINKING>\n{DRAFT}</Thinking>\n```json\n{SOUND}\n```",
        f"<thought>{DRAFT}</thought>{SOUND}",
        f'<reasoning effort="high">```json\n{DRAFT}\n```</reasoning>{SOUND}',
        f"< think >{DRAFT}</ think >{SOUND}",
        f"[THINK]{DRAFT}[/THINK]{SOUND}",
        f"◁think▷{DRAFT}◁/think▷{SOUND}",
        f"<|begin_of_thought|>{DRAFT}<|end_of_thought|>{SOUND}",
        f"<seed:think>{DRAFT}</seed:think>{SOUND}",
        f"<|channel>thought\n{DRAFT}<channel|>{SOUND}",
        f"{DRAFT} so it is.</think>\n{SOUND}",
        f"<think>a<think>{DRAFT}</think>{DRAFT}</think>{SOUND}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final"
        f"<|message|>{SOUND}<|return|>",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|><|channel|>final <|constrain|>json<|message|>"
        f"{SOUND}",
        f"analysisWe draft {DRAFT}assistantfinal{SOUND}",
        f"{SOUND}<think>was that right? {DRAFT}</think>",
    ],
)
def test_reasoning_is_not_the_answer(text: str) -> None:
    assert parse_synthesis(text, "i", "c") == (*READ, "ok")
    assert parse_questions(text)[0] == ()


@pytest.mark.parametrize(
    "text",
    [
        f"<think>The format is {DRAFT} so I",
        f"<think>{DRAFT}</think>",
        f"{DRAFT}</think>  ",
        f"<|channel|>analysis<|message|>{DRAFT}",
        f"analysisWe draft {DRAFT}",
    ],
)
def test_reasoning_that_is_never_ended_is_no_answer(text: str) -> None:
    edits, descriptions, how = parse_synthesis(text, "i", "the caption")
    assert (edits, descriptions) == ((Edit("Modification", "i"),), ("the caption",))
    assert how == "fallback: only reasoning" and not understood(how)
    assert says_yes(text + " yes") is None or "</" in text
    assert accepts("<think>ANSWER: Yes") is None


def test_tags_in_a_text_are_its_words() -> None:
    texts = ["A sign that says <think>.", 'A sign "</think>", red', "<reasoning>, a word"]
    data = {"step1": [["Addition", "the words </thinking>"]], "step2": texts}
    for text in (json.dumps(data), f"<think>{DRAFT}</think>{json.dumps(data)}"):
        edits, descriptions, how = parse_synthesis(text, "i", "c")
        assert edits == (Edit("Addition", "the words </thinking>"),)
        assert (descriptions, how) == (tuple(texts), "ok")


# Which part is the answer


@pytest.mark.parametrize(
    "text",
    [
        f"Here is the {{edited}} result:\n{SOUND}",
        f'Format: {{"step1": [...], "step2": [...]}}\n\n{SOUND}',
        f'An {{"example": 1}}, then {SOUND}',
        f"```python\nx = {{}}\n```\n```json\n{SOUND}\n```",
        f"```\n{SOUND}\n```",
        f"~~~json\n{SOUND}\n~~~",
        f"{SOUND} and {DRAFT}",
        '```json\n{"step1": [["Modification","make the dog black"]]}\n```\nthen\n'
        '```json\n{"step2": ["A black dog."]}\n```',
        f'The template is {{"step1": [["<type>", "<text>"]], "step2": ["<description>"]}}: {SOUND}',
    ],
)
def test_the_first_value_that_says_something_is_the_answer(text: str) -> None:
    assert parse_synthesis(text, "i", "c") == (*READ, "ok")


def test_a_fence_or_a_brace_in_a_text_is_part_of_it() -> None:
    data = {"step1": [["Addition", "the words ```json {x} ```"]], "step2": ["a {curly} } sign"]}
    for text in (json.dumps(data), answer(data), answer(data).replace("]]", "],]")):
        edits, descriptions, _ = parse_synthesis(text, "i", "c")
        assert edits == (Edit("Addition", "the words ```json {x} ```"),)
        assert descriptions == ("a {curly} } sign",)


# Other shapes


@pytest.mark.parametrize(
    "text",
    [
        '{"Step 1": [["Modification","make the dog black"]], "STEP_2": "A black dog."}',
        f'{{"result": {SOUND}}}',
        f"[{SOUND}]",
        '[{"step-1": [["Modification","make the dog black"]]}, {"Step2:": ["A black dog."]}]',
        '{"step1": {"Modification": "make the dog black"}, "step2": {"core": "A black dog."}}',
        '{"step1": {"Modification": ["make the dog black"]}, "step2": [["A black dog."]]}',
        '{"step1": ["Modification: make the dog black"], '
        '"step2": [{"description":"A black dog."}]}',
        '{"step1": ["1. **Modification**： make the dog black"], '
        '"step2": [["Core", "A black dog."]]}',
        '{"step1": "Modification: make the dog black", "step2": {"1": "A black dog."}}',
        '{"step1": [{"type":"Modification",'
        '"text":"make the dog black"}], "step2": ["A black dog."]}',
        '{"step1": {"1": ["Modification","make the dog black"]}, "step2": ["A black dog."]}',
        '{"step1": [{"Modification":"make the dog black"}], "step2": ["A black dog."]}',
        '{"step1": ["Modification","make the dog black"], "step2": ["A black dog."]}',
        '{"edits": [["Modification","make the dog black"]], "descriptions": ["A black dog."]}',
    ],
)
def test_edits_and_descriptions_in_other_shapes(text: str) -> None:
    assert parse_synthesis(text, "i", "c") == (*READ, "ok")


@pytest.mark.parametrize(
    "text",
    [
        "{'step1': [('Modification','make the dog black')], 'step2': ['A black dog.']}",
        'step1: [["Modification","make the dog black"]]\nstep2: ["A black dog."]',
        '{"step1": [["Modification","make the dog black"]] "step2": ["A black dog."',
    ],
)
def test_damaged_shapes(text: str) -> None:
    assert parse_synthesis(text, "i", "c") == (*READ, "repaired")


@pytest.mark.parametrize(
    "text",
    [
        '{"step2": [["Is it black?", "True."], ["Is there a cat?", "False."]]}',
        '{"step2": [["Is it black?", "True. Yes, it is"], ["Is there a cat?", "no, none"]]}',
        '{"step2": [["Is it black?", "**T**"], ["Is there a cat?", "F"]]}',
        '{"step2": [["Is it black?", 1], ["Is there a cat?", 0]]}',
        '{"step2": [{"question": "Is it black?", "answer": "True"}, '
        '{"Q": "Is there a cat?", "A": 0}]}',
        '{"step2": {"Is it black?": true, "Is there a cat?": "No, it is not"}}',
        '{"step2": ["Is it black? True", "Is there a cat? (False)"]}',
        '{"step2": ["Is it black?", "True", "Is there a cat?", "False"]}',
        '{"step2": [["It is.", "Is it black?", "True"], ["None.", "Is there a cat?", "False"]]}',
        '{"step2": {"q1": {"question": "Is it black?", "expected": "yes"}, '
        '"q2": ["Is there a cat?", "no"]}}',
        '{"questions": ["Is it black?", "Is there a cat?"], "answers": ["True", "False"]}',
        '[["Is it black?", "True"], ["Is there a cat?", "False"]]',
        '[{"question": "Is it black?", "answer": true}, '
        '{"question": "Is there a cat?", "answer": false}]',
        '{"step2": {"questions": [["Is it black?", "True"], ["Is there a cat?", "False"]]}}',
    ],
)
def test_questions_in_other_shapes(text: str) -> None:
    expected = (Question("Is it black?", True), Question("Is there a cat?", False))
    assert parse_questions(text) == (expected, "ok")


def test_an_object_a_line_and_a_cut_list() -> None:
    lines = '{"question": "a?", "answer": "True"}\n{"question": "b?", "answer": "False"}'
    assert parse_questions(lines)[0] == (Question("a?", True), Question("b?", False))
    cut = '{"step2": [["a?", "True"], ["b?", "False"], ["c'
    assert parse_questions(cut) == ((Question("a?", True), Question("b?", False)), "repaired")


def test_what_only_names_a_place_says_nothing() -> None:
    _, descriptions, how = parse_synthesis('{"step2": ["...", "<description>"]}', "i", "c")
    assert (descriptions, how) == (("c",), "fallback: no description")
    assert parse_questions('{"step2": [["...", "True"]]}')[1] == "fallback: no question"


# Yes and no


@pytest.mark.parametrize(
    "text",
    ["Yes", "yes", "YES.", "oh, YES.", "**Yes**", '"Yes"', "_yes_", "Yes, there is no cat",
     "The answer is yes", "Ｙｅｓ", "A: Yes", "<think>\n\n</think>\n\nYes", "<answer>Yes</answer>",
     "It is a yes.", "Yes<|im_end|>", '{"answer": "yes"}'],
)  # fmt: skip
def test_a_yes(text: str) -> None:
    assert says_yes(text) is True


@pytest.mark.parametrize(
    "text", ["No", "no.", "No, there is none", "Answer: no", "I would say no", "</s>No"]
)
def test_a_no(text: str) -> None:
    assert says_yes(text) is False


@pytest.mark.parametrize(
    "text",
    ["", "  ", "<think>", "<think>yes", "Ja", "Eyes", "yesterday", "not yes", "nothing", "I know",
     "Yes or no", "yes/no", "I cannot say yes", "No image was provided", "I cannot answer",
     "No idea", "Sorry, I can't help with that.", "是"],
)  # fmt: skip
def test_neither_yes_nor_no(text: str) -> None:
    assert says_yes(text) is None


@pytest.mark.parametrize(
    "text",
    ["ANSWER: Yes, the dog is there", "Well. ANSWER: Yes", "**ANSWER:** Yes", "ANSWER: YES",
     "ANSWER:Yes", "Answer: Yes", "ANSWER: **Yes**", "ANSWER： Yes", "**Answer**: `yes`",
     "## ANSWER\nYes", '{"answer": "Yes"}', "ANSWER: [Yes]", "The answer is: yes", "answer - yes",
     "ANSWER: No\nOn second thoughts:\nANSWER: Yes", "Yes", "It fits.\n\n**Yes**",
     "<think>ANSWER: No</think>ANSWER: Yes", "Yes or no? ANSWER: Yes"],
)  # fmt: skip
def test_accepted(text: str) -> None:
    assert accepts(text) is True


@pytest.mark.parametrize(
    "text", ["ANSWER: No", "answer: no", "ANSWER: No. yes", "ANSWER: Yes\nBut: ANSWER: No", "No."]
)
def test_not_accepted(text: str) -> None:
    assert accepts(text) is False


@pytest.mark.parametrize(
    "text",
    ["", "<think>ANSWER: Yes", "ANSWER: Not sure", "ANSWER: Yesterday", "ANSWER: Yes/No",
     'Begin with "ANSWER: Yes" or "ANSWER: No"', "I cannot answer. No image", "My answer: not yes",
     "The dog is black, yes, and it runs.", "ANSWER: no image was given", "ANSWER: Ja"],
)  # fmt: skip
def test_no_decision(text: str) -> None:
    assert accepts(text) is None


def test_the_papers_reading() -> None:
    """Substrings, the first fence or brace, no reasoning dropped; one answer and nothing else."""
    assert says_yes("yesterday", "paper") is True and says_yes("", "paper") is False
    assert accepts("no, ANSWER: Yes", "paper") is True
    assert accepts("answer: yes", "paper") is False and accepts("ANSWER:Yes", "paper") is False
    found = parse_synthesis(f"<think>{DRAFT}</think>{SOUND}", "i", "c", "paper")
    assert found[1] == ("WRONG DRAFT",)
    mapping = '{"step1": {"Addition": "x"}, "step2": ["d"]}'
    assert parse_synthesis(mapping, "i", "c", "paper")[2] == "fallback: no edits"
    fenced = answer({"step2": [["a?", "True"], ["b?", "yes"], ["c?", True], ["d?", "False"]]})
    assert parse_questions(fenced, "paper") == (
        (Question("a?", True), Question("d?", False)),
        "repaired",
    )
    assert parse_questions('{"step2": [["a?", "True"]]}', "paper") == ((), "fallback: no JSON")


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
        '{"step2": [' + '"a":)' * 9_000,
        "{\u201c" * 50_000,
        ':"' + '\\"' * 100_000,
        "<think>" * 40_000,
        "answer: " * 40_000,
    ],
    ids=[
        *("brackets", "nested", "deep", "fences", "long", "surrogate", "quotes", "braces"),
        *("escapes", "tags", "decisions"),
    ],
)
def test_hostile_text_costs_little(text: str) -> None:
    start = time.process_time()
    _, descriptions, how = parse_synthesis(text, "i", "c")
    parse_questions(text)
    says_yes(text)
    accepts(text)
    assert descriptions and (how == "repaired" or how.startswith("fallback"))
    assert time.process_time() - start < 2  # a repairer without limits takes minutes


def test_control_characters_do_not_survive() -> None:
    _, descriptions, _ = parse_synthesis(json.dumps({"step2": ["a\ud800\x00b\nc"]}), "i", "c")
    assert descriptions == ("a? b c",)


def test_find_json_says_how() -> None:
    assert find_json('{"a": 1}') == ({"a": 1}, "ok")
    assert find_json('{"a": 1')[1] == "repaired"
    assert find_json("none") == (None, "fallback: no JSON")
