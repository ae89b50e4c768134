"""`imagescope tiny train` and `imagescope tiny evaluate`: all five checkpoints, and a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from imagescope.errors import UserError
from imagescope.terminal import table

ROLES = ("encoder", "captioner", "reasoner", "verifier", "evaluator")


def train_all(
    out: Path, only: Sequence[str] | None = None, *, threads: int = 2, seed: int = 0
) -> None:
    """Trains the checkpoints of the roles (`only`: some of them) from nothing and writes each to
    out/<role>; then prints their figures on held-out scenes."""
    roles, minutes = _roles(only), {}
    for role in roles:
        start = time.monotonic()
        train: Callable[..., None] = _function("train", role)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}")
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as bars:
            train(out / role, seed=seed, threads=threads, progress=_shown(bars, role))
        minutes[role] = (time.monotonic() - start) / 60
        Console().print(f"{role}: trained in {minutes[role]:.1f} min, written to {out / role}")
    evaluate_all(out, roles, threads=threads, minutes=minutes)


def evaluate_all(
    models: Path,
    only: Sequence[str] | None = None,
    *,
    threads: int = 2,
    minutes: dict[str, float] | None = None,
) -> dict[str, dict[str, float]]:
    """Measures the checkpoints models/<role> on scenes of the benchmarks, prints a table (with the
    minutes that training took, where known) and returns the figures."""
    roles = _roles(only)
    for role in roles:
        if not (models / role / "config.json").is_file():
            raise UserError(
                f"{models / role}: no checkpoint there; `imagescope tiny train {models} "
                f"--only {role}` makes it"
            )
    figures: dict[str, dict[str, float]] = {}
    rows = []
    for role in roles:
        measure: Callable[..., dict[str, float]] = _function("evaluate", role)
        figures[role] = dict(measure(models / role, threads=threads))
        lines = list(figures[role].items())
        if minutes and role in minutes:
            lines.append(("minutes of training", minutes[role]))
        for i, (name, value) in enumerate(lines):
            figure = f"{value:.0f}" if value > 1 and float(value).is_integer() else f"{value:.3f}"
            rows.append(["" if i else role, name.replace("_", " "), figure])
    title = f"{models}: on held-out scenes"
    Console().print(table("checkpoint", "figure", "value", rows=rows, title=title, words=2))
    return figures


def _roles(only: Sequence[str] | None) -> list[str]:
    unknown = sorted(set(only or ()) - set(ROLES))
    if unknown:
        raise UserError(f"no such checkpoint: {', '.join(unknown)}; there are {', '.join(ROLES)}")
    return [role for role in ROLES if not only or role in only]


def _function(verb: str, role: str) -> Callable[..., Any]:  # imported late: torch takes seconds
    function: Callable[..., Any] = getattr(
        import_module(f"imagescope_tiny.{role}"), f"{verb}_{role}"
    )
    return function


def _shown(bars: Progress, role: str) -> Callable[[str, int, int, float], None]:
    """A learning.Progress that draws a bar for each thing that is trained."""
    tasks = {}

    def progress(what: str, step: int, steps: int, loss: float) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(f"{role}: {what}", total=steps, loss="")
        bars.update(tasks[what], completed=step, loss=f"loss {loss:.4f}")

    return progress
