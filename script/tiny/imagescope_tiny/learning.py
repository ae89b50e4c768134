"""What the training of all tiny vision models shares: initialisation, the loop, answers' loss.

What makes models of a million parameters learn in minutes: a vision tower trained first and alone
(see vision.py), weights of standard deviation 1/sqrt(fan-in) instead of 0.02, several texts per
image in every step, AdamW with betas (0.9, 0.98) and a one-cycle schedule.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Progress = Callable[[str, int, int, float], None]  # what is trained, step, steps, loss
IGNORED = -100


def quiet(what: str, step: int, steps: int, loss: float) -> None:
    """A Progress that says nothing."""


def start(seed: int, threads: int) -> random.Random:
    """Seeds torch, sets its threads, and returns a generator for the scenes and texts."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    return random.Random(seed)


@torch.no_grad()
def fan_in(module: nn.Module) -> None:
    """Draws all matrices and convolutions below `module` with std = 1/sqrt(fan-in); embeddings
    count their width as fan-in. Norms and scales stay; biases are zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, std=1 / math.sqrt(part.weight[0].numel()))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=1 / math.sqrt(part.weight.shape[1]))


class Muon(torch.optim.Optimizer):  # type: ignore[misc]  # torch is not read by mypy
    """torch.optim.Muon (match_rms_adamw, its defaults else, weight decay 0.01) in float32: its
    bfloat16 takes ten times as long on a processor without instructions for it."""

    def __init__(self, matrices: Iterable[nn.Parameter], rate: float) -> None:
        super().__init__(matrices, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for matrix in group["params"]:
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 0.05)
                update = _orthogonal(matrix.grad.lerp(mean, 0.95))
                matrix.mul_(1 - 0.01 * group["lr"])
                matrix.add_(update, alpha=-0.2 * group["lr"] * math.sqrt(max(matrix.shape)))


def _orthogonal(matrix: Tensor) -> Tensor:
    """About the orthogonal matrix nearest to this one, by five steps of Newton and Schulz."""
    tall = matrix.shape[0] > matrix.shape[1]
    near = (matrix.T if tall else matrix) / matrix.norm().clamp(min=1e-7)
    for _ in range(5):
        square = near @ near.T
        update = torch.addmm(square, square, square, beta=-4.7750, alpha=2.0315)
        near = torch.addmm(near, update, near, beta=3.4445)
    return near.T if tall else near


def fit(
    loss_at: Callable[[int], Tensor],
    parameters: Iterable[nn.Parameter],
    *,
    steps: int,
    rate: float,
    what: str,
    progress: Progress = quiet,
    layers: nn.Module | None = None,
) -> None:
    """Minimises loss_at(step) over `steps` steps: AdamW, one-cycle schedule, clipped at norm 1.

    layers: the part whose matrices Muon moves instead, which needs far fewer samples.
    """
    trained = [p for p in parameters if p.requires_grad]
    inner = {p for p in layers.parameters() if p.ndim == 2} if layers else set()
    others = [p for p in trained if p not in inner]
    moving: list[Any] = [torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.01)]
    if inner:
        matrices = [p for p in trained if p in inner]
        moving.append(Muon(matrices, rate))
    one_cycle = torch.optim.lr_scheduler.OneCycleLR
    moving += [
        one_cycle(o, rate, total_steps=steps + 1, cycle_momentum=o is moving[0]) for o in moving
    ]
    mean = None
    for step in range(steps):
        loss = loss_at(step)
        for parameter in trained:
            parameter.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        for part in moving:
            part.step()
        mean = loss.item() if mean is None else 0.95 * mean + 0.05 * loss.item()
        progress(what, step + 1, steps, mean)


def batch_texts(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and labels, int64 (texts, longest), padded on the right.

    labels[i, j] is what the model should say AFTER position j: the answer's tokens; elsewhere
    IGNORED (so no shift is needed afterwards).
    """
    longest = max(len(p) + len(a) - 1 for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        text = [*prompt, *answer[:-1]]
        ids[i, : len(text)] = torch.tensor(text)
        mask[i, : len(text)] = 1
        labels[i, len(prompt) - 1 : len(text)] = torch.tensor(answer)
    return ids, mask, labels


def answer_loss(
    model: Any,
    pad: int,
    batch_at: Callable[[int], tuple[list[Any], list[Any], Tensor | Sequence[Tensor]]],
    token_types: Callable[[Tensor, int], Tensor | None] | None = None,
) -> Callable[[int], Tensor]:
    """For `fit`: the mean cross-entropy of the answers' tokens, per answer (long ones weigh no
    more).

    model: a vision-language model of transformers.  batch_at: step -> prompts and answers, as
    tokens, and the projected image features (texts, image tokens, width), which go to the places of
    the image token in the prompts; LLaVA-NeXT wants a list of them, (image tokens, width) each.
    token_types: token ids, step -> token_type_ids.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    def loss_at(step: int) -> Tensor:
        prompts, answers, features = batch_at(step)
        ids, mask, labels = batch_texts(prompts, answers, pad)
        more = {"token_type_ids": token_types(ids, step)} if token_types else {}
        hidden = model.model(
            input_ids=ids,
            attention_mask=mask,
            mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=features)},
            use_cache=False,
            **more,
        )[0]
        answered = labels != IGNORED
        losses = nn.functional.cross_entropy(
            model.lm_head(hidden[answered]), labels[answered], reduction="none"
        )
        weights = (answered / answered.sum(1, keepdim=True))[answered]
        return (losses * weights).sum() / len(labels)

    return loss_at


def answers_to(model: Any, tokenizer: Any, inputs: Mapping[str, Any], **limits: Any) -> list[str]:
    """Greedy answers to a batch of prepared prompts. limits: of transformers' generate."""
    tokens = model.generate(**inputs, do_sample=False, **limits)
    new = tokens[:, inputs["input_ids"].shape[1] :]
    return list(tokenizer.batch_decode(new, skip_special_tokens=True))


def export(model: Any, processor: Any, out: Path, rename: Mapping[str, str] | None = None) -> None:
    """Writes model, tokenizer and processor in Hugging Face's format, in place of `out`.

    rename: prefixes of weights that vLLM knows under another name than transformers writes.
    Weights keep the model's dtype. What stood in `out` before goes only when the new is complete.
    """
    from safetensors.torch import load_file, save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        if rename:
            file = part / "model.safetensors"
            weights = {renamed(name, rename): value for name, value in load_file(file).items()}
            save_file(weights, file, metadata={"format": "pt"})
        part.chmod(0o755)  # mkdtemp and safetensors make theirs private
        for file in part.iterdir():
            file.chmod(0o644)
        if out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def renamed(name: str, prefixes: Mapping[str, str]) -> str:
    """`name` with the first matching prefix replaced."""
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


class Clock:
    """Seconds since it was made, and a Progress that prints a line every few seconds."""

    def __init__(self, every: float = 15.0) -> None:
        self.every = every
        self.start = self.last = time.monotonic()

    @property
    def minutes(self) -> float:
        return (time.monotonic() - self.start) / 60

    def __call__(self, what: str, step: int, steps: int, loss: float) -> None:
        now = time.monotonic()
        if step == steps or now - self.last > self.every:
            self.last = now
            print(f"{what}: {step}/{steps}, loss {loss:.4f}, {self.minutes:.1f} min", flush=True)
