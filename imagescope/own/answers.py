"""What a search says: results, and why they stand where they stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import overload

from imagescope.records import Share, Synthesis
from imagescope.report.findings import Line, Note


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a picture stands where it stands.

    first_rank: the first stage's rank, from 1; None where it was not among its best.  notes: what
    the stages so far said of it, such as an answer to a question each.  brief: the same in a few
    words.
    """

    caption: str
    first_rank: int | None
    notes: tuple[Note, ...] = ()
    brief: tuple[str, ...] = ()

    @property
    def passed(self) -> int:
        """How many notes speak for it."""
        return sum(note.passed is True for note in self.notes)

    @property
    def checks(self) -> int:
        """How many notes speak for it or against it."""
        return sum(note.passed is not None for note in self.notes)


@dataclass(frozen=True, slots=True)
class Result:
    """A picture that was found. rank: from 1.  score: of the last stage that gave it one, such as
    a similarity in [-1, 1]; NaN where none did."""

    rank: int
    name: str
    path: Path
    thumbnail: Path
    score: Share
    explanation: Explanation


@dataclass(frozen=True)
class Answer(Sequence[Result]):
    """The best pictures after a stage, and what the query was taken to mean.

    stage: 's1', 's2', ... by its number; 's0' is the first look, before any.  title: its title.
    upcoming: the title of the stage that follows, "" after the last.  lines: what the stages said
    of the query, each with its picture, if it has one.  seconds: from the question to this answer.
    """

    text: str
    reference: Path | None
    method: str
    stage: str
    title: str
    upcoming: str
    results: tuple[Result, ...]
    synthesis: Synthesis
    lines: tuple[tuple[Line, Path | None], ...]
    seconds: float

    @property
    def carried(self) -> str:
        """The description that a dialogue's next line refines."""
        return self.synthesis.descriptions[-1] if self.synthesis.descriptions else self.text

    @property
    def by_score(self) -> bool:
        """Whether the order is the scores': later stages may have changed it."""
        scores = [result.score for result in self.results]
        return all(a >= b for a, b in pairwise([math.inf, *scores]))  # False for any NaN

    @property
    def nothing_fits(self) -> bool:
        """Whether some were checked, and none passed all of its checks."""
        checked = [r.explanation for r in self.results if r.explanation.checks]
        return bool(checked) and all(why.passed < why.checks for why in checked)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | Sequence[Result]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)
