"""Any engine, asked only what is new: every response is kept under what determines it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from imagescope.engines.base import (
    Answers,
    Engine,
    Pair,
    Picture,
    Request,
    Requests,
    Response,
    blocks,
)
from imagescope.engines.text import received
from imagescope.errors import UserError
from imagescope.records import plain
from imagescope.store.cache import Cache
from imagescope.store.entries import Entry, checked
from imagescope.store.hashing import digest

SECOND = 1.0  # no answer waits longer for others to be stored with


@dataclass
class Counts:
    """What was asked, and what it cost. wanted = duplicates + cached + asked + unreadable (requests
    whose images could not be read); model_seconds: answering, without loading."""

    wanted: int = 0
    duplicates: int = 0
    cached: int = 0
    asked: int = 0
    unreadable: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    model_seconds: float = 0.0
    load_seconds: float = 0.0

    def add(self, after: Counts, before: Counts) -> None:
        """Adds what was counted between two moments."""
        for part in fields(Counts):
            more = getattr(after, part.name) - getattr(before, part.name)
            setattr(self, part.name, getattr(self, part.name) + more)


@dataclass
class EngineStats(Counts):
    """What an engine was asked since it was opened, and how often its model was loaded."""

    loads: int = 0


class Absent(UserError):
    """A replay lacks a response. index: the first request that it lacks."""

    def __init__(self, message: str, index: int):
        super().__init__(message)
        self.index = index


class Cached:
    """See engines/base.py. The key of a response is made of the engine's identity, the prompt, the
    images' content and preparation, and the decoding: nothing else, so not of paths or batches.

    chunk_size: so many answers at most are stored in one transaction, and none waits for more than
        SECOND. Answers that were finished together are stored together or not at all: where an
        engine cuts batches from all it is asked, a run that was interrupted cuts the others as
        before.
    replay: everything must be held; the engine is never asked, nor its checkpoint looked at.
    """

    def __init__(self, engine: Engine, cache: Cache, chunk_size: int = 256, replay: bool = False):
        self.stats = EngineStats()
        self._engine, self._cache = engine, cache
        self._chunk_size, self._replay = chunk_size, replay

    @cached_property
    def identity(self) -> dict[str, Any]:
        if self._replay:
            return self._cache.replayed(self._declared)
        identity = self._engine.identity
        self._cache.register(identity, self._declared)  # a replay asks for it in any case
        return identity

    @property
    def _declared(self) -> dict[str, Any]:
        return dict(self._engine.declared)

    @cached_property
    def _id(self) -> str:
        return digest(self.identity)

    @property
    def width(self) -> int:
        return 1 if self._replay else self._engine.width

    def close(self) -> None:
        self._engine.close()

    def missing(self, requests: Sequence[Request]) -> int:
        """How many of the requests would be asked, once duplicates and what is held are gone."""
        if not requests:
            return 0
        places, _, _ = self._places(enumerate(requests))
        return len(places) - len(self._cache.responses(places))

    def adopt(self, requests: Sequence[Request], texts: Sequence[str]) -> None:
        """Keeps what this very engine is known to have answered, where it is not held."""
        places, materials, _ = self._places(enumerate(requests))
        stored = self._cache.responses(places)
        self._cache.put(
            [
                Entry(key, self._id, materials[key], checked(Response(texts[indices[0]])))
                for key, indices in places.items()
                if key not in stored
            ]
        )

    def generate(self, requests: Requests) -> Iterator[Answers]:
        """What is held first, then what the engine finishes. Raises Absent, naming the request,
        where a replay lacks a response."""
        call = _Call(self, requests)
        lacking = call.lacking()
        for request in lacking:
            yield from call.held()
            if request is not None:
                break
        else:  # the engine is not touched
            yield from call.held()
            return
        try:
            for answers in self._timed(self._engine_answers(chain([request], lacking)), call):
                yield from call.held()
                if answers:
                    yield call.answered(answers)
            yield from call.held()
        finally:
            call.store()

    def _engine_answers(self, requests: Requests) -> Iterator[Answers]:
        return self._engine.generate(requests)

    def _timed(self, source: Iterator[Answers], call: _Call) -> Iterator[Answers]:
        """The same, timed without what the caller does, nor what is looked up for it."""
        engine, stats = self._engine, self.stats
        while True:
            start, reading = time.monotonic(), call.reading
            loading, loads = engine.load_seconds, engine.loads
            answers = next(source, None)
            spent = time.monotonic() - start - (call.reading - reading)
            # replicas load side by side: no more loading than there was time
            load_seconds = min(engine.load_seconds - loading, spent)
            stats.load_seconds += load_seconds
            stats.loads += engine.loads - loads
            stats.model_seconds += spent - load_seconds
            if answers is None:
                return
            yield answers

    def _places(
        self, requests: Iterable[tuple[int, Request]]
    ) -> tuple[dict[str, list[int]], dict[str, dict[str, Any]], Answers]:
        """key -> the places of the requests it stands for; key -> what it is made of; and the
        responses of those whose images cannot be read."""
        requests = list(requests)
        hashes = self._cache.hashes(
            {path for _, request in requests for image in request.images for path in _paths(image)}
        )
        places: dict[str, list[int]] = {}
        materials: dict[str, dict[str, Any]] = {}
        unread: Answers = {}
        for i, request in requests:
            lost = [p for image in request.images for p in _paths(image) if not hashes[p]]
            if lost:
                unread[i] = Response("", finish="error", error=f"{lost[0]}: cannot be read")
                continue
            material = _material(request, hashes)
            key = digest([self._id, material])
            materials[key] = material
            places.setdefault(key, []).append(i)
        return places, materials, unread

    def _absent(self, request: Request, count: int) -> str:
        images = ", ".join(p for image in request.images for p in _paths(image))
        return (
            f"{self._cache.path}: {count} responses are not in the bundle; the first is "
            f"{self._declared.get('model', 'the model')}'s to {request.prompt[-200:]!r}"
            f"{' about ' + images if images else ''}. Replay with the options of the run that was "
            "exported."
        )


class _Call:
    """One call of Cached.generate: what was asked of the engine, and what is still to be stored.

    reading: seconds spent on looking up, and on what the caller does to find more requests.
    """

    def __init__(self, cached: Cached, requests: Requests):
        self.reading = 0.0
        self._cached, self._requests = cached, requests
        self._held: list[Answers] = []
        self._asked: list[tuple[str, Request]] = []  # key and request, as the engine numbers them
        # of each key in flight: the places of its requests, what it is made of
        self._flying: dict[str, tuple[list[int], dict[str, Any]]] = {}
        self._unstored: list[Entry] = []
        self._stored = time.monotonic()

    def held(self) -> Iterator[Answers]:
        """Answers that nobody need be asked for, each once."""
        while self._held:
            yield self._held.pop(0)

    def lacking(self) -> Requests:
        """What the engine is to be asked; None after every block (engines/base.py)."""
        numbered = blocks(self._requests)
        while True:
            start = time.monotonic()
            block = next(numbered, None)
            asked = self._look_up(block) if block else []
            self.reading += time.monotonic() - start
            yield from asked
            if block is None:
                return
            yield None

    def _look_up(self, block: list[tuple[int, Request]]) -> list[Request]:
        """The requests of a block that the engine is to be asked."""
        cached, stats = self._cached, self._cached.stats
        self.store()
        places, materials, unread = cached._places(block)
        flying = {key: indices for key, indices in places.items() if key in self._flying}
        stored = cached._cache.responses(set(places) - set(flying))
        lacking = [key for key in places if key not in stored and key not in flying]
        requests = dict(block)
        if cached._replay and lacking:
            first = places[lacking[0]][0]
            raise Absent(cached._absent(requests[first], len(lacking)), first)
        stats.wanted += len(block)
        stats.unreadable += len(unread)
        stats.duplicates += len(block) - len(unread) - len(places) + len(flying)
        stats.cached += len(stored)
        if unread or stored:
            held = {i: response for key, response in stored.items() for i in places[key]}
            self._held.append(unread | held)
        for key, indices in flying.items():
            self._flying[key][0].extend(indices)
        asked = [(key, _seen(requests[places[key][0]], materials[key])) for key in lacking]
        self._flying |= {key: (places[key], materials[key]) for key in lacking}
        self._asked += asked
        return [request for _, request in asked]

    def answered(self, answers: Answers) -> Answers:
        """The engine's answers as the caller's; they are stored when their time has come."""
        cached, stats = self._cached, self._cached.stats
        result: Answers = {}
        for i, response in answers.items():
            key, request = self._asked[i]
            places, material = self._flying.pop(key)
            entry = Entry(key, cached._id, material, checked(received(response)))
            self._unstored.append(entry)
            lost = unreadable(request, entry.response)
            stats.asked += not lost
            stats.unreadable += lost
            stats.prompt_tokens += entry.response.prompt_tokens
            stats.output_tokens += entry.response.output_tokens
            result |= dict.fromkeys(places, entry.response)
        if len(self._unstored) >= cached._chunk_size or time.monotonic() - self._stored > SECOND:
            self.store()
        return result

    def store(self) -> None:
        if self._unstored:
            self._cached._cache.put(self._unstored)
        self._unstored, self._stored = [], time.monotonic()


def unreadable(request: Request, response: Response) -> bool:
    """Whether the response is an error that names an image of the request (by its file name: a
    bundle may have it from another folder): then the model was never asked."""
    names = {Path(path).name for image in request.images for path in _paths(image)}
    return response.error is not None and any(f"{name}: " in response.error for name in names)


def _paths(image: Picture | Pair) -> list[str]:
    if isinstance(image, Picture):
        return [image.path]
    return [image.right] if image.left is None else [image.left, image.right]


def _seen(request: Request, material: Mapping[str, Any]) -> Request:
    """The request with its images' content, for engines that keep what they made of an image."""
    shown = zip(request.images, material["images"], strict=True)
    images = (replace(i, content="+".join(filter(None, m))) for i, m in shown)
    return replace(request, images=tuple(images)) if request.images else request


def _material(request: Request, hashes: Mapping[str, str]) -> dict[str, Any]:
    """A request as what determines its answer: images by content and preparation."""
    images: list[list[str | None]] = []
    for image in request.images:
        if isinstance(image, Picture):
            images.append(["picture", hashes[image.path]])
        else:
            left = hashes[image.left] if image.left is not None else None
            images.append(["pair", left, hashes[image.right]])
    return plain(request) | {"images": images}
