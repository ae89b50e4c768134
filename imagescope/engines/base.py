"""The one interface through which every question to a model goes.

A Request is a value: it says what to ask, never how or where. Pixels are made where the model
runs, from paths. `Engine.generate` yields (index, response) pairs as they are finished; the caller
puts them in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Picture:
    """One image file, as RGB with its EXIF orientation applied; the processor does the rest."""

    path: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The canvas of stage 3: reference left, candidate right. No reference: a black image."""

    left: str | None
    right: str


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    prompt: what is said, before the role's template (raw or chat) is put around it.
    images: at most one today, shown before the prompt.
    max_tokens, repetition_penalty, stop: decoding; always greedy.
    choices: words whose probabilities are wanted for the FIRST token (e.g. ("yes", "no")); decoding
        stays unconstrained. Case and a leading space do not matter.
    schema: JSON schema the text must follow, where the engine can (None: free text).
    """

    prompt: str
    images: tuple[Picture | Pair, ...] = ()
    max_tokens: int = 256
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """A model's answer.

    text: without special tokens.  finish: 'stop', 'length' or 'error'.
    probabilities: one per choice, normalised over the choices; empty if none were asked.
    error: why there is no text (an unreadable image, a request the engine refuses), else None.
        An errored response is never cached.
    """

    text: str
    prompt_tokens: int = 0
    output_tokens: int = 0
    finish: str = "stop"
    probabilities: tuple[float, ...] = ()
    error: str | None = None


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


def collect(engine: Engine, requests: Sequence[Request]) -> list[Response]:
    """All responses, in the order of the requests."""
    found = dict(engine.generate(requests))
    return [found[i] for i in range(len(requests))]
