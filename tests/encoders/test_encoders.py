"""Encoders of two towers: transformers and open_clip."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from imagescope.encoders.base import open_encoder
from imagescope.errors import UserError
from imagescope.records import Item

TEXTS = ["a red circle", "two small blue squares on a green ground", "", "a", "red " * 100]


def words(encoder, texts):
    vectors, reasons = encoder.embed([Item(text) for text in texts], "query")
    assert not reasons
    return vectors


def pictured(encoder, paths):
    return encoder.embed([Item(images=(path,)) for path in paths], "gallery")


def test_vectors_are_unit_float32_rows(encoder, pictures):
    images, reasons = pictured(encoder, pictures[0])
    texts = words(encoder, TEXTS)
    for rows, count in ((images, 10), (texts, len(TEXTS))):
        assert rows.shape == (count, encoder.dimension) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not reasons and len(np.unique(images.round(4), axis=0)) == 10


def test_agree_with_the_library_itself(config, encoder, pictures):
    """One image and one text at a time, through the library's own documented calls."""
    from imagescope.models.images import load_picture

    picture, text = load_picture(pictures[0][0]), TEXTS[1]
    with torch.inference_mode():
        if config.library == "open_clip":
            import open_clip

            name = f"local-dir:{config.model}"
            model, _, transform = open_clip.create_model_and_transforms(name)
            model.eval()
            image = model.encode_image(transform(picture)[None])
            said = model.encode_text(open_clip.get_tokenizer(name)([text]))
        else:
            from transformers import AutoModel, AutoProcessor, AutoTokenizer

            model = AutoModel.from_pretrained(config.model).eval()
            kind = "max_length" if "Siglip" in type(model).__name__ else False
            ids = AutoTokenizer.from_pretrained(config.model)(
                [text], padding=kind, max_length=16, return_tensors="pt"
            )["input_ids"]
            said = model.get_text_features(input_ids=ids).pooler_output
            processor = AutoProcessor.from_pretrained(config.model, backend="pil")
            processor = getattr(processor, "image_processor", processor)
            pixels = processor(images=picture, return_tensors="pt")
            image = model.get_image_features(pixel_values=pixels["pixel_values"]).pooler_output
    for expected, found in (
        (image, pictured(encoder, pictures[0][:3])[0][0]),
        (said, words(encoder, TEXTS)[1]),
    ):
        expected = torch.nn.functional.normalize(expected, dim=-1)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_unreadable_images_are_counted_and_the_rest_is_embedded(encoder, pictures):
    good, bad = pictures
    mixed = [bad[0], *good[:5], bad[1], *good[5:], bad[2]]
    vectors, reasons = pictured(encoder, mixed)
    ok = [path in good for path in mixed]
    assert sorted(reasons) == [row for row, fine in enumerate(ok) if not fine]
    assert not vectors[sorted(reasons)].any()
    np.testing.assert_allclose(vectors[ok], pictured(encoder, good)[0], atol=1e-5)
    assert "no such file" in reasons[len(mixed) - 1] and str(bad[2]) in reasons[len(mixed) - 1]


def test_texts_and_images_come_back_in_the_order_of_the_items(encoder, pictures):
    items = [Item(images=(pictures[0][0],)), Item("a"), Item(images=(pictures[1][0],)), Item("red")]
    vectors, reasons = encoder.embed(items, "query")
    assert list(reasons) == [2] and not vectors[2].any()
    np.testing.assert_allclose(vectors[[1, 3]], words(encoder, ["a", "red"]), atol=1e-5)
    np.testing.assert_allclose(vectors[:1], pictured(encoder, pictures[0][:1])[0], atol=1e-5)


def test_two_towers_refuse_what_they_cannot_join_before_they_load(config, pictures):
    fresh, path = open_encoder(config), pictures[0][0]
    with pytest.raises(UserError, match=r"a text or an image, not both.*--method image\+text"):
        fresh.embed([Item("a"), Item("it is red", (path,))], "query")
    for item in (Item(images=(path, path)), Item("a", video=path)):
        with pytest.raises(UserError, match="one image at a time, and no video"):
            fresh.embed([item], "query")
    assert fresh.loads == 0


def test_only_unreadable_images_or_none_at_all(encoder, pictures):
    vectors, reasons = pictured(encoder, pictures[1])
    assert vectors.shape == (3, encoder.dimension) and len(reasons) == 3 and not vectors.any()
    assert encoder.embed([], "query")[0].shape == (0, encoder.dimension)


def test_the_same_twice_is_the_same_bytes(encoder, pictures):
    first, second = (pictured(encoder, pictures[0])[0] for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert words(encoder, TEXTS).tobytes() == words(encoder, TEXTS).tobytes()


def test_chunks_are_embedded_as_one_by_one_while_the_next_are_read(encoder, pictures):
    """The same bytes; and a chunk's last pictures are read before the one ahead of it is done."""
    (good, bad), taken = pictures, []
    items = [Item(images=(path,)) for path in (*good[:5], bad[0], *good[5:])]
    chunks = [items[:6], [Item("a red"), *items[6:]], [], items[5:6], [Item("two")]]

    def lazily():
        for number, chunk in enumerate(chunks):
            taken.append(number)
            yield chunk

    results = encoder.embed_chunks(lazily(), "gallery")
    first = next(results)
    assert len(taken) > 1
    for chunk, (vectors, reasons) in zip(chunks, [first, *results], strict=True):
        expected = encoder.embed(chunk, "gallery")
        assert vectors.tobytes() == expected[0].tobytes() and reasons == expected[1]
    assert list(first[1]) == [5]


@pytest.mark.slow  # the process imports all that the processor wants
def test_pictures_made_ready_in_a_process_are_the_same_bytes(clip_config, pictures, monkeypatch):
    encoder = open_encoder(clip_config)
    expected = pictured(encoder, [*pictures[0], *pictures[1]])
    monkeypatch.setattr("imagescope.encoders.loaded.visible_gpus", lambda: ["0"])
    monkeypatch.setattr("imagescope.encoders.loaded.MANY", 2)
    monkeypatch.setattr("imagescope.encoders.loaded.SCALES", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    started = []
    usual = subprocess.Popen
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: (started.append(a), usual(*a, **k))[1])
    vectors, reasons = pictured(encoder, [*pictures[0], *pictures[1]])
    assert started and vectors.tobytes() == expected[0].tobytes() and reasons == expected[1]


def test_a_small_encoder_takes_one_thread(encoder, monkeypatch):
    counts, usual, (towers,) = [], torch.get_num_threads(), encoder._load()
    embed = towers.embed
    monkeypatch.setattr(
        towers, "embed", lambda *x: (counts.append(torch.get_num_threads()), embed(*x))[1]
    )
    torch.set_num_threads(3)
    try:
        words(encoder, ["a"])
        assert counts == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_bits_are_nearly_the_same_vectors(config, encoder, pictures, dtype):
    half = open_encoder(config.model_copy(update={"dtype": dtype}))
    assert {str(w.dtype) for w in half._load()[0].model.parameters()} == {f"torch.{dtype}"}
    for vectors, exact in (
        (pictured(half, pictures[0])[0], pictured(encoder, pictures[0])[0]),
        (words(half, TEXTS), words(encoder, TEXTS)),
    ):
        assert vectors.dtype == np.float32 and vectors.tobytes() != exact.tobytes()
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert (np.sum(vectors * exact, axis=1) > 0.99).all()


def test_long_texts_are_cut_and_lone_surrogates_survive(encoder):
    long, cut = words(encoder, ["red " * 500, "red " * 20])
    np.testing.assert_allclose(long, cut, atol=1e-5)
    assert np.isfinite(words(encoder, ["\ud800 red"])).all()


def test_identity_follows_content_and_settings(clip_config, tmp_path):
    identity = open_encoder(clip_config).identity
    assert identity["library"] == "transformers" and json.dumps(identity)
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for path in Path(clip_config.model).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    moved = clip_config.model_copy(update={"model": str(copy)})
    assert open_encoder(moved).identity == identity
    faster = clip_config.model_copy(update={"batch_size": 99, "chunk_size": 9})
    assert open_encoder(faster).identity == identity
    for change in (
        {"max_length": 5}, {"dtype": "bfloat16"}, {"library": "open_clip"},
        {"preprocessing": "target_pad"},
    ):  # fmt: skip
        assert open_encoder(clip_config.model_copy(update=change)).identity != identity
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert open_encoder(moved).identity != identity


def test_what_cannot_be_loaded_is_said(tmp_path, clip_config):
    (tmp_path / "config.json").write_text("{}")
    for message, changes in {
        "no such checkpoint folder": {"model": str(tmp_path / "none")},
        "incomplete": {"model": str(tmp_path)},
        "unknown dtype 'float31'": {"dtype": "float31"},
        "open_clip cannot load": {"library": "open_clip"},
        "no encoder is named open-clip: did you mean open_clip?": {"library": "open-clip"},
        "without an instruction": {"instruction_query": "Find it."},
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            words(open_encoder(clip_config.model_copy(update=changes)), ["a"])


def test_a_gpu_that_is_not_there_is_explained(clip_config, monkeypatch):
    """An old driver, a wrong CUDA_VISIBLE_DEVICES: torch raises what it likes."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("imagescope.encoders.loaded.visible_gpus", lambda: ["0"])
    with pytest.raises(UserError, match="cannot load the encoder"):
        words(open_encoder(clip_config), ["a"])


def test_a_full_gpu_is_explained(encoder, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder._load()[0], "embed", full)
    with pytest.raises(UserError, match="smaller batch_size"):
        words(encoder, ["a"])
