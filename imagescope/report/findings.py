"""What explains a ranking: one renderer a kind of finding, for pages and terminals.

A renderer says the same in three forms: as the JSON of a run's page (findings.js has a renderer of
the same name for each), as lines about the query, and as notes about a candidate. Own pictures and
terminals show lines and notes of any kind alike. Images are numbered; names from annotation files
are never keys.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from imagescope import records
from imagescope.methods.base import LISTS, Stage
from imagescope.records import Judgement, Trace


class Images:
    """Numbers images in the order they are met: the benchmark's by name, others by their file."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._place: dict[tuple[str, bool], int] = {}

    def __call__(self, name: str, file: bool = False) -> int:
        """file: the name is a path below the image database."""
        if (name, file) not in self._place:
            self._place[name, file] = len(self.names)
            self.names.append(Path(name).name if file else name)
        return self._place[name, file]

    def all(self, names: Iterable[str]) -> list[int]:
        return [self(name) for name in names]

    def sources(self, files: Mapping[str, Path], databases: Sequence[Path]) -> list[Path | None]:
        """Where each image lies. databases: those of the runs that are shown."""
        return [
            stored_file(name, databases) if file else files.get(name) for name, file in self._place
        ]


def stored_file(name: str, databases: Sequence[Path]) -> Path | None:
    """An image's file below one of the image databases; None where none has it, and for a path that
    leads out of them: traces may come from others."""
    for folder in databases:
        path = (folder / name).resolve()
        if path.is_relative_to(folder.resolve()) and path.is_file():
            return path
    return None


@dataclass(frozen=True, slots=True)
class Line:
    """What is said of a query. image: what is shown with it, as in records.Images."""

    label: str
    text: str
    image: str = ""
    file: bool = False

    def __str__(self) -> str:
        return ": ".join(part for part in (self.label, self.text, self.image) if part)


@dataclass(frozen=True, slots=True)
class Note:
    """What is said of a candidate. passed: whether that speaks for it, None where it does neither.
    probability: of yes, where there is one.  words: a model's, in full.  kind: of finding."""

    text: str
    passed: bool | None = None
    probability: float | None = None
    words: str = ""
    kind: str = ""


class Renderer(ABC):
    """How a kind of finding is shown. A trace's own (synthesis, verification, evaluation) may be
    None, where its stage had nothing to say of the query."""

    @abstractmethod
    def data(self, found: Any, trace: Trace, images: Images) -> dict[str, Any]:
        """For findings.js."""

    def lines(self, found: Any, trace: Trace) -> list[Line]:
        return []

    def notes(self, found: Any, trace: Trace, name: str) -> list[Note]:
        """About the candidate of this name; [] where nothing is known."""
        return []

    def brief(self, found: Any, notes: Sequence[Note]) -> list[str]:
        """The notes in a few words."""
        return [note.text for note in notes]


class Synthesis(Renderer):
    def data(self, found: records.Synthesis, trace: Trace, images: Images) -> dict[str, Any]:
        return {
            "reference": found.reference_description,
            "edits": [[e.type, e.text] for e in found.edits],
            "descriptions": found.descriptions,
            "parse": found.parse,
            "text": found.text,
        }

    def lines(self, found: records.Synthesis, trace: Trace) -> list[Line]:
        lines = [Line(edit.type, edit.text) for edit in found.edits]
        lines += [Line("looking for", text) for text in found.descriptions]
        return lines + _fallback("edits" if found.edits else "description", found.parse)


class Verification(Renderer):
    def data(
        self, found: records.Verification | None, trace: Trace, images: Images
    ) -> dict[str, Any]:
        """Without candidates where no question was put."""
        synthesis = trace.synthesis
        shown = {"parse": synthesis.questions_parse, "text": synthesis.questions_text}
        if found is None:
            return shown
        return shown | {
            "questions": [[q.text, q.expected] for q in synthesis.questions],
            "candidates": images.all(found.candidates),
            "yes": [[_rounded(p) for p in row] for row in found.yes],
            "answers": found.answers,
            "scores": found.scores,
            "unread": found.unread,
        }

    def lines(self, found: records.Verification | None, trace: Trace) -> list[Line]:
        return _fallback("questions", trace.synthesis.questions_parse)

    def notes(self, found: records.Verification | None, trace: Trace, name: str) -> list[Note]:
        if found is None or name not in found.candidates:
            return []
        row = found.candidates.index(name)
        unread = {column for at, column, _ in found.unread if at == row}
        columns = zip(trace.synthesis.questions, found.answers[row], found.yes[row], strict=True)
        return [
            _answer(q.text, answer, q.expected, _rounded(yes), column in unread)
            for column, (q, answer, yes) in enumerate(columns)
        ]

    def brief(self, found: records.Verification | None, notes: Sequence[Note]) -> list[str]:
        return _tally(notes, "questions passed")


class Evaluation(Renderer):
    def data(
        self, found: records.Evaluation | None, trace: Trace, images: Images
    ) -> dict[str, Any]:
        judgements = found.judgements if found else ()
        return {"judgements": [[images(j.candidate), _verdict(j), j.text] for j in judgements]}

    def notes(self, found: records.Evaluation | None, trace: Trace, name: str) -> list[Note]:
        judgements = found.judgements if found else ()
        return [_judged(j) for j in judgements if j.candidate == name]


class Texts(Renderer):
    def data(self, found: records.Texts, trace: Trace, images: Images) -> dict[str, Any]:
        return {"title": found.title, "rows": found.rows}

    def lines(self, found: records.Texts, trace: Trace) -> list[Line]:
        return [Line(_joined(found.title, label), text) for label, text in found.rows]


class Pictures(Renderer):
    def data(self, found: records.Images, trace: Trace, images: Images) -> dict[str, Any]:
        rows = [[images(name, found.files), note] for name, note in found.rows]
        return {"title": found.title, "rows": rows}

    def lines(self, found: records.Images, trace: Trace) -> list[Line]:
        return [Line(found.title, note, name, found.files) for name, note in found.rows]


class Table(Renderer):
    def data(self, found: records.Table, trace: Trace, images: Images) -> dict[str, Any]:
        expected = _expected(found)
        return {
            "title": found.title,
            "columns": list(zip(found.columns, expected, strict=True)),
            "rows": [
                [
                    images(name),
                    [[_plain(c), _met(c, e)] for c, e in zip(cells, expected, strict=True)],
                ]
                for name, cells in found.rows
            ],
        }

    def notes(self, found: records.Table, trace: Trace, name: str) -> list[Note]:
        return [
            Note(f"{column}: {_plain(cell)}") if e is None else _answer(column, cell, e)
            for row, cells in found.rows
            if row == name
            for column, cell, e in zip(found.columns, cells, _expected(found), strict=True)
        ]

    def brief(self, found: records.Table, notes: Sequence[Note]) -> list[str]:
        return _tally(notes, f"passed ({found.title})")


RENDERERS: Mapping[str, Renderer] = {  # by the field of a trace
    "synthesis": Synthesis(),
    "verification": Verification(),
    "evaluation": Evaluation(),
    "texts": Texts(),
    "images": Pictures(),
    "tables": Table(),
}


def findings(trace: Trace, stage: Stage) -> Iterator[tuple[str, Any]]:
    """What explains a stage's ranking, in order, as (kind, finding): the kinds that it declares,
    then those that it brought of LISTS."""
    yield from ((kind, getattr(trace, kind)) for kind in stage.findings if kind in RENDERERS)
    for kind in LISTS.values():
        yield from ((kind, found) for found in getattr(trace, kind) if found.stage == stage.id)


def data(trace: Trace, stage: Stage, images: Images) -> list[dict[str, Any]]:
    """A stage's findings as the page of a run reads them."""
    return [
        {"kind": kind} | RENDERERS[kind].data(found, trace, images)
        for kind, found in findings(trace, stage)
    ]


def lines(trace: Trace, stages: Sequence[Stage]) -> list[Line]:
    """What these stages say of the query."""
    return [
        line
        for stage in stages
        for kind, found in findings(trace, stage)
        for line in RENDERERS[kind].lines(found, trace)
    ]


def notes(trace: Trace, stages: Sequence[Stage], name: str) -> tuple[list[Note], list[str]]:
    """What these stages say of a candidate, and the same in a few words."""
    said, brief = list[Note](), list[str]()
    for stage in stages:
        for kind, found in findings(trace, stage):
            if some := RENDERERS[kind].notes(found, trace, name):
                said += [replace(note, kind=kind) for note in some]
                brief += RENDERERS[kind].brief(found, some)
    return said, brief


def _fallback(what: str, parse: str) -> list[Line]:
    return [Line(what, parse)] if parse.startswith("fallback") else []


def _answer(
    question: str, answer: Any, expected: bool, yes: float | None = None, unread: bool = False
) -> Note:
    """A question with the answer it got, and the one it should have had if that is another."""
    passed = answer is expected
    said = ("not understood" if unread else "no answer") if answer is None else _plain(answer)
    instead = "" if passed else f", wanted {_plain(expected)}"
    return Note(f"{question} {said}{instead}", passed, yes)


def _tally(notes: Sequence[Note], what: str) -> list[str]:
    """How many questions were passed, and which were not; then what is no question."""
    asked = [note for note in notes if note.passed is not None]
    passed = sum(note.passed is True for note in asked)
    parts = [f"{passed} of {len(asked)} {what}"] if asked else []
    parts += [f"not: {note.text}" for note in asked if not note.passed]
    return parts + [note.text for note in notes if note.passed is None]


def _verdict(judgement: Judgement) -> str:
    if not judgement.judged:
        return "not judged"
    if judgement.unread:
        return "not understood"
    return "accepted" if judgement.accepted else "rejected"


def _judged(judgement: Judgement) -> Note:
    verdict, words = _verdict(judgement), judgement.text.strip()
    if not judgement.judged or judgement.unread:
        return Note(verdict, words=words)
    return Note(f"{verdict} by the evaluator", judgement.accepted, words=words)


def _expected(table: records.Table) -> tuple[bool | None, ...]:
    return table.expected or (None,) * len(table.columns)


def _met(cell: Any, expected: bool | None) -> bool | None:
    return None if expected is None or cell is None else cell is expected


def _plain(cell: float | bool | str | None) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _joined(title: str, label: str) -> str:
    return f"{title}, {label}" if title and label else title or label


def _rounded(p: float | None) -> float | None:
    return None if p is None or math.isnan(p) else round(p, 4)
