"""An encoder whose vectors are kept: what is embedded once is not embedded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imagescope.arrays import Array
from imagescope.config import Side
from imagescope.encoders.base import Encoder, Kind, missing_chunks, plain
from imagescope.errors import UserError
from imagescope.records import Item
from imagescope.store.cache import Cache
from imagescope.store.hashing import digest


class CachedEncoder:
    """An encoder's vectors by the content of what is embedded, kept in the response cache.

    Distinct items of a kind are embedded in chunks of the configuration's size, and a chunk is
    stored whole or not at all.
    replay: everything must be stored; neither encoder nor checkpoint is touched.
    """

    def __init__(self, encoder: Encoder, cache: Cache, replay: bool = False):
        self._encoder, self._cache, self._replay = encoder, cache, replay
        self._counts = [0, 0, 0]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The encoder's; in a replay, the one it was exported with."""
        if self._replay:
            return self._cache.replayed(self._encoder.declared)
        return self._encoder.identity

    @cached_property
    def space(self) -> str:
        """The cache's name for what this encoder's vectors belong to."""
        return self._cache.register(self.identity, self._encoder.declared)

    def made_by(self, side: Side) -> dict[str, Any]:
        """What determines the vectors of a side, their items aside."""
        condition = self._encoder.condition(side)
        return self.identity | ({"condition": condition} if condition else {})

    def key(self, content: str, side: Side) -> str:
        """The key of text:TEXT, image:SHA256 or joint:SHA256:TEXT, embedded on a side."""
        condition = self._encoder.condition(side)
        return f"{digest(condition)[:16]}:{content}" if condition else content

    def embed(
        self, items: Sequence[Item], side: Side = "query", known: Mapping[Path, Array] = {}
    ) -> Array:
        """float32 (n, d): unit rows; zeros for an image that cannot be read, and for an item with
        nothing in it. known: the gallery's vectors of images, which serve where both sides are
        embedded alike.

        Raises UserError for an item that the encoder does not take, and where a replay lacks one.
        """
        if self._encoder.condition("query") != self._encoder.condition("gallery"):
            known = {}
        groups: dict[Kind, list[Item]] = {}
        vectors = {Item(images=(path,)): vector for path, vector in known.items()}
        for item in items:
            kind = self._encoder.kind(item)
            if item.text or (item.images and item not in vectors):
                groups.setdefault(kind, []).append(item)
        for group in groups.values():
            vectors |= self._vectors(group, side)
        width = next((len(vector) for vector in vectors.values()), 0)
        zeros = np.zeros(width, np.float32)
        rows = [vectors.get(item, zeros) for item in items]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

    def means(self, groups: Sequence[Sequence[str]]) -> Array:
        """float32 (len(groups), d): the mean of each group's unit vectors, not normalised."""
        vectors = self._vectors([Item(text) for group in groups for text in group], "query")
        rows = [np.mean([vectors[Item(t)] for t in group], 0, np.float32) for group in groups]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

    def missing(self, items: Sequence[Item], side: Side) -> int:
        """How many of the distinct items would have to be embedded."""
        keys = {key for key in self._keys(items, side).values() if key}
        return len(keys) - len(self._cache.vectors(self.space, list(keys)))

    def take_counts(self) -> tuple[int, int, int]:
        """(wanted, cached, computed) since the last time; wanted counts repetitions."""
        wanted, cached, computed = self._counts
        self._counts = [0, 0, 0]
        return wanted, cached, computed

    def _vectors(self, items: Sequence[Item], side: Side) -> dict[Item, Array]:
        """Item -> float32 (d,) of all that can be embedded; what is not stored is computed and
        stored."""
        keys = self._keys(items, side)
        distinct: dict[str, Item] = {}
        for item, key in keys.items():
            if key:
                distinct.setdefault(key, item)
        stored = self._cache.vectors(self.space, list(distinct))
        self._counts[0] += len(items)
        self._counts[1] += len(stored)
        chunks = missing_chunks(list(distinct), self._encoder.config.chunk_size, stored)
        asked = [[distinct[key] for key in chunk] for chunk in chunks]
        if asked and self._replay:
            item = asked[0][0]
            what = repr(item.text) if item.text else item.images[0]
            raise UserError(
                f"{self._cache.path}: the vector of {what} is not in the bundle. Replay with the "
                "options of the run that was exported."
            )
        embedded = self._encoder.embed_chunks(asked, side)
        for chunk, (rows, reasons) in zip(chunks, embedded, strict=True):
            new = {key: rows[n] for n, key in enumerate(chunk) if n not in reasons}
            self._cache.put_vectors(self.space, new)
            stored |= new
            self._counts[2] += len(new)
        return {item: stored[key] for item, key in keys.items() if key in stored}

    def _keys(self, items: Sequence[Item], side: Side) -> dict[Item, str]:
        """Each item's key, by content; "" where its image's file cannot be read."""
        shas = self._cache.hashes([str(path) for item in items for path in item.images])
        keys = {}
        for item in items:
            sha = shas[str(item.images[0])] if item.images else ""
            content = f"text:{plain(item.text)}"
            if item.images:
                content = f"joint:{sha}:{plain(item.text)}" if item.text else f"image:{sha}"
            keys[item] = self.key(content, side) if sha or not item.images else ""
        return keys
