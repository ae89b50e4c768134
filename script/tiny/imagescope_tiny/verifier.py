"""The tiny verifier: a PaliGemma of about a million parameters that answers Yes or No."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from imagescope_tiny import vision
from imagescope_tiny.changes import LOOK, claims, random_changes
from imagescope_tiny.language import (
    ATTRIBUTES,
    Claim,
    claim_of,
    holds,
    question,
    random_claim,
)
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
from imagescope_tiny.scenes import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    random_scene,
    random_thing,
)
from imagescope_tiny.tokens import word_tokenizer

PROMPT = "Answer the question with Yes or No. {question}"  # stage 2 asks so
VALUES = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES, "cell": CELLS}
USUAL = (LOOK, ("size", *LOOK), (*LOOK, "cell"), ATTRIBUTES)  # what synthesis asks for
QUESTIONS_PER_IMAGE = 8


def random_question(scene: Scene, rng: Random, expected: bool) -> str:
    """A question about the scene whose true answer is `expected`. Where that is no, most are near
    misses: something in the scene but for one attribute."""
    while True:
        if rng.random() < 0.15:
            ground = scene.background if expected else rng.choice(tuple(BACKGROUNDS))
            claim = Claim(background=ground)
        else:
            thing = rng.choice(scene.things)
            if not expected and rng.random() < 0.75:
                attribute = rng.choice(ATTRIBUTES)
                thing = replace(thing, **{attribute: rng.choice(VALUES[attribute])})
            elif not expected:
                thing = random_thing(rng, rng.choice(CELLS))
            some = tuple(name for name in ATTRIBUTES if rng.random() < 0.5)
            claim = claim_of(thing, rng.choice((*USUAL, some, some)) or LOOK)
        if holds(claim, scene) == expected:
            return question(claim)


def evaluation_question(scene: Scene, rng: Random, expected: bool) -> str:
    """The same, made another way: claims about near-twins of the scene and about edits, as the
    pipeline's questions are."""
    while True:
        if rng.random() < 0.5:
            claim = random_claim(scene, rng)
        else:
            changes, _ = random_changes(scene, rng)
            claim = rng.choice([c for change in changes for c in claims(change)])
        if holds(claim, scene) == expected:
            return question(claim)


def build() -> tuple[Any, Any]:
    """An untrained model and its processor."""
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipImageProcessor,
        SiglipVisionConfig,
    )

    rng = Random(0)
    questions = [random_question(random_scene(rng), rng, True) for _ in range(5000)]
    tokenizer = word_tokenizer(
        [PROMPT.format(question=q) for q in questions] + ["Yes", "No", "yes", "no"],
        special=["<pad>", "<eos>", "<bos>", "<image>"],
        words=["\n"],
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        add_bos_token=False,
        additional_special_tokens=["<image>"],
        padding_side="left",
    )
    size = {"height": vision.IMAGE, "width": vision.IMAGE}
    image_processor = SiglipImageProcessor(size=size, image_seq_length=vision.GRID**2)
    image_processor.image_seq_length = vision.GRID**2
    processor = PaliGemmaProcessor(image_processor, tokenizer)
    tower = SiglipVisionConfig(
        **vision.TOWER, num_hidden_layers=4, vision_use_head=False, projection_dim=vision.WIDTH
    )
    text = GemmaConfig(
        **vision.text_tower(tokenizer),
        head_dim=32,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
    )
    config = PaliGemmaConfig(
        vision_config=tower.to_dict(),
        text_config=text.to_dict(),
        image_token_index=processor.image_token_id,
        projection_dim=vision.WIDTH,
        hidden_size=vision.WIDTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def train_verifier(
    out: Path,
    *,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = quiet,
    steps: int = 900,
    pool: int = 6000,
) -> None:
    """Trains the verifier from nothing and writes it to `out`."""
    rng = start(seed, threads)
    model, processor = build()
    tokenizer = processor.tokenizer
    fan_in(model)
    tower = model.model.vision_tower

    def patches_of(images: Tensor) -> Tensor:
        patches: Tensor = tower(images).last_hidden_state
        return patches

    train, images = vision.learn_to_see(
        tower, patches_of, processor.image_processor, rng, progress, pool
    )
    features = vision.features(patches_of, images)
    lead = [processor.image_token_id] * vision.GRID**2 + [tokenizer.bos_token_id]
    words = {answer: tokenizer.convert_tokens_to_ids(answer) for answer in ("Yes", "No")}

    def batch_at(step: int) -> tuple[list[Any], list[Any], Tensor]:
        chosen = [rng.randrange(pool) for _ in range(32)]
        texts, answers = [], []
        for i in chosen:
            for k in range(QUESTIONS_PER_IMAGE):
                texts.append(PROMPT.format(question=random_question(train[i], rng, k % 2 == 0)))
                answers.append([words["Yes" if k % 2 == 0 else "No"]])
        prompts = [lead + ids for ids in tokenizer([t + "\n" for t in texts])["input_ids"]]
        tokens = model.model.multi_modal_projector(features[chosen])
        return prompts, answers, tokens.repeat_interleave(QUESTIONS_PER_IMAGE, 0)

    def token_types(ids: Tensor, step: int) -> Tensor | None:
        """Which tokens see each other in both directions, in turn: the whole prompt, as
        transformers has it; the image's; none (engines differ, and the answers should not)."""
        turns = (torch.zeros_like(ids), (ids != processor.image_token_id).long(), None)
        return turns[step % 3]

    loss = answer_loss(model, tokenizer.pad_token_id, batch_at, token_types)
    fit(loss, model.parameters(), steps=steps, rate=1.5e-3, what="verifier", progress=progress)
    export(model, processor, out, vision.RENAMED)


def evaluate_verifier(
    path: Path, *, count: int = 1000, seed: int = 1, threads: int = 2
) -> dict[str, float]:
    """Share of right answers to `count` questions, half of them with answer yes, four an image,
    about scenes of the benchmarks; generated greedily by transformers."""
    from transformers import PaliGemmaForConditionalGeneration, PaliGemmaProcessor

    rng = start(seed, threads)
    model = PaliGemmaForConditionalGeneration.from_pretrained(path).eval()
    processor = PaliGemmaProcessor.from_pretrained(path)
    scenes = vision.scenes(count // 4, rng, "benchmark")
    questions, expected = [], []
    for scene, image in zip(scenes, vision.pictures(scenes), strict=True):
        for yes in (True, False, True, False):
            text = PROMPT.format(question=evaluation_question(scene, rng, yes))
            questions.append((image, text))
            expected.append(yes)
    answers = answer_questions(model, processor, questions)
    right = [("yes" in a.lower()) == yes for a, yes in zip(answers, expected, strict=True)]
    return {
        "answers": len(answers),
        "accuracy": sum(right) / len(answers),
        "accuracy_yes": sum(right[::2]) / len(right[::2]),
        "accuracy_no": sum(right[1::2]) / len(right[1::2]),
        "well_formed": sum(answer in ("Yes", "No") for answer in answers) / len(answers),
    }


@torch.no_grad()
def answer_questions(
    model: Any, processor: Any, questions: Sequence[tuple[Any, str]], batch: int = 128
) -> list[str]:
    """One greedy token for every (image, prompt)."""
    answers: list[str] = []
    for at in range(0, len(questions), batch):
        part = questions[at : at + batch]
        inputs = processor(
            images=[[image] for image, _ in part],
            text=["<image>" + prompt for _, prompt in part],
            return_tensors="pt",
            padding=True,
        )
        answers += answers_to(model, processor, inputs, max_new_tokens=1)
    return answers
