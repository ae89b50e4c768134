"""The tiny evaluator: an InternVL of under two million parameters that judges a pair of images.

It reads before it judges: each clause of the instruction, put as a question about the right image,
with its answer there; then ANSWER: Yes or No. A bare Yes or No is not learned at this size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from imagescope.methods.parsing import accepts
from imagescope.models.images import canvas
from imagescope_tiny import changes as edits
from imagescope_tiny import vision
from imagescope_tiny.changes import Change
from imagescope_tiny.language import caption, judgement, satisfied
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
from imagescope_tiny.scenes import CELLS, Scene, draw, neighbour, random_scene
from imagescope_tiny.tokens import word_tokenizer
from imagescope_tiny.wishes import any_wish, cases, edit_wish, wish_for

ASK = "Right image: {instruction}"  # what configs/prompts/tiny/evaluation.txt asks
CYCLES = ((1500, 1200, 3e-3), (2500, 700, 1.5e-3))  # families of scenes, steps, rate
READ = "Describe the {side} image."  # asked in training only: it teaches where to look
TILES = 3  # left half, right half, thumbnail: what the processor makes of the canvas
MAX_NEW_TOKENS = 160
CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def build() -> tuple[Any, Any]:
    """An untrained model and its processor."""
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        InternVLVisionConfig,
        Qwen2Config,
    )

    rng = Random(0)
    texts = ["user\nassistant\nsystem\n"]
    for _ in range(4000):
        wish = wish_for(random_scene(rng), rng, rng.random() < 0.5)
        texts += [ASK.format(instruction=wish.text), judgement(wish.claims, random_scene(rng))]
        texts += [caption(random_scene(rng))]
    texts += [READ.format(side=side) for side in ("left", "right")]
    tokenizer = word_tokenizer(
        texts,
        special=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|end|>", *SPECIAL.values()],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=SPECIAL,
        padding_side="left",
        chat_template=CHAT,
    )
    size = {"height": vision.IMAGE, "width": vision.IMAGE}
    image_processor = GotOcr2ImageProcessor(
        size=size, crop_to_patches=True, min_patches=1, max_patches=2
    )
    tokens = vision.GRID**2 // 4
    processor = InternVLProcessor(
        image_processor,
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=tokens,
        chat_template=CHAT,
    )
    tower = {k: v for k, v in vision.TOWER.items() if k not in ("image_size", "patch_size")}
    text = Qwen2Config(
        **vision.text_tower(tokenizer), max_position_embeddings=8192, tie_word_embeddings=True
    )
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            **tower,
            image_size=[vision.IMAGE] * 2,
            patch_size=[vision.PATCH] * 2,
            num_hidden_layers=4,
            use_mean_pooling=False,
            layer_scale_init_value=1.0,
        ).to_dict(),
        text_config=text.to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids(SPECIAL["context_image_token"]),
        image_seq_length=tokens,
        downsample_ratio=0.5,
    )
    return InternVLForConditionalGeneration(config), processor


@dataclass(frozen=True)
class Pool:
    """Scenes in threes (a reference, its target, a near-twin of the target), each as the left and
    as the right image of a canvas; after them, on the left only, the black image.

    left, right, thumbnails: float32 (scenes + 1, 3, IMAGE, IMAGE). A canvas' pixels are put
    together from these: nothing of one image reaches the other's tile, and the thumbnail's halves
    touch only between the images.
    """

    scenes: list[Scene]
    changes: list[list[Change]]  # one list per three scenes
    left: Tensor
    right: Tensor
    thumbnails: Tensor

    def thumbnail(self, left: Sequence[int], right: Sequence[int]) -> Tensor:
        half = vision.IMAGE // 2
        whole = self.thumbnails
        return torch.cat([whole[list(left)][..., :half], whole[list(right)][..., half:]], -1)


def make_pool(families: int, image_processor: Any, rng: Random) -> Pool:
    """Draws the pool's canvases and prepares them with the processor."""
    scenes, changes = [], []
    for _ in range(families):
        reference = random_scene(rng, "train")
        change, target = edits.random_changes(reference, rng, split="train")
        scenes += [reference, target, neighbour(target, rng, "train")]
        changes.append(change)
    images = vision.pictures(scenes)
    pairs = [*((image, image) for image in images), (None, images[0])]
    return Pool(scenes, changes, *_tiles(image_processor, pairs).unbind(1))


def _tiles(image_processor: Any, pairs: Sequence[tuple[Any, Any]]) -> Tensor:
    """Canvases as the model sees them: float32 (pairs, TILES, 3, IMAGE, IMAGE)."""
    return torch.stack(
        [
            image_processor([canvas(left, right)], return_tensors="pt")["pixel_values"]
            for left, right in pairs
        ]
    )


def train_evaluator(
    out: Path,
    *,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = quiet,
    cycles: Sequence[tuple[int, int, float]] = CYCLES,
    batch: int = 32,
) -> None:
    """Trains the evaluator from nothing and writes it to `out`.

    cycles: (families of scenes, steps, rate) one after another, each with scenes of its own: after
    the first alone the pool was known by heart, and unseen scenes were judged right in 88 %.
    """
    rng = start(seed, threads)
    model, processor = build()
    tokenizer = processor.tokenizer
    fan_in(model)
    tower = model.model.vision_tower

    def patches_of(tiles: Tensor) -> Tensor:
        patches: Tensor = tower(tiles).last_hidden_state[:, 1:]
        return patches

    vision.pretrain(tower, patches_of, *_halves(processor.image_processor, rng), progress=progress)
    context = "<IMG_CONTEXT>" * TILES * processor.image_seq_length
    template = f"<|im_start|>user\n<img>{context}</img>\n{{}}<|im_end|>\n<|im_start|>assistant\n"

    for families, steps, rate in cycles:
        pool = make_pool(families, processor.image_processor, rng)
        left, right = (vision.features(patches_of, side) for side in (pool.left, pool.right))

        def batch_at(
            step: int, pool: Pool = pool, left: Tensor = left, right: Tensor = right
        ) -> tuple[list[Any], list[Any], Tensor]:
            canvases = [_canvas_texts(pool, rng) for _ in range(batch)]
            lefts, rights, texts = zip(*canvases, strict=True)
            pairs = [pair for of_canvas in texts for pair in of_canvas]
            prompts = tokenizer([template.format(text) for text, _ in pairs])["input_ids"]
            answers = tokenizer([answer + "<|im_end|>" for _, answer in pairs])["input_ids"]
            thumbnails = vision.features(patches_of, pool.thumbnail(lefts, rights))
            tiles = torch.stack([left[list(lefts)], right[list(rights)], thumbnails], 1)
            tokens = _project(model, tiles).repeat_interleave(len(pairs) // batch, 0)
            return prompts, answers, tokens

        fit(
            answer_loss(model, tokenizer.pad_token_id, batch_at),
            model.parameters(),
            steps=steps,
            rate=rate,
            what="evaluator",
            progress=progress,
            layers=model.model.language_model.layers,
        )
    export(model, processor, out)


def _canvas_texts(pool: Pool, rng: Random) -> tuple[int, int, list[tuple[str, str]]]:
    """A canvas (left and right, as places in the pool) and two texts with their answers: one wish
    that the right image fulfils and one that it does not, or now and then a request to read."""
    family = 3 * rng.randrange(len(pool.changes))
    right = family + rng.choice((0, 1, 1, 2, 2))
    reference = rng.random() < 0.65
    left = family if reference else len(pool.scenes)
    scene = pool.scenes[right]
    wishes = []
    if reference and rng.random() < 0.5:
        wishes.append(edit_wish(pool.changes[family // 3], rng))
    while len(wishes) < 2:
        fulfilled = not satisfied(wishes[0].claims, scene) if wishes else rng.random() < 0.5
        wishes.append(any_wish(scene, rng, reference, fulfilled))
    texts = [(ASK.format(instruction=w.text), judgement(w.claims, scene)) for w in wishes]
    if rng.random() < 0.4:
        side, what = "right", scene
        if reference and rng.random() < 0.3:
            side, what = "left", pool.scenes[left]
        texts[0] = (READ.format(side=side), caption(what))
    return left, right, texts


def _halves(image_processor: Any, rng: Random) -> tuple[Tensor, Tensor]:
    """Pixels of the tiles of canvases, and what their patches show: vision.pretrain's."""
    first = vision.full_scenes(1200, rng)
    second = [*first[1:], first[0]]
    images = vision.pictures(first)
    tiles = _tiles(image_processor, list(zip(images, [*images[1:], images[0]], strict=True)))
    left, right = vision.patch_targets(first), vision.patch_targets(second)
    both = torch.cat([left[:, :, ::2], right[:, :, ::2]], 2)  # the thumbnail squeezes each to half
    for part, place in ((right, 1), (both[:, :, :2], 2), (both[:, :, 2:], 3)):
        part[..., -1] += len(CELLS) * place  # labels and margins tell left from right
    return tiles.flatten(0, 1), torch.stack([left, right, both], 1).flatten(0, 1)


def _project(model: Any, patches: Tensor) -> Tensor:
    """The model's image tokens of a canvas, from patches (canvases, TILES, GRID * GRID, WIDTH)."""
    square = patches.flatten(0, 1).unflatten(1, (vision.GRID, vision.GRID))
    shuffled = model.model.pixel_shuffle(square, scale_factor=model.config.downsample_ratio)
    tokens = model.model.multi_modal_projector(shuffled.flatten(1, 2))
    return tokens.unflatten(0, (-1, TILES)).flatten(1, 2)


def evaluate_evaluator(
    path: Path, *, count: int = 800, seed: int = 1, threads: int = 2
) -> dict[str, float]:
    """Share of right decisions of `count` balanced cases, in all and by kind; decoded as in the
    product."""
    from transformers import InternVLForConditionalGeneration, InternVLProcessor

    rng = start(seed, threads)
    model = InternVLForConditionalGeneration.from_pretrained(path).eval()
    processor = InternVLProcessor.from_pretrained(path)
    judged = cases(count, rng)
    answers = judge(
        model,
        processor,
        [
            (
                draw(case.left) if case.left else None,
                draw(case.right),
                ASK.format(instruction=case.wish.text),
            )
            for case in judged
        ],
    )
    right = [accepts(a) == case.expected for a, case in zip(answers, judged, strict=True)]
    figures: dict[str, float] = {"decisions": count, "accuracy": sum(right) / count}
    for kind in sorted({case.kind for case in judged}):
        of_kind = [ok for ok, case in zip(right, judged, strict=True) if case.kind == kind]
        figures[kind] = sum(of_kind) / len(of_kind)
    figures["well_formed"] = sum("ANSWER: " in a for a in answers) / count
    return figures


@torch.no_grad()
def judge(
    model: Any, processor: Any, requests: Sequence[tuple[Any, Any, str]], batch: int = 64
) -> list[str]:
    """Greedy answers to (left image or None, right image, prompt), through the chat template."""
    answers: list[str] = []
    for at in range(0, len(requests), batch):
        chats = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": canvas(left, right)},
                        {"type": "text", "text": text},
                    ],
                }
            ]
            for left, right, text in requests[at : at + batch]
        ]
        inputs = processor.apply_chat_template(
            chats,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        inputs = inputs.to(model.dtype)
        answers += answers_to(model, processor, inputs, max_new_tokens=MAX_NEW_TOKENS)
    return answers
