"""A role's voice: an engine with the decoding that the role's configuration asks for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from imagescope.config import ModelConfig
from imagescope.engines.base import Request, Requests, Response
from imagescope.engines.cached import Absent, Cached, Counts, unreadable
from imagescope.engines.text import harmless
from imagescope.errors import UserError
from imagescope.progress import log, track
from imagescope.records import added

T = TypeVar("T")
REASONS = 3  # different errors of a step that are quoted


@dataclass
class Step(Counts):
    """What one step of a run cost. seconds: in all.  errors: requests that the model left without
    an answer, each counted once (an unreadable image is not the model's error).  refused: those
    among them that the model or its endpoint refused.  unread: answers that were given but not
    understood.  reasons: the first errors' texts.  not_finite: scores that are no numbers."""

    seconds: float = 0.0
    errors: int = 0
    refused: int = 0
    unread: int = 0
    reasons: list[str] = field(default_factory=list)
    not_finite: int = added(0)

    def count_errors(self, responses: Mapping[Request, Response]) -> None:
        """Counts the errors among the responses that are the model's."""
        errors = [r.error for q, r in responses.items() if r.error and not unreadable(q, r)]
        self.errors += len(errors)
        self.refused += sum(error.startswith("refused") for error in errors)
        self.reasons = list(dict.fromkeys([*self.reasons, *errors]))[:REASONS]

    @property
    def answered(self) -> int:
        """Requests with an answer, each counted once."""
        return self.wanted - self.duplicates - self.unreadable - self.errors


@dataclass
class Role:
    """What a stage asks: requests in, responses out in the same order, with progress shown.

    steps: what each labelled step cost, filled as they are asked.
    """

    name: str
    engine: Cached
    config: ModelConfig
    steps: dict[str, Step] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def ask(
        self,
        requests: Sequence[Request],
        label: str,
        about: Sequence[str],
        wanted: int | None = None,
    ) -> list[Response]:
        """All responses, in order. A request's max_tokens is cut to the role's.

        about: for each request the query or image it belongs to, for messages.
        wanted: how many questions these requests stand for, where the caller dropped duplicates.
        Raises UserError, naming step and query, where a replay lacks a response.
        """
        responses = dict(self.stream(requests, label, about, len(requests), wanted))
        return [responses[i] for i in range(len(requests))]

    def stream(
        self,
        requests: Requests,
        label: str,
        about: Sequence[str],
        total: int,
        wanted: int | None = None,
    ) -> Iterator[tuple[int, Response]]:
        """(place, response) as they come, of requests that may follow from earlier responses: None
        among them stands for none for now (engines/base.py). total: how many there will be."""
        start, before = time.monotonic(), replace(self.engine.stats)
        asked: list[Request] = []
        errors: dict[Request, Response] = {}

        def decoded() -> Requests:
            for request in requests:
                if request is not None:
                    request = self._decoded(request)
                    asked.append(request)
                yield request

        answers = (pair for some in self.engine.generate(decoded()) for pair in some.items())
        try:
            for i, response in track(answers, total, label):
                if response.error:
                    errors[asked[i]] = response
                yield i, response
        except Absent as error:
            raise UserError(f"{label}, {about[error.index]}: {error}") from None
        after, step = self.engine.stats, self.steps.setdefault(label, Step())
        more = (wanted or len(asked)) - len(asked)
        step.add(after, before)
        step.count_errors(errors)
        step.wanted += more
        step.duplicates += more
        spent = time.monotonic() - start
        step.seconds += spent
        log.info(
            "%s: %d requests, %d of them asked, %.1f s",
            *(label, wanted or len(asked), after.asked - before.asked, spent),
        )

    def ask_chains(
        self,
        starts: Iterable[tuple[T, Request]],
        then: Callable[[T, Response], Iterable[tuple[T, Request]]],
        label: str,
        about: Callable[[T], str],
        total: int,
    ) -> None:
        """Chains of requests, each of which follows from the response before it: rounds of a
        dialogue, say. Chains do not wait for each other.

        starts: the first requests, each with what stands for its chain.  then: gets that and the
        response; the requests that follow.  about, total: as for `stream`, by chain.
        """
        ready, asked, names, answered = deque(starts), list[T](), list[str](), 0

        def requests() -> Requests:
            while ready or answered < len(asked):
                while ready:
                    chain, request = ready.popleft()
                    asked.append(chain)
                    names.append(about(chain))
                    yield request
                yield None

        for place, response in self.stream(requests(), label, names, total):
            answered += 1
            ready.extend(then(asked[place], response))

    @property
    def width(self) -> int:
        """How many requests are answered for about the price of one (engines/base.py)."""
        return self.engine.width

    def unread(self, label: str, count: int) -> None:
        """Counts answers of a step that were not understood. label: as `ask` got it."""
        self.steps[label].unread += count

    def warn_once(self, message: str) -> None:
        """A warning that is not repeated while the role is open."""
        if message not in self._told:
            self._told.add(message)
            log.warning("%s", message)

    def missing(self, requests: Sequence[Request]) -> int:
        """How many of the requests would cost something: neither duplicates nor held."""
        return self.engine.missing([self._decoded(request) for request in requests])

    def adopt(self, requests: Sequence[Request], texts: Sequence[str]) -> None:
        """Keeps what this role is known to have answered, elsewhere than in the cache."""
        self.engine.adopt([self._decoded(request) for request in requests], texts)

    def _decoded(self, request: Request) -> Request:
        """The request with the role's decoding, its prompt harmless."""
        config = self.config
        return replace(
            request,
            prompt=harmless(request.prompt),
            max_tokens=min(request.max_tokens, config.max_tokens),
            repetition_penalty=config.repetition_penalty,
            stop=config.stop,
        )
