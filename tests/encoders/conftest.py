"""Small checkpoints of random weights, one a library, and pictures good and bad."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imagescope.config import EncoderConfig
from imagescope.encoders.base import open_encoder

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
