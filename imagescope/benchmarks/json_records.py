"""What is wrong in a JSON file of records: keys that are there twice, where it is cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any


class _Repeating(dict[str, Any]):
    """A JSON object in which keys are there twice. repeated: (position, key) of the later ones."""

    repeated: list[tuple[int, str]]


def record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a JSON file (json's object_pairs_hook), from which `repetitions` tells."""
    plain = dict(pairs)
    if len(plain) == len(pairs):
        return plain
    first = {key: n for n, (key, _) in reversed(list(enumerate(pairs)))}
    repeating = _Repeating(plain)
    repeating.repeated = [(n, key) for n, (key, _) in enumerate(pairs) if first[key] != n]
    return repeating


def repetitions(data: Any) -> Iterator[tuple[int, str]]:
    """(index, key) of the keys that are there twice in a file's mapping or in its records."""
    if isinstance(data, _Repeating):
        yield from data.repeated
    if not isinstance(data, dict | list):
        return
    for index, value in enumerate(data.values() if isinstance(data, dict) else data):
        for key in _repeated_below(value):
            yield index, key


def _repeated_below(value: Any) -> Iterator[str]:
    if isinstance(value, _Repeating):
        yield from (key for _, key in value.repeated)
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _repeated_below(inner)


def whole_records(text: str) -> int | None:
    """How many records of a broken JSON list are whole: the index of the one that breaks."""
    decoder, count = json.JSONDecoder(), 0
    position = text.find("[") + 1
    while 0 < position < len(text):
        try:
            _, position = decoder.raw_decode(text, position + _blank(text, position))
        except (ValueError, RecursionError):
            return count
        count += 1
        position += _blank(text, position) + 1  # the comma
    return count or None


def _blank(text: str, start: int) -> int:
    end = start
    while end < len(text) and text[end] in " \t\r\n":
        end += 1
    return end - start
