"""A plan's context (methods/base.py): a method runs, and nothing but its requests is counted.

What the cache does not hold is answered with the method's typical answer, and vectors that are not
held are replaced by others. What follows from them is an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from imagescope.arrays import Array
from imagescope.config import EncoderConfig, RunConfig, Side
from imagescope.encoders.base import Encoder, has_checkpoint
from imagescope.encoders.cached import CachedEncoder
from imagescope.engines import is_remote, open_engine
from imagescope.engines.base import Answers, Pair, Request, Requests, Response, blocks
from imagescope.engines.cached import Cached
from imagescope.engines.role import Role, Step
from imagescope.engines.roles import checkpoint
from imagescope.errors import UserError
from imagescope.gallery.vectors import GalleryVectors
from imagescope.methods.context import RunContext
from imagescope.records import Item, Query, Ranking
from imagescope.registry import ENCODERS
from imagescope.runs.preflight import identifiable
from imagescope.search.score import Score
from imagescope.store.cache import Cache

CHARACTERS = 4  # a token, in English text, where no earlier run tells
CAPTION = "A dog."  # a typical answer of the captioner
WIDTH = 4  # of vectors that stand for unknown ones


@dataclass
class Forecast(Step):
    """A step that is still to come, and who does it.

    images: sent to the model.  exact: False where the counts follow from typical answers.
    identified: whether the checkpoint is here, so that its answers could be looked up at all.
    expected_*: by earlier runs, None where there was none.
    """

    role: str = "encoder"
    images: int = 0
    exact: bool = True
    identified: bool = True
    expected_tokens: float | None = None
    expected_output: float | None = None
    expected_seconds: float | None = None

    @property
    def to_ask(self) -> int:
        """How many requests; that typical ones repeat one another says nothing of the real ones."""
        return self.asked if self.exact else self.wanted - self.cached


class _Foreseen(Cached):
    """Answers from the cache; what is not there is answered with `typical`."""

    typical = ""
    remote = False

    @property
    def identified(self) -> bool:
        return "unidentified" not in self.identity

    @cached_property
    def identity(self) -> dict[str, Any]:
        try:
            if self.remote or identifiable(self._declared["model"], self._declared["revision"]):
                return super().identity
        except UserError:  # incomplete, say
            pass
        return {"unidentified": self._declared}  # nothing is held under this

    def _engine_answers(self, requests: Requests) -> Iterator[Answers]:
        for block in blocks(requests):
            yield {i: Response(self.typical) for i, _ in block}


@dataclass
class _PlannedRole(Role):
    """A role whose requests are counted in the context's steps."""

    context: PlanContext = field(kw_only=True)

    def stream(
        self,
        requests: Requests,
        label: str,
        about: Sequence[str],
        total: int,
        wanted: int | None = None,
    ) -> Iterator[tuple[int, Response]]:
        engine, row, seen = self.engine, self.context.row(label, self.name), list[Request]()
        assert isinstance(engine, _Foreseen)
        engine.typical = self.context.typical.get(label, "")
        row.identified, before = engine.identified, row.asked

        def counted() -> Requests:
            for request in requests:
                if request is not None:
                    seen.append(request)
                yield request

        yield from super().stream(counted(), label, about, total, wanted)
        each = (wanted or len(seen)) / max(1, len(seen))
        images = sum(1 + isinstance(image, Pair) for r in seen for image in r.images)
        row.images += int(images * each)
        row.prompt_tokens += round(sum(len(r.prompt) for r in seen) * each / CHARACTERS)
        self.context.exact = self.context.exact and row.asked == before


class ReadOnly(Cache):
    """A cache in which nothing is kept."""

    keeps = False

    def insert(self, table: str, rows: Sequence[Any], conflict: str = "REPLACE") -> None: ...


class _Unknown(Exception):
    """Vectors that only the encoder could make."""


def _unloaded(config: EncoderConfig) -> Encoder:
    """The encoder that a configuration names, which may not be asked."""
    library: Any = ENCODERS.load(config.library)

    class Unloaded(library):  # type: ignore[misc]
        def embed_chunks(
            self, chunks: Iterable[Sequence[Item]], side: Side
        ) -> Iterator[tuple[Array, dict[int, str]]]:
            for _ in chunks:
                raise _Unknown
            yield from ()

    encoder: Encoder = Unloaded(config)
    return encoder


class _HeldVectors(CachedEncoder):
    """The vectors that are held. stand_in: the unit vector in place of one that is not, as long as
    the gallery's.  unknown: whether it was given, from then on for all."""

    stand_in: Array = np.full(WIDTH, WIDTH**-0.5, np.float32)
    unknown = False

    def _vectors(self, items: Sequence[Item], side: Side) -> dict[Item, Array]:
        distinct = len(set(items))
        lacking = distinct if self.unknown else self.missing(items, side)
        if not lacking:
            return super()._vectors(items, side)
        counts = (len(items), distinct - lacking, lacking)
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]
        self.unknown = True
        return dict.fromkeys(items, self.stand_in)


class PlanContext(RunContext):
    """A plan's context (methods/base.py): a run's, without the models.

    typical: step -> the answer in place of an unknown one.  exact: False once one was given.
    """

    def __init__(self, config: RunConfig, typical: Mapping[str, str], cache: Cache, **rest: Any):
        super().__init__(config, cache=cache, **rest)
        self.typical, self.exact = {"captions": CAPTION, **typical}, True
        self._config, self._cache = config, cache
        self.encoder = _unloaded(config.models.encoder)
        self.vectors: _HeldVectors = _HeldVectors(self.encoder, cache)

    def row(self, step: str, role: str) -> Forecast:
        row = self.steps.setdefault(step, Forecast(role=role))
        assert isinstance(row, Forecast)
        row.exact = row.exact and self.exact
        return row

    @contextmanager
    def role(self, name: str) -> Iterator[Role]:
        config, settings = self._config.models.role(name), self._config
        engine = open_engine(checkpoint(config), settings.engine, ray_address=settings.ray_address)
        cached = _Foreseen(engine, self._cache)
        cached.remote = is_remote(config, settings.engine)
        yield _PlannedRole(name, cached, config, self.steps, context=self)

    @contextmanager
    def _timed(self, name: str) -> Iterator[Forecast]:
        row = self.row(name, "encoder")
        config = self.encoder.config
        row.identified = not has_checkpoint(config) or identifiable(config.model, config.revision)
        with super()._timed(name):
            yield row
        self.exact = self.exact and not self.vectors.unknown

    def rows(self, captions: bool = False) -> GalleryVectors:
        captions = captions or self._captions is not None
        if captions not in self._rows:
            self._rows[captions] = self._gallery_vectors(captions)
        return self._rows[captions]

    def _gallery_vectors(self, captions: bool) -> GalleryVectors:
        """The gallery's vectors, or as many others where the encoder would have to be asked."""
        names = self.gallery.names
        if captions and self._captions is None:
            self.captions()
        with self._timed("embedding") as row:
            row.wanted, row.images = len(names) * (1 + captions), len(names)
            captioned = not captions or not self.steps["captions"].asked
            try:
                if not (captioned and row.identified):
                    raise _Unknown
                texts = self._captions if captions else None
                vectors = self.db.vectors(self.encoder, self.vectors, texts)
                self.vectors.stand_in = np.eye(1, vectors.images.shape[1], dtype=np.float32)[0]
                row.cached, row.exact = row.wanted, True
            except _Unknown:
                row.exact, self.vectors.unknown = False, True
                same = np.tile(self.vectors.stand_in, (len(names), 1))
                vectors = GalleryVectors(names, same, same, np.ones(len(names), bool))
        return vectors

    def means(self, groups: Sequence[Sequence[str]]) -> Array:
        self.rows()  # as long as the gallery's
        return super().means(groups)

    def search(
        self, queries: Sequence[Query], score: Score, keep: int | None = None
    ) -> list[Ranking]:
        keep = self.keep if keep is None else keep
        if not self.vectors.unknown:
            return super().search(queries, score, keep)
        pools = (self.gallery.names if q.candidates is None else q.candidates for q in queries)
        return [_first(pool, query, keep) for pool, query in zip(pools, queries, strict=True)]


def _first(pool: Sequence[str], query: Query, keep: int) -> Ranking:
    """The pool's first images, in place of a ranking."""
    names = [name for name in pool[: keep + len(query.exclude)] if name not in query.exclude]
    return Ranking(tuple(names[:keep]), (0.0,) * len(names[:keep]), pool=len(pool))
