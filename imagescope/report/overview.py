"""Several runs in one table: each benchmark's main metric by stage."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from imagescope import benchmarks
from imagescope.errors import UserError
from imagescope.records import Estimate
from imagescope.registry import BENCHMARKS
from imagescope.runs.folder import read_metrics
from imagescope.runs.manifest import Manifest
from imagescope.terminal import table

log = logging.getLogger("imagescope")


def newest(runs: Path, name: str = "default") -> list[Path]:
    """The newest finished run of that name of each benchmark below a runs folder."""
    found = []
    for benchmark in BENCHMARKS:
        finished = [
            path
            for path in runs.glob(f"{benchmark}/{name}/*/manifest.json")
            if Manifest.read(path.parent, lenient=True).finished
        ]
        if finished:
            found.append(max(finished, key=lambda path: path.stat().st_mtime).parent)
    if not found:
        raise UserError(f"{runs}: no finished run named {name}")
    return found


def print_overview(folders: Sequence[Path], console: Console) -> None:
    """A row a run: its main metric by stage, in percent with 95 % intervals; 'hidden' where the
    targets are."""
    rows = []
    for folder in folders:
        try:
            rows.append(_row(folder))
        except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s is left out: not a finished run's folder (%s)", folder, error)
    if not rows:
        raise UserError("no finished run among these folders")
    stages = [f"stage {i}" for i in range(1, max(map(len, rows)) - 4)]
    names = ("benchmark", "split", "method", "queries", "metric")
    whole = ("benchmark", "metric")
    console.print(table(*names, *stages, rows=rows, words=len(names), whole=whole))


def _row(folder: Path) -> list[str]:
    manifest, metrics = Manifest.read(folder), read_metrics(folder)
    dataset = manifest.config["dataset"]
    stages = [scores for scores in metrics.values() if isinstance(scores, dict)]
    names = benchmarks.spec(dataset).headline
    main = next((name for name in names if name in stages[0]), "hidden")
    values = [scores.get(main) for scores in stages]
    cells = [f"{value:.1f}" if isinstance(value, Estimate) else "" for value in values]
    split, queries = manifest.config["split"], f"{manifest['benchmark']['queries']:,}"
    return [dataset, split, manifest.method.name, queries, main, *cells]
