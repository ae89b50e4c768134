"""What this machine computes with, found without importing torch."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from imagescope.checkpoints import read_config
from imagescope.config import ModelConfig


@lru_cache(maxsize=1)
def _gpu_build() -> bool:
    """Whether the installed torch can use a GPU at all."""
    try:
        return "+cpu" not in version("torch")
    except PackageNotFoundError:
        return False


def visible_gpus() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves visible, as it names them; [] on the CPU."""
    present = [path.name[len("nvidia") :] for path in Path("/dev").glob("nvidia[0-9]*")]
    if not present and Path("/dev/dxg").exists():
        present = ["0"]  # Windows' Linux
    if not present or not _gpu_build():
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return sorted(present, key=int)
    named = [name.strip() for name in chosen.split(",") if name.strip()]
    return named[: named.index("-1")] if "-1" in named else named


def resolve_dtype(config: ModelConfig) -> str:
    """The dtype a model runs in: what is asked for; 'auto' is the checkpoint's own on a GPU and
    float32 on the CPU, where batches must not change answers."""
    if config.dtype != "auto":
        return config.dtype
    if not visible_gpus():
        return "float32"
    found = read_config(config.model, config.revision)
    text: dict[str, Any] = found.get("text_config") or found.get("llm_config") or {}
    for part in (found, text):
        if dtype := part.get("dtype") or part.get("torch_dtype"):
            return str(dtype).removeprefix("torch.")
    return "bfloat16"


def identity(kind: str, config: ModelConfig) -> dict[str, Any]:
    """Everything about a local model that determines its answers, JSON-able."""
    from imagescope.checkpoints import fingerprint

    return {
        "engine": kind,
        **fingerprint(config.model, config.revision),
        "dtype": resolve_dtype(config),
        "quantization": config.quantization,
        "template": config.template,
        "max_model_len": config.max_model_len,
    }
