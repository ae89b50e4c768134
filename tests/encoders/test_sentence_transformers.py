"""Encoders of sentence-transformers: pairs, instructions, and what is no address."""

from pathlib import Path

import numpy as np
import pytest

from imagescope.config import EncoderConfig
from imagescope.encoders.base import open_encoder
from imagescope.encoders.cached import CachedEncoder
from imagescope.errors import UserError
from imagescope.records import Item
from imagescope.store.cache import Cache

MODELS = Path(__file__).parents[2] / "data/tiny/models"
pytest.importorskip("sentence_transformers", exc_type=Exception)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A vision-language model that pools its last token, as the large joint encoders do."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = str(tmp_path_factory.mktemp("joint"))
    model = Transformer(str(MODELS / "evaluator"))
    pooling = Pooling(model.get_embedding_dimension(), "lasttoken")
    SentenceTransformer(
        modules=[model, pooling], device="cpu", prompts={"query": "Find it: "}
    ).save_pretrained(folder)
    return EncoderConfig(model=folder, library="sentence_transformers", batch_size=2)


def cosines(one, other):
    return np.sum(one * other, axis=1)


def test_texts_images_and_pairs_share_a_space(config, pictures):
    one, two = pictures[0][:2]
    items = [Item("red"), Item(images=(one,)), Item("red", (one,)), Item("blue", (one,)),
             Item("red", (two,)), Item("red", (pictures[1][0],))]  # fmt: skip
    encoder = open_encoder(config)
    vectors, reasons = encoder.embed(items, "query")
    assert vectors.shape == (6, encoder.dimension) and list(reasons) == [5] and not vectors[5].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors[:5].round(3), axis=0)) == 5  # a pair is neither of its parts

    from PIL import Image
    from sentence_transformers import SentenceTransformer

    pair = {"image": Image.open(one).convert("RGB"), "text": "blue"}
    (alone,) = SentenceTransformer(config.model, device="cpu").encode_query([pair])
    np.testing.assert_allclose(vectors[3], alone / np.linalg.norm(alone), atol=1e-4)


def test_a_side_has_its_instruction_or_the_checkpoints_own(config, pictures):
    one = (pictures[0][0],)
    items = [Item("red"), Item(images=one), Item("red", one)]
    plain = open_encoder(config)
    query, gallery = (plain.embed(items, side)[0] for side in ("query", "gallery"))
    assert (cosines(query, gallery) < 0.999).all()
    told = {"instruction_query": "Find it: ", "instruction_gallery": "Sum it up: "}
    instructed = open_encoder(config.model_copy(update=told))
    np.testing.assert_allclose(instructed.embed(items, "query")[0], query, atol=1e-4)
    assert (cosines(instructed.embed(items, "gallery")[0], gallery) < 0.999).all()
    assert instructed.identity == plain.identity  # the key of a vector says what it was told


@pytest.mark.parametrize("text", ["https://example.org/a.jpg", "/no/such.png", "data:image/png,x"])
def test_a_text_is_never_opened_as_an_image(config, text, pictures):
    vectors, _ = open_encoder(config).embed([Item(text), Item(text, (pictures[0][0],))], "query")
    assert (np.linalg.norm(vectors, axis=1) > 0.99).all()


def test_a_clip_has_its_vectors_and_refuses_a_pair(pictures):
    config = EncoderConfig(model=str(MODELS / "encoder"))
    items = [Item("a red circle"), Item(images=(pictures[0][0],))]
    encoder = open_encoder(config.model_copy(update={"library": "sentence_transformers"}))
    vectors, _ = encoder.embed(items, "gallery")
    np.testing.assert_allclose(vectors, open_encoder(config).embed(items, "gallery")[0], atol=1e-5)
    with pytest.raises(UserError, match="cannot combine"):
        encoder.embed([Item("red", (pictures[0][0],))], "query")


def test_a_vector_is_kept_by_content_side_and_instruction(config, pictures, tmp_path):
    one = pictures[0][0]
    copy = tmp_path / "copy.png"
    copy.write_bytes(one.read_bytes())
    pair, image = Item("red", (one,)), Item(images=(one,))
    with Cache.open(tmp_path / "cache.sqlite") as cache:
        cached = CachedEncoder(open_encoder(config), cache)
        first = cached.embed([pair, image], "query", {one: np.zeros(128, np.float32)})
        assert first.any(axis=1).all()  # the gallery's vector is not the query's
        cached.embed([pair], "gallery")
        assert cached.take_counts() == (3, 0, 3)

        fresh = open_encoder(config)
        again = CachedEncoder(fresh, cache).embed([Item("red", (copy,))], "query")
        assert again[0].tobytes() == first[0].tobytes() and fresh.loads == 0
        told = open_encoder(config.model_copy(update={"instruction_query": "Look: "}))
        other = CachedEncoder(told, cache)
        assert other.embed([pair], "query")[0].tobytes() != first[0].tobytes()
        assert other.take_counts() == (1, 0, 1)


def test_a_modules_pickle_is_not_opened(config, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(config.model, folder)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match="is a pickle, which is not opened"):
        open_encoder(config.model_copy(update={"model": str(folder)})).embed([Item("a")], "query")
