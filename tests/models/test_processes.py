"""Work that is done in other processes: the same answers, errors and all."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from imagescope.models.decoding import UnreadableImage, load_picture
from imagescope.models.processes import Processes


def test_each_thread_has_a_process_of_its_own() -> None:
    with Processes(os.getppid) as idle:
        assert not idle._started
    with Processes(os.getpgid, after=2) as group, ThreadPoolExecutor(1) as thread:
        own = os.getpgid(0)
        assert [group(0), group(0)] == [own, own] and not group._started
        assert [group(0), thread.submit(group, 0).result(), group(0)] == [own] * 3
        assert len(group._started) == 2
        started = [process.pid for process in group._started]
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_picture_and_why_there_is_none_come_back(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "a.png"
    Image.effect_mandelbrot((30, 20), (-2, -1, 1, 1), 20).save(path)
    with Processes(load_picture) as load:
        assert load(path).tobytes() == load_picture(path).tobytes()
        for _ in range(2):  # the process goes on after an error
            with pytest.raises(UnreadableImage, match="no such file"):
                load(tmp_path / "none.png")
        assert len(load._started) == 1


def test_calls_that_a_process_does_not_survive_are_answered_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Processes(abs) as absolute, caplog.at_level(logging.WARNING):
        assert absolute(-1) == 1
        absolute._started[0].kill()
        absolute._started[0].wait()
        assert [absolute(-2), absolute(-3)] == [2, 3] and len(absolute._started) == 1
    assert caplog.text.count("threads go on") == 1


def test_a_function_that_another_process_lacks_is_called_here() -> None:
    with Processes(lambda number: number + 1) as more:
        assert more(1) == 2


def test_processes_end_with_their_parent_however_it_ends() -> None:
    script = (
        "import os, time; from imagescope.models.processes import Processes; "
        "p = Processes(abs); p(-1); print(p._started[0].pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout
    child = Path("/proc", parent.stdout.readline().decode().strip())
    assert child.exists()
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 20
    while child.exists() and "Z" not in (child / "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
