"""The doctor: every finding, without a network and without ever failing itself."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from rich.console import Console

from imagescope import benchmarks
from imagescope.benchmarks.base import Benchmark, without_missing
from imagescope.config import ROLES, load_models
from imagescope.errors import UserError
from imagescope.records import Gallery, Query
from imagescope.runs import doctor as room
from imagescope.runs.doctor import Check, doctor, examine


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the doctor went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(room, "OPTIONAL", {"json": ("json", "a stand-in", "")})
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)


@pytest.fixture
def checks(tmp_path: Path) -> Callable[..., dict[str, Check]]:
    def look(root: Path = tmp_path, models: str = "paper") -> dict[str, Check]:
        return {check.name: check for check in examine(root, models)}

    return look


def benchmark(name: str, folder: Path, present: int, listed: int) -> Benchmark:
    files = {f"{i}.jpg": folder / f"{i}.jpg" for i in range(listed)}
    for path in list(files.values())[:present]:
        path.touch()
    queries = tuple(Query(str(i), "x") for i in range(3))
    gallery = Gallery(tuple(files), files)
    return without_missing(Benchmark(benchmarks.spec(name), "val", queries, gallery))


def test_a_bare_machine(tmp_path: Path) -> None:
    text = io.StringIO()
    assert doctor(tmp_path, "paper", Console(file=text)) is False
    said = text.getvalue()
    assert f"git clone -b cirr_dataset https://github.com/Cuberick-Orion/CIRR {tmp_path}" in said
    assert "hf download llava-hf/llava-v1.6-vicuna-7b-hf\n" in said
    assert "python" in said.lower() and torch.__version__ in said
    revision = load_models("paper").evaluator.revision
    assert f"hf download OpenGVLab/InternVL2-8B --revision {revision}" in said


def test_datasets_in_place_and_images_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: Callable[..., dict[str, Check]]
) -> None:
    for name in ("CIRR", "CIRCO", "VisDial"):
        (tmp_path / name).mkdir()

    def load(name: str, root: Path, split: str, **_: Any) -> Benchmark:
        assert root == tmp_path
        if name == "VisDial" or split == "test":
            raise UserError(f"{name} {split}: no such file\nsecond line")
        return benchmark(name, tmp_path / name, present=2, listed=2 if name == "CIRR" else 5)

    monkeypatch.setattr(benchmarks, "load", load, raising=False)
    found = checks()
    assert (found["CIRR"].state, found["CIRR"].text) == ("ok", "val: 3 queries, 2 images")
    assert found["CIRCO"].state == "optional" and "3 images missing" in found["CIRCO"].text
    assert found["VisDial"].text == "VisDial val: no such file"
    assert found["MSCOCO"].state == "optional"  # one benchmark is enough to work with


def test_where_no_data_are_scenes_can_be_drawn(
    tmp_path: Path, checks: Callable[..., dict[str, Check]]
) -> None:
    remedy = f"imagescope tiny make {tmp_path / 'tiny'}"
    assert checks(tmp_path / "tiny")["drawn scenes"].remedy == remedy


def test_the_tiny_set_without_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: Callable[..., dict[str, Check]]
) -> None:
    """As where the wheel alone is installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imagescope.models.checkpoints.checkpoint_folders", lambda m: [Path(m)])
    found = checks(models="tiny")
    for role in (*ROLES, "encoder"):
        assert found[role].state == "missing"
        assert "no such checkpoint folder: data/tiny/models/" in found[role].text
        assert "come with a clone and with imagescope-tiny" in found[role].text


@pytest.mark.parametrize("token", [None, "hf_secret"], ids=["without", "with"])
def test_gated_models(
    token: str | None,
    monkeypatch: pytest.MonkeyPatch,
    checks: Callable[..., dict[str, Check]],
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    found = checks()
    for role in ("reasoner", "verifier"):
        assert ("no hub login" in found[role].text) == (token is None)
        assert "accept https://huggingface.co/" in found[role].remedy
    assert "login" not in found["captioner"].text + found["evaluator"].text
    assert all("hf_secret" not in check.text + check.remedy for check in found.values())


def test_one_checkpoint_for_four_roles_is_one_finding(
    checks: Callable[..., dict[str, Check]],
) -> None:
    assert "captioner, reasoner, verifier, evaluator" in checks(models="modern")


def test_a_half_downloaded_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checks: Callable[..., dict[str, Check]]
) -> None:
    config = tmp_path / "config.json"
    config.write_text("{}")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: str(config))
    found = checks()["captioner"]
    assert found.state == "missing" and "no weights" in found.text


def test_what_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise OSError("libcudart.so: cannot open shared object file\nmore")

    def no_driver() -> int:
        raise RuntimeError("driver too old")

    monkeypatch.setattr(room, "import_module", broken)
    monkeypatch.setattr(torch.cuda, "device_count", no_driver)
    every = list(examine(Path(), "paper"))
    assert any("libcudart.so" in c.text and c.state == "missing" for c in every)
    assert any("driver too old" in c.text and c.state == "missing" for c in every)


def test_gpus_and_their_memory(
    monkeypatch: pytest.MonkeyPatch, checks: Callable[..., dict[str, Check]]
) -> None:
    card = SimpleNamespace(name="A Card", total_memory=24 << 30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (20 << 30, 24 << 30))
    assert checks()["GPU 0"].text == "A Card, 24 GiB, 20 free"


def test_an_unknown_model_set_is_a_finding(checks: Callable[..., dict[str, Check]]) -> None:
    assert checks(models="no-such-set")["no-such-set"].state == "missing"
