"""Your own pictures with the tiny checkpoints: real models, tiny scenes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median

import pytest

from imagescope.config import ROLES, config_path
from imagescope.own.indexing import build
from imagescope.own.scope import ImageScope
from imagescope_tiny.changes import instruction, random_changes
from imagescope_tiny.language import caption
from imagescope_tiny.scenes import draw, random_scene

MODELS = Path(__file__).parents[2] / "data" / "tiny" / "models"
ABSENT = [role for role in (*ROLES, "encoder") if not (MODELS / role).is_dir()]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"no tiny checkpoints for {ABSENT}")


def world(folder: Path, count: int, pairs: int = 0) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Draws benchmark scenes no model was trained on; their captions, and (reference, instruction,
    target) of the first pairs."""
    rng, seen, asked = Random(5), dict[str, str](), list[tuple[str, str, str]]()
    folder.mkdir(parents=True)

    def add(scene: object) -> str:
        name = f"{len(seen):04d}.png"
        seen[caption(scene)] = name  # type: ignore[arg-type]
        draw(scene, 128).save(folder / name)  # type: ignore[arg-type]
        return name

    while len(seen) < count:
        scene = random_scene(rng, "benchmark")
        if caption(scene) in seen:
            continue
        reference = add(scene)
        if len(asked) < pairs:
            changes, target = random_changes(scene, rng, 1, "benchmark")
            if caption(target) not in seen:
                asked.append((reference, instruction(changes, rng), add(target)))
    return list(seen), asked


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESCOPE_HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.delenv("IMAGESCOPE_CACHE", raising=False)


def test_captions_composed_queries_and_dialogue(tmp_path: Path) -> None:
    captions, pairs = world(tmp_path / "in", 60, pairs=12)
    update = build(tmp_path / "in", "n", "tiny")
    right = sum(
        entry.caption == text
        for entry, text in zip(update.manifest.pictures.values(), captions, strict=True)
    )
    assert right >= 50, f"{right} of 60 captions are right"
    with ImageScope.open("n") as scope:
        found = [scope.search(text, top=3) for text in captions[:8]]
        first = sum(answer[0].name == f"{i:04d}.png" for i, answer in enumerate(found))
        assert first >= 6, f"{first} of 8 captions find their picture first"
        hits = 0
        for reference, text, target in pairs:
            answer = scope.search(text, reference=reference, top=5)
            hits += target in {result.name for result in answer}
        assert hits >= len(pairs) // 2, f"{hits} of {len(pairs)} targets among the best five"
        refined = scope.search("what is the background? black", previous="a circle and a cross")
        assert refined.carried == "a circle and a cross on a black background"


@pytest.mark.slow  # a thousand captions and embeddings on the CPU: a minute or two
def test_speed_on_a_thousand_scenes(tmp_path: Path) -> None:
    """Models warm, queries never asked before: stage 1 under 100 ms, all stages under 5 s."""
    captions, pairs = world(tmp_path / "in", 1000, pairs=8)
    build(tmp_path / "in", "n", "tiny")
    times: list[list[float]] = []
    with ImageScope.open("n") as scope:
        scope.search(captions[-1])  # loads the models
        for reference, text, _ in pairs:
            answers = scope.stages(text, reference, glance=True)
            times.append([answer.seconds for answer in answers])
    glance, first, _, whole = (median(each) for each in zip(*times, strict=True))
    print(f"first look {glance:.3f} s, stage 1 {first:.3f} s, all stages {whole:.2f} s")
    assert first < 0.1
    assert whole < 5


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A vLLM server on the CPU with one of the tiny checkpoints; the role and its base_url."""
    pytest.importorskip("vllm", reason="the server is vLLM's")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    options = {
        "--model": str(MODELS / request.param),
        "--served-model-name": "served",
        "--host": "127.0.0.1",
        "--port": str(port),
        "--max-model-len": "1024" if request.param == "reasoner" else "512",
        "--max-num-seqs": "8",
    }
    arguments = [word for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _await(f"{address}/health", process, tmp_path / "server.log")
            yield request.param, f"{address}/v1"
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 600
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"the server did not come up: {log.read_text(errors='replace')[-2000:]}")


@pytest.mark.slow  # starting a vLLM server on the CPU takes the better part of a minute
@pytest.mark.parametrize("server", ["reasoner", "evaluator"], indirect=True)
def test_a_role_behind_an_openai_endpoint(tmp_path: Path, server: tuple[str, str]) -> None:
    """A language or a vision-language role is served: the same descriptions, decisions, order."""
    role, url = server
    captions, pairs = world(tmp_path / "in", 20, pairs=4)
    build(tmp_path / "in", "n", "tiny")
    plain = config_path("tiny", "models").read_text()
    before = f"  model: data/tiny/models/{role}\n"
    assert before in plain
    remote = f"  model: served\n  engine: openai\n  base_url: {url}\n"
    (tmp_path / "remote.yaml").write_text(plain.replace(before, remote))
    with ImageScope.open("n") as here, ImageScope.open("n", str(tmp_path / "remote.yaml")) as there:
        for reference, text, _ in pairs:
            mine, other = here.search(text, reference), there.search(text, reference)
            assert other.synthesis.parse == "ok"
            assert other.synthesis.descriptions == mine.synthesis.descriptions
            notes = [[r.explanation.notes for r in answer] for answer in (mine, other)]
            assert notes[0] == notes[1] and any(notes[0])
            assert [r.name for r in other] == [r.name for r in mine]
        assert there.search(captions[0])[0].name == "0000.png"
