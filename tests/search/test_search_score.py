"""The algebra of scores: every operator, folding, and the formulas of published methods.

Where a formula is a paper's, numpy says it a second time, on dense matrices (queries, images).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imagescope.gallery.vectors import GalleryVectors
from imagescope.records import Query
from imagescope.search.maxsim import MaxSim
from imagescope.search.scan import scan
from imagescope.search.score import (
    Bias,
    Dot,
    Max,
    Mean,
    MinMax,
    Negative,
    Positive,
    Product,
    Score,
    Sum,
    at,
)

IMAGES, QUERIES, WIDTH = 300, 7, 24


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def vectors(seed, *shape):
    return unit(np.random.default_rng(seed).normal(size=shape))


def dense(score: Score) -> np.ndarray:
    """float (queries, images), from one block."""
    return score.block(slice(0, IMAGES)).cpu().numpy().T.astype(float)


def close(score: Score, expected: np.ndarray) -> None:
    np.testing.assert_allclose(dense(score), expected, atol=1e-6)


def ranked(score: Score, keep: int = IMAGES, queries=None):
    names = tuple(f"n{i}" for i in range(IMAGES))
    gallery = GalleryVectors(names, images, images, np.ones(IMAGES, bool))
    return scan(score, queries or [Query(str(i), "") for i in range(QUERIES)], gallery, keep)


def rows(ranking):
    return [int(name[1:]) for name in ranking.names]


images, captions, drawn = (vectors(seed, IMAGES, WIDTH) for seed in (1, 2, 3))
e, b, p, a = (vectors(seed, QUERIES, WIDTH) for seed in (4, 5, 6, 7))
V, C, D = (view.astype(float).T for view in (images, captions, drawn))


def leaf(draw):
    return Dot(draw(st.sampled_from([e, b])), draw(st.sampled_from([images, captions])))


@st.composite
def formulas(draw, depth=3):
    """A score and the same on dense matrices."""
    kind = draw(st.sampled_from(["dot", "bias"] if not depth else KINDS))
    if kind == "dot":
        score = leaf(draw)
        [(_, texts, view)] = score.dots
        return score, texts.astype(float) @ view.T.astype(float)
    if kind == "bias":
        values = np.arange(IMAGES) / IMAGES
        score = Dot(e, images) + Bias(images=values)
        return score, e.astype(float) @ V + values
    score, value = draw(formulas(depth - 1))
    weight = draw(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 0.15]))
    if kind == "scaled":
        return weight * score + 0.25, weight * value + 0.25
    if kind == "positive":
        return Positive(score), np.maximum(0, value)
    if kind == "negative":
        return Negative(score), np.minimum(0, value)
    other, second = draw(formulas(depth - 1))
    return {
        "sum": (score + weight * other, value + weight * second),
        "difference": (1 - score - other, 1 - value - second),
        "product": (score * other, value * second),
        "mean": (Mean(score, other, score), (2 * value + second) / 3),
        "max": (Max(score, -other), np.maximum(value, -second)),
    }[kind]


KINDS = ["dot", "scaled", "positive", "negative", "sum", "difference", "product", "mean", "max"]


@settings(deadline=None, max_examples=80)
@given(formula=formulas(), start=st.integers(0, IMAGES), size=st.integers(0, IMAGES))
def test_any_formula_is_what_numpy_says_in_any_block(formula, start, size):
    score, expected = formula
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(dense(score), expected, **tolerance)
    block = score.block(slice(start, start + size)).cpu().numpy()
    np.testing.assert_allclose(block, expected.T[start : start + size], **tolerance)
    some = np.array([5, 0, 299, 5])
    np.testing.assert_allclose(score.block(some).cpu().numpy(), expected.T[some], **tolerance)
    for columns in (slice(2, 5), np.array([6, 0, 6])):
        part = score.block(some, columns).cpu().numpy()
        np.testing.assert_allclose(part, expected.T[some][:, columns], **tolerance)


def test_at_gives_single_scores():
    score = Dot(e, images) * Dot(b, captions)
    rows, columns = np.array([3, 299, 3, 0]), np.array([6, 0, 1, 1])
    np.testing.assert_array_equal(at(score, rows, columns), dense(score)[columns, rows])


def test_a_linear_sum_is_one_product_and_the_same_within_rounding():
    """Views that meet the same query vectors are mixed, query vectors of the same mixture added."""
    one, two = Dot(e, images), Dot(e, captions)
    unfolded = {1: dense(one), 2: dense(two), 3: dense(Dot(b, images)), 4: dense(Dot(b, captions))}
    mixed = 0.85 * one + 0.15 * two
    pairs = [
        (mixed, 0.85 * unfolded[1] + 0.15 * unfolded[2], 1),
        (one - Dot(b, images), unfolded[1] - unfolded[3], 1),
        (one - two, unfolded[1] - unfolded[2], 1),
        (mixed - (0.85 * Dot(b, images) + 0.15 * Dot(b, captions)), None, 1),
        (Mean(mixed, 1.7 * Dot(b, images) + 0.3 * Dot(b, captions)), None, 1),
        (one + Dot(b, captions), unfolded[1] + unfolded[4], 2),
        (0.1 * one + 0.2 * two + 0.7 * Dot(e, drawn), None, 1),
        (one - one, 0 * unfolded[1], 1),
        (0.1 * one + 0.2 * one - 0.3 * one + two, unfolded[2], 1),
    ]
    for score, expected, products in pairs:
        assert isinstance(score, Sum) and len(score.products) == products
        each = (w * dense(Dot(texts, view)) for w, texts, view in score.dots)
        close(score, sum(each) if expected is None else expected)


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.15, 1 / 3, 0.5, 0.7, 1.0])
def test_folding_the_papers_score_rounds_as_lerp_does(tau):
    """Stored traces hold these scores to the last digit."""
    score = (1 - tau) * Dot(e, images) + tau * Dot(e, captions)
    fused = torch.lerp(torch.tensor(images), torch.tensor(captions), tau)
    assert np.array_equal(dense(score), dense(Dot(e, fused.numpy())))


def test_numpys_numbers_weigh_scores_as_pythons_do():
    half, score = np.float64(0.5), Dot(e, images)
    for weighted in (half * score, score * half, np.float32(0.5) * score, half + score - half):
        assert isinstance(weighted, Sum)
    close(half * score + half, 0.5 * dense(score) + 0.5)


def test_shapes_are_checked_where_a_formula_is_written():
    with pytest.raises(ValueError, match=r"\(7, 24\) do not fit a view \(300, 3\)"):
        Dot(e, images[:, :3])
    with pytest.raises(ValueError, match="do not fit a view"):
        MaxSim(e[:, None], images)
    with pytest.raises(ValueError, match="of images or of queries"):
        Bias()


def test_minmax_rescales_each_query_over_the_top_of_a_base():
    base, score = Dot(e, images), Dot(b, captions)
    top = [rows(ranking) for ranking in ranked(base, keep=20)]
    scaled, plain = dense(MinMax(score, top)), dense(score)
    for query, own in enumerate(top):
        inside = scaled[query, own]
        assert inside.min() == 0 and inside.max() == 1
        low, high = plain[query, own].min(), plain[query, own].max()
        np.testing.assert_allclose(scaled[query], (plain[query] - low) / (high - low), atol=1e-5)
    assert scaled.min() < 0 and scaled.max() > 1  # outside it is not cut off


def test_minmax_of_a_top_that_is_flat_or_empty():
    values = np.array([2.0, 2.0, 5.0] + [0.0] * (IMAGES - 3))
    score = MinMax(Bias(images=values) + Bias(queries=np.zeros(3)), [[0, 1], [], [2]])
    assert dense(score)[:, :3].tolist() == [[0, 0, 3], [2, 2, 5], [-3, -3, 0]]


# Late interaction


def test_maxsim_of_one_token_each_is_dot_and_of_one_query_token_the_largest():
    close(MaxSim(e[:, None], images[:, None]), e.astype(float) @ V)
    tokens = np.stack((images, captions, drawn), 1)
    largest = np.maximum.reduce([e.astype(float) @ view for view in (V, C, D)])
    close(MaxSim(e[:, None], tokens), largest)
    close(Max(Dot(e, images), Dot(e, captions), Dot(e, drawn)), largest)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), count=st.integers(1, 4), more=st.integers(0, 3))
def test_maxsim_is_at_least_any_matching_of_tokens(seed, count, more):
    rng = np.random.default_rng(seed)
    tokens = unit(rng.normal(size=(QUERIES, count, WIDTH)))
    view = unit(rng.normal(size=(IMAGES, count + more, WIDTH)))
    score = MaxSim(tokens, view)
    matching = rng.permutation(count + more)[:count]
    mean = np.einsum("qkd,nkd->qn", tokens, view[:, matching]) / count
    assert (dense(score) >= mean - 1e-6).all()
    exact = np.einsum("qkd,nld->qnkl", tokens.astype(float), view.astype(float)).max(3)
    close(score, exact.mean(2))
    close(MaxSim(tokens, view, mean=False), exact.sum(2))


def test_maxsim_of_different_numbers_of_tokens(monkeypatch):
    """Tokens that only fill up count for nothing, whatever is in them; nor do parts of a block."""
    tokens, view = vectors(8, QUERIES, 4, WIDTH), vectors(9, IMAGES, 5, WIDTH)
    rng = np.random.default_rng(10)
    used, view_used = rng.random((QUERIES, 4)) < 0.6, rng.random((IMAGES, 5)) < 0.6
    used[0], used[1], view_used[0], view_used[:3, 0] = False, True, False, [False, True, True]
    score = MaxSim(tokens, view, used=used, view_used=view_used)
    expected = np.zeros((QUERIES, IMAGES))
    for q in range(QUERIES):
        for n in range(IMAGES):
            pairs = tokens[q, used[q]].astype(float) @ view[n, view_used[n]].T.astype(float)
            if len(pairs):
                expected[q, n] = pairs.max(1, initial=-np.inf).mean()
    close(score, expected)
    assert np.isneginf(expected[1, 0]) and not expected[0].any()
    monkeypatch.setattr("imagescope.search.maxsim.CELLS", 1)
    close(score, expected)


# Published methods, as docs and papers write them


def test_ldre_weighs_edits_by_what_they_lose_against_their_captions():
    """Release: 15 captions, 15 edits; top 5; temperature 0.04. Weights per query and per batch."""
    befores = [vectors(20 + i, QUERIES, WIDTH) for i in range(15)]
    edits = [vectors(40 + i, QUERIES, WIDTH) for i in range(15)]
    losses = [
        Positive(Dot(c, images) - Dot(d, images)) for c, d in zip(befores, edits, strict=True)
    ]
    largest = np.array([[sum(r.scores) for r in ranked(loss, keep=5)] for loss in losses])
    for top5 in (largest, largest.sum(1, keepdims=True).repeat(QUERIES, 1)):
        weights = np.exp(top5 / top5.max(0) / 0.04)
        weights /= weights.sum(0)
        score = Mean(
            *(Bias(queries=15 * w) * Dot(d, images) for w, d in zip(weights, edits, strict=True))
        )
        fused = sum(w[:, None].astype(np.float32) * d for w, d in zip(weights, edits, strict=True))
        expected = np.zeros((QUERIES, IMAGES))
        deltas = [(d.astype(float) - c) @ V for c, d in zip(befores, edits, strict=True)]
        check = [np.sort(np.minimum(delta, 0), 1)[:, :5].sum(1) for delta in deltas]
        np.testing.assert_allclose(largest, -np.array(check), atol=1e-5)
        for w, d in zip(weights, edits, strict=True):
            expected += w[:, None] * (d.astype(float) @ V)
        close(score, expected)
        close(Dot(fused, images), expected)  # the same as one vector a query


def test_seize_gains_and_losses_and_no_reference():
    edit = Dot(e, images)
    gain = edit - Dot(b, images)
    score = edit + 2.1 * Negative(gain) + 0.13 * Positive(gain)
    delta = (e.astype(float) - b) @ V
    expected = e.astype(float) @ V + 2.1 * np.minimum(delta, 0) + 0.13 * np.maximum(delta, 0)
    close(score, expected)
    queries = [Query(str(i), "", exclude=(f"n{i}",)) for i in range(QUERIES)]
    for i, ranking in enumerate(ranked(score, queries=queries)):
        masked = expected[i].copy()
        masked[i] = -np.inf
        assert rows(ranking) == np.argsort(-masked, kind="stable")[:-1].tolist()


def test_xr_mixes_four_texts_and_counts_hits_over_the_top():
    """s_D = mean over d of (1 - tau) d.V + tau d.C; then min-max over the top K times the hits."""
    texts, tau, top = [e, b, p, a], 0.15, 10
    score = Mean(*((1 - tau) * Dot(d, images) + tau * Dot(d, captions) for d in texts))
    expected = np.mean(
        [(1 - tau) * d.astype(float) @ V + tau * d.astype(float) @ C for d in texts], 0
    )
    close(score, expected)
    assert len(score.products) == 1
    rankings = ranked(score, keep=top)
    scaled = dense(MinMax(score, [rows(r) for r in rankings]))
    for query, ranking in enumerate(rankings):
        s = np.array(ranking.scores)
        np.testing.assert_allclose(
            scaled[query, rows(ranking)], (s - s[-1]) / (s[0] - s[-1]), atol=1e-5
        )


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_soft_filters_any_base(weight):
    """(1 - w) s + w s (p + 1 - a) / 2; a query without constraints has s / 2, the base's order."""
    must, avoid = p.copy(), a.copy()
    must[0] = avoid[0] = 0
    base = 0.85 * Dot(e, images) + 0.15 * Dot(e, captions)
    soft = base * (Dot(must, images) + 1 - Dot(avoid, images)) * 0.5
    score = (1 - weight) * base + weight * soft
    s = e.astype(float) @ (0.85 * V + 0.15 * C)
    factor = (must.astype(float) @ V + 1 - avoid.astype(float) @ V) / 2
    close(score, (1 - weight) * s + weight * s * factor)
    assert rows(ranked(score)[0]) == rows(ranked(base)[0])


def test_paracosm_ranks_by_images_and_their_drawings_together():
    """0.3 n(m + d) + 0.7 n(x) against n(images + drawn): the norms are a number an image."""
    query = 0.3 * unit(e + b) + 0.7 * p
    together = Dot(query, images) + Dot(query, drawn)
    score = together * Bias(images=1 / np.linalg.norm(images + drawn, axis=1))
    close(score, query.astype(float) @ unit(images + drawn).T.astype(float))


def test_cvsi_crosses_two_queries_with_two_views():
    """(0.6 e + 0.4 f) . (0.8 V + 0.2 k), k not normalised: one product."""
    k = 0.4 * captions
    score = sum(
        (w * (0.8 * Dot(q, images) + 0.2 * Dot(q, k)) for w, q in ((0.6, e), (0.4, b))),
        start=0.0,
    )
    expected = (0.6 * e.astype(float) + 0.4 * b) @ (0.8 * V + 0.2 * 0.4 * C)
    close(score, expected)
    assert len(score.products) == 1
    assert np.array_equal(dense(Product(score, score)), dense(score * score))
