"""A search that goes on: each line refines the last, until it starts over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagescope.errors import UserError
from imagescope.own.answers import Answer, Result
from imagescope.own.scope import ImageScope


@dataclass
class Conversation:
    """What one user has said and found. It belongs to no index: the next answer is asked of one.

    answer: the last one.  reference: a picture that was taken as the reference; the next line says
    what is to be different from it.
    """

    answer: Answer | None = None
    reference: Path | None = None

    def say(
        self, scope: ImageScope, text: str, stages: str | Sequence[str] | None = None, top: int = 10
    ) -> Iterator[Answer]:
        """An answer after each stage (see ImageScope.stages). A line that follows another without a
        reference refines its description; a reference counts for one line."""
        previous = self.answer.carried if self.answer is not None and not self.reference else None
        for answer in scope.stages(text, self.reference, stages, top, previous):
            self.answer = answer
            yield answer
        self.reference = None

    def like(self, rank: int) -> Result:
        """Takes a result of the last answer as the reference."""
        result = self.result(rank)
        self.reference = result.path
        return result

    def result(self, rank: int) -> Result:
        """A result of the last answer, by its rank. Raises UserError where there is none."""
        count = len(self.answer) if self.answer is not None else 0
        if self.answer is None or not 1 <= rank <= count:
            raise UserError(
                f"there is no result {rank}" + (f" (1 to {count})" if count else " yet")
            )
        return self.answer[rank - 1]

    def restart(self) -> None:
        """Forgets everything that was said."""
        self.answer = self.reference = None
