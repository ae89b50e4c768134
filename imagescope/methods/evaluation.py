"""Stage 3, pairwise evaluation: reference and candidate side by side (section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from imagescope.config import Reading
from imagescope.engines.base import Pair, Request
from imagescope.engines.role import Role
from imagescope.methods.decisions import accepts
from imagescope.methods.prompts import fill
from imagescope.methods.ranking import reorder
from imagescope.records import UNJUDGED, Evaluation, Judgement, Query, Ranking

LONGEST = 1 << 20  # no limit but the role's own


def evaluate(
    queries: Sequence[Query],
    rankings: Sequence[Ranking],
    files: Mapping[str, Path],
    evaluator: Role,
    prompt: str,
    alpha: int,
    reading: Reading = "tolerant",
) -> tuple[list[Evaluation | None], list[Ranking]]:
    """The alpha best of each query are judged in turn, and the first accepted one moves to rank 1:
    the judgements, and the rankings that follow from them.

    A query stops at its first Yes; all No leaves the order as it was. The queries go together,
    rank by rank, so that the engine sees large batches. A candidate that could not be judged, or
    whose judgement is not understood, stays where it is, and the judgement says why.
    """
    judgements: list[list[Judgement]] = [[] for _ in queries]
    open_queries = [i for i, q in enumerate(queries) if not q.verbatim]
    for rank in range(alpha):
        open_queries = [i for i in open_queries if rank < len(rankings[i].names)]
        requests = []
        for i in open_queries:
            query, candidate = queries[i], rankings[i].names[rank]
            left = files.get(query.reference) if query.reference else None
            pair = Pair(str(left) if left else None, str(files[candidate]))
            text = fill(prompt, INSTRUCTION=query.instruction.lower().strip(" ."))
            requests.append(Request(text, (pair,), max_tokens=LONGEST))
        about = [str(queries[i]) for i in open_queries]
        responses = evaluator.ask(requests, f"evaluation, rank {rank + 1}", about)
        undecided = []
        for i, response in zip(open_queries, responses, strict=True):
            decision = None if response.error else accepts(response.text, reading)
            unread = decision is None and not response.error
            text = f"{UNJUDGED}: {response.error})" if response.error else response.text
            judgements[i].append(Judgement(rankings[i].names[rank], decision is True, text, unread))
            if not decision:
                undecided.append(i)
        open_queries = undecided
    if any(judgements):
        evaluator.unread("evaluation", sum(j.unread for row in judgements for j in row))
    evaluations = [Evaluation(tuple(row)) if row else None for row in judgements]
    return evaluations, [_promote(row, r) for row, r in zip(judgements, rankings, strict=True)]


def _promote(judgements: list[Judgement], ranking: Ranking) -> Ranking:
    if not judgements or not judgements[-1].accepted:
        return ranking
    return reorder(ranking, [judgements[-1].candidate, *(j.candidate for j in judgements[:-1])])
