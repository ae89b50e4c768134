"""Rankings made of rankings, by hand."""

from __future__ import annotations

import pytest

from imagescope.records import Ranking
from imagescope.search.fuse import rrf, union


def ranking(names: str, **ranks: int) -> Ranking:
    return Ranking(tuple(names), ranks=ranks, pool=9)


def test_a_union_goes_place_by_place():
    fused = union([ranking("abcd", b=1, z=7), ranking("bexyc", e=1), ranking("")])
    assert fused == Ranking(tuple("abecxdy"), ranks={"b": 1, "e": 2}, pool=7)


def test_reciprocal_ranks_add_up():
    first, second = ranking("abc", c=2, z=8), ranking("cbd", c=0, d=2)
    fused = rrf([first, second], k=1)
    assert dict(zip(fused.names, fused.scores, strict=True)) == pytest.approx(
        {"c": 1 / 4 + 1 / 2, "b": 1 / 3 + 1 / 3, "a": 1 / 2, "d": 1 / 4}
    )
    assert fused.names == tuple("cbad") and fused.pool == 4
    assert fused.ranks == {"c": 0, "d": 3}  # z: no ranking has kept it
    assert rrf([first, second]).scores[0] == 1 / 63 + 1 / 61  # k is 60 as a rule


def test_equal_sums_keep_the_unions_order():
    assert rrf([ranking("abcd"), ranking("badc")]).names == tuple("abcd")
    assert rrf([ranking("badc"), ranking("abcd")]).names == tuple("badc")
    assert rrf([]) == Ranking(())
    assert rrf([ranking("abc")]).names == tuple("abc")
