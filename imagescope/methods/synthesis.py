"""Stage 1, semantic synthesis: the reasoner says what the target looks like (section 3.2).

Two calls. The first splits the instruction into atomic edits and describes the target; in a
dialogue it folds a round into the first description of the round before, so rounds follow one
another, but all dialogues go together. The second turns edits into yes/no questions for stage 2; it
needs nothing from retrieval, so the reasoner is loaded once for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from imagescope.config import Reading
from imagescope.engines.base import Request
from imagescope.engines.role import Role
from imagescope.methods.parsing import (
    QUESTIONS_SCHEMA,
    SYNTHESIS_SCHEMA,
    parse_questions,
    parse_synthesis,
    understood,
)
from imagescope.methods.prompts import Prompts, atomic_instructions, fill
from imagescope.records import BLANK_IMAGE, Query, Synthesis

LONGEST = 1 << 20  # no limit but the role's own


def synthesise(
    queries: Sequence[Query],
    captions: Mapping[str, str],
    reasoner: Role,
    prompts: Prompts,
    reading: Reading = "tolerant",
) -> list[Synthesis]:
    """Edits and descriptions of every query's target, in the order of the queries.

    captions: reference image -> its caption; a reference without one counts as no reference.
    """
    place = {q.key: i for i, q in enumerate(queries)}
    syntheses: dict[int, Synthesis] = {}
    waiting, unread = list(range(len(queries))), 0
    while waiting:
        before = {i: place.get((queries[i].id, queries[i].turn - 1)) for i in waiting}
        wave = [i for i in waiting if before[i] is None or before[i] in syntheses]
        waiting = [i for i in waiting if not (before[i] is None or before[i] in syntheses)]
        contexts: list[tuple[int, str, str]] = []  # query, reference description, fallback
        for i in wave:
            query, previous = queries[i], before[i]
            if query.verbatim:
                syntheses[i] = Synthesis("", (), (query.instruction,))
            elif previous is not None:
                description = syntheses[previous].descriptions[0]
                contexts.append((i, description, description))
            elif caption := captions.get(query.reference or "", ""):
                contexts.append((i, caption, caption))
            else:
                contexts.append((i, BLANK_IMAGE, query.instruction.strip() or BLANK_IMAGE))
        requests = [
            Request(
                fill(
                    prompts["synthesis"],
                    INSTRUCTION=queries[i].instruction,
                    REF_IMAGE_DESC=reference.strip(),
                ),
                max_tokens=LONGEST,
                schema=SYNTHESIS_SCHEMA if reasoner.config.json_schema else None,
            )
            for i, reference, _ in contexts
        ]
        turn = queries[wave[0]].turn
        label = f"synthesis, round {turn}" if turn else "synthesis"
        for (i, reference, fallback), response in zip(
            contexts,
            reasoner.ask(requests, label, [str(queries[i]) for i, _, _ in contexts]),
            strict=True,
        ):
            query = queries[i]
            edits, descriptions, how = parse_synthesis(
                response.text, query.instruction, fallback, reading
            )
            if response.error:
                how = f"fallback: {response.error}"
            elif not understood(how):
                unread += 1
            syntheses[i] = Synthesis(reference, edits, descriptions, text=response.text, parse=how)
    if unread:
        reasoner.unread("synthesis", unread)
    return [syntheses[i] for i in range(len(queries))]


def ask_questions(
    queries: Sequence[Query],
    syntheses: Sequence[Synthesis],
    reasoner: Role,
    prompts: Prompts,
    reading: Reading = "tolerant",
) -> list[Synthesis]:
    """The same syntheses, with the yes/no questions that stage 2 puts to the best candidates."""
    places = [i for i, q in enumerate(queries) if not q.verbatim]
    requests = [
        Request(
            fill(
                prompts["questions"],
                INSTRUCTION=queries[i].instruction,
                ATOMIC_INST=atomic_instructions(syntheses[i].edits),
            ),
            max_tokens=LONGEST,
            schema=QUESTIONS_SCHEMA if reasoner.config.json_schema else None,
        )
        for i in places
    ]
    result, unread = list(syntheses), 0
    about = [str(queries[i]) for i in places]
    for i, response in zip(places, reasoner.ask(requests, "questions", about), strict=True):
        questions, how = parse_questions(response.text, reading)
        if response.error:
            how = f"fallback: {response.error}"
        elif not understood(how):
            unread += 1
        result[i] = replace(
            result[i], questions=questions, questions_text=response.text, questions_parse=how
        )
    if unread:
        reasoner.unread("questions", unread)
    return result
