"""What a search says: results, why they stand where they stand, and a query on its way there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from imagescope.records import Evaluation, Query, Ranking, Share, Synthesis, Verification


@dataclass(frozen=True, slots=True)
class Check:
    """A question that was put to a picture. answer: None where there is none, or none that was
    understood (unread); yes: P(yes), NaN where the engine gives none."""

    question: str
    expected: bool
    answer: bool | None
    yes: Share
    unread: bool = False

    @property
    def passed(self) -> bool:
        return self.answer is self.expected


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a picture stands where it stands.

    first_rank: stage 1's rank, from 1.  checks: stage 2's questions; empty if it was not asked.
    accepted, words: stage 3's decision and the evaluator's text; None and "" if it was not asked,
        None and the reason where it gave no answer; None and its words where they were not
        understood.
    """

    caption: str
    first_rank: int
    checks: tuple[Check, ...] = ()
    accepted: bool | None = None
    words: str = ""

    @property
    def passed(self) -> int:
        return sum(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class Result:
    """A picture that was found. rank: from 1.  score: stage 1's similarity, in [-1, 1]."""

    rank: int
    name: str
    path: Path
    thumbnail: Path
    score: float
    explanation: Explanation


@dataclass(frozen=True)
class Answer(Sequence[Result]):
    """The best pictures after a stage ('s1', 's2' or 's3'; 's0' is the first look, before any), and
    what the query was taken to mean.

    seconds: from the question to this answer.  carried: the description that a dialogue's next
    line refines.
    """

    text: str
    reference: Path | None
    stage: str
    results: tuple[Result, ...]
    synthesis: Synthesis
    seconds: float

    @property
    def carried(self) -> str:
        return self.synthesis.descriptions[-1]

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | Sequence[Result]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)


@dataclass(frozen=True)
class State:
    """One query on its way through the stages. stage: the last one, as an Answer has it."""

    stage: str
    query: Query
    reference: Path | None
    synthesis: Synthesis
    ranking: Ranking
    scores: dict[str, float]  # stage 1's, in its order
    verification: Verification | None = None
    evaluation: Evaluation | None = None

    def checks(self, name: str) -> tuple[Check, ...]:
        verification = self.verification
        if not verification or name not in verification.candidates:
            return ()
        row = verification.candidates.index(name)
        answers, yes = verification.answers[row], verification.yes[row]
        columns = zip(self.synthesis.questions, answers, yes, strict=True)
        unread = {column for at, column, _ in verification.unread if at == row}
        return tuple(
            Check(question.text, question.expected, answer, p, column in unread)
            for column, (question, answer, p) in enumerate(columns)
        )

    def judgement(self, name: str) -> tuple[bool | None, str]:
        for judgement in self.evaluation.judgements if self.evaluation else ():
            if judgement.candidate == name:
                understood = judgement.judged and not judgement.unread
                return judgement.accepted if understood else None, judgement.text
        return None, ""
