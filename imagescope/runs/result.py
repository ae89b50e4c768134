"""What a run came to, and its lines in output.log."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagescope.engines.role import Step
from imagescope.methods.base import Stage
from imagescope.records import Estimate, Trace

details = logging.getLogger("imagescope.details")  # for output.log; a terminal shows the tables
HIDDEN = "the targets of this split are hidden: the submission files are the result"
COUNTS = ("cached", "asked", "unread", "refused", "errors")  # of a Step, beside the requests


@dataclass
class Result:
    """What a run came to. `steps` says what each cost, in the order they ran; `images` where the
    gallery's lie, for its page; `stages` those of its method; `image_db` where the gallery's part
    of the image database lies (None: a replay has none)."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    traces: list[Trace]
    steps: dict[str, Step]
    seconds: float
    files: list[Path] = field(default_factory=list)
    images: Mapping[str, Path] = field(default_factory=dict)
    stages: Sequence[Stage] = ()
    image_db: Path | None = None


def log_summary(
    metrics: Mapping[str, Mapping[str, Any]],
    steps: Mapping[str, Step],
    fallbacks: Mapping[str, int],
    loads: Mapping[str, int],
) -> None:
    """The lines of output.log: the counts of the table, tokens and times, and all metrics."""
    for name, step in steps.items():
        counts = ", ".join(f"{getattr(step, part)} {part}" for part in COUNTS)
        details.info(
            f"{name}: {step.wanted} requests, {step.duplicates} duplicates, {counts}, "
            f"{step.unreadable} without a readable image; {step.prompt_tokens} tokens in, "
            f"{step.output_tokens} out; {step.seconds:.1f} s (model {step.model_seconds:.1f}, "
            f"loading {step.load_seconds:.1f})"
        )
    for name, count in loads.items():
        details.info("%s loaded %d time%s", name, count, "" if count == 1 else "s")
    for kind, count in fallbacks.items():
        details.info("fallback, %s: %d", kind, count)
    for stage, scores in metrics.items():
        details.info("%s", stage)
        for name, value in scores.items():
            for label, estimate in _flat(name, value):
                details.info(f"{label}: {estimate:.2f}")


def _flat(name: str, value: Any) -> Iterator[tuple[str, Estimate]]:
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield from _flat(f"{name} {inner}", part)
    elif isinstance(value, Estimate):
        yield name, value
