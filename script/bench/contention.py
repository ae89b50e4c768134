"""The demo's run on a quiet machine and beside busy loops: how much other work slows it down.

Every measurement is a cold run of tiny CIRR in a process of its own, with a response cache and an
image database of its own. Quiet and busy runs take turns. A busy loop is a process that computes
without a pause: two of them on two cores leave the run half of the processor, so that twice the
quiet time is what fair sharing costs.

    python script/bench/contention.py --json contention.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from end_to_end import REPO, timed
from rich.console import Console
from rich.table import Table

# Ends with its parent too: should this program be killed, nothing is left behind.
SPIN = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Processes that compute without a pause, for as long as the block lasts."""
    loops = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def cold_run(options: list[str]) -> float:
    """Wall seconds of one run that finds nothing in its cache."""
    with tempfile.TemporaryDirectory() as folder:
        return float(timed(Path(folder), "cold", options)["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/CIRR.yaml")
    parser.add_argument("--data-root", default=str(REPO / "data" / "tiny"))
    parser.add_argument("--models", default="tiny")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="only the first so many queries")
    parser.add_argument("--loops", type=int, default=2, help="busy loops beside a run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    options = [
        *(args.config, "--data-root", args.data_root, "--models", args.models),
        *("--engine", args.engine, "--split", args.split),
    ]
    if args.limit:
        options += ["--limit", str(args.limit)]
    quiet, busy = [], []
    for _ in range(args.repeats):
        quiet.append(cold_run(options))
        with busy_loops(args.loops):
            busy.append(cold_run(options))
    ratio = median(busy) / median(quiet)
    table = Table("run", "seconds, median", "least", "most")
    for name, seconds in (("quiet", quiet), (f"beside {args.loops} busy loops", busy)):
        table.add_row(name, *(f"{f(seconds):.1f}" for f in (median, min, max)))
    console = Console()
    console.print(table)
    console.print(f"beside busy loops / quiet: {ratio:.2f}")
    if args.json:
        figures = {"loops": args.loops, "quiet": quiet, "busy": busy, "ratio": ratio}
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
