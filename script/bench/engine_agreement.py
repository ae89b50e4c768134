"""How well two engines agree on a verifier: the same yes/no questions put to both.

Questions are about drawn scenes that no tiny checkpoint was trained on, as many with answer yes as
with no. Printed: the share of equal answers, the mean and the largest difference of P(yes), and
each engine's share of right answers.

    python script/bench/engine_agreement.py --questions 2000 --json agreement.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from random import Random
from statistics import fmean

from rich.console import Console
from rich.table import Table

from imagescope.config import load_models
from imagescope.engines import open_engine
from imagescope.engines.base import Picture, Request, collect
from imagescope.methods.parsing import says_yes
from imagescope.methods.prompts import VERIFICATION
from imagescope_tiny.language import holds, question, random_claim
from imagescope_tiny.scenes import draw, random_scene

PER_IMAGE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="tiny", help="a set of configs/models, or a file")
    parser.add_argument("--engines", nargs=2, default=["transformers", "vllm"])
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    rng, verifier = Random(args.seed), load_models(args.models).verifier
    names: list[str] = args.engines
    requests, truths = [], []
    with tempfile.TemporaryDirectory() as folder:
        while len(requests) < args.questions:
            scene = random_scene(rng, "benchmark")
            path = Path(folder) / f"{len(requests)}.png"
            draw(scene).save(path)
            for _ in range(PER_IMAGE):
                claim = random_claim(scene, rng)
                prompt = VERIFICATION.format(question=question(claim))
                picture = (Picture(str(path)),)
                requests.append(Request(prompt, picture, max_tokens=1, choices=("yes", "no")))
                truths.append(holds(claim, scene))
        answers, chances = {}, {}
        for name in names:
            engine = open_engine(verifier, name)
            found = collect(engine, requests)
            engine.close()
            answers[name] = [says_yes(response.text) for response in found]
            chances[name] = [response.probabilities[0] for response in found]
    first, second = names
    gaps = [abs(a - b) for a, b in zip(chances[first], chances[second], strict=True)]
    equal = fmean(a == b for a, b in zip(answers[first], answers[second], strict=True))
    figures = {
        "questions": len(requests),
        "equal_answers": equal,
        "mean_difference": fmean(gaps),
        "largest_difference": max(gaps),
    }
    for name in names:
        right = fmean(a == t for a, t in zip(answers[name], truths, strict=True))
        figures[f"right_{name}"] = right
    table = Table("figure", "value")
    for key, value in figures.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
