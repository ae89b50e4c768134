"""The tiny captioner: a LLaVA-NeXT of about a million and a half parameters that names every
attribute in canonical words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from imagescope_tiny import vision
from imagescope_tiny.language import caption, parse_caption
from imagescope_tiny.learning import (
    Progress,
    answer_loss,
    answers_to,
    export,
    fan_in,
    fit,
    quiet,
    start,
)
from imagescope_tiny.scenes import random_scene
from imagescope_tiny.tokens import word_tokenizer

ASK = "USER:{image}\n{request}\nASSISTANT:"  # the captioner's raw prompt
REQUEST = "Describe the image."  # what configs/prompts/tiny/caption.txt asks
REPETITION_PENALTY = 1.05
MAX_NEW_TOKENS = 256
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ':' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def build() -> tuple[Any, Any]:
    """An untrained model and its processor."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    rng = Random(0)
    tokenizer = word_tokenizer(
        [caption(random_scene(rng)) for _ in range(5000)] + [ASK.format(image="", request=REQUEST)],
        special=["<pad>", "<s>", "</s>", "<image>"],
        prefix="<s>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        chat_template=CHAT,
    )
    size = vision.IMAGE
    image_processor = LlavaNextImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_grid_pinpoints=[[size, size]],
    )
    processor = LlavaNextProcessor(
        image_processor,
        tokenizer,
        patch_size=vision.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
    )
    text = LlamaConfig(
        **vision.text_tower(tokenizer),
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**vision.TOWER, num_hidden_layers=5).to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[size, size]],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=vision.GRID**2,
    )
    return LlavaNextForConditionalGeneration(config), processor


def train_captioner(
    out: Path,
    *,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = quiet,
    steps: int = 700,
    batch: int = 64,
    pool: int = 6000,
) -> None:
    """Trains the captioner from nothing and writes it to `out`."""
    rng = start(seed, threads)
    model, processor = build()
    tokenizer = processor.tokenizer
    fan_in(model)
    torch.nn.init.normal_(model.model.image_newline, std=0.1)

    def patches_of(images: Tensor) -> Tensor:
        hidden = model.model.vision_tower(images, output_hidden_states=True).hidden_states
        return hidden[model.config.vision_feature_layer][:, 1:]

    train, images = vision.learn_to_see(
        model.model.vision_tower, patches_of, processor.image_processor, rng, progress, pool
    )
    features = vision.features(patches_of, images)
    _standardise(model.model.multi_modal_projector.linear_1, features)

    before, after = ASK.split("{image}")
    image_tokens = [model.config.image_token_index] * (vision.GRID * (2 * vision.GRID + 1))
    prompt = tokenizer(before)["input_ids"] + image_tokens
    prompt += tokenizer(after.format(request=REQUEST), add_special_tokens=False)["input_ids"]
    answers = [
        tokenizer(caption(scene), add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        for scene in train
    ]

    def batch_at(step: int) -> tuple[list[Any], list[Any], list[Tensor]]:
        chosen = [rng.randrange(pool) for _ in range(batch)]
        tokens = _image_tokens(model, features[chosen])
        return [prompt] * batch, [answers[i] for i in chosen], list(tokens)

    loss = answer_loss(model, tokenizer.pad_token_id, batch_at)
    fit(loss, model.parameters(), steps=steps, rate=1.5e-3, what="captioner", progress=progress)
    export(model.bfloat16(), processor, out, vision.RENAMED)


@torch.no_grad()
def _standardise(linear: Any, features: Tensor) -> None:
    """Folds a standardisation of the layer's input into it: the tower's own scale is arbitrary."""
    mean, deviation = features.mean((0, 1)), features.std((0, 1)) + 1e-6
    linear.weight /= deviation
    linear.bias -= linear.weight @ mean


def _image_tokens(model: Any, features: Tensor) -> Tensor:
    """LLaVA-NeXT's tokens of a square image of one tile: the whole image, then the tile (the same
    pixels here), a learned newline after each of its rows."""
    projected = model.model.multi_modal_projector(features)
    rows = projected.unflatten(1, (vision.GRID, vision.GRID))
    newline = model.model.image_newline.expand(len(rows), vision.GRID, 1, -1)
    return torch.cat([projected, torch.cat([rows, newline], 2).flatten(1, 2)], 1)


def evaluate_captioner(
    path: Path, *, count: int = 500, seed: int = 1, threads: int = 2
) -> dict[str, float]:
    """Of `count` benchmark scenes, the share whose caption has every attribute right, and the
    share whose caption is the canonical one word for word; decoded as in the product."""
    from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

    rng = start(seed, threads)
    model = LlavaNextForConditionalGeneration.from_pretrained(path).eval()
    processor = LlavaNextProcessor.from_pretrained(path)
    scenes = vision.scenes(count, rng, "benchmark")
    texts = caption_images(model, processor, vision.pictures(scenes))
    pairs = list(zip(texts, scenes, strict=True))
    return {
        "captions": len(scenes),
        "all_attributes_right": sum(parse_caption(t) == s for t, s in pairs) / count,
        "exact": sum(t == caption(s) for t, s in pairs) / count,
    }


@torch.no_grad()
def caption_images(model: Any, processor: Any, images: Sequence[Any], batch: int = 64) -> list[str]:
    """Greedy captions with the product's prompt, repetition penalty and limit."""
    texts: list[str] = []
    for at in range(0, len(images), batch):
        part = [[image] for image in images[at : at + batch]]
        prompt = ASK.format(image="<image>", request=REQUEST)
        inputs = processor(
            images=part, text=[prompt] * len(part), return_tensors="pt", padding=True
        )
        limits = {"max_new_tokens": MAX_NEW_TOKENS, "repetition_penalty": REPETITION_PENALTY}
        texts += answers_to(model, processor, inputs, **limits)
    return texts
