"""Models that know the answers, for tests of what is built around models.

The pictures are tiny scenes; the oracle has seen the drawings (it knows them by content), reads
the tiny prompts, and answers at once, so these tests load no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from imagescope.config import ModelConfig, Side
from imagescope.encoders.base import Encoder
from imagescope.engines.base import EngineClass, Pair, Request, Response
from imagescope.records import Item
from imagescope.registry import ENCODERS, ENGINES, Registry
from imagescope_tiny.language import caption
from imagescope_tiny.scenes import COLOURS, draw, random_scene

SEEN: dict[str, str] = {}  # content -> caption
ASKED: list[str] = []  # prompts, in order
LOADED: set[str] = set()  # models that are in memory
MODELS = """
captioner: {model: oracle-captioner, engine: oracle, max_tokens: 96}
reasoner: {model: oracle-reasoner, engine: oracle}
verifier: {model: oracle-verifier, engine: oracle}
evaluator: {model: oracle-evaluator, engine: oracle}
encoder: {model: oracle-encoder, library: words}
prompts: tiny
"""


def scenes(folder: Path, count: int, seed: int = 0) -> list[str]:
    """Draws scenes to folder/000.png …; returns their captions."""
    rng, found = Random(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    while len(found) < count:
        scene = random_scene(rng)
        if caption(scene) not in found:
            path = folder / f"{len(found):03d}.png"
            draw(scene, 64).save(path)
            SEEN[content(path)] = caption(scene)
            found.append(caption(scene))
    return found


def content(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - {"a", "an", "at", "on", "the", "is", "there"}


class Oracle(EngineClass):
    """An engine that answers each prompt of the tiny set by looking it up."""

    remote = True

    def __init__(self, config: ModelConfig):
        self.identity: dict[str, Any] = {"engine": "oracle", "model": config.model}
        self.model = config.model

    def answer(self, request: Request) -> Response:
        self.loads = 1
        LOADED.add(self.model)
        ASKED.append(request.prompt)
        return Response(self.says(request))

    def close(self) -> None:
        LOADED.discard(self.model)

    def says(self, request: Request) -> str:
        image = request.images[0] if request.images else None
        if isinstance(image, Pair):
            wanted = words(request.prompt.split(":")[1]) & set(COLOURS)
            good = wanted <= words(SEEN.get(content(image.right), ""))
            return f"ANSWER: {'Yes' if good else 'No'}"
        if image:
            seen = SEEN.get(content(image.path), "a photograph")
            if "?" not in request.prompt:
                return seen
            asked = words(request.prompt.split("No.")[-1])
            return "yes" if asked <= words(seen) else "no"
        said = self.reason(request.prompt)
        if "\nEdit: " in request.prompt:  # CIReVL's
            return f"Edited description: {said['step2'][0]}"
        return json.dumps(said)

    def reason(self, prompt: str) -> dict[str, Any]:
        if prompt.startswith("Change:"):
            colours = re.findall(rf"becomes ({'|'.join(COLOURS)})", prompt)
            return {"step2": [[f"is there {colour}?", "True"] for colour in colours]}
        known, told = (line.split(": ", 1)[1] for line in prompt.split("\n"))
        found = re.search(rf"({'|'.join(COLOURS)}) to ({'|'.join(COLOURS)})", told)
        if found:
            target = known.replace(found[1], found[2])
            return {"step1": [["Modification", f"it becomes {found[2]}"]], "step2": [target]}
        before = "" if known == "A blank image." else known + " "
        colours = sorted(words(told) & set(COLOURS))
        edits = [["Addition", f"it becomes {colour}"] for colour in colours]
        return {"step1": edits, "step2": [before + told]}


class Words(Encoder):
    """An encoder whose vectors count words; a picture's are those of its caption."""

    dimension = 512

    @property
    def identity(self) -> dict[str, Any]:
        return {"encoder": self.config.model}

    def embed(
        self, items: Sequence[Item], side: Side
    ) -> tuple[np.ndarray[Any, Any], dict[int, str]]:
        rows = np.full((len(items), self.dimension), 1e-6, np.float32)
        for row, item in zip(rows, items, strict=True):
            seen = [SEEN.get(content(path), "a photograph") for path in item.images]
            for word in words(" ".join([item.text, *seen])):
                row[int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dimension] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True), {}


@pytest.fixture
def oracle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register: Callable[[Registry, str, Any], None]
) -> str:
    """A model set of engine oracle and library words, and IMAGESCOPE_HOME in a fresh folder; the
    set's file."""
    monkeypatch.setenv("IMAGESCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("IMAGESCOPE_CACHE", raising=False)
    register(ENGINES, "oracle", Oracle)
    register(ENCODERS, "words", Words)
    ASKED.clear()
    LOADED.clear()
    models = tmp_path / "oracle.yaml"
    models.write_text(MODELS)
    return str(models)
