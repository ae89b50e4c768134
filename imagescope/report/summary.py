"""What a run came to, as its last words on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from imagescope.engines.failures import warnings
from imagescope.methods.base import stage_numbers
from imagescope.records import Estimate
from imagescope.runs.result import COUNTS, HIDDEN, Result


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
            table.add_row(name, *(f"{m[name]:.1f}" if name in m else "" for m in metrics.values()))
        console.print(table)
        console.print("percent (BRI: nats), with 95 % bootstrap intervals over queries")
    else:
        console.print(HIDDEN)
    costs = Table("stage", "step", "seconds", "requests", *COUNTS, box=None, padding=(0, 2, 0, 0))
    for column in costs.columns[2:]:
        column.justify = "right"
    numbers = stage_numbers(result.stages)
    for step in sorted(result.steps, key=lambda name: numbers.get(name, 0)):
        cost = result.steps[step]
        counts = [cost.wanted, *(getattr(cost, name) for name in COUNTS)]
        costs.add_row(
            str(numbers.get(step, "")), step, f"{cost.seconds:.1f}", *(f"{n:,}" for n in counts)
        )
    costs.add_row("", "in all", f"{result.seconds:.1f}")
    console.print(costs)
    for message in warnings(result.steps):
        console.print(f"warning: {message}", soft_wrap=True, highlight=False, markup=False)
    for file in result.files:
        console.print(f"submission: {file}", soft_wrap=True, highlight=False)
    console.print(f"run folder: {result.folder}", soft_wrap=True, highlight=False)
