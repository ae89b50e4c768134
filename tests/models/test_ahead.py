"""Pictures are read ahead of the model, each once, in the order of their batches."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Iterator

import pytest

from imagescope.models.ahead import read_ahead


class Pixels:
    """An object that can be watched as it goes."""


def test_batches_come_in_order_with_what_was_read_or_why_not() -> None:
    calls: list[str] = []

    def read(name: str) -> str:
        calls.append(name)
        if name == "c":
            raise ValueError("c: no image")
        return name.upper()

    batches = [["a", "b"], ["b", "c"], [], ["d", "a"]]
    expected = [{"a": "A", "b": "B"}, {"b": "B", "c": "c: no image"}, {}, {"d": "D", "a": "A"}]
    for ahead in (0, 1, 3):
        calls.clear()
        results = list(read_ahead(batches, list, read, ahead=ahead))
        assert results == list(zip(batches, expected, strict=True))
        # "b" stands in neighbours, "a" in batches that are far apart
        assert (calls.count("a"), calls.count("b")) == {0: (2, 2), 1: (2, 1), 3: (1, 1)}[ahead]


def test_no_more_is_read_than_is_soon_needed_and_none_is_held_longer() -> None:
    given: list[int] = []
    alive = weakref.WeakSet[Pixels]()

    def batches() -> Iterator[list[int]]:
        for number in range(6):
            given.append(number)
            yield [number]

    def read(_: int) -> Pixels:
        alive.add(pixels := Pixels())
        return pixels

    for count, (batch, pixels) in enumerate(read_ahead(batches(), list, read, ahead=1)):
        assert batch == [count] and isinstance(pixels[count], Pixels)
        assert len(given) == min(count + 2, 6)
        del pixels
        gc.collect()
        assert len(alive) <= 3  # this batch's, the next one's, and one that a thread lets go of


def test_a_caller_that_stops_early_does_not_wait_for_what_was_not_begun() -> None:
    calls: list[int] = []

    def read(number: int) -> None:
        calls.append(number)
        time.sleep(0.01)

    for _ in read_ahead([[n] for n in range(50)], list, read, ahead=49, threads=1):
        break
    assert len(calls) < 10


def test_a_reader_that_breaks_is_no_unreadable_picture() -> None:
    def read(_: str) -> str:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(read_ahead([["a"]], list, read))
