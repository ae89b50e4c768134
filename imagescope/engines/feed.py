"""Requests for an engine that is already at work, from another thread or process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from imagescope.engines.base import Answers, Engine, Request, Response

Parts = SimpleQueue[Sequence[Request] | None]


class Feed:
    """What an engine reads (engines/base.py, Requests): the parts that others put, until None.

    It waits for the next part only where the engine has nothing else to do: answered() says how
    many requests were finished.
    """

    def __init__(self, parts: Parts):
        self._parts, self._unanswered = parts, 0

    def answered(self, count: int) -> None:
        self._unanswered -= count

    def __iter__(self) -> Iterator[Request | None]:
        while True:
            try:
                part = self._parts.get(block=not self._unanswered)
            except Empty:
                yield None
                continue
            if part is None:
                return
            self._unanswered += len(part)
            yield from part


class Shared:
    """An engine that several threads ask at the same time; it answers their requests together."""

    def __init__(self, engine: Engine):
        self._engine, self._lock = engine, threading.Lock()
        self._parts: Parts | None = None  # while the engine is at work
        self._places: dict[int, tuple[_Part, int]] = {}  # where the answer to each request goes
        self._count = 0

    def ask(self, requests: Sequence[Request]) -> list[Response]:
        """The responses, in order; raises whatever the engine raises."""
        part = _Part(len(requests))
        with self._lock:
            if self._parts is None:
                self._parts, self._count, self._places = Parts(), 0, {}
                threading.Thread(target=self._work, args=(self._parts,), daemon=True).start()
            for place in range(len(requests)):
                self._places[self._count + place] = (part, place)
            self._count += len(requests)
            self._parts.put(requests)
        return part.done.result()

    def _work(self, parts: Parts) -> None:
        feed = Feed(parts)
        try:
            for answers in self._engine.generate(feed):
                feed.answered(len(answers))
                self._deliver(answers)
        except BaseException as error:  # whoever waits for it raises it
            with self._lock:
                self._parts = None
                waiting = {id(part): part for part, _ in self._places.values()}
            for part in waiting.values():
                part.done.set_exception(error)

    def _deliver(self, answers: Answers) -> None:
        with self._lock:
            places = [(*self._places.pop(i), response) for i, response in answers.items()]
        for part, place, response in places:
            part.add(place, response)


class _Part:
    """Requests that were asked together, and what has been answered of them."""

    def __init__(self, size: int):
        self.done = Future[list[Response]]()
        self._responses: Answers = {}
        self._size = size

    def add(self, place: int, response: Response) -> None:
        self._responses[place] = response
        if len(self._responses) == self._size:
            self.done.set_result([self._responses[i] for i in range(self._size)])
