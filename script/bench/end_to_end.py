"""Whole runs on tiny data: cold, warm, after a kill, and with alpha raised from 3 to 5.

Every run is a process of its own, as a user would start it, with a response cache and an image
database of its own. 'outside models' is the share of a run's time, from the first line of the
pipeline to the last, in which no model was answering or loading. A warm run's own work is all that
the command does, report included, but for importing: by the clock, and in seconds of a processor,
which other work on the machine lengthens less.

    python script/bench/end_to_end.py --json end_to_end.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

REPO = Path(__file__).parents[2]
# the command line's way, with the time that modules take to be imported set apart
OWN_WORK = """
import importlib._bootstrap as bootstrap, json, sys, time
load, spent, depth = bootstrap._find_and_load, [0.0, 0.0], 0
def now():
    return time.monotonic(), time.process_time()
def timed(name, import_):
    global depth
    start, depth = now(), depth + 1
    try:
        return load(name, import_)
    finally:
        depth -= 1
        if not depth:
            spent[:] = [s + b - a for s, a, b in zip(spent, start, now())]
bootstrap._find_and_load = timed
from imagescope.cli.app import main
spent, start = [0.0, 0.0], now()
assert main(sys.argv[1:]) == 0
whole = [b - a for a, b in zip(start, now())]
print(json.dumps(dict(zip(("own_seconds", "own_cpu"), [w - s for w, s in zip(whole, spent)]))))
"""


def command(work: Path, name: str, options: list[str], *more: str) -> list[str]:
    places = {"--image-db": "image_db", "--runs": "runs", "--cache": "responses.sqlite"}
    line = [sys.executable, "-m", "imagescope", "run", *options, "--run-name", name, *more]
    return line + [word for k, v in places.items() for word in (k, str(work / v))]


def manifest(work: Path, name: str) -> dict[str, Any]:
    (path,) = work.glob(f"runs/*/{name}/*/manifest.json")
    found = json.loads(path.read_text())
    assert isinstance(found, dict) and found["status"] == "finished", found.get("status")
    return found


def timed(work: Path, name: str, options: list[str], *more: str) -> dict[str, Any]:
    """One run to its end: seconds by the clock and of processors, and what its manifest says."""
    start, before = time.monotonic(), os.times()
    subprocess.run(command(work, name, options, *more), cwd=REPO, check=True, capture_output=True)
    seconds, after = time.monotonic() - start, os.times()
    found = manifest(work, name)
    steps = found["steps"].values()
    models = sum(s["model_seconds"] + s["load_seconds"] for s in steps)
    return {
        "seconds": seconds,
        "cpu": sum(after[2:4]) - sum(before[2:4]),  # of this process' children
        "pipeline_seconds": found["seconds"],
        "outside_models": 1 - models / found["seconds"],
        "asked": sum(s["asked"] for s in steps),
        "loads": sum(found["loads"].values()),
    }


def own_work(work: Path, options: list[str]) -> dict[str, float]:
    """Seconds that one more warm run takes without its imports: by the clock, of a processor."""
    words = command(work, "own", options)
    words[1:3] = ["-c", OWN_WORK]
    done = subprocess.run(words, cwd=REPO, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def killed(work: Path, options: list[str], after: float) -> None:
    """Starts a run, kills it after so many seconds, and takes its folder away."""
    process = subprocess.Popen(
        command(work, "killed", options),
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    shutil.rmtree(work / "runs", ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/CIRR.yaml")
    parser.add_argument("--data-root", default=str(REPO / "data" / "tiny"))
    parser.add_argument("--models", default="tiny")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--split", default="val")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--short", action="store_true", help="cold and warm runs alone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    options = [
        *(args.config, "--data-root", args.data_root, "--models", args.models),
        *("--engine", args.engine, "--split", args.split),
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            cold = timed(work, "cold", options)
            found.setdefault("cold", []).append(cold)
            warm = timed(work, "warm", options)
            found.setdefault("warm", []).append(warm | own_work(work, options))
            if args.short:
                continue
            found.setdefault("alpha 5", []).append(timed(work, "alpha", options, "--alpha", "5"))
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            killed(work, options, random.Random(repeat).uniform(0.3, 0.7) * cold["seconds"])
            found.setdefault("after a kill", []).append(timed(work, "resumed", options))
    figures = {
        name: {key: median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    table = Table("run", "seconds", "processor", "pipeline", "outside models", "asked", "loaded")
    for name, row in figures.items():
        table.add_row(
            name,
            f"{row['seconds']:.1f}",
            f"{row['cpu']:.1f}",
            f"{row['pipeline_seconds']:.1f}",
            f"{100 * row['outside_models']:.0f} %",
            f"{row['asked']:.0f}",
            f"{row['loads']:.0f}",
        )
    console = Console()
    console.print(table)
    report = {
        "warm_speedup": median(
            c["seconds"] / w["seconds"] for c, w in zip(found["cold"], found["warm"], strict=True)
        ),
        "warm_speedup_cpu": figures["cold"]["cpu"] / figures["warm"]["cpu"],
        "outside_models_cold": figures["cold"]["outside_models"],
        "own_seconds_warm": figures["warm"]["own_seconds"],
        "own_cpu_warm": figures["warm"]["own_cpu"],
    }
    for name, figure in report.items():
        console.print(f"{name}: {figure:.3f}")
    if args.json:
        report |= {"load": os.getloadavg()[0], "medians": figures, "runs": found}
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
