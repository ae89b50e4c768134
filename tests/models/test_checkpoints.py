"""Where checkpoints are, what identifies them, and what is said of those that are not whole."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imagescope.config import EncoderConfig
from imagescope.errors import UserError
from imagescope.models import checkpoints
from imagescope.models.checkpoints import fetch, fingerprint, locate, problems, read_config
from imagescope.records import Item


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A folder that has everything a checkpoint needs, as far as can be seen without loading it."""
    folder = tmp_path / "models" / "whole"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama", "dtype": "bfloat16"}')
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(8)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_folder_is_found_from_here_or_from_the_repository(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locate(str(whole)) == str(whole)
    monkeypatch.chdir(tmp_path)
    assert locate("models/whole") == "models/whole"
    monkeypatch.chdir("/")
    monkeypatch.setattr("imagescope.config.PACKAGE", tmp_path / "imagescope")
    assert locate("models/whole") == str(whole)
    assert fetch("models/whole") == str(whole)
    assert read_config("models/whole")["model_type"] == "llama"


def test_a_hub_id_is_left_as_it_is() -> None:
    assert locate("meta-llama/Meta-Llama-3-8B-Instruct") == "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.mark.parametrize("name", ["/no/such", "./here", "a/b/c", "models/other"])
def test_a_folder_that_is_missing(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint folder"):
        locate(name)


def test_what_a_half_downloaded_folder_lacks(whole: Path) -> None:
    assert problems(whole) == []
    weights = (whole / "model.safetensors").read_bytes()

    (whole / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(UserError, match=r"model.safetensors is truncated.*hf download"):
        locate(str(whole))
    (whole / "model.safetensors").write_bytes(weights[:20])
    assert "truncated" in problems(whole)[0]
    (whole / "model.safetensors").write_bytes(b"")
    assert "truncated" in problems(whole)[0]
    (whole / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid x")
    assert "git lfs pull" in problems(whole)[0]

    (whole / "model.safetensors").unlink()
    assert problems(whole) == ["no weights (*.safetensors)"]
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (whole / "model.safetensors.index.json").write_text(json.dumps(index))
    (whole / "model-1.safetensors").write_bytes(weights)
    assert problems(whole) == ["no model-2.safetensors, which the index names"]
    (whole / "model.safetensors.index.json").write_text("{")
    assert problems(whole) == ["model.safetensors.index.json is damaged"]

    (whole / "tokenizer.json").unlink()
    (whole / "config.json").unlink()
    assert [p.split()[1] for p in problems(whole)[:2]] == ["config.json", "tokenizer"]


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "a.ckpt", "a.pkl"])
def test_pickled_weights_are_no_weights(whole: Path, name: str) -> None:
    (whole / name).write_bytes(b"beside safetensors a pickle is left alone")
    (whole / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "gone.bin"}}')
    assert problems(whole) == []
    (whole / "model.safetensors").unlink()
    with pytest.raises(UserError, match=rf"{name} is a pickle.*take a revision.*or convert"):
        locate(str(whole))


class Hostile:
    """What runs when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.file, "ran")


@pytest.mark.parametrize("library", ["transformers", "open_clip", "sentence_transformers"])
def test_no_loader_opens_a_pickle(library: Any, tmp_path: Path) -> None:
    """Alone it is refused; beside safetensors, under the name that a library prefers, it is not
    looked at."""
    import open_clip
    from safetensors.torch import save_file

    from imagescope.encoders.base import open_encoder

    folder, ran = tmp_path / "model", tmp_path / "ran"
    if library != "open_clip":
        shutil.copytree(Path(__file__).parents[2] / "data/tiny/models/encoder", folder)
    else:
        config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64,
                  "patch_size": 16}, "text_cfg": {"context_length": 8, "vocab_size": 49408,
                  "width": 64, "heads": 1, "layers": 1}}  # fmt: skip
        folder.mkdir()
        content = {"model_cfg": config, "preprocess_cfg": {}}
        (folder / "open_clip_config.json").write_text(json.dumps(content))
        (folder / "tokenizer.json").write_text("{}")
        save_file(open_clip.CLIP(**config).state_dict(), folder / "model.safetensors")
    for name in ("pytorch_model.bin", "open_clip_pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(pickle.dumps(Hostile(ran)))
    dog, config = [Item("a dog")], EncoderConfig(model=str(folder), library=library)
    encoder = open_encoder(config)
    assert encoder.embed(dog, "query")[0].shape == (1, encoder.dimension)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is a pickle"):
        open_encoder(config).embed(dog, "query")
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(UserError, match="no safetensors file"):
        open_encoder(config).embed(dog, "query")
    assert not ran.exists()


def test_files_of_a_checkpoint_that_want_to_break_the_reader(whole: Path) -> None:
    deep = b"[" * 100_000
    (whole / "model.safetensors.index.json").write_bytes(deep)
    assert problems(whole) == ["model.safetensors.index.json is damaged"]
    (whole / "model.safetensors.index.json").write_text('{"weight_map": {"a": 1, "b": "x"}}')
    assert problems(whole) == ["no 1, which the index names", "no x, which the index names"]
    (whole / "model.safetensors.index.json").unlink()
    headers = [b'{"w": {"data_offsets": [0, "8"]}, "v": {"data_offsets": [0, []]}}', b"[]", deep]
    for header in headers:
        weights = struct.pack("<Q", len(header)) + header + bytes(8)
        (whole / "model.safetensors").write_bytes(weights)
        assert "model.safetensors is truncated or no safetensors file" in problems(whole)
    (whole / "config.json").write_bytes(deep)
    (whole / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(UserError, match=r"config.json: nested too deep"):
        read_config(str(whole))


def test_trusted_code_does_not_come_from_elsewhere(whole: Path) -> None:
    described = {"auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (whole / "config.json").write_text(json.dumps(described))
    assert fetch(str(whole), trusted=True) == str(whole)
    pair = {"auto_map": {"AutoTokenizer": ["other/code--tokens.Slow", None]}}
    (whole / "tokenizer_config.json").write_text(json.dumps(pair))
    assert fetch(str(whole)) == str(whole)
    with pytest.raises(UserError, match=r"its code lies in another repository .other/code--tokens"):
        fetch(str(whole), trusted=True)


def test_the_fingerprint_is_the_content(whole: Path, tmp_path: Path) -> None:
    first = fingerprint(str(whole))
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy)
    (copy / "README.md").write_text("documents and hidden files answer nothing")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "x").write_text("")
    assert fingerprint(str(copy)) == first
    (copy / "config.json").write_text('{"model_type": "llama", "dtype": "float16"}')
    assert fingerprint(str(copy)) != first
    shutil.copy(whole / "config.json", copy)
    assert fingerprint(str(copy)) == first
    (copy / "tokenizer.json").rename(copy / "vocab.json")
    assert fingerprint(str(copy)) != first


def test_large_files_are_hashed_once(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints, "LARGE", 50)
    first = fingerprint(str(whole))
    file = whole / "model.safetensors"
    stat, content = file.stat(), file.read_bytes()
    file.write_bytes(content[:-1] + b"\x01")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(str(whole)) == first  # remembered by size and time
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert fingerprint(str(whole)) != first


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty, and no network. (The library reads its variables at import.)"""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_hub_id_without_network(offline: Path) -> None:
    for ask in (fingerprint, fetch, read_config):
        with pytest.raises(
            UserError, match=r"owner/name: it is not in the local cache.*hf download"
        ):
            ask("owner/name")


def test_a_hub_id_in_the_cache_is_its_commit(offline: Path, whole: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = offline / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(whole, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert fingerprint("owner/name") == {"model": "owner/name", "revision": commit}
    assert fingerprint("owner/name", commit) == {"model": "owner/name", "revision": commit}
    assert fetch("owner/name") == str(snapshot)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(UserError, match="owner/name"):
        fetch("owner/name")
    with pytest.raises(UserError, match="owner/name"):
        fingerprint("owner/name", "another")


LEAN = """
import sys
from imagescope.models.device import import_transformers
import_transformers().AutoModelForCausalLM
import transformers.models.clip.modeling_clip
assert "sklearn" not in sys.modules
import sklearn  # for others it is there
"""


def test_transformers_comes_without_scikit_learn() -> None:
    pytest.importorskip("sklearn")
    subprocess.run([sys.executable, "-c", LEAN], check=True)
