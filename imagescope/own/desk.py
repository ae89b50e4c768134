"""Visitors of the page, and the one thread that answers them: they take turns stage by stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from markupsafe import escape

from imagescope.own.answers import Answer
from imagescope.own.conversation import Conversation
from imagescope.own.scope import ImageScope

log = logging.getLogger("imagescope")
T = TypeVar("T")


@dataclass
class Session:
    """One visitor's conversation, and its transcript.

    turn: how many lines there were; a line ends the search of the one before.  refused: why the
    reference picture that was offered last was not taken; until it is dropped, nothing is searched.
    """

    conversation: Conversation = field(default_factory=Conversation)
    lines: list[dict[str, str]] = field(default_factory=list)
    turn: int = 0
    refused: str = ""

    def note(self, role: str, text: str) -> None:
        """Adds a line; the chat window takes HTML."""
        self.lines.append({"role": role, "content": str(escape(text))})


class Desk:
    """The one thread that owns the models and the cache."""

    def __init__(self, open_scope: Callable[[], ImageScope]):
        self._pool = ThreadPoolExecutor(1, "models")
        self.scope = self._do(open_scope)

    def _do(self, work: Callable[..., T], *args: Any) -> T:
        return self._pool.submit(work, *args).result()

    def answers(self, session: Session, text: str, top: int) -> Iterator[Answer]:
        """An answer after each stage; between two of them others have their turn. Ends where the
        visitor says something else meanwhile, before it costs anything more."""
        turn = session.turn
        steps = session.conversation.say(self.scope, text, top=top, glance=True)

        def step() -> Answer | None:
            return next(steps, None) if session.turn == turn else None

        while (answer := self._do(step)) is not None:
            yield answer

    def search(
        self, text: str, reference: str | None, stages: str | Sequence[str] | None, top: int
    ) -> Answer:
        """A search outside of any conversation; between two stages others have their turn."""
        steps = self.scope.stages(text, reference, stages, top)
        answer: Answer = self._do(next, steps)
        while (better := self._do(next, steps, None)) is not None:
            answer = better
        return answer

    def warm(self) -> None:
        """Loads the models while the first visitor still types."""
        self._pool.submit(_warm, self.scope)

    def close(self) -> None:
        self._do(self.scope.close)
        self._pool.shutdown()


def _warm(scope: ImageScope) -> None:
    try:  # words never asked before: known answers come from the cache and load nothing
        reference = scope.names[0] if scope.method.needs_reference else None
        scope.search(f"warming up {time.time_ns()}", reference, top=1)
    except Exception as error:
        log.warning("warming up: %s", error)
