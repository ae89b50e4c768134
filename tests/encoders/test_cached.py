"""Vectors that are kept."""

import numpy as np
import pytest

from imagescope.encoders.base import open_encoder
from imagescope.encoders.cached import CachedEncoder
from imagescope.errors import UserError
from imagescope.records import Item
from imagescope.store.cache import Cache


def said(cached, texts):
    return cached.embed([Item(text) for text in texts])


def test_nothing_is_loaded_before_it_is_needed(clip_config, tmp_path):
    encoder = open_encoder(clip_config)
    with Cache.open(tmp_path / "cache.sqlite") as cache:
        texts = CachedEncoder(encoder, cache)
        first = said(texts, ["a red circle", "a", "a red circle"])
        assert texts.take_counts() == (3, 0, 2) and encoder.loads == 1
        assert first[0].tobytes() == first[2].tobytes()
        encoder.close()

        fresh = open_encoder(clip_config)
        again = CachedEncoder(fresh, cache)
        assert said(again, ["a", "a red circle"])[1].tobytes() == first[0].tobytes()
        assert again.take_counts() == (2, 2, 0) and fresh.loads == 0
        assert again.take_counts() == (0, 0, 0)
        mean = again.means([["a", "a red circle"], ["a"]])
        np.testing.assert_allclose(mean[0], (first[0] + first[1]) / 2, atol=1e-7)
        assert mean[1].tobytes() == first[1].tobytes() and mean.dtype == np.float32
        assert fresh.loads == 0
        said(again, ["two squares"])
        assert fresh.loads == 1


def test_an_interrupted_chunk_is_batched_as_it_would_have_been(clip_config, tmp_path):
    """Chunks of 3: killed after the first one, the second is asked as before."""
    names = ["a", "a red", "a red circle", "two", "two small", "two small blue squares"]
    asked: list[list[str]] = []

    def counting(stop_after: int):
        encoder = open_encoder(clip_config)
        whole = encoder.embed_chunks

        def embed_chunks(chunks, side):
            for chunk, embedded in zip(chunks, whole(chunks, side), strict=True):
                if len(asked) >= stop_after:
                    raise KeyboardInterrupt
                asked.append([item.text for item in chunk])
                yield embedded

        encoder.embed_chunks = embed_chunks
        return encoder

    with Cache.open(tmp_path / "whole.sqlite") as cache:
        expected = said(CachedEncoder(counting(9), cache), names)
    plain, asked[:] = list(asked), []
    with Cache.open(tmp_path / "killed.sqlite") as cache:
        with pytest.raises(KeyboardInterrupt):
            said(CachedEncoder(counting(1), cache), names)
        assert said(CachedEncoder(counting(9), cache), names).tobytes() == expected.tobytes()
    assert asked == plain == [names[:3], names[3:]]


def test_a_replay_needs_neither_checkpoint_nor_model(clip_config, tmp_path):
    from imagescope.store.bundle import export

    with Cache.open(tmp_path / "cache.sqlite") as cache:
        made = said(CachedEncoder(open_encoder(clip_config), cache), ["a", "a red circle"])
        export(cache, tmp_path / "bundle.sqlite", cache.used)
    gone = clip_config.model_copy(update={"batch_size": 1})  # no part of what determines it
    with Cache.replay(tmp_path / "bundle.sqlite") as bundle:
        encoder = open_encoder(gone)
        texts = CachedEncoder(encoder, bundle, replay=True)
        assert said(texts, ["a", "a red circle"]).tobytes() == made.tobytes()
        assert encoder.loads == 0
        with pytest.raises(UserError, match="'unheard of' is not in the bundle"):
            said(texts, ["unheard of"])
        with pytest.raises(UserError, match="with these settings"):
            other = clip_config.model_copy(update={"max_length": 3})
            said(CachedEncoder(open_encoder(other), bundle, replay=True), ["a"])


def test_images_are_known_by_content_and_unreadable_ones_are_zeros(clip_config, pictures, tmp_path):
    good, bad = pictures
    copy = tmp_path / "copy.png"
    copy.write_bytes(good[0].read_bytes())
    items = [Item(images=(path,)) for path in (good[0], copy, good[1], bad[0], bad[2])]
    with Cache.open(tmp_path / "cache.sqlite") as cache:
        cached = CachedEncoder(open_encoder(clip_config), cache)
        vectors = cached.embed([*items, Item("a"), Item()], "gallery")
        assert vectors[0].tobytes() == vectors[1].tobytes() and vectors[5].any()
        assert not vectors[[3, 4, 6]].any() and cached.take_counts() == (6, 0, 3)
        keys = {key for _, key, _, _ in cache.table("vectors")}
        assert {key.split(":")[0] for key in keys} == {"image", "text"} and "text:a" in keys

        known = {good[2]: np.ones_like(vectors[0])}
        fresh = open_encoder(clip_config)
        again = CachedEncoder(fresh, cache)
        seen = again.embed([items[2], Item(images=(good[2],))], "query", known)
        assert seen[0].tobytes() == vectors[2].tobytes() and (seen[1] == 1).all()
        assert fresh.loads == 0 and again.take_counts() == (1, 1, 0)
