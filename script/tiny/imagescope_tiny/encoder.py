"""The tiny encoder: a CLIP of about a million parameters.

It is meant to be good, not perfect: it learns from random batches only, never from near-twins side
by side, and not for long, so scenes that differ in one attribute stay close, as photographs do to a
real CLIP. (After 100 steps it tells nine of ten in a thousand apart, and leaves the later stages
nothing to do; data/tiny/models/README.md has the figures of both.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from imagescope_tiny import vision
from imagescope_tiny.language import caption, descriptions, free_caption, random_description
from imagescope_tiny.learning import Progress, export, fan_in, fit, quiet, start
from imagescope_tiny.scenes import Scene, neighbours, random_scene
from imagescope_tiny.tokens import word_tokenizer

MAX_TOKENS = 77
PROJECTION = 32
LOOK_ALIKES = 6  # as many as CIRR's image sets hold


def random_text(scene: Scene, rng: Random) -> str:
    """A text that an image of the scene should be found by: full captions, canonical and free,
    and the poorer descriptions that synthesis and dialogues make."""
    kind = rng.random()
    if kind < 0.3:
        return caption(scene)
    if kind < 0.6:
        return free_caption(scene, rng)
    return rng.choice(descriptions(scene)) if kind < 0.8 else random_description(scene, rng)


def build() -> tuple[Any, Any]:
    """An untrained model and its processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    rng = Random(0)
    tokenizer = word_tokenizer(
        [random_text(random_scene(rng), rng) for _ in range(5000)],
        special=["<pad>", "<bos>", "<unused>", "<eos>"],  # CLIP treats an <eos> of id 2 apart
        prefix="<bos>",
        suffix="<eos>",
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=MAX_TOKENS,
    )
    size = vision.IMAGE
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    tower = {**vision.TOWER, "num_hidden_layers": 4}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": vision.WIDTH,
        "intermediate_size": 4 * vision.WIDTH,
        "num_attention_heads": 4,
        "num_hidden_layers": 3,
        "max_position_embeddings": MAX_TOKENS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(vision_config=tower, text_config=text, projection_dim=PROJECTION)
    return CLIPModel(config), CLIPProcessor(image_processor, tokenizer)


def train_encoder(
    out: Path,
    *,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = quiet,
    steps: int = 65,
    batch: int = 192,
    pool: int = 6000,
) -> None:
    """Trains the encoder from nothing and writes it to `out`."""
    rng = start(seed, threads)
    model, processor = build()
    fan_in(model)
    train, images = vision.learn_to_see(
        model.vision_model,
        lambda images: model.vision_model(images).last_hidden_state[:, 1:],
        processor.image_processor,
        rng,
        progress,
        pool,
    )
    model.requires_grad_(True)

    def loss_at(step: int) -> Tensor:
        chosen = rng.sample(range(pool), batch)
        texts = [random_text(train[i], rng) for i in chosen]
        logits = model(
            pixel_values=images[chosen],
            **processor.tokenizer(texts, padding=True, return_tensors="pt"),
        ).logits_per_text
        here = torch.arange(batch)
        both = nn.functional.cross_entropy(logits, here) + nn.functional.cross_entropy(
            logits.T, here
        )
        return both / 2

    fit(loss_at, model.parameters(), steps=steps, rate=1e-3, what="encoder", progress=progress)
    export(model, processor, out)


@torch.no_grad()
def evaluate_encoder(
    path: Path, *, count: int = 1000, seed: int = 1, threads: int = 2
) -> dict[str, float]:
    """Text-to-image Recall@1 and @10 in a gallery of `count` benchmark scenes, by canonical and by
    freely worded captions; and, for a fifth of them, Recall@1 against one-edit neighbours."""
    from transformers import CLIPModel, CLIPProcessor

    rng = start(seed, threads)
    model = CLIPModel.from_pretrained(path).eval()
    processor = CLIPProcessor.from_pretrained(path)

    def see(what: list[Scene]) -> Tensor:
        images = vision.pixels(processor.image_processor, vision.pictures(what))
        parts = [model.get_image_features(part).pooler_output for part in images.split(256)]
        return nn.functional.normalize(torch.cat(parts), dim=-1)

    def read(texts: list[str]) -> Tensor:
        inputs = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return nn.functional.normalize(model.get_text_features(**inputs).pooler_output, dim=-1)

    gallery = list(dict.fromkeys(vision.scenes(2 * count, rng, "benchmark")))[:count]
    seen = see(gallery)
    figures: dict[str, float] = {"gallery": len(gallery)}
    ways: dict[str, Callable[[Scene], str]] = {
        "": caption,
        "_free": lambda scene: free_caption(scene, rng),
    }
    for name, say in ways.items():
        scores = read([say(scene) for scene in gallery]) @ seen.T
        ranks = (scores > scores.diagonal()[:, None]).sum(1)
        figures[f"recall_at_1{name}"] = (ranks < 1).float().mean().item()
        figures[f"recall_at_10{name}"] = (ranks < 10).float().mean().item()
    some = gallery[: count // 5]
    alike = [[scene, *_look_alikes(scene, rng)] for scene in some]
    seen = see([scene for group in alike for scene in group]).unflatten(0, (-1, LOOK_ALIKES))
    scores = (seen @ read([caption(scene) for scene in some])[:, :, None])[..., 0]
    figures["recall_at_1_look_alikes"] = (scores.argmax(1) == 0).float().mean().item()
    return figures


def _look_alikes(scene: Scene, rng: Random) -> list[Scene]:
    return rng.sample(list(neighbours(scene)), LOOK_ALIKES - 1)
