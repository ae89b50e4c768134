"""Metrics against slow, obvious definitions, golden values and checks worked by hand."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagescope import benchmarks
from imagescope.benchmarks import metrics
from imagescope.records import Query, Ranking

NAMES = [f"i{n}" for n in range(30)]


def ranked(order: list[str], targets: tuple[str, ...]) -> Ranking:
    return Ranking(
        tuple(order[:5]), ranks={t: order.index(t) for t in targets if t in order}, pool=len(order)
    )


@st.composite
def cases(draw: st.DrawFn) -> list[tuple[Query, list[str]]]:
    """Queries with 1 to 14 ground truths (some outside the pool) and full orders of the pool."""
    found = []
    for i in range(draw(st.integers(1, 6))):
        order = draw(st.permutations(NAMES[:20]))
        truths = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=14, unique=True))
        aspects = draw(st.sets(st.sampled_from(["addition", "negation"])))
        query = Query(str(i), "x", targets=tuple(truths), aspects=tuple(sorted(aspects)))
        found.append((query, list(order)))
    return found


def slow_ap(order: list[str], truths: tuple[str, ...], k: int) -> Fraction:
    """The sum of the definition, term by term."""
    total = Fraction(0)
    for i in range(1, min(k, len(order)) + 1):
        if order[i - 1] in truths:
            hits = sum(name in truths for name in order[:i])
            total += Fraction(hits, i)
    return total / min(len(truths), k)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 25))
def test_recall_and_map_are_their_definitions(found: list[tuple[Query, list[str]]], k: int) -> None:
    queries = [q for q, _ in found]
    rankings = [ranked(order, q.targets or ()) for q, order in found]
    recall = metrics.recall(metrics.target_ranks(queries, rankings), [k])[f"Recall@{k}"]
    precision = metrics.mean_average_precision(queries, rankings, [k])[f"mAP@{k}"]
    for i, (query, order) in enumerate(found):
        truths = query.targets or ()
        assert recall[i] == 100 * (truths[0] in order[:k])
        assert precision[i] == pytest.approx(float(100 * slow_ap(order, truths, k)))
    aspects = metrics.by_aspect(queries, precision)
    assert set(aspects) == {a for q in queries for a in q.aspects}
    for aspect, values in aspects.items():
        having = [p for p, q in zip(precision, queries, strict=True) if aspect in q.aspects]
        assert np.nanmean(values) == pytest.approx(np.mean(having))


rank_tables = st.integers(1, 4).flatmap(
    lambda dialogues: st.lists(
        st.lists(st.integers(0, 60), min_size=dialogues, max_size=dialogues),
        min_size=2,
        max_size=11,
    )
)


@settings(max_examples=60, deadline=None)
@given(rank_tables)
def test_hits_and_bri_are_their_definitions(table: list[list[int]]) -> None:
    ranks, last = np.array(table, float), len(table) - 1
    best = [[min(column[: t + 1]) for column in zip(*table, strict=True)] for t in range(last + 1)]
    for t, row in enumerate(metrics.hits(ranks)):
        assert row.tolist() == [100.0 * (b < 10) for b in best[t]]
    for d, value in enumerate(metrics.bri(ranks)):
        area = sum(
            (math.log(best[t][d] + 1) + math.log(best[t + 1][d] + 1)) / 2 for t in range(last)
        )
        assert value == pytest.approx(area / last)


def dialogues(table: list[list[float]], pool: int = 100) -> tuple[list[Query], list[Ranking]]:
    pairs = [
        (
            Query(str(d), "said", turn, targets=("x",)),
            Ranking((), ranks={} if math.isinf(r) else {"x": int(r)}, pool=pool),
        )
        for d in range(len(table[0]))
        for turn, r in enumerate(row[d] for row in table)
    ]
    return [q for q, _ in pairs], [r for _, r in pairs]


CHECK = [[12.0, 3, 50], [9, 40, 2], [11, 10, 0]]  # a row is a round


def test_the_visdial_check() -> None:
    found = metrics.estimates(metrics.measure_dialogues(*dialogues(CHECK), first_round=0))
    assert [round(found[f"Hits@10/{t}"].value, 2) for t in range(3)] == [33.33, 100, 100]
    assert round(found["BRI"].value, 6) == 1.762244


def test_the_papers_rounds_begin_with_one_and_have_no_bri() -> None:
    """Deviation by protocol: first_round 1 forgets what round 0 found."""
    measured = metrics.measure_dialogues(*dialogues([[0.0, 50], [20, 50], [30, 1]]), first_round=1)
    assert list(measured) == ["Hits@10/1", "Hits@10/2"]
    assert measured["Hits@10/1"].tolist() == [0, 0]
    assert measured["Hits@10/2"].tolist() == [0, 100]


def test_a_target_that_cannot_be_ranked_stands_behind_the_pool() -> None:
    measured = metrics.measure_dialogues(*dialogues([[math.inf], [math.inf]], pool=99), 0)
    assert measured["BRI"].tolist() == [pytest.approx(math.log(100))]
    assert measured["Hits@10/1"].tolist() == [0]


def test_a_dialogue_cut_short_is_left_out() -> None:
    queries, rankings = dialogues(CHECK)
    measured = metrics.measure_dialogues(queries[:-1], rankings[:-1], 0)
    assert measured["BRI"].shape == (2,)


def test_ranks_far_down_are_exact() -> None:
    """Deviation: the paper's pipeline loses ranks beyond 15,000."""
    measured = metrics.measure_dialogues(*dialogues([[49_999.0], [15_001]], pool=50_000), 0)
    area = (math.log(50_000) + math.log(15_002)) / 2
    assert measured["BRI"].tolist() == [pytest.approx(area)]


def test_circo_golden_values() -> None:
    """Worked by hand. Query a: truths at ranks 1, 3, 6 of 3. b: truths at 2 of 1. c: none of 7
    within 5, one at 6. Ranks here are 1-based.

    AP@5  a (1/1 + 2/3) / 3 = 0.5556   b (1/2) / 1 = 0.5   c 0
    AP@10 a (1/1 + 2/3 + 3/6) / 3 = 0.7222   b 0.5   c (1/6) / 7 = 0.02381
    """
    spec = benchmarks.spec("CIRCO")
    queries = [
        Query("a", "x", targets=("p", "q", "r"), aspects=("addition", "negation")),
        Query("b", "x", targets=("p",), aspects=("addition",)),
        Query("c", "x", targets=tuple("pqrstuv")),
    ]
    ranks = [{"p": 2, "q": 0, "r": 5}, {"p": 1}, {"q": 5}]
    rankings = [Ranking((), ranks=r, pool=100) for r in ranks]
    found = metrics.estimates(spec.measure(queries, rankings, spec.choose({})))
    assert found["mAP@5"].value == pytest.approx(100 * (5 / 9 + 1 / 2) / 3)
    assert found["mAP@10"].value == pytest.approx(100 * (13 / 18 + 1 / 2 + 1 / 42) / 3)
    assert found["Recall@5"].value == pytest.approx(200 / 3)  # the single target p: a, b
    aspects = found["semantic_aspects"]
    assert aspects["addition"].value == pytest.approx(100 * (13 / 18 + 1 / 2) / 2)
    assert aspects["negation"].value == pytest.approx(100 * 13 / 18)


def test_map_divides_by_k_where_there_are_more_truths() -> None:
    assert metrics.average_precision(range(5), 14, 5) == 1
    assert metrics.average_precision(range(5), 14, 10) == 0.5


def test_cirr_metrics_by_name() -> None:
    spec, query = benchmarks.spec("CIRR"), Query("1", "x", targets=("t",))
    ranking = Ranking(("a", "t"), ranks={"t": 1}, pool=5)
    full = spec.measure([query], [ranking], spec.choose({}))
    assert {k: v.tolist() for k, v in full.items()} == {
        "Recall@1": [0],
        "Recall@5": [100],
        "Recall@10": [100],
        "Recall@50": [100],
    }
    subset = spec.measure([query], [ranking], spec.choose({"subset": True}))
    assert {k: v.tolist() for k, v in subset.items()} == {
        "Recall_subset@1": [0],
        "Recall_subset@2": [100],
        "Recall_subset@3": [100],
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=40), st.integers(0, 5))
def test_an_interval_holds_its_value_and_repeats(values: list[float], seed: int) -> None:
    found = metrics.estimate(np.array(values), seed)
    assert found == metrics.estimate(np.array(values), seed)
    assert found is not None
    assert min(values) - 1e-6 <= found.low <= found.high <= max(values) + 1e-6
    assert found.value == pytest.approx(np.mean(values))


def test_the_bootstrap_is_the_ordinary_one() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random(400) < 0.3, 100.0, 0.0) + rng.random(400)
    drawn = values[rng.integers(0, 400, (4000, 400))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    found = metrics.estimate(values)
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(low, abs=0.5), pytest.approx(high, abs=0.5))


def test_an_interval_over_mscoco_takes_no_time() -> None:
    values = 100.0 * (np.random.default_rng(0).random(25_010) < 0.5)
    start = time.perf_counter()
    metrics.estimate(values)
    assert time.perf_counter() - start < 1


def test_nothing_to_estimate() -> None:
    assert metrics.estimate(np.array([])) is None
    assert metrics.estimate(np.array([np.nan])) is None
    assert metrics.estimates({"a": np.array([]), "b": {"c": np.array([np.nan])}}) == {}


def test_paired_differences() -> None:
    rng = np.random.default_rng(1)
    a = 100.0 * (rng.random(500) < 0.4)
    better = np.where(rng.random(500) < 0.2, 100.0, a)
    found = metrics.paired(a, better)
    assert found is not None and found.low > 0 and found.p < 0.001
    same = metrics.paired(a, a)
    assert same is not None and (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    shuffled = metrics.paired(a, rng.permutation(a))
    assert shuffled is not None and shuffled.value == 0 and shuffled.p > 0.9


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_permutation_test_is_its_definition(differences: list[int]) -> None:
    signs = np.array(np.meshgrid(*[[-1, 1]] * len(differences))).reshape(len(differences), -1)
    sums = np.abs(np.array(differences) @ signs)
    exact = np.mean(sums >= abs(sum(differences)))
    found = metrics.paired(np.zeros(len(differences)), np.array(differences, float))
    assert found is not None and found.p == pytest.approx(exact, abs=0.03)


def test_a_recall_is_tested_exactly() -> None:
    """Six of six queries gained: 2 (1/2)^6. Four gained, one lost: 2 (5 + 1) (1/2)^5."""
    for gained, lost, expected in ((6, 0, 2 / 64), (4, 1, 12 / 32), (2, 2, 1.0), (700, 300, 0.0)):
        b = np.array([100.0] * gained + [0.0] * lost + [100.0] * 5)
        a = np.array([0.0] * gained + [100.0] * lost + [100.0] * 5)
        found = metrics.paired(a, b)
        assert found is not None and found.p == pytest.approx(expected, abs=1e-12)


def test_holms_correction_by_hand() -> None:
    """Three p-values: 3 times the least, 2 times the next, which the last may not undercut."""
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.5, 0.001, 0.2, 0.6]) == pytest.approx([1, 0.004, 0.6, 1])
    assert metrics.holm([0.02]) == [0.02] and metrics.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holms_correction_keeps_the_order_and_lies_within_bonferronis(ps: list[float]) -> None:
    found = metrics.holm(ps)
    assert all(p <= q <= min(1, len(ps) * p) + 1e-12 for p, q in zip(ps, found, strict=True))
    assert sorted(range(len(ps)), key=lambda i: (ps[i], found[i])) == sorted(
        range(len(ps)), key=lambda i: (found[i], ps[i])
    )


def test_small_p_values_are_shown_as_such() -> None:
    one = metrics.Difference(1.0, 0.5, 1.5, 0.0004)
    assert (f"{one:.1f}", one.significance) == ("+1.0 [+0.5, +1.5]", "< 0.001")
    two, three = metrics.corrected([one, metrics.Difference(1.0, -1.0, 3.0, 0.3)])
    assert (two.significance, three.significance) == ("< 0.001", "0.300")
    assert metrics.corrected([one] * 5)[0].significance == "0.002"
