"""Where a checkpoint is, whether it is all there, and what identifies it.

A checkpoint is a local folder (from the working folder, else from the repository) or a hub id.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from imagescope.config import checkpoint_folders
from imagescope.errors import UserError
from imagescope.files import parse_json, write_json

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
CONFIGS = ("config.json", "open_clip_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
WEIGHTS = "*.safetensors"
# weights that can run code when they are opened: never opened, and not downloaded either
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
# what a download need not bring: other frameworks' copies of the weights
FOREIGN = ["*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.ot", "original/*", "onnx/*", "*.tflite"]
HEADER = 100 << 20  # bytes; safetensors' own limit
LARGE = 64 << 20  # bytes; hashes of larger files are remembered between runs


def locate(model: str) -> str:
    """The folder of a local checkpoint, or the hub id as it is.

    Raises UserError for a folder that is missing or half-downloaded; a hub id is not looked up.
    """
    folders = checkpoint_folders(model)
    for folder in folders:
        if folder.is_dir():
            if lacks := problems(folder):
                raise UserError(
                    f"{folder}: the checkpoint is incomplete: {'; '.join(lacks)}. Download it "
                    f"again (hf download OWNER/NAME --local-dir {folder}); the tiny ones come with "
                    "the repository (git checkout -- data/tiny/models)."
                )
            return str(folder)
    local = not HUB_ID.fullmatch(model) or model.split("/")[0] in (".", "..")
    if local or ("/" in model and any(folder.parent.is_dir() for folder in folders)):
        raise UserError(
            f"no such checkpoint folder: {model} (looked from {Path.cwd()}). A hub checkpoint is "
            "named OWNER/NAME; the tiny ones come with a clone and with imagescope-tiny."
        )
    return model


def on_disk(source: str, revision: str | None = None) -> Path | None:
    """The folder of a located checkpoint: its own, or that in the hub's cache, which need not be
    whole; None where nothing of it is here."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def fingerprint(model: str, revision: str | None = None) -> dict[str, str]:
    """What identifies a checkpoint's content, cheaply: no weights of a hub checkpoint are read.

    A hub id: {"model": id, "revision": commit}. A local folder: {"sha256": hash of the names and
    contents of its files}. Raises UserError where neither disk nor hub has it.
    """
    source = locate(model)
    if not Path(source).is_dir():
        return {"model": source, "revision": _snapshot(source, revision).name}
    folder, digest = Path(source), hashlib.sha256()
    remembered, large = _remembered(folder), {}
    for path in _files(folder):
        name, stat = path.relative_to(folder).as_posix(), path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        if stat.st_size > LARGE and remembered.get(name, [])[:2] == stamp:
            content = remembered[name][2]
        else:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        if stat.st_size > LARGE:
            large[name] = [*stamp, content]
        digest.update(f"{name}\0{content}\n".encode())
    if large and large != remembered:
        remember(_hash_file(folder), large)
    return {"sha256": digest.hexdigest()}


def _files(folder: Path) -> Iterator[Path]:
    """What determines a checkpoint's answers: everything but hidden files and documents."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix != ".md":
            yield path


def user_cache() -> Path:
    """Where this user's programs keep what can be found out again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagescope"


def _hash_file(folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return user_cache() / "checkpoints" / f"{name}.json"


def _remembered(folder: Path) -> dict[str, list[Any]]:
    try:
        hashes = parse_json(_hash_file(folder).read_bytes())
    except (OSError, ValueError):
        return {}
    return hashes if isinstance(hashes, dict) else {}


def remember(path: Path, value: Any) -> None:
    """Writes JSON; where that is not possible, the next run finds it out again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value, indent=None, durable=False)


def problems(folder: Path) -> list[str]:
    """What a checkpoint folder lacks to be loaded; empty where it is whole."""
    lacks = []
    if not any((folder / name).is_file() for name in CONFIGS):
        lacks.append("no config.json")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        lacks.append("no tokenizer (tokenizer.json or tokenizer.model)")
    shards: set[str] = set()
    for index in folder.glob(f"{WEIGHTS}.index.json"):
        try:
            shards |= {str(name) for name in parse_json(index.read_bytes())["weight_map"].values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            lacks.append(f"{index.name} is damaged")
    weights = {path.name for path in folder.glob(WEIGHTS)}
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    lacks += [f"no {name}, which the index names" for name in sorted(shards - weights)]
    if not weights and not shards:
        lacks.append(f"no weights ({WEIGHTS}{_PICKLED.format(pickles[0]) if pickles else ''})")
    for name in sorted(weights):
        if name.endswith(".safetensors") and (why := _damage(folder / name)):
            lacks.append(f"{name} {why}")
    return lacks


def _damage(path: Path) -> str:
    """What is wrong with a safetensors file, judged by its header and size alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            return "is only a Git LFS pointer (git lfs pull)"
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        try:
            header = parse_json(file.read(length) if length < min(size, HEADER) else b"")
            ends = [int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "is truncated or no safetensors file"
    return "" if 8 + length + max(ends, default=0) == size else "is truncated"


_PICKLED = (
    "; {} is a pickle, which can run code when it is opened, so it is not: take a revision that "
    "has safetensors, or convert it, https://huggingface.co/spaces/safetensors/convert"
)


def fetch(model: str, revision: str | None = None, trusted: bool = False) -> str:
    """The folder from which a checkpoint is loaded; downloads what the hub's cache lacks.

    trusted: the code in the folder will run. Raises UserError where it names code that lies
        elsewhere, which no revision of this checkpoint pins, and where the checkpoint cannot be
        had, naming the command that brings it.
    """
    folder = _fetch(locate(model), revision)
    if trusted and (names := _code_elsewhere(Path(folder))):
        raise UserError(
            f"{model}: its code lies in another repository ({', '.join(names)}), in a version that "
            "can change any time. Copy the code into a folder of your own with the checkpoint, "
            "and name it without the repository in its *.json (auto_map)."
        )
    return folder


def _code_elsewhere(folder: Path) -> list[str]:
    """Classes that a checkpoint's files take from other repositories: OWNER/NAME--module.Class."""
    names = []
    for path in folder.glob("*config.json"):
        with suppress(OSError, ValueError):
            content = parse_json(path.read_bytes())
            entries = content.get("auto_map") if isinstance(content, dict) else None
            for value in entries.values() if isinstance(entries, dict) else [entries]:
                names += [str(v) for v in (value if isinstance(value, list) else [value])]
    return sorted({name for name in names if "--" in name})


def _fetch(source: str, revision: str | None) -> str:
    if Path(source).is_dir():
        return source
    folder = _snapshot(source, revision)
    if problems(folder):
        from huggingface_hub import snapshot_download

        ignored = [*FOREIGN, *PICKLES]
        try:
            folder = Path(snapshot_download(source, revision=folder.name, ignore_patterns=ignored))
        except Exception as error:
            raise _unavailable(source, error) from None
        if lacks := problems(folder):
            raise UserError(
                f"{source}: the download is incomplete: {'; '.join(lacks)}. (Weights that are only "
                f"pickles, {', '.join(PICKLES)}, can run code when they are opened and are not "
                "fetched: take a revision that has safetensors.)"
            )
    return str(folder)


def read_config(model: str, revision: str | None = None) -> dict[str, Any]:
    """A checkpoint's config.json."""
    folder = _snapshot(locate(model), revision)
    try:
        config = parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'}: not a checkpoint's configuration")
    return config


def _snapshot(source: str, revision: str | None) -> Path:
    """The folder of a located checkpoint, a hub cache's named by its commit; fetches config.json
    where nothing of it is here."""
    if folder := on_disk(source, revision):
        return folder
    from huggingface_hub import hf_hub_download, model_info

    try:
        model_info(source, revision=revision, timeout=10)  # fails at once, without retries
        return Path(hf_hub_download(source, "config.json", revision=revision)).parent
    except Exception as error:
        raise _unavailable(source, error) from None


def available(model: str, revision: str | None = None) -> int:
    """Bytes that a hub checkpoint's download takes. Raises UserError where it cannot be had."""
    from huggingface_hub import auth_check, model_info

    try:
        info = model_info(model, revision=revision, timeout=10, files_metadata=True)
        auth_check(model)  # a gated one's facts are public, its files are not
    except Exception as error:
        raise _unavailable(model, error) from None
    names = [s for s in info.siblings or () if s.rfilename.endswith((".safetensors", ".json"))]
    return sum(sibling.size or 0 for sibling in names if "/" not in sibling.rfilename)


def _unavailable(model: str, error: Exception) -> UserError:
    """The hub's exceptions, in words that say what to do."""
    from huggingface_hub import errors as hub

    page = f"https://huggingface.co/{model}"
    if isinstance(error, hub.GatedRepoError):
        why = f"it is gated: accept its licence at {page} and log in (hf auth login)"
    elif isinstance(error, hub.RevisionNotFoundError):
        why = "the hub has no such revision"
    elif isinstance(error, hub.RepositoryNotFoundError):
        why = "neither a local folder nor a checkpoint on the hub (or private: hf auth login)"
    else:
        why = (
            "it is not in the local cache and the hub cannot be reached. Where there is a network: "
            f"hf download {model}; then copy its cache (HF_HOME) or folder here"
        )
    return UserError(f"cannot get checkpoint {model}: {why}.")
