"""The one interface through which every question to a model goes.

A Request is a value: it says what to ask, never how or where. Pixels are made where the model
runs, from paths. An engine reads requests as it has room for them and yields answers as they are
finished; the caller puts them in order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar, Protocol, TypeAlias

from imagescope.records import Pair, Picture, Request, Response

__all__ = [
    "Answers",
    "Engine",
    "EngineClass",
    "Pair",
    "Picture",
    "Request",
    "Requests",
    "Response",
    "Source",
    "blocks",
    "collect",
]

# None among the requests: no more for now, go on with those that are there
Requests: TypeAlias = Iterable[Request | None]
# what was finished together, by the place of its request among all (None is not counted)
Answers: TypeAlias = dict[int, Response]


class Engine(Protocol):
    """What every engine offers.

    declared: what a configuration says of the engine, known without a checkpoint; empty where no
        configuration is behind it.
    identity: everything about the engine that determines its answers, JSON-able: kind, model,
        revision or content hash, dtype, quantisation, template, context length.
    width: how many requests it answers for about the price of one: those of a GPU's batch.
    loads, load_seconds: how often the model was loaded, and for how long.
    generate: lazy; the model is loaded at the first request that is really asked. Where nothing is
        being worked on and there is no request for now, it yields {}, so that its caller can find
        more to ask.
    close: gives the memory back; the engine may be used again afterwards (it loads again).
    """

    @property
    def declared(self) -> Mapping[str, Any]: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    @property
    def width(self) -> int: ...

    @property
    def loads(self) -> int: ...

    @property
    def load_seconds(self) -> float: ...

    def generate(self, requests: Requests) -> Iterator[Answers]: ...

    def close(self) -> None: ...


class EngineClass:
    """What is known of an engine before one is opened, by a role's configuration: the classes of
    registry.ENGINES derive from this.

    summary, licence: for lists.  package: what must be installed for it.  remote: its model runs
    elsewhere: no checkpoint is looked for, and no GPU or process taken for it.  own_process: it
    gives memory back only when its process ends.
    """

    summary: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    package: ClassVar[str] = ""
    remote: ClassVar[bool] = False
    own_process: ClassVar[bool] = False

    declared: Mapping[str, Any] = {}
    width: int = 1
    loads: int = 0
    load_seconds: float = 0.0

    def answer(self, request: Request) -> Response:
        """The response to one request, in an engine that leaves generate() as it is."""
        raise NotImplementedError(f"{type(self).__name__} has neither answer() nor generate()")

    def generate(self, requests: Requests) -> Iterator[Answers]:
        """One request after the other, by answer(); engines that take several have their own."""
        places = count()
        for request in requests:
            yield {} if request is None else {next(places): self.answer(request)}

    def close(self) -> None:
        """There is no memory to give back."""


def collect(engine: Engine, requests: Sequence[Request]) -> list[Response]:
    """All responses, in the order of the requests."""
    responses: Answers = {}
    for answers in engine.generate(requests):
        responses |= answers
    return [responses[i] for i in range(len(requests))]


class Source:
    """Requests that are read in parts.  ended: there are no more."""

    def __init__(self, requests: Requests):
        self._requests, self.ended = iter(requests), False

    def take(self, size: int = sys.maxsize) -> list[Request]:
        """As many as there are for now, up to size."""
        part: list[Request] = []
        while len(part) < size:
            try:
                request = next(self._requests)
            except StopIteration:
                self.ended = True
                break
            if request is None:
                break
            part.append(request)
        return part


def blocks(requests: Requests) -> Iterator[list[tuple[int, Request]]]:
    """Numbered requests, as many at a time as are there, for engines that see them all before they
    begin. An empty block: there is none for now."""
    source, places = Source(requests), count()
    while not source.ended:
        block = [(next(places), request) for request in source.take()]
        if block or not source.ended:
            yield block
