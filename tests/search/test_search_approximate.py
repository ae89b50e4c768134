"""Approximate search: recall against the exact scan, exact scores, its file, what it leaves."""

import sys
from pathlib import Path

import numpy as np
import pytest

from imagescope.errors import UserError
from imagescope.gallery.vectors import GalleryVectors
from imagescope.records import Query
from imagescope.search.approximate import SHORTLIST, Approximate
from imagescope.search.scan import scan
from imagescope.search.score import Bias, Dot, Positive

COUNT = 4000


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors():
    """Pictures in 40 clusters, and captions near their pictures."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 32))
    images = unit(centres[rng.integers(0, 40, COUNT)] + rng.normal(size=(COUNT, 32)))
    captions = unit(images + rng.normal(size=images.shape) / 32**0.5)
    ok = np.ones(COUNT, bool)
    ok[5] = False
    return GalleryVectors(tuple(f"n{i}" for i in range(COUNT)), images, captions, ok)


def stage1(vectors, rows):
    texts = vectors.images[rows]
    return 0.85 * Dot(texts, vectors.images) + 0.15 * Dot(texts, vectors.captions)


def test_its_best_are_nearly_the_exact_best_with_the_same_scores(vectors, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rows = [5, 100, 2000]
    queries = [Query(str(n), "", exclude=("n100", "n5", "nowhere")) for n in rows]
    score = stage1(vectors, rows)
    exact = scan(score, queries, vectors, 50)
    near = Approximate(vectors, tmp_path / "vectors.npy").search(queries, score, 50)
    assert near is not None
    for one, other in zip(exact, near, strict=True):
        assert len(set(one.names) & set(other.names)) >= 45 and len(other.names) == 50
        assert not {"n5", "n100"} & set(other.names)
        scores = dict(zip(one.names, one.scores, strict=True))
        both = zip(other.names, other.scores, strict=True)
        assert all(scores.get(name, value) == value for name, value in both)
        assert list(other.scores) == sorted(other.scores, reverse=True)
        assert (other.pool, other.ranks) == (one.pool, {})
    everything = Approximate(vectors, tmp_path / "vectors.npy", probes=COUNT)
    assert everything.search(queries, score, 300) == scan(score, queries, vectors, 300)
    assert everything.search(queries, score, COUNT // SHORTLIST) is None


def test_the_file_is_made_once_for_these_rows_and_again_for_others(
    vectors, tmp_path: Path, caplog
) -> None:
    pytest.importorskip("faiss")
    path = tmp_path / "vectors.npy"
    Approximate(vectors, path)
    (first,) = tmp_path.glob("*.ivf")
    before = first.stat().st_mtime_ns
    Approximate(vectors, path)
    assert first.stat().st_mtime_ns == before and len(caplog.records) == 1
    other = GalleryVectors(vectors.names, vectors.captions, vectors.images, vectors.ok)
    Approximate(other, path)
    (second,) = tmp_path.glob("*.ivf")
    assert second != first
    second.write_bytes(second.read_bytes()[:1000])
    Approximate(other, path)
    assert second.stat().st_size > 1000


def test_what_it_cannot_do_is_left_to_the_scan(vectors, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index, score = Approximate(vectors, tmp_path / "vectors.npy"), stage1(vectors, [1])
    query = Query("q", "")
    assert index.search([Query("q", "", candidates=("n1",))], score, 5) is None
    assert index.search([query], Positive(score), 5) is None
    assert index.search([query], score + Bias(queries=np.zeros(1)), 5) is None
    assert (
        index.search([query], Dot(np.ones((1, 32), np.float32), vectors.images.copy()), 5) is None
    )
    shifted = index.search([query], score + 1.0, 5)
    assert shifted is not None and shifted[0].scores[0] > 1.5


def test_without_faiss_it_says_what_to_install(vectors, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'imagescope\[faiss\]'"):
        Approximate(vectors, tmp_path / "vectors.npy")
