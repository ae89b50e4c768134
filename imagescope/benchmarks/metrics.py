"""Metrics as pure functions of ranks, and how sure one can be of them.

Every metric is first a value per query (percent; BRI: nats), NaN where it does not apply; its
estimate is their mean with a bootstrap interval. So two runs can be compared query by query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagescope.records import Estimate, Query, Ranking

Values = NDArray[np.floating[Any]]
Measured = Mapping[str, Values | dict[str, Values]]  # metric -> per query, or part -> per query
RESAMPLES = 2000
PERMUTATIONS = 10_000


def target_ranks(queries: Sequence[Query], rankings: Sequence[Ranking]) -> Values:
    """0-based rank of each query's single target over its pool, (queries,); inf: not in it."""
    pairs = zip(queries, rankings, strict=True)
    return np.array([r.ranks.get(q.targets[0], np.inf) if q.targets else np.inf for q, r in pairs])


def recall(ranks: Values, ks: Sequence[int], name: str = "Recall") -> dict[str, Values]:
    """Recall@k of a single target: 100 [rank < k]. Over the others of an image set it is CIRR's
    Recall_subset@k (Liu et al. 2021)."""
    return {f"{name}@{k}": 100.0 * (ranks < k) for k in ks}


def average_precision(ranks: Sequence[float], truths: int, k: int) -> float:
    """AP@k as CIRCO defines it (Baldrati et al. 2023), in [0, 1]:

        AP@k = sum_{i <= k} precision(i) rel(i) / min(truths, k)

    ranks: 0-based ranks of the ground truths found.  truths: how many there are. General libraries
    divide by `truths`, or by the hits: that is another figure.
    """
    hits = sorted(rank for rank in ranks if rank < k)
    return sum(n / (rank + 1) for n, rank in enumerate(hits, 1)) / min(truths, k)


def mean_average_precision(
    queries: Sequence[Query], rankings: Sequence[Ranking], ks: Sequence[int]
) -> dict[str, Values]:
    """mAP@k: 100 AP@k of every query, over all of its ground truths."""
    truths = [
        ([r.ranks[t] for t in q.targets or () if t in r.ranks], len(q.targets or ()))
        for q, r in zip(queries, rankings, strict=True)
    ]
    return {
        f"mAP@{k}": np.array([100 * average_precision(ranks, n, k) for ranks, n in truths])
        for k in ks
    }


def by_aspect(queries: Sequence[Query], values: Values) -> dict[str, Values]:
    """The values of the queries that have an aspect, NaN for the others; aspects sorted."""
    return {
        aspect: np.where([aspect in q.aspects for q in queries], values, np.nan)
        for aspect in sorted({a for q in queries for a in q.aspects})
    }


def dialogue_ranks(queries: Sequence[Query], rankings: Sequence[Ranking]) -> tuple[Values, Values]:
    """Ranks (rounds, dialogues) of the targets, inf where not in the pool, and the pools' sizes.

    Dialogues are in order of appearance; one that lacks a round (a run cut short) is left out.
    """
    rounds = 1 + max((q.turn for q in queries), default=0)
    dialogues: dict[str, dict[int, tuple[float, int]]] = {}
    ranks = target_ranks(queries, rankings)
    for query, rank, ranking in zip(queries, ranks, rankings, strict=True):
        dialogues.setdefault(query.id, {})[query.turn] = (float(rank), ranking.pool)
    whole = [[d[t] for t in range(rounds)] for d in dialogues.values() if len(d) == rounds]
    table = np.array(whole, dtype=float).reshape(len(whole), rounds, 2)
    return table[:, :, 0].T, table[:, :, 1].T


def hits(ranks: Values, k: int = 10) -> Values:
    """Hits@k after each round: 100 [min_{s <= t} r_s < k], ranks and result (rounds, dialogues).

    Cumulative, as ChatIR counts it (Levy et al. 2023): a target once found stays found.
    """
    return 100.0 * (np.minimum.accumulate(ranks, axis=0) < k)


def bri(ranks: Values) -> Values:
    """Best log rank integral (Lee et al. 2024) of each dialogue, (dialogues,); lower is better.

        BRI = 1/T sum_{t < T} (ln(b_t + 1) + ln(b_{t+1} + 1)) / 2,   b_t = min_{s <= t} r_s

    ranks: finite, (T + 1, dialogues), round 0 first, T > 0.
    """
    logs = np.log1p(np.minimum.accumulate(ranks, axis=0))
    return np.asarray((logs[:-1] + logs[1:]).mean(axis=0) / 2)


def measure_dialogues(
    queries: Sequence[Query], rankings: Sequence[Ranking], first_round: int
) -> Measured:
    """Hits@10/t for t = first_round .. T, and with round 0 BRI.

    A target that cannot be ranked counts, for BRI, as standing behind the whole pool.
    """
    ranks, pools = dialogue_ranks(queries, rankings)
    rounds = enumerate(hits(ranks[first_round:]), first_round)
    measured = {f"Hits@10/{number}": values for number, values in rounds}
    if first_round == 0 and len(ranks) > 1:
        measured["BRI"] = bri(np.where(np.isinf(ranks), pools, ranks))
    return measured


def resampled_means(values: Values, seed: int, resamples: int = RESAMPLES) -> Values:
    """Means of bootstrap resamples over queries, (resamples,).

    Drawing n queries with replacement is drawing multinomial counts of the distinct values, of
    which there are few: 25,010 queries cost no more than 250.
    """
    distinct, counts = np.unique(values, return_counts=True)
    draw = np.random.default_rng(seed).multinomial
    samples = draw(len(values), counts / len(values), resamples)
    return np.asarray(samples @ distinct / len(values))


def estimate(values: Values, seed: int = 0) -> Estimate | None:
    """Mean with a 95 % percentile bootstrap interval over queries; None where there is no value."""
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    low, high = np.percentile(resampled_means(values, seed), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high))


def estimates(measured: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """Per-query values as estimates, nested as they are; what applies to no query is left out."""
    results: dict[str, Any] = {}
    for name, values in measured.items():
        nested = isinstance(values, Mapping)
        results[name] = estimates(values, seed) if nested else estimate(values, seed)
    return {name: result for name, result in results.items() if result}


@dataclass(frozen=True, slots=True)
class Difference(Estimate):
    """b - a over the same queries, in the metric's unit: a 95 % paired bootstrap interval, and the
    two-sided p-value of a sign-flip permutation test.

    corrected: p where this is one of several comparisons (`corrected`); None where it stands alone.
    """

    p: float
    corrected: float | None = None

    def __format__(self, number: str) -> str:
        return super(Difference, self).__format__(f"+{number}")

    @property
    def significance(self) -> str:
        """p, corrected where it is, to be shown: "0.034", and "< 0.001" for anything less."""
        p = self.p if self.corrected is None else self.corrected
        return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def paired(a: Values, b: Values, seed: int = 0) -> Difference | None:
    """How b differs from a, query by query (queries with NaN in either are left out).

    Under the null hypothesis each query's difference is as likely to have the other sign. Where all
    differences are of one size, as those of a recall are, the test is exact, and McNemar's;
    otherwise p is not below 1 / (PERMUTATIONS + 1).
    """
    differences = (b - a)[~np.isnan(b - a)]
    mean = estimate(differences, seed)
    if mean is None:
        return None
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if len(sizes) == 1:
        p = _sign_test(int(np.count_nonzero(differences > 0)), int(counts[0]))
    else:
        signs = np.random.default_rng(seed).binomial(counts, 0.5, (PERMUTATIONS, len(counts)))
        sums = np.abs((2 * signs - counts) @ sizes)
        extreme = int(np.count_nonzero(sums >= abs(differences.sum()) - 1e-9))
        p = (extreme + 1) / (PERMUTATIONS + 1)
    return Difference(mean.value, mean.low, mean.high, p)


def _sign_test(positive: int, n: int) -> float:
    """How likely n fair coins lie at least as far from even as `positive` heads do."""
    heads = max(positive, n - positive)
    half, log = math.log(2), math.lgamma
    tail = math.fsum(
        math.exp(log(n + 1) - log(k + 1) - log(n - k + 1) - n * half) for k in range(heads, n + 1)
    )
    return min(1.0, 2 * tail)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values of m comparisons corrected so that the chance of any false finding stays below the
    level at which they are read (Holm 1979): with p_(1) <= ... <= p_(m) it is, for the i-th,

        max over j <= i of min(1, (m - j + 1) p_(j))
    """
    results, highest = list(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        results[place] = highest
    return results


def corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The differences of one table with their p-values corrected by Holm's method."""
    ps = holm([difference.p for difference in differences])
    return [replace(d, corrected=p) for d, p in zip(differences, ps, strict=True)]


def tested(count: int) -> str:
    """How the p-values of a table with so many differences were made."""
    many = f", corrected for {count} comparisons (Holm)" if count > 1 else ""
    return f"two-sided paired permutation test{many}"
