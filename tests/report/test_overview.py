"""One table of several benchmarks' newest runs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from imagescope.errors import UserError
from imagescope.report.overview import newest, print_overview
from imagescope.runs.folder import read_traces
from imagescope.runs.manifest import Manifest


def run(root: Path, dataset: str, stamp: str, status: str, value: float, metric: str) -> Path:
    folder = root / dataset / "default" / stamp
    folder.mkdir(parents=True)
    manifest = {
        "status": status,
        "config": {"dataset": dataset, "split": "val"},
        "benchmark": {"queries": 1234},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    estimate = {"value": value, "low": value - 1, "high": value + 1}
    metrics = {stage: {metric: estimate} for stage in ("stage1", "stage2")}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def test_the_newest_finished_run_of_each(tmp_path: Path) -> None:
    run(tmp_path, "CIRR", "a-1", "finished", 10, "Recall@1")
    second = run(tmp_path, "CIRR", "a-2", "finished", 20, "Recall@1")
    run(tmp_path, "CIRR", "a-3", "interrupted", 30, "Recall@1")
    other = run(tmp_path, "CIRCO", "a-1", "finished with warnings", 40, "mAP@10")
    assert newest(tmp_path) == [other, second]
    console = Console(record=True, width=120)
    print_overview(newest(tmp_path), console)
    text = console.export_text()
    assert "20.0 [19.0, 21.0]" in text and "40.0" in text and "30.0" not in text
    assert "1,234" in text


def test_nothing_finished_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run named default"):
        newest(tmp_path)


def test_a_run_whose_process_is_gone_was_interrupted(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = platform.node()
    for process, expected in (
        ({"pid": ended.pid, "host": host}, "interrupted"),
        ({"pid": os.getpid(), "host": host}, "running"),
        ({"pid": ended.pid, "host": "another"}, "running"),
        ({"pid": "?", "host": host}, "interrupted"),
        (None, "running"),  # of a version that did not write it down
    ):
        (tmp_path / "manifest.json").write_text(
            json.dumps({"status": "running", "process": process})
        )
        assert Manifest.read(tmp_path).status == expected
    with pytest.raises(UserError, match=r"no traces\.jsonl; .*its status: running"):
        read_traces(tmp_path)
