"""What a run came to, as its last words on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from imagescope.engines.failures import warnings
from imagescope.methods.base import stage_numbers
from imagescope.records import Estimate
from imagescope.runs.result import COUNTS, HIDDEN, Result
from imagescope.terminal import say, table


def print_summary(result: Result, console: Console) -> None:
    """Two tables and the folder's path."""
    metrics = {
        stage: {k: v for k, v in found.items() if isinstance(v, Estimate)}
        for stage, found in result.metrics.items()
        if isinstance(found, Mapping)
    }
    names = list(dict.fromkeys(name for found in metrics.values() for name in found))
    if names:
        rows = [
            [name, *(f"{m[name]:.1f}" if name in m else "" for m in metrics.values())]
            for name in names
        ]
        console.print(table("metric", *metrics, rows=rows))
        console.print("percent (BRI: nats), with 95 % bootstrap intervals over queries")
    else:
        console.print(HIDDEN)
    costs, numbers = list[list[str]](), stage_numbers(result.stages)
    for step in sorted(result.steps, key=lambda name: numbers.get(name, 0)):
        cost = result.steps[step]
        counts = [cost.wanted, *(getattr(cost, name) for name in COUNTS)]
        name = f"{numbers.get(step, ' ')} {step}"
        costs.append([name, f"{cost.seconds:.1f}", *(f"{count:,}" for count in counts)])
    costs.append(["  in all", f"{result.seconds:.1f}"])
    columns = ("step", "s", "requests", *COUNTS)  # of 80 characters
    console.print(table(*columns, rows=costs, whole=columns))
    for message in warnings(result.steps):
        say(console, f"warning: {message}")
    for file in result.files:
        say(console, f"submission: {file}")
    say(console, f"run folder: {result.folder}")
