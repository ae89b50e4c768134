"""Stage 1, semantic synthesis: the reasoner says what the target looks like (section 3.2).

Two calls. The first splits the instruction into atomic edits and describes the target; in a
dialogue it folds a round into the first description of the round before, so rounds follow one
another, but dialogues do not wait for each other. The second turns edits into yes/no questions for
stage 2; it needs nothing from retrieval, so the reasoner is loaded once for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from imagescope.config import Reading
from imagescope.engines.base import Request, Response
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
    place = {query.key: i for i, query in enumerate(queries)}
    followers: dict[int | None, list[int]] = {}  # None: queries that follow none
    for i, query in enumerate(queries):
        followers.setdefault(place.get((query.id, query.turn - 1)), []).append(i)
    syntheses: dict[int, Synthesis] = {}
    contexts: dict[int, tuple[str, str]] = {}  # reference description, fallback
    unread = 0

    def ask(after: int | None) -> Iterator[tuple[int, Request]]:
        for i in followers.get(after, ()):
            query, caption = queries[i], captions.get(queries[i].reference or "", "")
            if query.verbatim:
                syntheses[i] = Synthesis("", (), (query.instruction,))
                yield from ask(i)
                continue
            if after is not None:
                description = syntheses[after].descriptions[0]
                contexts[i] = description, description
            elif caption:
                contexts[i] = caption, caption
            else:
                contexts[i] = BLANK_IMAGE, query.instruction.strip() or BLANK_IMAGE
            text = fill(
                prompts["synthesis"],
                INSTRUCTION=query.instruction,
                REF_IMAGE_DESC=contexts[i][0].strip(),
            )
            schema = SYNTHESIS_SCHEMA if reasoner.config.json_schema else None
            yield i, Request(text, max_tokens=LONGEST, schema=schema)

    def read(i: int, response: Response) -> Iterator[tuple[int, Request]]:
        nonlocal unread
        (reference, fallback), text = contexts[i], response.text
        edits, descriptions, how = parse_synthesis(text, queries[i].instruction, fallback, reading)
        if response.error:
            how = f"fallback: {response.error}"
        elif not understood(how):
            unread += 1
        syntheses[i] = Synthesis(reference, edits, descriptions, text=text, parse=how)
        return ask(i)

    total = sum(not query.verbatim for query in queries)
    reasoner.ask_chains(ask(None), read, "synthesis", lambda i: str(queries[i]), total)
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
