"""A set of models, made fit for an index: for any working folder, for one GPU, for who waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from imagescope.config import (
    PACKAGE,
    EncoderConfig,
    ModelConfig,
    ModelSet,
    checkpoint_folders,
    config_path,
)
from imagescope.engines import is_remote
from imagescope.errors import UserError
from imagescope.models.checkpoints import WEIGHTS, locate, on_disk
from imagescope.models.device import resolve_dtype
from imagescope.runs.preflight import Check, checkpoints

SHARE = 0.9  # of a GPU's memory, for all roles together


def portable(models: ModelSet, prompts: str) -> tuple[ModelSet, str]:
    """The same models and prompts, nameable from any working folder."""
    update = {}
    for role in (*models.roles, "encoder"):
        config = getattr(models, role)
        model = Path(config.model).expanduser()
        if model.is_dir() and not any(f.is_dir() for f in checkpoint_folders(model)[1:]):
            update[role] = config.model_copy(update={"model": str(model.resolve())})
    folder = config_path(prompts, "prompts").resolve()
    own = [(root / "configs").resolve() for root in (PACKAGE, PACKAGE.parent)]
    packaged = any(folder.is_relative_to(root) for root in own)
    return models.model_copy(update=update), folder.name if packaged else str(folder)


def impatient(models: ModelSet) -> ModelSet:
    """The same models for somebody who waits: an endpoint's silence is not waited for again."""
    update = {}
    for name in models.roles:
        role = models.role(name)
        calm = {"retry_timeouts": False, "retries": min(role.retries, 2)}
        update[name] = role.model_copy(update=calm)
    return models.model_copy(update=update)


def share_memory(models: ModelSet) -> ModelSet:
    """The same models, each engine with its share of one GPU's memory.

    Shares go by the size of the checkpoints where they are folders, else all alike; roles with the
    same checkpoint have one engine and one share, those behind an endpoint none.
    """
    here = [name for name in models.roles if not is_remote(models.role(name))]
    sizes = {models.role(name).model: _size(models.role(name).model) for name in here}
    sized = all(sizes.values())
    total = sum(sizes.values()) if sized else len(sizes)
    update = {}
    for name in here:
        role = models.role(name)
        share = SHARE * (sizes[role.model] if sized else 1) / total
        update[name] = role.model_copy(update={"gpu_memory_utilization": round(share, 3)})
    return models.model_copy(update=update)


def _size(model: str) -> int:
    """Bytes of a local checkpoint's weights and of room to compute in; 0 where it is not known."""
    for folder in checkpoint_folders(model):
        if weights := sum(path.stat().st_size for path in folder.glob("*.safetensors")):
            return weights + (2 << 30)
    return 0


def requirements(
    models: Iterable[tuple[str, ModelConfig | EncoderConfig]],
) -> Iterator[tuple[Check, str]]:
    """Of each checkpoint of (role, configuration) pairs whether it is here, else what the hub says
    of its download; and in words what it takes. Nothing is downloaded."""
    uses: dict[tuple[str, str | None], list[tuple[str, ModelConfig | EncoderConfig]]] = {}
    for role, config in models:
        uses.setdefault((config.model, config.revision), []).append((role, config))
    for group in uses.values():
        for check in checkpoints(group, online=True):
            memory = _memory(group[0][1], check.size)
            needs = f"; about {memory / 1e9:.1f} GB of memory" if memory > 5e7 else ""
            yield check, f"{check.name}: {check.text}{needs}"


def _memory(config: ModelConfig | EncoderConfig, download: int) -> float:
    """Bytes that the weights take where they run, 0 where it is not known: they may be stored in
    16 bits and run in 32."""
    width = {"float32": 4, "float16": 2, "bfloat16": 2}
    try:
        folder = on_disk(locate(config.model), config.revision)
        if folder is None:
            return 0
        plain = ModelConfig(model=config.model, revision=config.revision)
        stored = resolve_dtype(plain, on_gpu=True)
        running = resolve_dtype(config) if isinstance(config, ModelConfig) else config.dtype
    except UserError:
        return 0
    size = download or sum(path.stat().st_size for path in folder.glob(WEIGHTS))
    return size * width.get(running, 4) / width.get(stored, 4)
