"""An index's context (methods/base.py): vectors and captions are there, and models may stay."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path

from imagescope.config import RunConfig
from imagescope.engines.failures import check
from imagescope.engines.role import Role
from imagescope.gallery.database import ImageDB
from imagescope.gallery.vectors import GalleryVectors
from imagescope.methods.context import RunContext
from imagescope.methods.prompts import Prompts
from imagescope.records import Gallery, Query, Ranking
from imagescope.search.approximate import Approximate
from imagescope.search.score import Score
from imagescope.store.cache import Cache


class IndexContext(RunContext):
    """See Context. `about` makes the context of one search.

    captions: name -> caption.  caption: captions a picture that may not be in the index.
    resident: models stay in memory; else each has it to itself while it is asked.
    approximate: searches where it can, if it is there; else every search is exact.
    """

    def __init__(
        self,
        config: RunConfig,
        vectors: GalleryVectors,
        files: Mapping[str, Path],
        captions: Mapping[str, str],
        caption: Callable[[Path], str],
        cache: Cache,
        resident: bool,
        approximate: Approximate | None = None,
    ):
        self._files = dict(files)
        gallery = Gallery(vectors.names, self._files)
        db = ImageDB(config.image_db, gallery, cache)
        super().__init__(config, gallery, cache, db, Prompts(), 0, {})
        self.resident, self._approximate = resident, approximate
        self._indexed, self._known, self._caption = vectors, dict(captions), caption
        self._reference: Path | None = None

    def about(self, reference: Path | None, prompts: Prompts, keep: int) -> IndexContext:
        """The context of one search: what it starts from, and how many pictures it ranks. Searches
        may take turns: they share the models."""
        search = copy(self)
        outside = {str(reference): reference} if reference else {}
        search.gallery = Gallery(self._indexed.names, ChainMap(outside, self._files))
        search.prompts, search.keep, search._reference = prompts, keep, reference
        return search

    @contextmanager
    def role(self, name: str) -> Iterator[Role]:
        if not self.resident:
            self.models.close(all_but=name)
        with self.checked():
            yield self.models.open(name)

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Looks at the steps of a search when they are done: whoever waits takes what there is."""
        yield
        while self.steps:
            check(*self.steps.popitem(), limit=1)

    def captions(self, names: Collection[str] | None = None) -> Mapping[str, str]:
        if self._reference is None:
            return self._known
        return ChainMap({str(self._reference): self._caption(self._reference)}, self._known)

    def rows(self, captions: bool = False) -> GalleryVectors:
        return self._indexed

    def search(
        self, queries: Sequence[Query], score: Score, keep: int | None = None
    ) -> list[Ranking]:
        index = self._approximate
        near = index.search(queries, score, keep or self.keep) if index else None
        return super().search(queries, score, keep) if near is None else near
