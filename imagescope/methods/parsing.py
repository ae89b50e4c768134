"""Model text to edits, descriptions, questions and decisions.

Nothing here raises on any text, and everything says how it coped: 'ok', 'repaired', or
'fallback: why' (the caller counts them); a yes or no that was not understood is None. `reading`
is 'tolerant', with the deviations listed in docs/deviations.md, or 'paper': by the rules of the
authors' code, as far as they do not crash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from imagescope.config import Reading
from imagescope.methods.decisions import accepts, says_yes
from imagescope.methods.json_text import LONGEST, OK, REPAIRED, Value, find_json, json_values
from imagescope.methods.reasoning import without_reasoning
from imagescope.records import Edit, Question

__all__ = [
    "OK",
    "QUESTIONS_SCHEMA",
    "SYNTHESIS_SCHEMA",
    "accepts",
    "find_json",
    "parse_questions",
    "parse_synthesis",
    "says_yes",
    "understood",
]

# What the two prompts ask the reasoner for, as JSON schemas (for engines that can hold it to them).
_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_PAIR = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
_PAIRS = {"type": "array", "items": _PAIR, "minItems": 1}


def _schema(**parts: Any) -> str:
    return json.dumps({"type": "object", "properties": parts, "required": list(parts)})


SYNTHESIS_SCHEMA = _schema(step1=_PAIRS, step2=_TEXTS)
QUESTIONS_SCHEMA = _schema(step1=_TEXTS, step2=_PAIRS)

# The keys that are looked for, as `_plain` has them: a bare prefix stands for all that follows.
_EDITS = ("step1", "edits", "atomicedits", "atomicinstructions")
_DESCRIPTIONS = ("step2", "descriptions", "targetdescriptions", "targetdescription")
_QUESTIONS = ("step2", "questions")
# The names that an entry's two halves have where it is an object.
_TYPE = ("type", "edittype", "category", "kind", "operation", "action")
_TEXT = ("text", "description", "instruction", "edit", "content", "caption", "sentence", "value")
_QUESTION = ("question", "q", "text", "query")
_ANSWER = ("answer", "expected", "expectedanswer", "a", "value", "label", "truth")
_TRUE, _FALSE = {"true", "yes", "t", "y", "1"}, {"false", "no", "f", "n", "0"}
_TYPES = ("add", "remov", "delet", "modif", "chang", "replac", "compar", "ret", "keep", "preserv")
_LABEL = re.compile(r"(?:level|core|detail|with|full|complete|synth|descri|\d)", re.IGNORECASE)
_TYPED = re.compile(
    r"[\W\d_]{0,9}([^\W\d_][\w ]{1,30}?)[*_\])]{0,3}(?:\s*[:：]|\s+[-–—])\s*(\S[^\n]*)"
)


def parse_synthesis(
    text: str, instruction: str, description: str, reading: Reading = "tolerant"
) -> tuple[tuple[Edit, ...], tuple[str, ...], str]:
    """(edits, descriptions, how) of the reasoner's first answer.

    No edit: one Modification holding the whole instruction. No description: `description`, which
    is the reference's caption, the previous round's description, or the instruction itself.
    """
    edits: tuple[Edit, ...] = ()
    descriptions: tuple[str, ...] = ()
    whole, hows = True, set()
    values, how = _values(text, reading)
    for value in values:  # the first with both; else the first with each
        how = ""
        found = _edits(value.content, reading), _descriptions(value.content, reading)
        (some_edits, edits_whole), (texts, texts_whole) = found
        if some_edits and texts:
            edits, descriptions, hows = some_edits, texts, {value.how}
            whole = edits_whole and texts_whole
            break
        if some_edits and not edits:
            edits, whole = some_edits, whole and edits_whole
            hows.add(value.how)
        if texts and not descriptions:
            descriptions, whole = texts, whole and texts_whole
            hows.add(value.how)
    if edits and descriptions:
        return edits, descriptions, OK if whole and hows == {OK} else REPAIRED
    if not edits and not descriptions and how:
        return (Edit("Modification", instruction),), (description,), how
    return (
        edits or (Edit("Modification", instruction),),
        descriptions or (description,),
        "fallback: no edits" if descriptions else "fallback: no description",
    )


def parse_questions(text: str, reading: Reading = "tolerant") -> tuple[tuple[Question, ...], str]:
    """(questions, how) of the reasoner's second answer; entries that are no pairs are dropped.

    Expected answers may be True, "True", "Yes, it is", 1 and the like, and their opposites.
    """
    values, how = _values(text, reading, fenced=True)
    objects = []
    for value in values:
        questions, whole = _questions(value.content, reading)
        if questions:
            return questions, value.how if whole else REPAIRED
        if isinstance(value.content, dict):
            objects.append(value.content)
    if reading == "tolerant" and (questions := _questions(objects, reading)[0]):
        return questions, REPAIRED  # an object a line, each a pair
    return (), "fallback: no question" if objects else how


def understood(how: str) -> bool:
    """Whether an answer that was read so was understood, in the part that its stage needs."""
    return not how.startswith("fallback") or how == "fallback: no edits"


def _values(
    text: str, reading: Reading, fenced: bool = False
) -> tuple[list[Value] | Iterator[Value], str]:
    """The values that may be meant, and why there are none where there is not even a brace.

    fenced: what the authors' code reads in a fenced block only."""
    if reading == "paper":
        content, how = find_json(text if "```" in text or not fenced else "")
        return ([Value(content, how)], "") if content else ([], how)
    answer = without_reasoning(text)
    if text.strip() and not answer.strip():
        return [], "fallback: only reasoning"
    if not re.search(r"[\[{]", answer[:LONGEST]):
        return [], "fallback: no JSON"
    return _unwrapped(json_values(answer)), "fallback: no JSON object"


def _unwrapped(values: Iterator[Value]) -> Iterator[Value]:
    """The same, and what wrappers hold: an object in an object, objects in a list."""
    for value in values:
        yield value
        content = value.content
        inner = list(content.values()) if isinstance(content, dict) else content
        for item in inner:
            if isinstance(item, dict):
                yield Value(item, value.how)


def _edits(content: Any, reading: Reading) -> tuple[tuple[Edit, ...], bool]:
    """The usable edits of a value, and whether that is all it says of them."""
    if reading == "paper":
        pairs = content.get("step1")
        pairs = pairs if isinstance(pairs, list) else []
        usable = [p for p in pairs if _two(p) and isinstance(p[1], str) and p[1].strip()]
        return tuple(Edit(_clean(a), _clean(b)) for a, b in usable), len(usable) == len(pairs)
    value = _under(content, _EDITS) if isinstance(content, dict) else content
    entries = _entries(value, _TYPE, lambda words: _is_type(words[0]) and not _is_type(words[1]))
    if value is content and not all(_is_type(_pair(e, _TYPE, _TEXT, _typed)[0]) for e in entries):
        return (), True  # a bare list of something else
    pairs = [_pair(entry, _TYPE, _TEXT, _typed) for entry in entries]
    edits = [Edit(_clean(a), _clean(b)) for a, b in pairs if _says(a) and _says(b)]
    return tuple(edits), len(edits) == len(entries)


def _descriptions(content: Any, reading: Reading) -> tuple[tuple[str, ...], bool]:
    if not isinstance(content, dict):
        return (), True
    if reading == "paper":
        texts = content.get("step2")
        texts = [texts] if isinstance(texts, str) else texts if isinstance(texts, list) else []
        usable = [_clean(t) for t in texts if isinstance(t, str) and t.strip()]
        return tuple(usable), len(usable) == len(texts)
    texts = list(_texts(_under(content, _DESCRIPTIONS)))
    usable = [_clean(t) for t in texts if _says(t)]
    return tuple(usable), len(usable) == len(texts)


def _questions(content: Any, reading: Reading) -> tuple[tuple[Question, ...], bool]:
    if reading == "paper":
        pairs = content.get("step2")
        pairs = pairs if isinstance(pairs, list) else []
        usable = [p for p in pairs if _two(p) and p[1] in ("True", "False")]
        questions = [Question(_clean(q), answer == "True") for q, answer in usable]
        return tuple(questions), len(questions) == len(pairs)
    value = content
    if isinstance(content, dict):
        value = _under(content, _QUESTIONS)
        answers = _under(content, ("answers", "expectedanswers"))
        if isinstance(value, list) and isinstance(answers, list) and len(value) == len(answers):
            value = [list(pair) for pair in zip(value, answers, strict=True)]
    entries = _entries(value, _QUESTION, lambda words: _truth(words[1]) is not None)
    pairs = [_pair(entry, _QUESTION, _ANSWER, _asked) for entry in entries]
    questions = [
        Question(_clean(q), expected)
        for q, answer in pairs
        if _says(q) and (expected := _truth(answer)) is not None
    ]
    return tuple(questions), len(questions) == len(entries)


def _under(content: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """What stands under the first of the keys, however it is spelled (`Step 1`, `STEP-1:`,
    `step1_edits`)."""
    plain = {_plain(str(key)): value for key, value in content.items()}
    for key in keys:
        if key in plain:
            return plain[key]
    prefix = keys[0]
    return next(
        (v for k, v in plain.items() if re.match(rf"{prefix}(?!\d)", k) and k != prefix), None
    )


def _entries(source: Any, names: tuple[str, ...], flat: Callable[[list[str]], bool]) -> list[Any]:
    """What stands for a pair each: the items of a list, of a mapping, the lines of a text.

    names: of an entry's first half.  flat: whether two texts are a pair, of those that follow one
    another in one list."""
    if isinstance(source, str):
        return [line for line in re.split(r"[\n;]", source) if line.strip()]
    if isinstance(source, Mapping):
        if any(_plain(str(key)) in names for key in source):
            return [source]
        entries: list[Any] = []
        for key, value in source.items():
            numbered = re.fullmatch(r"[a-z]{0,9}\d+", _plain(str(key)))  # {"1": [type, text]}
            if isinstance(value, Mapping) or (numbered and _two(value)):
                entries.append(value)
            elif isinstance(value, list):
                entries += [[key, item] for item in value]
            else:
                entries.append([key, value])
        return entries
    if not isinstance(source, list):
        return []
    if source and len(source) % 2 == 0 and all(isinstance(item, str) for item in source):
        couples = [source[i : i + 2] for i in range(0, len(source), 2)]
        if all(map(flat, couples)):
            return couples
    return source


def _pair(
    entry: Any,
    first: tuple[str, ...],
    second: tuple[str, ...],
    split: Callable[[str], tuple[str | None, str | None]],
) -> tuple[Any, Any]:
    """The two halves of an entry; None for a half that it lacks."""
    if isinstance(entry, str):
        return split(entry.strip())
    if isinstance(entry, Mapping):
        plain = {_plain(str(key)): value for key, value in entry.items()}
        a = next((plain[name] for name in first if name in plain), None)
        b = next((plain[name] for name in second if name in plain and plain[name] is not a), None)
        if (a is None or b is None) and len(entry) == 2:
            a, b = entry.values()
        elif len(entry) == 1:
            ((a, b),) = entry.items()
        return a, b
    if isinstance(entry, list) and len(entry) == 3 and split is _asked:
        entry = entry[1:]  # statement, question, answer
    return (entry[0], entry[1]) if isinstance(entry, list) and len(entry) == 2 else (None, None)


def _texts(source: Any) -> Iterator[Any]:
    """The texts of what stands for descriptions: a text, a list, objects, labelled pairs."""
    if isinstance(source, Mapping):
        plain = {_plain(str(key)): value for key, value in source.items()}
        named = [plain[name] for name in _TEXT if isinstance(plain.get(name), str)]
        for value in named[:1] or [v for v in source.values() if not isinstance(v, int | float)]:
            yield from _texts(value)
    elif isinstance(source, list):
        for item in source:
            if _two(item) and isinstance(item[1], str) and _LABEL.match(item[0].strip()):
                yield item[1]
            elif isinstance(item, list | Mapping):
                yield from _texts(item)
            else:
                yield item
    elif source is not None:
        yield source


def _is_type(text: Any) -> bool:
    """Whether it is a type of edit and no more, as "Addition" or "Remove"."""
    return isinstance(text, str) and len(text) < 24 and _plain(text).startswith(_TYPES)


def _typed(line: str) -> tuple[str | None, str | None]:
    """ "Type: text"."""
    match = _TYPED.match(line)
    return (match[1], match[2]) if match else (None, None)


def _asked(line: str) -> tuple[str | None, str | None]:
    """ "Question? Answer"."""
    question, mark, answer = line.rpartition("?")
    return question + mark, re.sub(r"(?i)^\W*(?:expected\s+)?(?:answer|a)\b", "", answer)


def _two(value: Any) -> bool:
    """Whether it is a list of two, a text first."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and bool(value[0].strip())
    )


def _says(text: Any) -> bool:
    """Whether it is a text that says something: "..." and "<description>" are only its place."""
    if not isinstance(text, str):
        return False
    text = text.strip()
    return any(c.isalnum() for c in text) and not (text.startswith("<") and text.endswith(">"))


def _truth(value: Any) -> bool | None:
    """The expected answer that the first word says."""
    if not isinstance(value, str | int | float):
        return None
    word = re.search(r"[^\W_]+", str(value)[:99].lower())
    return None if word is None or word[0] not in _TRUE | _FALSE else word[0] in _TRUE


def _plain(key: str) -> str:
    """A key without case, blanks, underscores and hyphens."""
    return re.sub(r"[\W_]", "", key[:99]).lower()


def _clean(text: str) -> str:
    """One line, without control characters and lone surrogates."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def labelled(text: str, label: str, *, cut_at_colon: bool = False) -> str:
    """What stands behind a label, in the first line that starts with it in any case; "" where no
    line does. cut_at_colon: up to the next colon."""
    for line in text[:LONGEST].splitlines():
        before, colon, after = line.strip(" *#>-").partition(":")
        if colon and before.strip(" *").lower() == label.lower():
            return _clean(after.partition(":")[0] if cut_at_colon else after).strip(" *")
    return ""
