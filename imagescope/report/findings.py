"""What explains a ranking, as the page's JSON: a renderer for each kind of finding.

findings.js has one of the same name for each. Images are numbered; names from annotation files are
never keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from imagescope.methods.base import Stage
from imagescope.records import Judgement, Trace


class Images:
    """Numbers image names in the order they are met."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._place: dict[str, int] = {}

    def __call__(self, name: str) -> int:
        if name not in self._place:
            self._place[name] = len(self.names)
            self.names.append(name)
        return self._place[name]

    def all(self, names: Iterable[str]) -> list[int]:
        return [self(name) for name in names]


def findings(trace: Trace, stage: Stage, images: Images) -> list[dict[str, Any]]:
    """What explains a stage's ranking, in order: the kinds that it declares, then Texts, Images."""
    found = [RENDERERS[kind](trace, images) for kind in stage.findings if kind in RENDERERS]
    found += [
        {"kind": "texts", "title": texts.title, "rows": texts.rows}
        for texts in trace.texts
        if texts.stage == stage.id
    ]
    found += [
        {"kind": "images", "title": shown.title, "rows": [[images(n), t] for n, t in shown.rows]}
        for shown in trace.images
        if shown.stage == stage.id
    ]
    return found


def _synthesis(trace: Trace, _: Images) -> dict[str, Any]:
    found = trace.synthesis
    return {
        "kind": "synthesis",
        "reference": found.reference_description,
        "edits": [[e.type, e.text] for e in found.edits],
        "descriptions": found.descriptions,
        "parse": found.parse,
        "text": found.text,
    }


def _verification(trace: Trace, images: Images) -> dict[str, Any]:
    """Without candidates where no question was put."""
    questions, found = trace.synthesis, trace.verification
    shown: dict[str, Any] = {
        "kind": "verification",
        "parse": questions.questions_parse,
        "text": questions.questions_text,
    }
    if found is None:
        return shown
    return shown | {
        "questions": [[q.text, q.expected] for q in questions.questions],
        "candidates": images.all(found.candidates),
        "yes": [[_rounded(p) for p in row] for row in found.yes],
        "answers": found.answers,
        "scores": found.scores,
        "unread": found.unread,
    }


def _evaluation(trace: Trace, images: Images) -> dict[str, Any]:
    judgements = trace.evaluation.judgements if trace.evaluation else ()
    return {
        "kind": "evaluation",
        "judgements": [
            [images(j.candidate), "accepted" if j.accepted else _refusal(j), j.text]
            for j in judgements
        ],
    }


def _refusal(judgement: Judgement) -> str:
    if not judgement.judged:
        return "not judged"
    return "not understood" if judgement.unread else "rejected"


def _rounded(p: float | None) -> float | None:
    return None if p is None or math.isnan(p) else round(p, 4)


RENDERERS: Mapping[str, Callable[[Trace, Images], dict[str, Any]]] = {
    "synthesis": _synthesis,
    "verification": _verification,
    "evaluation": _evaluation,
}
