"""The tiny reasoner: a Llama of about a million parameters, trained from nothing on the tiny
world's own instructions, captions and dialogues.

Every sample is fresh and made of training scenes only. What lets so small a model edit scenes
reliably is the form of its answers (answers.py) and a tokenizer in which a place, or a fixed
piece of JSON, is one token.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from imagescope.parsing import OK, find_json
from imagescope.prompts import load_prompts
from imagescope.tiny.answers import Sample, composed_sample, dialogue_samples, text_sample
from imagescope.tiny.learning import (
    IGNORED,
    Progress,
    batch_texts,
    export,
    fan_in,
    quiet,
    start,
)
from imagescope.tiny.scenes import CELLS
from imagescope.tiny.tokens import word_tokenizer

STEPS, WARMUP, BATCH, RATE = 3000, 100, 32, 4e-3
LAYERS, WIDTH, HEADS, INNER, CONTEXT = 4, 128, 4, 352, 2048
# Of a hundred queries: composed ones are the hardest to learn.
MIX = {"composed": 74, "text": 12, "dialogue": 14}
QUESTIONS_SHARE = 0.3  # of all queries: their second call is trained on, too
PIECES = (
    *(f" {word} the {cell}" for word in ("at", "in", "to") for cell in CELLS),
    *(f"{cell}:" for cell in CELLS),
    *(f"\n   ({i})" for i in range(1, 5)),
    *('```json\n{"step1": [["', '```json\n{"step2": [["', '"]], "step2": ["', '"], ["', '", "'),
    *('"]}\n```', '"]]}\n```', "\n"),
)
PAD, USER, ASSISTANT, END = SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def samples(rng: Random, split: str, objects: int | None = None) -> Iterator[Sample]:
    """Endless random samples of both prompts, made of scenes of one split."""
    prompts, talk = load_prompts("tiny", "CIRR"), load_prompts("tiny", "VisDial")
    rounds: list[tuple[Sample, Sample]] = []
    while True:
        task = rng.choices(list(MIX), list(MIX.values()))[0]
        if task == "dialogue":
            rounds = rounds or dialogue_samples(talk, rng, split)
            synthesis, questions = rounds.pop()
        else:
            make = composed_sample if task == "composed" else text_sample
            count = objects or rng.choices((1, 2, 3), (2, 3, 4))[0]
            synthesis, questions = make(prompts, rng, split, count)
        yield synthesis
        if rng.random() < QUESTIONS_SHARE:
            yield questions


def make_tokenizer() -> Any:
    """The reasoner's tokenizer, with its chat template."""
    source = samples(Random(0), "train")
    texts = [text for s in (next(source) for _ in range(4000)) for text in (s.prompt, s.answer)]
    pieces = re.compile("|".join(re.escape(p) for p in sorted(PIECES, key=len, reverse=True)))
    return word_tokenizer(
        (part for text in texts for part in pieces.split(text)),
        special=SPECIAL,
        words=PIECES,
        chat_template=TEMPLATE,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def build(tokenizer: Any) -> Any:
    """An untrained model for the tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    fan_in(model)
    return model


def _batches(tokenizer: Any, rng: Random, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches of texts of similar length, so that little is padding."""
    source = samples(rng, "train")
    while True:
        pool = [next(source) for _ in range(size * 32)]
        prompts = tokenizer([f"{USER}{s.prompt}{ASSISTANT}" for s in pool])["input_ids"]
        answers = tokenizer([f"{s.answer}{END}" for s in pool])["input_ids"]
        order = sorted(range(len(pool)), key=lambda i: len(prompts[i]) + len(answers[i]))
        chunks = [order[i : i + size] for i in range(0, len(order), size)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield batch_texts(
                [prompts[i] for i in chunk], [answers[i] for i in chunk], tokenizer.pad_token_id
            )


def train_reasoner(
    out: Path,
    *,
    steps: int = STEPS,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = quiet,
    save_every: int = 500,
) -> None:
    """Trains from nothing and writes the checkpoint to `out`, and now and then on the way.

    Muon for the matrices, AdamW for embeddings and norms: it needs a third of the samples that
    AdamW alone does. The rate rises for WARMUP steps, then falls to nothing along a line.
    """
    rng = start(seed, threads)
    tokenizer = make_tokenizer()
    model = build(tokenizer)
    model.generation_config.max_new_tokens = 512
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, RATE, betas=(0.9, 0.98), weight_decay=0.01),
    )
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            o, lambda step: min((step + 1) / WARMUP, 1 - step / (steps + 1))
        )
        for o in optimizers
    ]
    mean = None
    for step, (ids, _, labels) in zip(range(steps), _batches(tokenizer, rng, BATCH), strict=False):
        # No mask: padding is on the right, where causal attention never looks.
        hidden = model.model(input_ids=ids, use_cache=False)[0]
        asked = labels != IGNORED
        loss = nn.functional.cross_entropy(model.lm_head(hidden[asked]), labels[asked])
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for moving in (*optimizers, *schedules):
            moving.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        progress("reasoner", step + 1, steps, mean)
        if (step + 1) % save_every == 0 or step + 1 == steps:
            export(model, tokenizer, out)


def evaluate_reasoner(
    path: Path, *, count: int = 600, seed: int = 1, threads: int = 2
) -> dict[str, float]:
    """Shares of right answers to `count` prompts about benchmark scenes.

    json: answers whose JSON parses unrepaired, of all.  edits, descriptions: synthesis answers
    with every edit, every description exactly right.  <task>: answers with all of these right.
    """
    torch.set_num_threads(threads)
    source = samples(Random(seed), "benchmark")
    asked = [next(source) for _ in range(count)]
    texts = generate(path, [s.prompt for s in asked])
    marks: dict[str, list[bool]] = defaultdict(list)
    for sample, text in zip(asked, texts, strict=True):
        right, found = _steps(sample.answer) or {}, _steps(text)
        marks["json"].append(found is not None)
        found = found or {}
        if sample.task != "questions":
            marks["edits"].append(found.get("step1") == right.get("step1"))
            marks["descriptions"].append(found.get("step2") == right.get("step2"))
        marks[sample.task].append(found == right)
    shares = {name: sum(marked) / len(marked) for name, marked in sorted(marks.items())}
    return {"answers": count, **shares}


def _steps(text: str) -> dict[str, Any] | None:
    """The answer's JSON object, where it parses unrepaired."""
    found, how = find_json(text)
    return found if how == OK else None


def generate(path: Path, prompts: Sequence[str], batch: int = 64) -> list[str]:
    """Greedy answers of a checkpoint, in the order of the prompts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
    answers: dict[int, str] = {}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start_at in range(0, len(order), batch):
        chunk = order[start_at : start_at + batch]
        inputs = tokenizer.apply_chat_template(
            [[{"role": "user", "content": prompts[i]}] for i in chunk],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        out = model.generate(**inputs, do_sample=False, max_new_tokens=300)
        texts = tokenizer.batch_decode(
            out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        answers.update(zip(chunk, texts, strict=True))
    return [answers[i] for i in range(len(prompts))]
