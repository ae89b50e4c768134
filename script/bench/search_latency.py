"""Searching your own pictures: seconds of a composed query through all stages, and memory.

An index of tiny scenes with the tiny checkpoints is asked queries that it never was asked, each a
picture of the index and a change: in one process whose models are in memory; from the shell, alone
and with a `serve` running; and many times over that `serve`, whose memory is read before and after.

    python script/bench/search_latency.py --json search_latency.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from scenes import composed, draw_scenes

REPO = Path(__file__).parents[2]
STAGES = ("s1", "s2", "s3")
Queries = list[tuple[str, str]]


def resident(queries: Queries) -> dict[str, Any]:
    """One process, models in memory: seconds until each stage's answer. The first query, which
    loads the models, is not counted."""
    from imagescope.own.scope import ImageScope

    times = []
    with ImageScope.open("bench") as scope:
        for reference, text in queries:
            times.append([answer.seconds for answer in scope.stages(text, reference, glance=True)])
    figures: dict[str, Any] = {}
    for stage, seconds in zip(("s0", *STAGES), zip(*times[1:], strict=True), strict=True):
        figures[stage] = {"median": median(seconds), "p90": quantiles(seconds, n=10)[-1]}
    return figures


def from_shell(queries: Queries) -> float:
    """Median wall seconds of `imagescope search`."""
    times = []
    for reference, text in queries:
        command = [sys.executable, "-m", "imagescope", "search", "bench", text]
        start = time.monotonic()
        subprocess.run(
            [*command, "--reference", reference, "--json"],
            cwd=REPO,
            check=True,
            capture_output=True,
        )
        times.append(time.monotonic() - start)
    return median(times)


@contextmanager
def serving() -> Iterator[int]:
    """A `serve` of the index; its process."""
    command = [sys.executable, "-m", "imagescope", "serve", "bench", "--port", "0"]
    process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and "http" in process.stdout.readline()
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def memory(pid: int) -> float:
    """MiB of a process that are in memory."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def many(pid: int, queries: Queries) -> dict[str, Any]:
    """Searches over the running `serve`, and its memory: after the first ten, which load the models
    and fill their buffers, and after each quarter of the others."""
    from imagescope.own.ask import ask

    seconds, grown = [], []
    for number, (reference, text) in enumerate(queries):
        if number >= 10 and (number - 10) % max(1, (len(queries) - 10) // 4) == 0:
            grown.append(memory(pid))
        start = time.monotonic()
        assert ask("bench", text, Path(reference), STAGES, 10), "no serve answered"
        seconds.append(time.monotonic() - start)
    return {
        "searches": len(queries),
        "median_seconds": median(seconds[10:]),
        "memory_mib": [*grown, memory(pid)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=50, help="with the models in memory")
    parser.add_argument("--shell", type=int, default=3, help="from the shell, of either kind")
    parser.add_argument("--served", type=int, default=200, help="over `serve`")
    parser.add_argument("--models", default="tiny")
    parser.add_argument("--seed", type=int, default=0, help="another one: other queries")
    parser.add_argument("--work", type=Path, help="keep scenes and index here for another run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        os.environ["IMAGESCOPE_HOME"] = str(work / "home")
        scenes = draw_scenes(work / "scenes", args.pictures)
        total = 1 + args.queries + 2 * args.shell + args.served
        queries = composed(scenes, total, args.seed)

        def take(count: int) -> Queries:
            taken, queries[:count] = queries[:count], []
            return taken

        from imagescope.own.indexing import build

        build(work / "scenes", "bench", args.models)
        report: dict[str, Any] = {"resident": resident(take(1 + args.queries))}
        report["shell_alone_seconds"] = from_shell(take(args.shell))
        with serving() as pid:
            report["served"] = many(pid, take(args.served))
            report["shell_serve_seconds"] = from_shell(take(args.shell))
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
