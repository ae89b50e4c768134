"""JSON in a model's text: where it is, and what it says where it is damaged.

Nothing here raises on any text, and no text costs more than a few hundredths of a second: what is
looked at, tried and repaired is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from json_repair import repair_json

OK, REPAIRED = "ok", "repaired"
LONGEST = 40_000  # characters of an answer that are looked at; 2,048 tokens are far fewer
TRIES = 16  # places where a value may begin that are tried
FENCES = 12  # fenced blocks that are told from the text around them
REPAIRS = 4  # damaged values that are repaired
DAMAGED = 8_000  # characters of a damaged value that are looked at
DEPTH = 12  # brackets inside one another: nothing that is asked for has more
LOOKS = 16_000  # characters the repairer may look up in all; usual damage needs a few for each

_AUTHORS_FENCE = re.compile(r"```[ \t]*json\b(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"(```|~~~)[`~]{0,9}[ \t]*(?:json[0-9c]?\b|(?=[\s{\[]))", re.IGNORECASE)
# A brace before a key, or a bracket before a list, an object or a text; a brace in prose is none.
_START = re.compile(r"""\{\s{0,99}(?:["'“}]|\w{1,40}\s{0,9}:)|\[\s{0,99}["'“\[{]""")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)
_KEY_BEFORE = re.compile(r"step\W{0,3}([12])\b[^\w\n\[{]{0,6}$", re.IGNORECASE)
_DECODER = json.JSONDecoder(strict=False)  # line breaks in texts are no damage


@dataclass
class Budget:
    """What the repairer may still look up."""

    looks: int = LOOKS


class _TooMuch(Exception):
    """The budget is used up."""


class _Metered(str):
    """A text that counts how often it is looked into. The repairer's time grows with the square of
    some texts' length (unclosed brackets, odd quotes), and it offers no limit of its own."""

    budget: Budget

    @classmethod
    def of(cls, text: str, budget: Budget) -> _Metered:
        metered = cls(text)
        metered.budget = budget
        return metered

    def __getitem__(self, index: Any) -> str:
        self.budget.looks -= 1
        if self.budget.looks < 0:
            raise _TooMuch
        piece = str.__getitem__(self, index)
        return _Metered.of(piece, self.budget) if isinstance(index, slice) else piece

    def __add__(self, other: str) -> str:
        return _Metered.of(str.__add__(self, other), self.budget)


@dataclass(frozen=True)
class Value:
    """An object or a list that stands in a text. how: OK or REPAIRED."""

    content: Any
    how: str = OK


def find_json(text: str) -> tuple[dict[str, Any] | None, str]:
    """As the authors' code finds it: the first fenced json block, else the first {...}; repaired
    if malformed. Returns (object or None, how)."""
    text = text[:LONGEST]
    fenced = _AUTHORS_FENCE.search(text)
    source = fenced[1] if fenced and "{" in fenced[1] else text
    start = source.find("{")
    if start < 0:
        return None, "fallback: no JSON"
    try:
        content, how = json.JSONDecoder().raw_decode(source[start:])[0], OK
    except (ValueError, RecursionError):
        end = source.rfind("}") + 1
        content, how = repaired(source[start : end or None], Budget()), REPAIRED
        if isinstance(content, list):  # text behind the object: the repairer returns several
            content = next((item for item in content if isinstance(item, dict)), None)
    if not isinstance(content, dict) or not content:
        return None, "fallback: no JSON object"
    return content, how


def json_values(text: str) -> Iterator[Value]:
    """The objects and lists of a text: whole ones before damaged ones, and among each those in
    fenced blocks before the others. A list behind a bare `step1:` or `step2:` is an object."""
    damaged: list[tuple[str, int]] = []
    inner: list[Value] = []  # what may be a piece of a damaged value
    tries = TRIES
    for part in _parts(text[:LONGEST]):
        place = 0
        while tries and (opening := _START.search(part, place)):
            tries, start = tries - 1, opening.start()
            try:
                content, place = _DECODER.raw_decode(part, start)
            except (ValueError, RecursionError):
                damaged.append((part, start))
                place = start + 1
            else:
                key = _KEY_BEFORE.search(part[max(0, start - 40) : start])
                if isinstance(content, dict):
                    yield Value(content)
                elif key:
                    yield Value({f"step{key[1]}": content}, REPAIRED)
                elif damaged and damaged[-1][0] is part:
                    inner.append(Value(content, REPAIRED))
                else:
                    yield Value(content)
    yield from _repaired(damaged)
    yield from inner


def _repaired(damaged: list[tuple[str, int]]) -> Iterator[Value]:
    """Damaged values, each up to the bracket that closes it, or the end; none inside another."""
    budget, repairs, before, end = Budget(), REPAIRS, "", 0
    for part, start in damaged:
        if part is before and start < end:
            continue
        if not repairs:
            return
        repairs -= 1
        source = part[start : start + DAMAGED]
        before, closed = part, _closed(source)
        end = start + (closed or 1)  # one that never ends may have swallowed a whole one
        content = repaired(source[:closed], budget)
        if isinstance(content, dict | list) and content:
            yield Value(content, REPAIRED)


def repaired(text: str, budget: Budget) -> Any:
    """What json_repair makes of a text, None where that is nothing, or would cost too much."""
    text = text[:DAMAGED]
    if _depth(text) > DEPTH:
        return None
    try:
        content = repair_json(_Metered.of(text, budget), return_objects=True, skip_json_loads=True)
        return json.loads(json.dumps(content))  # plain texts, which nobody meters any more
    except Exception:  # a repairer meets any text; whatever it trips over is a fallback
        return None


def _parts(text: str) -> list[str]:
    """The fenced blocks (json, or without a name), then the text around them."""
    fenced: list[str] = []
    around, place, after = [], 0, 0
    while len(fenced) < FENCES and (opening := _FENCE.search(text, after)):
        value = _START.search(text, after, opening.start())
        if value and (end := _whole(text, value.start())) > opening.start():
            after = end  # the fence stands in a text of that value
            continue
        around.append(text[place : opening.start()])
        start = opening.end()
        first = _START.search(text, start)  # nor does a fence in a text of the block end it
        close = text.find("\n" + opening[1], start)
        if first and (end := _whole(text, first.start())) > first.start():
            close = text.find(opening[1], end)
        elif close < 0:
            close = text.find(opening[1], start)
        fenced.append(text[start : close if close >= 0 else None])
        place = after = text.index(opening[1], close) + 3 if close >= 0 else len(text)
    return [*fenced, "\n".join([*around, text[place:]])]


def _whole(text: str, start: int) -> int:
    """Where the sound value that begins at `start` ends; `start` itself where there is none."""
    try:
        return int(_DECODER.raw_decode(text, start)[1])
    except (ValueError, RecursionError):
        return start


def _nesting(text: str) -> Iterator[tuple[int, int]]:
    """(place behind a bracket, how many are open there); brackets inside texts do not count."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        if len(bracket[0]) == 1 and bracket[0] != '"':
            depth += 1 if bracket[0] in "{[" else -1
            yield bracket.end(), depth


def _closed(text: str) -> int | None:
    """Behind the bracket that closes the first; None where nothing does."""
    return next((place for place, depth in _nesting(text) if depth == 0), None)


def _depth(text: str) -> int:
    """The most brackets that are open at once, whether or not a quote comes before them."""
    depth = deepest = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if bracket[0] in "{[" else -1))
        deepest = max(deepest, depth)
    return deepest
