"""Stage 3, pairwise evaluation: reference and candidate side by side (section 3.4)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from imagescope.config import Reading
from imagescope.engines.base import Pair, Request, Response
from imagescope.engines.role import Role
from imagescope.methods.decisions import accepts
from imagescope.methods.prompts import fill
from imagescope.methods.ranking import reorder
from imagescope.progress import log
from imagescope.records import UNJUDGED, Evaluation, Judgement, Query, Ranking

Place = tuple[int, int]  # query, rank
LONGEST = 1 << 20  # no limit but the role's own


def evaluate(
    queries: Sequence[Query],
    rankings: Sequence[Ranking],
    files: Mapping[str, Path],
    evaluator: Role,
    prompt: str,
    alpha: int,
    reading: Reading = "tolerant",
    speculative: bool | None = None,
) -> tuple[list[Evaluation | None], list[Ranking]]:
    """The alpha best of each query are judged in turn, and the first accepted one moves to rank 1:
    the judgements, and the rankings that follow from them.

    A query stops at its first Yes; all No leaves the order as it was. A candidate that could not be
    judged, or whose judgement is not understood, stays where it is, and the judgement says why.
    speculative: all are judged at once, and what comes after the first Yes is dropped: the same
    result with less waiting and more requests. None: where they are so few that the engine answers
    them all for about the price of one.
    """
    both = zip(queries, rankings, strict=True)
    depths = [0 if query.verbatim else min(alpha, len(ranking.names)) for query, ranking in both]
    total = sum(depths)
    if speculative is None:
        speculative = total <= evaluator.width
    judgements: list[dict[int, Judgement]] = [{} for _ in queries]

    def ask(i: int, rank: int) -> Iterator[tuple[Place, Request]]:
        if rank < depths[i]:
            query, candidate = queries[i], rankings[i].names[rank]
            left = files.get(query.reference) if query.reference else None
            pair = Pair(str(left) if left else None, str(files[candidate]))
            text = fill(prompt, INSTRUCTION=query.instruction.lower().strip(" ."))
            yield (i, rank), Request(text, (pair,), max_tokens=LONGEST)

    def read(place: Place, response: Response) -> Iterable[tuple[Place, Request]]:
        i, rank = place
        decision = None if response.error else accepts(response.text, reading)
        unread = decision is None and not response.error
        text = f"{UNJUDGED}: {response.error})" if response.error else response.text
        candidate = rankings[i].names[rank]
        judgements[i][rank] = Judgement(candidate, decision is True, text, unread)
        return () if speculative or decision else ask(i, rank + 1)

    starts = [
        start
        for rank in range(alpha if speculative else 1)
        for i in range(len(queries))
        for start in ask(i, rank)
    ]
    evaluator.ask_chains(starts, read, "evaluation", lambda place: str(queries[place[0]]), total)

    rows = [_to_first_yes([row[rank] for rank in sorted(row)]) for row in judgements]
    spared = total - sum(map(len, rows))
    if speculative:
        log.info("evaluation: all asked at once; %d of %d were not needed", spared, total)
    else:
        log.info("evaluation: asked in turn; %d of %d need not be asked", spared, total)
    if total:
        evaluator.unread("evaluation", sum(j.unread for row in rows for j in row))
    evaluations = [Evaluation(tuple(row)) if row else None for row in rows]
    return evaluations, [_promote(row, r) for row, r in zip(rows, rankings, strict=True)]


def _to_first_yes(row: list[Judgement]) -> list[Judgement]:
    accepted = next((n for n, judgement in enumerate(row) if judgement.accepted), len(row))
    return row[: accepted + 1]


def _promote(judgements: list[Judgement], ranking: Ranking) -> Ranking:
    if not judgements or not judgements[-1].accepted:
        return ranking
    return reorder(ranking, [judgements[-1].candidate, *(j.candidate for j in judgements[:-1])])
