"""The one thread that answers whoever searches: they take turns stage by stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

from imagescope.own.answers import Answer
from imagescope.own.scope import ImageScope

log = logging.getLogger("imagescope")


class Desk:
    """The one thread that owns the models and the cache."""

    def __init__(self, open_scope: Callable[[], ImageScope]):
        self._pool = ThreadPoolExecutor(1, "models")
        self.scope = self._pool.submit(open_scope).result()

    def step(self, answers: Generator[Answer]) -> Future[Answer | None]:
        """The next of a search's answers, None at its end. Between two of them others have their
        turn; one that is cancelled before its turn costs nothing."""
        return self._pool.submit(next, answers, None)

    def drop(self, answers: Generator[Answer]) -> None:
        """Ends a search that nobody waits for any more."""
        self._pool.submit(answers.close)

    def warm(self) -> None:
        """Loads the models while the first visitor still types."""
        self._pool.submit(_warm, self.scope)

    def close(self) -> None:
        self._pool.submit(self.scope.close).result()
        self._pool.shutdown()


def _warm(scope: ImageScope) -> None:
    try:  # words never asked before: known answers come from the cache and load nothing
        reference = scope.names[0] if scope.method.needs_reference else None
        scope.search(f"warming up {time.time_ns()}", reference, top=1)
    except Exception as error:
        log.warning("warming up: %s", error)
