"""What a run needs is looked at before it begins, all at once, where something is asked at all."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import yaml
from fakes import (
    Behaviour,
    Endpoint,
    endless,
    fails,
    hangs_up,
    loops,
    refuses,
    replies,
    silence,
    slow_headers,
)
from huggingface_hub.errors import GatedRepoError

from imagescope.benchmarks.base import Benchmark
from imagescope.cli.app import main
from imagescope.config import RunConfig, config_path, load_run
from imagescope.encoders import base as encoders
from imagescope.encoders.base import Encoder
from imagescope.engines.base import EngineClass, Request, Response, collect
from imagescope.engines.cached import Cached
from imagescope.engines.openai import TEMPLATE
from imagescope.errors import UserError
from imagescope.registry import Registry
from imagescope.runs import preflight
from imagescope.runs.pipeline import load_benchmark
from imagescope.runs.plan import memory
from imagescope.runs.preflight import Preflight, examine
from imagescope.store.cache import Cache


class Drawn(Encoder):
    """Has no checkpoint."""

    dimension = 1

    def embed(self, items, side):
        raise AssertionError("nothing is embedded here")


REPO = Path(__file__).parents[2]
GB = 1 << 30


def model_set(folder: Path, **roles: dict[str, Any]) -> Path:
    """The tiny set with other models in some roles."""
    tiny = yaml.safe_load(config_path("tiny", "models").read_text())
    (folder / "set.yaml").write_text(yaml.safe_dump({**tiny, **roles}))
    return folder / "set.yaml"


@pytest.fixture
def setting(tmp_path: Path, tiny_data: Path) -> Callable[..., tuple[RunConfig, Benchmark]]:
    def make(models: Path | str = "tiny", **more: Any) -> tuple[RunConfig, Benchmark]:
        places = {name: tmp_path / name for name in ("runs", "image_db", "cache")}
        options = {"data_root": tiny_data, "split": "val", "engine": "transformers", "limit": 4}
        config = load_run("CIRR", {**options, **places, "models": str(models), **more})
        return config, load_benchmark(config)

    return make


def lacking(config: RunConfig, benchmark: Benchmark) -> dict[str, str]:
    return {c.name: c.text for c in examine(config, benchmark) if c.state == "missing"}


def test_nothing_lacks_on_tiny_data(setting: Callable[..., Any]) -> None:
    checks = examine(*setting())
    assert {check.state for check in checks} == {"ok"}
    assert {check.group for check in checks} == {"checkpoints", "datasets", "disk"}


def test_everything_that_lacks_is_said_at_once(
    tmp_path: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = tmp_path / "half"
    shutil.copytree(REPO / "data/tiny/models/verifier", half)
    (half / "tokenizer.json").unlink()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # where nobody listens, once it is closed
    endpoint = {"model": "m", "engine": "openai", "base_url": f"http://127.0.0.1:{port}/v1"}
    models = model_set(
        tmp_path,
        captioner={"model": "./absent"},
        reasoner=endpoint,
        verifier={"model": str(half)},
    )
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    line = ["run", "CIRR", "--data-root", str(tiny_data), "--split", "val", "--limit", "4"]
    for place in ("runs", "image-db", "cache"):
        line += [f"--{place}", str(tmp_path / place)]
    line += ["--models", str(models), "--engine", "transformers"]
    assert main(line) == 1
    said = capsys.readouterr().err
    assert "no such checkpoint folder: ./absent" in said
    assert "the checkpoint is incomplete: no tokenizer" in said
    assert f"reasoner: http://127.0.0.1:{port}/v1" in said and "cannot be reached" in said
    assert "0.0 MB free" in said and "--image-db" in said and "Traceback" not in said
    assert not (tmp_path / "runs").exists()

    assert main([*line, "--no-preflight"]) == 1
    said = capsys.readouterr().err
    assert "./absent" in said and "tokenizer" not in said


@pytest.mark.parametrize(
    ("behave", "words", "asked"),
    [
        (replies(200, "<html>", "text/html"), "no chat completion (status 200, text/html", 1),
        (replies(200, "[" * 100_000), "no chat completion", 1),
        (fails(200, "quota used up", code=429), "status 429: quota used up", 2),
        (fails(401, "no"), "refuses the key in OPENAI_API_KEY", 1),
        (fails(404, "no model"), "is the model's name right?", 1),
        (fails(503, "loading"), "status 503: loading", 2),
        (refuses(TEMPLATE, f"unknown argument {TEMPLATE}"), "chat_template_options", 1),
        (hangs_up, "cannot be reached", 2),
        (loops, "no chat completion", 6),
        (silence, "did not answer within 0.3 s", 1),
        (slow_headers, "did not answer within 0.3 s", 1),
        (endless, "did not answer within 0.3 s", 1),
    ],
)
def test_a_misbehaving_endpoint_is_said_before_the_run(
    behave: Behaviour, words: str, asked: int, setting: Callable[..., Any], tmp_path: Path
) -> None:
    with Endpoint(behave) as fake:
        role = {"model": "m", "engine": "openai", "base_url": fake.url, "timeout": 0.3}
        role |= {"connect_timeout": 0.3, "chat_template_options": {"a": 1}}
        found = lacking(*setting(model_set(tmp_path, reasoner=role, captioner=role)))
        assert list(found) == ["captioner, reasoner"]
        assert words in found["captioner, reasoner"]
        assert found["captioner, reasoner"].startswith(fake.url)
        assert len(fake.seen) == asked  # nobody waits for silence twice


def test_only_what_the_stages_need(setting: Callable[..., Any], tmp_path: Path) -> None:
    models = model_set(tmp_path, evaluator={"model": "./absent"})
    assert "evaluator" in lacking(*setting(models))
    assert not lacking(*setting(models, stages="s1 s2"))


def test_a_checkpoint_of_the_hub(
    setting: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = model_set(tmp_path, captioner={"model": "owner/name", "revision": "abc"})
    files = [("model.safetensors", 3 * 10**9), ("config.json", 10), ("model.gguf", 10**12)]
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files]
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(
        huggingface_hub, "model_info", lambda *_, **__: SimpleNamespace(siblings=siblings)
    )
    monkeypatch.setattr(huggingface_hub, "auth_check", lambda _: None)
    (check,) = [c for c in examine(*setting(models)) if c.name == "captioner"]
    assert (check.state, check.size) == ("ok", 3 * 10**9 + 10)
    assert "3.0 GB to download" in check.text

    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=GB))
    assert "about 3.0 GB to be written" in lacking(*setting(models))["disk"]

    def gated(_: str) -> None:
        raise GatedRepoError("no", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "auth_check", gated)
    assert (
        "accept its licence at https://huggingface.co/owner/name"
        in (lacking(*setting(models))["captioner"])
    )


def test_a_gallery_without_any_image(setting: Callable[..., Any], tmp_path: Path) -> None:
    shutil.copytree(REPO / "data/tiny/CIRR", tmp_path / "data/CIRR")
    for image in (tmp_path / "data").rglob("*.png"):
        image.unlink()
    found = lacking(*setting(data_root=tmp_path / "data"))
    assert "images of the gallery missing" in found["CIRR"]


class Engine(EngineClass):
    def __init__(self, known: bool = True):
        self.known, self.loads = known, 0

    @property
    def identity(self) -> dict[str, Any]:
        if not self.known:
            raise UserError("nowhere")
        return {"model": "stand-in"}

    def answer(self, request: Request) -> Response:
        return Response("yes")


def test_what_is_cached_needs_no_look(
    tmp_path: Path, setting: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    monkeypatch.setattr(preflight, "examine", lambda *_: looked.append(1) or [])
    with Cache.open(tmp_path / "c.sqlite") as cache:
        collect(Cached(Engine(), cache), [Request("held")])
        before = Preflight(*setting()).before
        collect(Cached(before(Engine()), cache), [Request("held")])
        assert not looked
        collect(Cached(before(Engine()), cache), [Request("held"), Request("new")])
        collect(Cached(before(Engine()), cache), [Request("newer")])
        assert looked == [1]  # once a run
        with pytest.raises(UserError, match="nowhere"):
            collect(Cached(Preflight(*setting()).before(Engine(False)), cache), [Request("held")])
        assert looked == [1, 1]


def test_an_encoder_that_needs_no_checkpoint_is_not_looked_for(
    setting: Callable[..., tuple[RunConfig, Benchmark]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry("encoder", {"drawn": f"{__name__}:Drawn"})
    monkeypatch.setattr(encoders, "ENCODERS", registry)
    models = model_set(tmp_path, encoder={"model": "no/such-model", "library": "drawn"})
    checks = examine(*setting(models))
    assert not [check for check in checks if check.state == "missing"]
    assert memory(setting(models)[0].models.encoder) == "needs no weights"
