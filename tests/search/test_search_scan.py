"""One pass: exactness, ties, candidates, exclusions, ranks, odd scores, blocks of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imagescope.gallery.vectors import GalleryVectors
from imagescope.records import Query
from imagescope.search import scan as scanning
from imagescope.search import score as algebra
from imagescope.search.scan import LAST, scan
from imagescope.search.score import ALL, COLUMNS, ROWS, Bias, Dot, Score


def retrieve(queries, texts, vectors, *, tau, keep):
    """ImageScope's stage 1 (methods/imagescope.py)."""
    images, captions = Dot(texts, vectors.images), Dot(texts, vectors.captions)
    return scan((1 - tau) * images + tau * captions, queries, vectors, keep)


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def gallery(n=500, d=32, seed=0, unread=0.1):
    rng = np.random.default_rng(seed)
    images, captions = unit(rng.normal(size=(n, d))), unit(rng.normal(size=(n, d)))
    ok = rng.random(n) >= unread
    return GalleryVectors(tuple(f"n{i}" for i in range(n)), images, captions, ok)


def naive(query, text, vectors, tau):
    """The definition: rows of the pool, sorted by score in double precision, then by place."""
    fused = (1 - tau) * vectors.images.astype(float) + tau * vectors.captions.astype(float)
    scores = fused @ text.astype(float)
    pool = [
        i
        for i, name in enumerate(vectors.names)
        if vectors.ok[i]
        and name not in query.exclude
        and (query.candidates is None or name in query.candidates)
    ]
    return sorted(pool, key=lambda i: (-scores[i], i)), scores


def mixed_queries(vectors, count, seed=1):
    rng = np.random.default_rng(seed)

    def pick(k):
        return tuple(vectors.names[i] for i in rng.integers(0, len(vectors.names), k))

    return [
        Query(
            str(i),
            "x",
            targets=pick(1 + i % 4) if i % 6 else None,
            candidates=pick(25) if i % 5 == 2 else None,
            exclude=pick(3) if i % 4 == 1 else (),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("keep", [1, 10, 300, 5000])
@pytest.mark.parametrize("tau", [0.0, 0.15, 1.0])
def test_agrees_with_the_definition(keep, tau):
    vectors = gallery()
    queries = mixed_queries(vectors, 40)
    texts = unit(np.random.default_rng(2).normal(size=(40, 32)))
    for query, text, ranking in zip(
        queries, texts, retrieve(queries, texts, vectors, tau=tau, keep=keep), strict=True
    ):
        order, scores = naive(query, text, vectors, tau)
        assert ranking.names == tuple(vectors.names[i] for i in order[:keep])
        assert ranking.scores == pytest.approx([scores[i] for i in order[:keep]], abs=1e-6)
        assert ranking.pool == len(order)
        place = {vectors.names[i]: rank for rank, i in enumerate(order)}
        assert ranking.ranks == {t: place[t] for t in query.targets or () if t in place}


def test_is_the_mean_over_descriptions_of_the_two_cosines():
    """Section 2's formula, description by description, against the mean vector of ours."""
    vectors, tau = gallery(unread=0), 0.15
    descriptions = unit(np.random.default_rng(3).normal(size=(3, 32)))
    per = (1 - tau) * descriptions @ vectors.images.T + tau * descriptions @ vectors.captions.T
    [ranking] = retrieve(
        [Query("q", "x")], descriptions.mean(0, keepdims=True), vectors, tau=tau, keep=500
    )
    expected = per.mean(0)
    found = np.array([expected[vectors.index[name]] for name in ranking.names])
    np.testing.assert_allclose(ranking.scores, found, atol=1e-6)


def test_ties_keep_the_gallerys_order_and_ranks_count_them():
    vectors = gallery(n=1000, unread=0)
    same = [5, 17, 130, 131, 400, 999]
    vectors.images[same], vectors.captions[same] = vectors.images[5], vectors.captions[5]
    text = vectors.images[5:6].copy()
    query = Query("q", "x", targets=tuple(f"n{i}" for i in same))
    for keep in (3, 1000):
        [ranking] = retrieve([query], text, vectors, tau=0.15, keep=keep)
        assert ranking.names[:6] == tuple(f"n{i}" for i in same)[:keep]
        assert ranking.ranks == {f"n{i}": rank for rank, i in enumerate(same)}


def test_minus_zero_ties_with_zero():
    images = np.zeros((3, 4), np.float32)
    images[:, 0] = [0.0, -0.0, 0.0]
    vectors = GalleryVectors(("a", "b", "c"), images, -images, np.ones(3, bool))
    text = np.ones((1, 4), np.float32)
    [ranking] = retrieve([Query("q", "x", targets=("c",))], text, vectors, tau=0.5, keep=3)
    assert ranking.names == ("a", "b", "c") and ranking.ranks == {"c": 2}


@settings(deadline=None, max_examples=30)
@given(
    block=st.integers(1, 40).map(lambda n: n * ROWS),
    chunk=st.integers(1, 4).map(lambda n: n * COLUMNS),
    keep=st.integers(1, 700),
    seed=st.integers(0, 99),
)
def test_results_do_not_depend_on_blocks_or_company(block, chunk, keep, seed):
    vectors = gallery(n=3000, seed=seed)
    vectors.images[1000:1100], vectors.captions[1000:1100] = vectors.images[7], vectors.captions[7]
    queries = mixed_queries(vectors, 45, seed)
    texts = unit(np.random.default_rng(seed).normal(size=(45, 32)))
    texts[0] = vectors.images[7]
    usual = retrieve(queries, texts, vectors, tau=0.15, keep=keep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "BLOCK", block)
        patch.setattr(scanning, "CHUNK", chunk)
        assert retrieve(queries, texts, vectors, tau=0.15, keep=keep) == usual
    alone = retrieve(queries[3:4], texts[3:4], vectors, tau=0.15, keep=keep)
    assert alone == usual[3:4]


class Dense(Score):
    """Given scores, (images, queries)."""

    def __init__(self, matrix):
        self.matrix = torch.tensor(matrix, dtype=torch.float32)

    def block(self, rows, columns=ALL):
        return self.matrix[rows][:, columns].clone()


class Skewed(Dense):
    """Rounds otherwise where images are asked for by their numbers."""

    def block(self, rows, columns=ALL):
        return super().block(rows, columns) * (1 if isinstance(rows, slice) else 0.9)


def test_ranks_agree_with_names_where_a_library_rounds_by_position():
    """Targets scored apart from their block may come out different in the last bit: the pass
    notices and ranks are taken again."""
    vectors = gallery(n=2000, unread=0)
    queries = [Query(str(i), "x", targets=(f"n{i * 7}", f"n{i}")) for i in range(50)]
    matrix = np.random.default_rng(4).normal(size=(2000, 50))
    usual = scan(Dense(matrix), queries, vectors, keep=2000)
    assert scan(Skewed(matrix), queries, vectors, keep=2000) == usual
    for query, ranking in zip(queries, usual, strict=True):
        assert {t: ranking.names.index(t) for t in query.targets} == ranking.ranks


@settings(deadline=None, max_examples=60)
@given(data=st.data(), keep=st.integers(1, 40), step=st.integers(1, 3))
def test_many_ties_and_odd_numbers_stand_where_the_definition_says(data, keep, step):
    """A few values only, NaN and infinities among them: a stable sort is the definition."""
    values = st.sampled_from([0.0, -0.0, 1.0, -2.5, np.nan, np.inf, -np.inf])
    count = data.draw(st.integers(1, 400))
    column = data.draw(st.lists(values, min_size=count, max_size=count))
    matrix = np.array([column, column[::-1]], np.float32).T
    vectors = gallery(n=count, unread=0.2)
    queries = [Query("a", "x", targets=vectors.names), Query("b", "x", exclude=("n0", "n7"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "BLOCK", step * ROWS)
        rankings = scan(Dense(matrix), queries, vectors, keep)
    for query, scores, ranking in zip(queries, matrix.T, rankings, strict=True):
        scores = np.where(np.isfinite(scores), scores, LAST)
        pool = [i for i, n in enumerate(vectors.names) if vectors.ok[i] and n not in query.exclude]
        order = sorted(pool, key=lambda i: -scores[i])
        assert ranking.names == tuple(vectors.names[i] for i in order[:keep])
        assert ranking.scores == tuple(scores[i] for i in order[:keep])
        expected = {vectors.names[i]: rank for rank, i in enumerate(order)}
        assert ranking.ranks == (expected if query.targets else {})


def test_odd_scores_are_counted_where_they_would_be_ranked(caplog):
    matrix = np.zeros((4, 2))
    matrix[1], matrix[2, 0], matrix[3, 1] = np.nan, np.inf, -np.inf
    vectors = gallery(n=4, unread=0)
    queries = [Query("a", "x"), Query("b", "x", exclude=("n3",))]
    counts: list[int] = []
    first, second = scan(Dense(matrix), queries, vectors, 4, counts.append)
    assert counts == [3]
    assert first.names == ("n0", "n3", "n1", "n2") and first.scores == (0, 0, LAST, LAST)
    assert second.names == ("n0", "n2", "n1") and (first.pool, second.pool) == (4, 3)
    assert [r.message for r in caplog.records] == [
        "3 scores are not finite numbers: those images stand last"
    ]
    caplog.clear()
    vectors.ok[1] = False  # an image that is not ranked is not counted, either
    scan(Dense(matrix[:, 1:]), [Query("b", "x", exclude=("n3",))], vectors, keep=4)
    assert not caplog.records


def test_a_pass_holds_no_more_than_the_best(monkeypatch):
    """A query whose scores are all the same keeps a block's ties, not the gallery's."""
    most = []
    merge = scanning._Pass._merge

    def counted(self, hits):
        most.append(sum(len(keys) for _, keys in hits))
        merge(self, hits)

    monkeypatch.setattr(scanning._Pass, "_merge", counted)
    vectors = gallery(n=50_000, d=16, unread=0)
    texts = np.zeros((4, 16), np.float32)
    texts[0] = 1
    rankings = retrieve([Query(str(i), "x") for i in range(4)], texts, vectors, tau=0.1, keep=20)
    assert rankings[1].names == tuple(f"n{i}" for i in range(20))
    assert most and max(most) < 4 * scanning.BLOCK


def test_empty_pools_and_unknown_names():
    vectors = gallery(n=20, unread=0)
    vectors.ok[3] = False
    texts = unit(np.random.default_rng(5).normal(size=(4, 32)))
    queries = [
        Query("none", "x", candidates=(), targets=("n1",)),
        Query("unknown", "x", candidates=("nowhere", "n2", "n2"), exclude=("elsewhere",)),
        Query("unread", "x", targets=("n3", "n4"), candidates=("n3", "n4")),
        Query("excluded", "x", candidates=("n5", "n6"), exclude=("n5",), targets=("n5",)),
    ]
    none, unknown, unread, excluded = retrieve(queries, texts, vectors, tau=0.15, keep=50)
    assert (none.names, none.pool, none.ranks) == ((), 0, {})
    assert (unknown.names, unknown.pool) == (("n2",), 1)
    assert (unread.names, unread.ranks, unread.pool) == (("n4",), {"n4": 0}, 1)
    assert (excluded.names, excluded.ranks) == (("n6",), {})
    assert retrieve([], texts[:0], vectors, tau=0.15, keep=5) == []


def test_shapes_that_do_not_fit_are_refused():
    vectors = gallery(n=20)
    queries = [Query("a", "x")] * 2
    with pytest.raises(ValueError, match=r"\(2, 31\) do not fit a view \(20, 32\)"):
        retrieve(queries, np.zeros((2, 31), np.float32), vectors, tau=0, keep=1)
    with pytest.raises(ValueError, match="2 queries, but scores of 3"):
        retrieve(queries, np.zeros((3, 32), np.float32), vectors, tau=0, keep=1)
    with pytest.raises(ValueError, match="images 0 to 20, but scores"):
        scan(Dot(np.zeros((2, 4), np.float32), np.zeros((19, 4), np.float32)), queries, vectors, 1)
    with pytest.raises(ValueError, match="images 0 to 20, but scores"):
        scan(Bias(queries=np.zeros(2)), queries, vectors, 1)


def test_reads_memory_mapped_arrays_and_leaves_them_alone(tmp_path: Path, recwarn):
    vectors = gallery(n=300)
    for name in ("images", "captions"):
        np.save(tmp_path / f"{name}.npy", getattr(vectors, name))
    mapped = GalleryVectors(
        vectors.names,
        np.load(tmp_path / "images.npy", mmap_mode="r"),
        np.load(tmp_path / "captions.npy", mmap_mode="r"),
        vectors.ok,
    )
    queries = mixed_queries(vectors, 20)
    texts = unit(np.random.default_rng(6).normal(size=(20, 32)))
    expected = retrieve(queries, texts, vectors, tau=0.15, keep=50)
    assert retrieve(queries, texts, mapped, tau=0.15, keep=50) == expected
    assert not [w for w in recwarn if "writable" in str(w.message)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_ranks_as_the_cpu_does(monkeypatch):
    vectors = gallery(n=20_000, d=64)
    queries = mixed_queries(vectors, 64)
    texts = unit(np.random.default_rng(7).normal(size=(64, 64)))
    gpu = retrieve(queries, texts, vectors, tau=0.15, keep=100)
    for module in (algebra, scanning):
        monkeypatch.setattr(module, "device", lambda: "cpu")
    cpu = retrieve(queries, texts, vectors, tau=0.15, keep=100)
    for a, b in zip(cpu, gpu, strict=True):
        assert a.pool == b.pool and len(set(a.names) & set(b.names)) >= len(a.names) - 1
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
