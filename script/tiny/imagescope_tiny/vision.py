"""Pixels and vision towers of the tiny models.

Trained end to end from nothing, a tiny vision-language model stays near guessing for as long as
one cares to wait. So each tower first learns alone what is to be seen: every patch of 16 pixels
names shape, colour and size of the thing in its cell, the background, and the cell itself (without
it, questions about places were the ones that the models got wrong).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from imagescope_tiny.learning import Progress, fan_in, fit, quiet
from imagescope_tiny.scenes import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    draw,
    random_scene,
    random_thing,
)

IMAGE = 64  # pixels a side, as the towers see them; drawn larger, resized by the processors
PATCH = 16
GRID = IMAGE // PATCH  # patches a side; two by two of them make a cell
WIDTH = 128
PatchesOf = Callable[[Tensor], Tensor]
CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1, len(BACKGROUNDS), len(CELLS))
TOWER: dict[str, Any] = {  # what the configurations of all four towers have in common
    "hidden_size": WIDTH,
    "intermediate_size": 4 * WIDTH,
    "num_attention_heads": 4,
    "image_size": IMAGE,
    "patch_size": PATCH,
}

RENAMED = {"vision_tower.": "vision_tower.vision_model."}  # weights, as vLLM names them


def text_tower(tokenizer: Any) -> dict[str, Any]:
    """What the configurations of the language models behind three of the towers have in common."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def scenes(count: int, rng: Random, split: str = "train") -> list[Scene]:
    """Random scenes of a split, with one to three things."""
    return [random_scene(rng, split) for _ in range(count)]


def full_scenes(count: int, rng: Random) -> list[Scene]:
    """Scenes with a thing in all four cells: more to learn from than any benchmark's scene, and
    in none of the benchmarks."""
    backgrounds = tuple(BACKGROUNDS)
    return [
        Scene(tuple(random_thing(rng, cell) for cell in CELLS), rng.choice(backgrounds))
        for _ in range(count)
    ]


def pictures(what: Sequence[Scene]) -> list[Image.Image]:
    """Every scene drawn once, with its own seed."""
    return [draw(scene, seed=i) for i, scene in enumerate(what)]


def pixels(image_processor: Any, images: Sequence[Image.Image], chunk: int = 256) -> Tensor:
    """What the processor makes of the images, one tile each: float32 (images, 3, IMAGE, IMAGE)."""
    parts = []
    for at in range(0, len(images), chunk):
        values = image_processor(images[at : at + chunk], return_tensors="pt")["pixel_values"]
        parts.append(values[:, 0] if values.ndim == 5 else values)
    return torch.cat(parts)


@torch.no_grad()
def features(patches_of: PatchesOf, images: Tensor) -> Tensor:
    """What a frozen tower sees in images: float32 (images, GRID * GRID, WIDTH)."""
    return torch.cat([patches_of(part) for part in images.split(256)])


def patch_targets(what: Sequence[Scene]) -> Tensor:
    """Classes of each patch's cell: int64 (scenes, GRID, GRID, 5), the last axis shape, colour,
    size (0: nothing there), background and which cell it is."""
    cells = torch.zeros(len(what), 2, 2, len(CLASSES), dtype=torch.long)
    cells[..., 4] = torch.arange(len(CELLS)).unflatten(0, (2, 2))
    for i, scene in enumerate(what):
        cells[i, :, :, 3] = list(BACKGROUNDS).index(scene.background)
        for thing in scene.things:
            row, column = divmod(CELLS.index(thing.cell), 2)
            cells[i, row, column, :3] = 1 + torch.tensor(
                [
                    SHAPES.index(thing.shape),
                    list(COLOURS).index(thing.colour),
                    SIZES.index(thing.size),
                ]
            )
    return cells.repeat_interleave(GRID // 2, 1).repeat_interleave(GRID // 2, 2)


def initialise(tower: nn.Module) -> None:
    """Fan-in weights; position embeddings with std 0.5, so that places are told apart at once."""
    fan_in(tower)
    for name, value in tower.named_parameters():
        if "position_embedding" in name:
            nn.init.normal_(value, std=0.5)


def learn_to_see(
    tower: nn.Module,
    patches_of: PatchesOf,
    image_processor: Any,
    rng: Random,
    progress: Progress,
    pool: int,
) -> tuple[list[Scene], Tensor]:
    """Trains and freezes a tower (see `pretrain`); returns `pool` scenes for what is trained next,
    and their pixels."""
    first = full_scenes(3000, rng)
    images = pixels(image_processor, pictures(first))
    pretrain(tower, patches_of, images, patch_targets(first), progress=progress)
    train = scenes(pool, rng)
    return train, pixels(image_processor, pictures(train))


def pretrain(
    tower: nn.Module,
    patches_of: PatchesOf,
    images: Tensor,
    targets: Tensor,
    *,
    steps: int = 500,
    batch: int = 64,
    progress: Progress = quiet,
) -> float:
    """Trains `tower` until its patches name what is in their cells, and where; then freezes it.

    patches_of: pixels (batch, 3, IMAGE, IMAGE) -> the features that the model will use, of the
        patches in reading order: (batch, GRID * GRID, WIDTH).
    images, targets: pixels() and patch_targets() of scenes for training (where there are more
        places than cells, the last class may count on); the last 256 are held out.
    Returns the share of held-out patches of which all classes are right.
    """
    initialise(tower)
    answers = targets.flatten(1, 2)
    classes = (*CLASSES[:-1], int(targets[..., -1].max()) + 1)
    head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, sum(classes)))
    train = len(images) - 256

    def loss_at(step: int) -> Tensor:
        chosen = torch.randint(train, (batch,))
        guesses = head(patches_of(images[chosen])).split(classes, -1)
        losses = [
            nn.functional.cross_entropy(guess.flatten(0, 1), right.flatten())
            for guess, right in zip(guesses, answers[chosen].unbind(-1), strict=True)
        ]
        return torch.stack(losses).sum()

    parameters = [*tower.parameters(), *head.parameters()]
    fit(loss_at, parameters, steps=steps, rate=1.5e-3, what="vision tower", progress=progress)
    tower.requires_grad_(False)
    with torch.no_grad():
        guesses = head(patches_of(images[train:])).split(classes, -1)
    right = torch.stack([guess.argmax(-1) for guess in guesses], -1) == answers[train:]
    return float(right.all(-1).float().mean())
