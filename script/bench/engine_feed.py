"""Our whole way to vLLM (keys, cache, child process, pipe) against vLLM given everything at once.

Text: the tiny reasoner's prompts, answers cut to lengths that are spread as a reasoner's. Images:
yes/no questions to the tiny verifier, several about each scene. Both sides are loaded before the
clock runs, take turns, and get the same requests, new ones in every repeat; the bare side's clock
includes decoding the pictures and writing the prompts, as a script would have to.

    python script/bench/engine_feed.py --json engine_feed.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from imagescope.config import ModelConfig, load_models
from imagescope.engines import open_engine
from imagescope.engines.base import Picture, Request, collect
from imagescope.engines.cached import Cached
from imagescope.methods.prompts import VERIFICATION, fill, load_prompts
from imagescope.store.cache import Cache
from imagescope_tiny.language import describe, question, random_claim
from imagescope_tiny.scenes import draw, random_scene

PER_IMAGE = 8  # questions
TOKENS, SPREAD = 60, 0.8  # of an answer: median, and sigma of its logarithm


def texts(count: int, rng: Random) -> list[Request]:
    prompt = load_prompts("tiny", "CIRR")["synthesis"]
    requests = []
    for number in range(count):
        scene = random_scene(rng, "benchmark")
        caption = describe(scene.things, scene.background)
        text = fill(prompt, INSTRUCTION=f"make it {number}", REF_IMAGE_DESC=caption)
        length = round(TOKENS * math.exp(rng.gauss(0, SPREAD)))
        requests.append(Request(text, max_tokens=max(1, min(length, 400))))
    return requests


def questions(count: int, folder: Path, rng: Random) -> list[Request]:
    requests = []
    while len(requests) < count:
        scene = random_scene(rng, "benchmark")
        path = folder / f"{rng.getrandbits(64)}.png"
        draw(scene).resize((640, 480)).save(path)
        for _ in range(PER_IMAGE):
            prompt = VERIFICATION.format(question=question(random_claim(scene, rng)))
            requests.append(Request(prompt, (Picture(str(path)),), 1, choices=("yes", "no")))
    return requests


def bare(config: ModelConfig, pipe: Connection) -> None:
    """A process with nothing but vLLM: everything it is sent is given at once."""
    from imagescope.engines.vllm import VLLM
    from imagescope.models.images import prepare

    engine = VLLM(config)
    engine._load()  # the same settings as ours
    pipe.send("loaded")
    while requests := pipe.recv():
        start = time.monotonic()
        pixels = {image: prepare(image) for r in requests for image in r.images}
        parameters = [engine._parameters(request) for request in requests]
        if config.template is None:
            messages = [engine._messages(request, pixels) for request in requests]
            outputs = engine._llm.chat(messages, parameters, use_tqdm=False)
        else:
            prompts = [engine._prompt(config.template, r, pixels) for r in requests]
            outputs = engine._llm.generate(prompts, parameters, use_tqdm=False)
        seconds = time.monotonic() - start
        pipe.send((seconds, sum(len(output.outputs[0].token_ids) for output in outputs)))


@contextmanager
def process(config: ModelConfig) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=bare, args=(config, theirs), daemon=True)
    child.start()
    assert ours.recv() == "loaded"
    yield ours
    ours.send(None)
    child.join()


def measure(
    config: ModelConfig, make: Callable[..., list[Request]], repeats: int, folder: Path
) -> dict[str, Any]:
    """Seconds of both sides, by turns."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    tokens: dict[str, list[int]] = {"ours": [], "bare": []}
    engine = open_engine(config, "vllm")
    with process(config) as pipe:
        warm_up = make(rng=Random(-1))[:64]
        collect(engine, warm_up)
        pipe.send(warm_up)
        pipe.recv()
        for repeat in range(repeats):
            requests = make(rng=Random(repeat))
            for side in ("ours", "bare") if repeat % 2 else ("bare", "ours"):
                if side == "ours":
                    with Cache.open(folder / f"{repeat}-{config.max_num_seqs}.sqlite") as cache:
                        start = time.monotonic()
                        responses = collect(Cached(engine, cache), requests)
                        seconds[side].append(time.monotonic() - start)
                    tokens[side].append(sum(r.output_tokens for r in responses))
                else:
                    pipe.send(requests)
                    spent, count = pipe.recv()
                    seconds[side].append(spent)
                    tokens[side].append(count)
    engine.close()
    ratios = [b / o for b, o in zip(seconds["bare"], seconds["ours"], strict=True)]
    return {
        "seconds": {side: median(values) for side, values in seconds.items()},
        "tokens": {side: median(values) for side, values in tokens.items()},
        "ratios": ratios,
        "ratio": median(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default="tiny", help="a set of configs/models, or a file")
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--questions", type=int, default=4096)
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    models = load_models(args.models)
    figures: dict[str, Any] = {}
    table = Table("requests", "bare vLLM", "ours", "ratio", "of each repeat")
    for name in ("text", "images"):
        role = models.reasoner if name == "text" else models.verifier
        config = role.model_copy(update={"max_num_seqs": args.max_num_seqs})
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)

            if name == "text":
                make = partial(texts, args.texts)
            else:
                make = partial(questions, args.questions, folder=folder)
            result = measure(config, make, args.repeats, folder)
        figures[name], figures[f"ratio_to_bare_{name}"] = result, result["ratio"]
        seconds = result["seconds"]
        ratios = ", ".join(f"{ratio:.2f}" for ratio in result["ratios"])
        table.add_row(
            *(name, f"{seconds['bare']:.2f} s", f"{seconds['ours']:.2f} s"),
            *(f"{result['ratio']:.3f}", ratios),
        )
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
