"""Several runs in one table: each benchmark's main metric by stage."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from imagescope import benchmarks
from imagescope.errors import UserError
from imagescope.records import STAGES, Estimate
from imagescope.runs.folder import read_metrics
from imagescope.runs.manifest import Manifest

log = logging.getLogger("imagescope")


def newest(runs: Path, name: str = "default") -> list[Path]:
    """The newest finished run of that name of each benchmark below a runs folder."""
    found = []
    for benchmark in benchmarks.SPECS:
        finished = [
            path
            for path in runs.glob(f"{benchmark}/{name}/*/manifest.json")
            if Manifest.read(path.parent, lenient=True).status.startswith("finished")
        ]
        if finished:
            found.append(max(finished, key=lambda path: path.stat().st_mtime).parent)
    if not found:
        raise UserError(f"{runs}: no finished run named {name}")
    return found


def print_overview(folders: Sequence[Path], console: Console) -> None:
    """A row a run: its main metric by stage, in percent with 95 % intervals; 'hidden' where the
    targets are."""
    name, metric = Column("benchmark", no_wrap=True), Column("metric", min_width=10)
    table = Table(name, "split", "queries", metric, *STAGES, show_edge=False)
    for folder in folders:
        try:
            table.add_row(*_row(folder))
        except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("%s is left out: not a finished run's folder (%s)", folder, error)
    if not table.row_count:
        raise UserError("no finished run among these folders")
    console.print(table)


def _row(folder: Path) -> list[str]:
    manifest, metrics = Manifest.read(folder), read_metrics(folder)
    dataset = manifest.config["dataset"]
    names = benchmarks.spec(dataset).headline
    main = next((name for name in names if name in metrics.get("stage1", {})), "hidden")
    values = [metrics.get(stage, {}).get(main) for stage in STAGES]
    cells = [f"{value:.1f}" if isinstance(value, Estimate) else "" for value in values]
    queries = f"{manifest['benchmark']['queries']:,}"
    return [dataset, manifest.config["split"], queries, main, *cells]
