"""What a run came to: printed at its end, and written to output.log in more detail."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from imagescope.engines.failures import warnings
from imagescope.engines.role import Step
from imagescope.records import Estimate, Trace

details = logging.getLogger("imagescope.details")  # for output.log; a terminal shows the tables
HIDDEN = "the targets of this split are hidden: the submission files are the result"
PARTS = {  # step -> its stage; 0 is the image database
    "captions": 0,
    "embedding": 0,
    "synthesis": 1,
    "retrieval": 1,
    "questions": 2,
    "verification": 2,
    "evaluation": 3,
}
COUNTS = ("cached", "asked", "unread", "refused", "errors")  # of a Step, beside the requests


@dataclass
class Result:
    """What a run came to. `steps` says what each cost, in the order they ran."""

    folder: Path
    metrics: dict[str, dict[str, Any]]
    traces: list[Trace]
    steps: dict[str, Step]
    seconds: float
    files: list[Path] = field(default_factory=list)


def print_summary(result: Result, console: Console) -> None:
    """Two tables and the folder's path."""
    metrics = {
        stage: {k: v for k, v in found.items() if isinstance(v, Estimate)}
        for stage, found in result.metrics.items()
        if isinstance(found, Mapping)
    }
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    if names:
        table = Table("metric", *metrics)
        for column in table.columns[1:]:
            column.justify = "right"
        for name in names:
            table.add_row(name, *(_cell(found.get(name)) for found in metrics.values()))
        console.print(table)
        console.print("percent (BRI: nats), with 95 % bootstrap intervals over queries")
    else:
        console.print(HIDDEN)
    costs = Table("stage", "step", "seconds", "requests", *COUNTS, box=None, padding=(0, 2, 0, 0))
    for column in costs.columns[2:]:
        column.justify = "right"
    for step in sorted(result.steps, key=lambda name: list(PARTS).index(name)):
        cost = result.steps[step]
        counts = [cost.wanted, *(getattr(cost, name) for name in COUNTS)]
        costs.add_row(str(PARTS[step]), step, f"{cost.seconds:.1f}", *(f"{n:,}" for n in counts))
    costs.add_row("", "in all", f"{result.seconds:.1f}")
    console.print(costs)
    for message in warnings(result.steps):
        console.print(f"warning: {message}", soft_wrap=True, highlight=False, markup=False)
    for file in result.files:
        console.print(f"submission: {file}", soft_wrap=True, highlight=False)
    console.print(f"run folder: {result.folder}", soft_wrap=True, highlight=False)


def _cell(found: Estimate | None) -> str:
    return f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]" if found else ""


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
    for stage, found in metrics.items():
        details.info("%s", stage)
        for name, value in found.items():
            for label, estimate in _flat(name, value):
                details.info("%s: %.2f [%.2f, %.2f]", label, *estimate)


def _flat(name: str, value: Any) -> Iterator[tuple[str, tuple[float, float, float]]]:
    if isinstance(value, Mapping):
        for inner, found in value.items():
            yield from _flat(f"{name} {inner}", found)
    elif hasattr(value, "low"):
        yield name, (value.value, value.low, value.high)
