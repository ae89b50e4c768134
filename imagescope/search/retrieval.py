"""Stage 1, retrieval: the mean over descriptions of both cosines (section 3.2).

With unit vectors t_j (descriptions), v_i (images) and c_i (captions), the score

    s_i = mean_j [ (1 - tau) t_j . v_i + tau t_j . c_i ]

is linear in t_j, so that each query is asked by one vector, the mean of its descriptions', against
one vector an image, (1 - tau) v_i + tau c_i.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagescope.arrays import Array
from imagescope.gallery.vectors import GalleryVectors
from imagescope.records import Query, Ranking
from imagescope.search.scan import scan
from imagescope.search.score import Dot


def retrieve(
    queries: Sequence[Query],
    texts: Array,
    vectors: GalleryVectors,
    *,
    tau: float,
    keep: int,
    device: str | None = None,
) -> list[Ranking]:
    """The `keep` best images of every query, and the exact rank of each of its targets: see `scan`.

    texts: float32 (queries, d), the mean of each query's unit description vectors, not normalised.
    tau: weight of captions against images, in [0, 1].  device: None takes a GPU if there is one.
    Raises ValueError for shapes that do not fit.
    """
    images = Dot(texts, vectors.images, device)
    captions = Dot(texts, vectors.captions, device)
    return scan((1 - tau) * images + tau * captions, queries, vectors, keep)
