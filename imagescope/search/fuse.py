"""Rankings made of several rankings of one query, by names and places alone."""

from __future__ import annotations

from collections.abc import Sequence

from imagescope.records import Ranking


def union(rankings: Sequence[Ranking]) -> Ranking:
    """Every name of some rankings once: all first places, in the rankings' order, then all second
    places, and so on. The pool is the union; a target that no ranking has kept is not in it."""
    depth = max((len(ranking.names) for ranking in rankings), default=0)
    names = dict.fromkeys(
        ranking.names[place]
        for place in range(depth)
        for ranking in rankings
        if place < len(ranking.names)
    )
    return _ranking(tuple(names), (), rankings)


def rrf(rankings: Sequence[Ranking], k: int = 60) -> Ranking:
    """Reciprocal rank fusion: a name scores the sum over rankings of 1 / (k + place), places from
    1, nothing where a ranking has not kept it; equal sums keep `union`'s order (Cormack, Clarke and
    Buettcher, SIGIR 2009). The pool is the union: keep as many names as the fusion is to rank."""
    scores = dict.fromkeys(union(rankings).names, 0.0)
    for ranking in rankings:
        for place, name in enumerate(ranking.names, 1):
            scores[name] += 1 / (k + place)
    names = sorted(scores, key=lambda name: -scores[name])
    return _ranking(tuple(names), tuple(scores[name] for name in names), rankings)


def _ranking(
    names: tuple[str, ...], scores: tuple[float, ...], rankings: Sequence[Ranking]
) -> Ranking:
    place = {name: rank for rank, name in enumerate(names)}
    targets = dict.fromkeys(target for ranking in rankings for target in ranking.ranks)
    ranks = {target: place[target] for target in targets if target in place}
    return Ranking(names, scores, ranks, pool=len(names))
