"""What stages 2 and 3 do to a ranking: a new order for its head; the rest stays."""

from __future__ import annotations

from collections.abc import Sequence

from imagescope.records import Ranking


def reorder(ranking: Ranking, head: Sequence[str]) -> Ranking:
    """`head` is a permutation of the ranking's first len(head) names."""
    place = {name: i for i, name in enumerate(head)}
    return Ranking(
        names=(*head, *ranking.names[len(head) :]),
        ranks={target: place.get(target, rank) for target, rank in ranking.ranks.items()},
        pool=ranking.pool,
    )
