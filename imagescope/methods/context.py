"""A run's context (methods/base.py): models asked, answers kept, one model in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from imagescope.arrays import Array
from imagescope.config import RunConfig, Side
from imagescope.encoders.base import open_encoder
from imagescope.encoders.cached import CachedEncoder
from imagescope.engines.base import Picture, Request
from imagescope.engines.failures import check
from imagescope.engines.role import Role, Step
from imagescope.engines.roles import Models
from imagescope.gallery.database import LONGEST, ImageDB
from imagescope.gallery.vectors import GalleryVectors
from imagescope.methods.prompts import Prompts
from imagescope.records import Gallery, Item, Query, Ranking
from imagescope.search.scan import scan
from imagescope.search.score import Score
from imagescope.store.cache import Cache


class RunContext:
    """See Context. steps: what each step cost, filled as it is done.  before: what engines and
    encoder are wrapped in, if anything.

    With a bundle instead of a cache it is a replay's: nothing may be asked.
    """

    resident = False

    def __init__(
        self,
        config: RunConfig,
        gallery: Gallery,
        cache: Cache,
        db: ImageDB,
        prompts: Prompts,
        keep: int,
        steps: dict[str, Step],
        before: Callable[[Any], Any] | None = None,
    ):
        self.gallery, self.prompts, self.keep = gallery, prompts, keep
        self.reading, self.steps, self.db = config.reading, steps, db
        self._fail_on_error, self._cluster = config.fail_on_error, config.ray_address is not None
        self.models = Models(config, cache, steps=steps, before=before)
        encoder = open_encoder(config.models.encoder, ray_address=config.ray_address)
        self.encoder = before(encoder) if before else encoder
        self.vectors = CachedEncoder(self.encoder, cache, replay=config.replay is not None)
        self._captions: Mapping[str, str] | None = None  # of all images
        self._rows: dict[bool, GalleryVectors] = {}  # with captions, without

    def close(self) -> None:
        """Gives the models' memory back."""
        self.encoder.close()
        self.models.close()

    @contextmanager
    def role(self, name: str) -> Iterator[Role]:
        """See Context. Raises UserError where too many of a step's requests got no answer."""
        self.encoder.close()
        with self.models.role(name) as role, self.checked():
            yield role

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Looks, at its end, at the steps that were done meanwhile."""
        before = set(self.steps)
        yield
        for step in self.steps.keys() - before:
            check(step, self.steps[step], self._fail_on_error)

    def captions(self, names: Collection[str] | None = None) -> Mapping[str, str]:
        with self.role("captioner") as captioner:
            captions = self.db.captions(captioner, self.prompts["caption"], names)
        if names is None:
            self._captions = captions
        return captions

    def samples(
        self, names: Collection[str], n: int, temperature: float = 1.0, top_p: float = 0.9
    ) -> Mapping[str, tuple[str, ...]]:
        files, prompt = self.gallery.files, self.prompts["caption"]
        places = [
            (name, seed) for name in dict.fromkeys(names) if name in files for seed in range(n)
        ]
        requests = [
            Request(
                prompt,
                (Picture(str(files[name])),),
                max_tokens=LONGEST,
                temperature=temperature,
                top_p=top_p,
                seed=seed,
            )
            for name, seed in places
        ]
        with self.role("captioner") as captioner:
            responses = captioner.ask(requests, "captions", [name for name, _ in places])
        captions: dict[str, tuple[str, ...]] = {}
        for (name, _), response in zip(places, responses, strict=True):
            if text := response.text.strip():
                captions[name] = (*captions.get(name, ()), text)
        return captions

    def view(self, kind: Literal["image", "caption"]) -> Array:
        return self.rows(captions=True).captions if kind == "caption" else self.rows().images

    def embed(self, items: Sequence[Item], side: Side) -> Array:
        rows, files = self.rows(), self.gallery.files
        wanted = {path for item in items for path in item.images}
        known = {
            path: rows.images[row]
            for name, row in rows.index.items()
            if rows.ok[row] and (path := files.get(name)) in wanted
        }
        with self._timed("retrieval"):
            vectors = self.vectors.embed(items, side, known)
        if not vectors.size:  # nothing that could be embedded
            return np.zeros((len(items), rows.images.shape[1]), np.float32)
        return vectors

    def means(self, groups: Sequence[Sequence[str]]) -> Array:
        with self._timed("retrieval"):
            return self.vectors.means(groups)

    def search(
        self, queries: Sequence[Query], score: Score, keep: int | None = None
    ) -> list[Ranking]:
        rows = self.rows()
        with self._timed("retrieval") as step:

            def tell(count: int) -> None:
                step.not_finite += count

            return scan(score, queries, rows, self.keep if keep is None else keep, tell)

    def rows(self, captions: bool = False) -> GalleryVectors:
        """The gallery's vectors; its captions', too, where they are wanted or were asked for."""
        captions = captions or self._captions is not None
        if captions not in self._rows:
            texts = None
            if captions:
                texts = self.captions() if self._captions is None else self._captions
            with self._timed("embedding") as step:
                self._rows[captions] = self.db.vectors(self.encoder, self.vectors, texts)
                step.wanted, step.cached, step.asked = self.db.counts
        return self._rows[captions]

    @contextmanager
    def _timed(self, name: str) -> Iterator[Step]:
        """A step whose model is the encoder."""
        if self._cluster:
            self.models.close()  # the encoder's replicas want the cluster's GPUs, too
        encoder, step = self.encoder, self.steps.setdefault(name, Step())
        start, working, loading = time.monotonic(), encoder.seconds, encoder.load_seconds
        yield step
        step.seconds += time.monotonic() - start
        step.model_seconds += encoder.seconds - working
        step.load_seconds += encoder.load_seconds - loading
        wanted, cached, asked = self.vectors.take_counts()
        step.wanted, step.cached, step.asked = (
            step.wanted + wanted,
            step.cached + cached,
            step.asked + asked,
        )
        step.duplicates += wanted - cached - asked
