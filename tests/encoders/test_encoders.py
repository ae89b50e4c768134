"""The encoder: both libraries, with small checkpoints of random weights made here."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagescope.config import EncoderConfig
from imagescope.encoders.base import CachedTexts, open_encoder
from imagescope.encoders.distributed import DistributedEncoder
from imagescope.errors import UserError
from imagescope.models.images import ABSENT
from imagescope.store.cache import Cache

TEXTS = ["a red circle", "two small blue squares on a green ground", "", "a", "red " * 100]
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def tokenizer(folder: Path, size: int) -> dict[str, int]:
    """A word-level tokenizer with CLIP's way of ending texts; returns its special ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["a", "red", "circle", "two", "small", "blue", "squares", "on", "green", "ground"]
    special = ["<pad>", "<s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])} | {"</s>": size - 1}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", size - 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip
    return {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": size - 1, "vocab_size": size}


def clip(folder: Path) -> EncoderConfig:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    config = CLIPConfig(
        text_config=TEXT | tokenizer(folder, 40), vision_config=VISION, projection_dim=24
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return EncoderConfig(model=str(folder), batch_size=4, chunk_size=3)


def siglip(folder: Path) -> EncoderConfig:
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    config = SiglipConfig(text_config=TEXT | tokenizer(folder, 40), vision_config=VISION)
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return EncoderConfig(model=str(folder), batch_size=4, chunk_size=3)


def openclip(folder: Path) -> EncoderConfig:
    open_clip = pytest.importorskip("open_clip", exc_type=Exception)
    from safetensors.torch import save_file

    model_cfg = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16,
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 40, "width": 32, "heads": 2, "layers": 2,
            "hf_tokenizer_name": str(folder), "eos_id": 39,
        },
    }  # fmt: skip
    tokenizer(folder, 40)
    torch.manual_seed(0)
    (folder / "open_clip_config.json").write_text(
        json.dumps(
            {"model_cfg": model_cfg, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
        )
    )
    model = open_clip.CLIP(
        24, open_clip.CLIPVisionCfg(**model_cfg["vision_cfg"]),
        open_clip.CLIPTextCfg(**{k: v for k, v in model_cfg["text_cfg"].items() if k != "eos_id"}),
    )  # fmt: skip
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    return EncoderConfig(model=str(folder), library="open_clip", batch_size=4, chunk_size=3)


@pytest.fixture(scope="module", params=[clip, siglip, openclip])
def config(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


@pytest.fixture(scope="module")
def encoder(config):
    return open_encoder(config)


@pytest.fixture(scope="module")
def clip_config(tmp_path_factory):
    return clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten readable files of several kinds and sizes, three that cannot be read."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    paths = []
    for n, mode in enumerate(["RGB", "L", "P", "RGBA", "CMYK", "1", "RGB", "RGB", "RGB", "RGB"]):
        pixels = rng.integers(0, 255, (20 + 9 * n, 60 - 3 * n, 3), np.uint8)
        suffix = "jpg" if mode == "CMYK" else "png"
        paths.append(folder / f"{n}.{suffix}")
        Image.fromarray(pixels).convert(mode).save(paths[-1])
    (folder / "empty.png").write_bytes(b"")
    (folder / "half.png").write_bytes(paths[6].read_bytes()[:200])
    return paths, [folder / "empty.png", folder / "half.png", folder / "missing.png"]


def test_vectors_are_unit_float32_rows(encoder, pictures):
    images, ok = encoder.images(pictures[0])
    texts = encoder.texts(TEXTS)
    for rows, count in ((images, 10), (texts, len(TEXTS))):
        assert rows.shape == (count, encoder.dimension) and rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert ok.all() and len(np.unique(images.round(4), axis=0)) == 10


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
            words = model.encode_text(open_clip.get_tokenizer(name)([text]))
        else:
            from transformers import AutoModel, AutoProcessor, AutoTokenizer

            model = AutoModel.from_pretrained(config.model).eval()
            kind = "max_length" if "Siglip" in type(model).__name__ else False
            ids = AutoTokenizer.from_pretrained(config.model)(
                [text], padding=kind, max_length=16, return_tensors="pt"
            )["input_ids"]
            words = model.get_text_features(input_ids=ids).pooler_output
            processor = AutoProcessor.from_pretrained(config.model, backend="pil")
            processor = getattr(processor, "image_processor", processor)
            pixels = processor(images=picture, return_tensors="pt")
            image = model.get_image_features(pixel_values=pixels["pixel_values"]).pooler_output
    for expected, found in (
        (image, encoder.images(pictures[0][:3])[0][0]),
        (words, encoder.texts(TEXTS)[1]),
    ):
        expected = torch.nn.functional.normalize(expected, dim=-1)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_unreadable_images_are_counted_and_the_rest_is_embedded(encoder, pictures):
    good, bad = pictures
    mixed = [bad[0], *good[:5], bad[1], *good[5:], bad[2]]
    vectors, ok = encoder.images(mixed)
    assert ok.tolist() == [path in good for path in mixed]
    assert not vectors[~ok].any()
    np.testing.assert_allclose(vectors[ok], encoder.images(good)[0], atol=1e-5)
    assert {str(path) for path in bad} <= set(encoder.unreadable)
    assert "no such file" in encoder.unreadable[str(bad[2])]


def test_only_unreadable_images_or_none_at_all(encoder, pictures):
    vectors, ok = encoder.images(pictures[1])
    assert vectors.shape == (3, encoder.dimension) and not ok.any() and not vectors.any()
    assert encoder.images([])[0].shape == (0, encoder.dimension)
    assert encoder.texts([]).shape == (0, encoder.dimension)


def test_the_same_twice_is_the_same_bytes(encoder, pictures):
    assert encoder.images(pictures[0])[0].tobytes() == encoder.images(pictures[0])[0].tobytes()
    assert encoder.texts(TEXTS).tobytes() == encoder.texts(TEXTS).tobytes()


def test_a_small_encoder_takes_one_thread(encoder, monkeypatch):
    counts, usual, (towers,) = [], torch.get_num_threads(), encoder._load()
    texts = towers.texts
    monkeypatch.setattr(
        towers, "texts", lambda x: (counts.append(torch.get_num_threads()), texts(x))[1]
    )
    torch.set_num_threads(3)
    try:
        encoder.texts(["a"])
        assert counts == [1] and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(usual)


def test_long_texts_are_cut_and_lone_surrogates_survive(encoder):
    long, cut = encoder.texts(["red " * 500, "red " * 20])
    np.testing.assert_allclose(long, cut, atol=1e-5)
    assert np.isfinite(encoder.texts(["\ud800 red"])).all()


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
    for change in ({"max_length": 5}, {"dtype": "bfloat16"}, {"library": "open_clip"}):
        assert open_encoder(clip_config.model_copy(update=change)).identity != identity
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert open_encoder(moved).identity != identity


def test_what_cannot_be_loaded_is_said(tmp_path, clip_config):
    with pytest.raises(UserError, match="no such checkpoint folder"):
        open_encoder(EncoderConfig(model=str(tmp_path / "none"))).texts(["a"])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="incomplete"):
        open_encoder(EncoderConfig(model=str(tmp_path))).texts(["a"])
    with pytest.raises(UserError, match="unknown dtype 'float31'"):
        open_encoder(clip_config.model_copy(update={"dtype": "float31"})).texts(["a"])
    with pytest.raises(UserError, match="open_clip cannot load"):
        open_encoder(clip_config.model_copy(update={"library": "open_clip"})).texts(["a"])


def test_nothing_is_loaded_before_it_is_needed(clip_config, tmp_path):
    encoder = open_encoder(clip_config)
    with Cache.open(tmp_path / "cache.sqlite") as cache:
        texts = CachedTexts(encoder, cache)
        first = texts.texts(["a red circle", "a", "a red circle"])
        assert texts.take_counts() == (3, 0, 2) and encoder.loads == 1
        assert first[0].tobytes() == first[2].tobytes()
        encoder.close()

        fresh = open_encoder(clip_config)
        again = CachedTexts(fresh, cache)
        assert again.texts(["a", "a red circle"])[1].tobytes() == first[0].tobytes()
        assert again.take_counts() == (2, 2, 0) and fresh.loads == 0
        assert again.take_counts() == (0, 0, 0)
        mean = again.means([["a", "a red circle"], ["a"]])
        np.testing.assert_allclose(mean[0], (first[0] + first[1]) / 2, atol=1e-7)
        assert mean[1].tobytes() == first[1].tobytes() and mean.dtype == np.float32
        assert fresh.loads == 0
        again.texts(["two squares"])
        assert fresh.loads == 1


def test_an_interrupted_chunk_has_the_company_it_would_have_had(clip_config, tmp_path):
    """Chunks of 3: killed after the first one, the second is asked as before."""
    names = ["a", "a red", "a red circle", "two", "two small", "two small blue squares"]
    asked: list[list[str]] = []

    def counting(stop_after: int):
        encoder = open_encoder(clip_config)
        whole = encoder.texts

        def texts(chunk):
            if len(asked) >= stop_after:
                raise KeyboardInterrupt
            asked.append(list(chunk))
            return whole(chunk)

        encoder.texts = texts
        return encoder

    with Cache.open(tmp_path / "whole.sqlite") as cache:
        expected = CachedTexts(counting(9), cache).texts(names)
    plain, asked[:] = list(asked), []
    with Cache.open(tmp_path / "killed.sqlite") as cache:
        with pytest.raises(KeyboardInterrupt):
            CachedTexts(counting(1), cache).texts(names)
        assert CachedTexts(counting(9), cache).texts(names).tobytes() == expected.tobytes()
    assert asked == plain == [names[:3], names[3:]]


def test_a_replay_needs_neither_checkpoint_nor_model(clip_config, tmp_path):
    from imagescope.store.bundle import export

    with Cache.open(tmp_path / "cache.sqlite") as cache:
        made = CachedTexts(open_encoder(clip_config), cache).texts(["a", "a red circle"])
        export(cache, tmp_path / "bundle.sqlite", cache.used)
    gone = clip_config.model_copy(update={"batch_size": 1})  # no part of what determines it
    with Cache.replay(tmp_path / "bundle.sqlite") as bundle:
        encoder = open_encoder(gone)
        texts = CachedTexts(encoder, bundle, replay=True)
        assert texts.texts(["a", "a red circle"]).tobytes() == made.tobytes()
        assert encoder.loads == 0
        with pytest.raises(UserError, match="'unheard of' is not in the bundle"):
            texts.texts(["unheard of"])
        with pytest.raises(UserError, match="with these settings"):
            other = clip_config.model_copy(update={"max_length": 3})
            CachedTexts(open_encoder(other), bundle, replay=True).texts(["a"])


def test_a_gpu_that_is_not_there_is_explained(clip_config, monkeypatch):
    """An old driver, a wrong CUDA_VISIBLE_DEVICES: torch raises what it likes."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr("imagescope.encoders.base.visible_gpus", lambda: ["0"])
    with pytest.raises(UserError, match="cannot load the encoder"):
        open_encoder(clip_config).texts(["a"])


def test_a_full_gpu_is_explained(encoder, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoder, "_embed", full)
    with pytest.raises(UserError, match="smaller batch_size"):
        encoder.texts(["a"])
    with pytest.raises(UserError, match="smaller batch_size"):
        encoder.images([])


def test_a_worker_that_does_not_see_the_images_is_no_fault_of_theirs(
    clip_config, tmp_path, monkeypatch
):
    """A machine of the cluster lacks the folder: its images are not put down as unreadable."""
    here = tmp_path / "here.png"
    Image.new("RGB", (8, 8)).save(here)

    class Elsewhere:
        def map(self, chunks):
            yield 0, [f"{path}: {ABSENT}" for path in chunks[0]]

    encoder = DistributedEncoder(clip_config)
    monkeypatch.setattr(encoder, "_workers", Elsewhere)
    with pytest.raises(UserError, match="a worker does not see this file"):
        encoder.images([here])
    _, ok = encoder.images([tmp_path / "nowhere.png"])
    assert not ok.any()
