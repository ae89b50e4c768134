"""What this machine computes with, found without importing torch; and with how many threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from imagescope.config import ModelConfig
from imagescope.models.checkpoints import fingerprint, read_config, remember, user_cache

SMALL = 20_000_000  # parameters
PROBE = (
    "from vllm import LLM; from vllm.platforms import current_platform as here; "
    "raise SystemExit(not here.device_type)"
)


def vllm_works() -> bool:
    """Whether vLLM is installed, imports, and knows a device here. Found by trying, in a process
    of its own, once for an installation: the answer is remembered in the user's cache."""
    spec = find_spec("vllm")
    if spec is None or not spec.origin:
        return False
    installed = [spec.origin, os.stat(spec.origin).st_mtime_ns, bool(visible_gpus())]
    memory = user_cache() / "vllm.json"
    try:
        answer = json.loads(memory.read_text())
        if answer["installed"] == installed:
            return bool(answer["works"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=False)
    remember(memory, {"installed": installed, "works": probe.returncode == 0})
    return probe.returncode == 0


def import_transformers() -> Any:
    """transformers, without scikit-learn: where that is installed (sentence-transformers brings
    it), it would be imported for assisted decoding, which is not used here: a third of a cold
    start."""
    hidden = "sklearn" not in sys.modules
    if hidden:
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        import transformers
        import transformers.generation.utils
    finally:
        if hidden:
            del sys.modules["sklearn"]
    return transformers


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
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sorted(present, key=int)
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[: names.index("-1")] if "-1" in names else names


def resolve_dtype(config: ModelConfig, on_gpu: bool | None = None) -> str:
    """The dtype a model runs in: what is asked for; 'auto' is the checkpoint's own on a GPU and
    float32 on the CPU, where batches must not change answers. on_gpu: None: as this machine is."""
    if config.dtype != "auto":
        return config.dtype
    if not (bool(visible_gpus()) if on_gpu is None else on_gpu):
        return "float32"
    described = read_config(config.model, config.revision)
    text: dict[str, Any] = described.get("text_config") or described.get("llm_config") or {}
    for part in (described, text):
        if dtype := part.get("dtype") or part.get("torch_dtype"):
            return str(dtype).removeprefix("torch.")
    return "bfloat16"


def optional(config: ModelConfig) -> dict[str, Any]:
    """What an identity holds only where it was asked for, so that others are as they were before
    there was such a setting."""
    names = ("chat_template_options", "deterministic")
    return {name: value for name in names if (value := getattr(config, name))}


def identity(kind: str, config: ModelConfig, on_gpu: bool | None = None) -> dict[str, Any]:
    """Everything about a local model that determines its answers, JSON-able."""
    return {
        "engine": kind,
        **fingerprint(config.model, config.revision),
        "dtype": resolve_dtype(config, on_gpu),
        "quantization": config.quantization,
        "template": config.template,
        "max_model_len": config.max_model_len,
        **optional(config),
    }


@contextmanager
def transformers_quiet() -> Iterator[None]:
    """While the block lasts, transformers warns of nothing and shows no progress."""
    logging = import_transformers().logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def threads_for(parameters: int) -> Iterator[None]:
    """While the block lasts, torch computes on one thread where a model has fewer than SMALL
    parameters, else on as many as before.

    Threads wait for one another after every operation. A small model's operations are short: a
    second thread brings nothing on a quiet machine, and beside other work each waits for the
    other's turn. The setting is the calling thread's, and that of threads it starts meanwhile.
    """
    import torch

    usual = torch.get_num_threads()
    if parameters < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
