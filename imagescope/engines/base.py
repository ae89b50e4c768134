"""The one interface through which every question to a model goes.

A Request is a value: it says what to ask, never how or where. Pixels are made where the model
runs, from paths. `Engine.generate` yields (index, response) pairs as they are finished; the caller
puts them in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol

from imagescope.records import Pair, Picture, Request, Response

__all__ = [
    "Engine",
    "EngineClass",
    "Pair",
    "Picture",
    "Request",
    "Response",
    "collect",
    "in_chunks",
]


class Engine(Protocol):
    """What every engine offers.

    identity: everything about the engine that determines its answers, JSON-able: kind, model,
        revision or content hash, dtype, quantisation, template, context length.
    generate: lazy; the model is loaded at the first request that is really asked.
    close: gives the memory back; the engine may be used again afterwards (it loads again).
    """

    @property
    def identity(self) -> dict[str, Any]: ...

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]: ...

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


def collect(engine: Engine, requests: Sequence[Request]) -> list[Response]:
    """All responses, in the order of the requests."""
    responses = dict(engine.generate(requests))
    return [responses[i] for i in range(len(requests))]


def in_chunks(
    engine: Engine, chunks: Sequence[Sequence[Request]]
) -> Iterator[tuple[int, list[Response]]]:
    """(number of the chunk, its responses in order): several at once where the engine can
    (distributed.py), else one after the other."""
    several = getattr(engine, "chunks", None)
    if several and chunks:
        yield from several(chunks)
    else:
        for number, chunk in enumerate(chunks):
            yield number, collect(engine, chunk)
