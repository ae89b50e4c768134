"""Any engine, asked only what is new: every response is kept under what determines it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from imagescope.engines.base import Engine, Pair, Picture, Request, Response, in_chunks
from imagescope.engines.text import received
from imagescope.errors import UserError
from imagescope.records import plain
from imagescope.store.cache import Cache
from imagescope.store.entries import Entry
from imagescope.store.hashing import digest


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

    chunk_size: requests asked together and stored together, or not at all. Chunks are cut from
        the distinct requests before it is looked up what is held, so that a chunk which an
        interrupted run repeats has the company it would have had.
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
        declared: dict[str, Any] = getattr(self._engine, "declared", {})
        return declared

    @cached_property
    def _id(self) -> str:
        return digest(self.identity)

    def close(self) -> None:
        self._engine.close()

    def missing(self, requests: Sequence[Request]) -> int:
        """How many of the requests would be asked, once duplicates and what is held are gone."""
        if not requests:
            return 0
        places, _, _ = self._places(requests)
        return len(places) - len(self._cache.responses(places))

    def adopt(self, requests: Sequence[Request], texts: Sequence[str]) -> None:
        """Keeps what this very engine is known to have answered, where it is not held."""
        places, materials, _ = self._places(requests)
        stored = self._cache.responses(places)
        self._cache.put(
            [
                Entry(key, self._id, materials[key], Response(texts[indices[0]]))
                for key, indices in places.items()
                if key not in stored
            ]
        )

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        """What is held first, then chunk by chunk. Raises UserError, naming the request, where a
        replay lacks a response."""
        if not requests:
            return
        places, materials, unread = self._places(requests)
        stored = self._cache.responses(places)
        stats = self.stats
        stats.wanted += len(requests)
        stats.unreadable += len(unread)
        stats.duplicates += len(requests) - len(unread) - len(places)
        stats.cached += len(stored)
        yield from unread.items()
        for key, response in stored.items():
            for i in places[key]:
                yield i, response
        keys = list(places)
        cuts = [keys[n : n + self._chunk_size] for n in range(0, len(keys), self._chunk_size)]
        chunks = [chunk for cut in cuts if (chunk := [key for key in cut if key not in stored])]
        if self._replay and chunks:
            first = places[chunks[0][0]][0]
            raise Absent(self._absent(requests[first], sum(map(len, chunks))), first)
        asked = [[requests[places[key][0]] for key in chunk] for chunk in chunks]
        for number, responses in self._ask(asked):
            answered = zip(chunks[number], responses, strict=True)
            kept = self._cache.put(
                [Entry(k, self._id, materials[k], received(r)) for k, r in answered]
            )
            lost = sum(unreadable(requests[places[k][0]], r) for k, r in kept.items())
            stats.asked += len(kept) - lost
            stats.unreadable += lost
            stats.prompt_tokens += sum(r.prompt_tokens for r in kept.values())
            stats.output_tokens += sum(r.output_tokens for r in kept.values())
            for key, response in kept.items():
                for i in places[key]:
                    yield i, response

    def _ask(self, chunks: list[list[Request]]) -> Iterator[tuple[int, list[Response]]]:
        """(number of the chunk, its responses in order); timed without what the caller does."""
        source = in_chunks(self._engine, chunks)
        while True:
            start, loading, loads = time.monotonic(), *self._loading()
            item = next(source, None)
            spent, (after, times) = time.monotonic() - start, self._loading()
            # replicas load side by side: no more loading than there was time
            load_seconds = min(after - loading, spent)
            self.stats.load_seconds += load_seconds
            self.stats.loads += times - loads
            self.stats.model_seconds += spent - load_seconds
            if item is None:
                return
            yield item

    def _loading(self) -> tuple[float, int]:
        engine = self._engine
        return getattr(engine, "load_seconds", 0.0), getattr(engine, "loads", 0)

    def _places(
        self, requests: Sequence[Request]
    ) -> tuple[dict[str, list[int]], dict[str, dict[str, Any]], dict[int, Response]]:
        """key -> the requests it stands for; key -> what it is made of; and the responses of
        those whose images cannot be read."""
        hashes = self._cache.hashes(
            {path for request in requests for image in request.images for path in _paths(image)}
        )
        places: dict[str, list[int]] = {}
        materials: dict[str, dict[str, Any]] = {}
        unread: dict[int, Response] = {}
        for i, request in enumerate(requests):
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


def unreadable(request: Request, response: Response) -> bool:
    """Whether the response is an error that names an image of the request (by its file name: a
    bundle may have it from another folder): then the model was never asked."""
    names = {Path(path).name for image in request.images for path in _paths(image)}
    return response.error is not None and any(f"{name}: " in response.error for name in names)


def _paths(image: Picture | Pair) -> list[str]:
    if isinstance(image, Picture):
        return [image.path]
    return [image.right] if image.left is None else [image.left, image.right]


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
