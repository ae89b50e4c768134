"""The tiny reasoner: a Llama of about a million parameters, trained from nothing on the tiny
world's own instructions, captions and dialogues.

Every sample is fresh and made of training scenes only. What lets so small a model edit scenes
reliably: the form of its answers (answers.py); a tokenizer in which a thing ("large red circle at
the top left") or a fixed piece of JSON is one token, so that looking up is one step of attention;
an exercise in looking things up before all else; and embeddings that learn fast.
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from imagescope.methods.cirevl import LABEL, CIReVL
from imagescope.methods.parsing import OK, find_json, labelled
from imagescope.methods.prompts import load_prompts
from imagescope_tiny.answers import (
    Sample,
    caption_edit_sample,
    composed_sample,
    dialogue_samples,
    lookup_sample,
    search_sample,
    text_sample,
)
from imagescope_tiny.changes import TYPES
from imagescope_tiny.learning import (
    IGNORED,
    Muon,
    Progress,
    answers_to,
    batch_texts,
    export,
    fan_in,
    quiet,
    start,
)
from imagescope_tiny.scenes import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES
from imagescope_tiny.tokens import word_tokenizer

STEPS, WARMUP, BATCH = 3900, 100, 32
RATES = 4e-3, 1e-2  # of matrices; of embeddings and norms
LAYERS, WIDTH, HEADS, INNER, CONTEXT = 4, 128, 2, 352, 2048
MIX = {"composed": 55, "text": 13, "search": 9, "dialogue": 30, "caption edit": 16}  # of queries
QUESTIONS_SHARE = 0.3  # of queries with a second call: that is trained on, too
# Look-ups alone come first: at most so many steps, until the loss has fallen this far; then they
# are this share of all samples.
LOOKUPS, LEARNED, LOOKUPS_SHARE = 1500, 0.03, 0.1
EDIT_TYPES = ("Modification", *TYPES.values())
FENCE = '```json\n{"step1": ['
OPENINGS = FENCE, f"\n{FENCE}", '"], '  # of the first edit; of the next
PIECES = (
    *(
        f"{size}{colour} {shape}{place}"
        for size in ("", *(f" {size}" for size in SIZES))
        for colour in ("", *(f" {colour}" for colour in COLOURS))
        for shape in SHAPES
        for place in ("", *(f" at the {cell}" for cell in CELLS))
    ),
    *(f" on a {colour} background" for colour in BACKGROUNDS),
    *(f" {word} the {cell}" for word in ("at", "in", "to") for cell in CELLS),
    *(f"\n   ({i})" for i in range(1, 5)),
    *(f"{line}{cell}:" for line in ("", "\n") for cell in CELLS),
    *(f"{line}background: {colour}" for line in ("", "\n") for colour in BACKGROUNDS),
    *(f"the background {verb} {c}" for verb in ("is", "becomes") for c in BACKGROUNDS),
    *(f'{opening}["{kind}", "' for opening in OPENINGS for kind in EDIT_TYPES),
    *(f"{before}{a}" for before in ('"]], "step2": ["', '", "') for a in ("", "a", "an")),
    *(f'", "{known}"{then}' for known in (True, False) for then in ('], ["', "]]}\n```")),
    *('```json\n{"step2": [["', '"]}\n```', "\nResult:", f"\n{LABEL}:", " none ->", "\n"),
)
PAD, USER, ASSISTANT, END = SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def samples(rng: Random, split: str, objects: int | None = None) -> Iterator[Sample]:
    """Endless random samples of all prompts, made of scenes of one split."""
    prompts, talk = load_prompts("tiny", "CIRR"), load_prompts("tiny", "VisDial")
    cirevl = load_prompts("tiny", "CIRR", CIReVL.prompts, CIReVL.name)
    rounds: list[tuple[Sample, Sample]] = []
    while True:
        task = rng.choices(list(MIX), list(MIX.values()))[0]
        count = objects or rng.choices((1, 2, 3), (2, 3, 4))[0]
        if task == "caption edit":
            yield caption_edit_sample(cirevl, rng, split, count)
            continue
        if task == "dialogue":
            rounds = rounds or dialogue_samples(talk, rng, split)
            synthesis, questions = rounds.pop()
        elif task == "search":
            synthesis, questions = search_sample(prompts, rng, split)
        else:
            make = composed_sample if task == "composed" else text_sample
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


def _lookups(rng: Random) -> Iterator[Sample]:
    prompts = load_prompts("tiny", "CIRR")
    while True:
        yield lookup_sample(prompts, rng)


def _mixture(rng: Random) -> Iterator[Sample]:
    """All of it, with a share of look-ups, lest they be forgotten."""
    tasks, exercise = samples(rng, "train"), _lookups(rng)
    while True:
        yield next(exercise if rng.random() < LOOKUPS_SHARE else tasks)


def _batches(
    tokenizer: Any, source: Iterator[Sample], rng: Random, pool: int = 32
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless batches, cut from `pool` batches' samples by their length: so little is padding."""
    while True:
        batch = list(itertools.islice(source, pool * BATCH))
        prompts = tokenizer([f"{USER}{s.prompt}{ASSISTANT}" for s in batch])["input_ids"]
        answers = tokenizer([f"{s.answer}{END}" for s in batch])["input_ids"]
        order = sorted(range(len(batch)), key=lambda i: len(prompts[i]) + len(answers[i]))
        chunks = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        rng.shuffle(chunks)
        for chunk in chunks:
            yield batch_texts(
                [prompts[i] for i in chunk], [answers[i] for i in chunk], tokenizer.pad_token_id
            )


def train_reasoner(
    out: Path,
    *,
    steps: int = STEPS,
    lookups: int = LOOKUPS,
    seed: int = 0,
    threads: int = 2,
    progress: Progress = quiet,
    save_every: int = 500,
) -> None:
    """Trains from nothing and writes the checkpoint to `out`, and now and then on the way.

    First at most `lookups` steps of looking things up, then `steps` of everything. Muon for the
    matrices, AdamW for embeddings and norms: it needs a third of the samples that AdamW alone does.
    """
    rng = start(seed, threads)
    tokenizer = make_tokenizer()
    model = build(tokenizer)
    model.generation_config.max_new_tokens = 512
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = (
        Muon(matrices, RATES[0]),
        torch.optim.AdamW(others, RATES[1], betas=(0.9, 0.98), weight_decay=0.01),
    )
    drill = _learn(model, optimizers, _batches(tokenizer, _lookups(rng), rng, pool=1))
    for step, loss in zip(range(1, lookups + 1), drill, strict=False):
        progress("look-ups", step, lookups, loss)
        if loss < LEARNED:
            break
    work = _learn(model, optimizers, _batches(tokenizer, _mixture(rng), rng), until=steps)
    for step, loss in zip(range(1, steps + 1), work, strict=False):
        progress("reasoner", step, steps, loss)
        if step % save_every == 0 or step == steps:
            export(model, tokenizer, out)


def _learn(
    model: Any,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Iterator[tuple[Tensor, Tensor, Tensor]],
    until: int | None = None,
) -> Iterator[float]:
    """The running mean of the loss after each step. Rates rise for WARMUP steps, then stay, or
    fall along a line to nothing at the step `until`."""
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / WARMUP, 1 - step / (until + 1) if until else 1),
        )
        for optimizer in optimizers
    ]
    mean = None
    for ids, _, labels in batches:
        # No mask: padding is on the right, where causal attention never looks.
        hidden = model.model(input_ids=ids, use_cache=False)[0]
        answered = labels != IGNORED
        loss = nn.functional.cross_entropy(model.lm_head(hidden[answered]), labels[answered])
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for moving in (*optimizers, *schedules):
            moving.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        yield mean


def evaluate_reasoner(
    path: Path, *, count: int = 600, seed: int = 1, threads: int = 2
) -> dict[str, float]:
    """Shares of right answers to `count` prompts about benchmark scenes.

    json: answers whose JSON parses unrepaired, of those that should have one.  edits, descriptions:
    synthesis answers with every edit, every description exactly right.  <task>: answers with all
    of these right, or with CIReVL's edited description.
    """
    torch.set_num_threads(threads)
    source = samples(Random(seed), "benchmark")
    tests = [next(source) for _ in range(count)]
    texts = generate(path, [s.prompt for s in tests])
    marks: dict[str, list[bool]] = defaultdict(list)
    for sample, text in zip(tests, texts, strict=True):
        if sample.task == "caption edit":
            marks[sample.task].append(labelled(text, LABEL) == labelled(sample.answer, LABEL))
            continue
        right, answer = _steps(sample.answer) or {}, _steps(text)
        marks["json"].append(answer is not None)
        answer = answer or {}
        if sample.task != "questions":
            marks["edits"].append(answer.get("step1") == right.get("step1"))
            marks["descriptions"].append(answer.get("step2") == right.get("step2"))
        marks[sample.task].append(answer == right)
    shares = {name: sum(marked) / len(marked) for name, marked in sorted(marks.items())}
    return {"answers": count, **shares}


def _steps(text: str) -> dict[str, Any] | None:
    """The answer's JSON object, where it parses unrepaired."""
    answer, how = find_json(text)
    return answer if how == OK else None


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
        texts = answers_to(model, tokenizer, inputs, max_new_tokens=300)
        answers.update(zip(chunk, texts, strict=True))
    return [answers[i] for i in range(len(prompts))]
