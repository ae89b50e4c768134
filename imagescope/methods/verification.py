"""Stage 2, predicate verification: yes/no questions about the K best images (section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagescope.config import Reading
from imagescope.engines.base import Picture, Request, Response
from imagescope.engines.role import Role
from imagescope.engines.text import SILENT
from imagescope.methods.decisions import says_yes
from imagescope.methods.prompts import VERIFICATION
from imagescope.methods.ranking import reorder
from imagescope.methods.reasoning import begins_to_think, without_reasoning
from imagescope.records import Query, Ranking, Synthesis, Verification


def verify(
    queries: Sequence[Query],
    syntheses: Sequence[Synthesis],
    rankings: Sequence[Ranking],
    files: Mapping[str, Path],
    verifier: Role,
    top_k: int,
    reading: Reading = "tolerant",
) -> tuple[list[Verification | None], list[Ranking]]:
    """The answers about the K best of each query, and the rankings that follow from them: these K
    sorted by the number of questions answered as expected.

    The sort is stable: ties keep stage 1's order. Ranks beyond K stay, and so does a query
    without a valid question. Requests are ordered by image, so that those which share one meet in
    the model's prefix cache; the same (image, question) is asked once by the cache around it.
    """
    askers = {  # (image, question) -> a query that puts it
        (name, question.text): asker
        for asker, synthesis, ranking in zip(map(str, queries), syntheses, rankings, strict=True)
        for name in ranking.names[:top_k]
        for question in synthesis.questions
    }
    total = sum(
        len(s.questions) * len(r.names[:top_k]) for s, r in zip(syntheses, rankings, strict=True)
    )
    pairs = sorted(askers)
    requests = [
        Request(
            VERIFICATION.format(question=question),
            (Picture(str(files[name])),),
            max_tokens=verifier.config.answer_tokens,
            choices=("yes", "no"),
        )
        for name, question in pairs
    ]
    about = [askers[pair] for pair in pairs]
    answered = verifier.ask(requests, "verification", about, wanted=total)
    responses = dict(zip(pairs, answered, strict=True))
    said = {text: says_yes(text, reading) for text in {r.text for r in answered}}  # few differ
    read = {pair: None if r.error else said[r.text] for pair, r in responses.items()}
    verifier.unread("verification", sum(read[p] is None and not responses[p].error for p in pairs))
    _tell_of_thinking(verifier, answered)
    verifications: list[Verification | None] = []
    reordered: list[Ranking] = []
    for synthesis, ranking in zip(syntheses, rankings, strict=True):
        head, questions = ranking.names[:top_k], synthesis.questions
        if not questions or not head:
            verifications.append(None)
            reordered.append(ranking)
            continue
        table = [[responses[name, q.text] for q in questions] for name in head]
        answers = tuple(tuple(read[name, q.text] for q in questions) for name in head)
        unread = tuple(
            (i, j, response.text)
            for i, row in enumerate(table)
            for j, response in enumerate(row)
            if answers[i][j] is None and not response.error
        )
        yes = tuple(
            tuple(r.probabilities[0] if _at_once(r) else math.nan for r in row) for row in table
        )
        scores = tuple(
            sum(a is q.expected for a, q in zip(row, questions, strict=True)) for row in answers
        )
        order = sorted(range(len(head)), key=lambda i: -scores[i])
        verifications.append(Verification(head, yes, answers, scores, unread))
        reordered.append(reorder(ranking, [head[i] for i in order]))
    return verifications, reordered


def _at_once(response: Response) -> bool:
    """Whether there are probabilities, and of the answer: they are those of the first token, which
    is not the answer's where reasoning comes before it."""
    return bool(response.probabilities) and without_reasoning(response.text) == response.text


def _tell_of_thinking(verifier: Role, responses: Sequence[Response]) -> None:
    """A warning where a model spent what it may say on thinking."""
    silent = sum(begins_to_think(r.text) or r.error == SILENT for r in responses)
    if silent:
        verifier.warn_once(
            f"{verifier.config.model}: {silent} of {len(responses)} yes/no questions were answered "
            "with nothing, or with the beginning of its thinking. If it thinks before it answers, "
            "tell it not to (chat_template_options: {enable_thinking: false}, or what its chat "
            "template has) or give the verifier more answer_tokens"
        )
