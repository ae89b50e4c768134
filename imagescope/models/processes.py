"""A function called in other processes, for work that holds Python's lock.

python -m imagescope.models.processes
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

A = TypeVar("A")
V = TypeVar("V")
log = logging.getLogger("imagescope")


class Processes(Generic[A, V]):
    """`function`, for threads to call: each has its calls answered by a process of its own, which
    is started at the first. The processes end with close(), and with this one however that ends.

    function: pickled, as are its argument, its result and what it raises: over pipes between this
        program and the processes that it starts, which nobody else writes to.
    after: so many calls are answered here, before processes are worth their start. So are calls
        that a process did not survive, and, once one has ended by itself, all further ones.
    """

    def __init__(self, function: Callable[[A], V], after: int = 0):
        self._function, self._here = function, after
        self._threads = threading.local()
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, argument: A) -> V:
        if self._here > 0:
            self._here -= 1
            return self._function(argument)
        try:
            answered, result = self._ask(argument)
        except (OSError, EOFError, pickle.PickleError, AttributeError) as error:
            # (AttributeError: pickle's, for a function that stands in another)
            log.warning("a process that makes pictures ready ended: threads go on (%r)", error)
            self._here = sys.maxsize
            return self._function(argument)
        if answered:
            value: V = result
            return value
        raise result

    def close(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate()
        self._started = []

    def _ask(self, argument: A) -> tuple[bool, Any]:
        process = getattr(self._threads, "process", None) or self._start()
        assert process.stdin and process.stdout
        pickle.dump(argument, process.stdin)
        process.stdin.flush()
        answer: tuple[bool, Any] = pickle.load(process.stdout)
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, sys.path))
        process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )
        self._started.append(process)
        self._threads.process = process
        assert process.stdin
        pickle.dump(self._function, process.stdin)
        return process


def main() -> None:
    """Answers arguments from stdin on stdout until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    arguments, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # where libraries print
    function = pickle.load(arguments)
    while True:
        try:
            argument = pickle.load(arguments)
        except EOFError:
            return
        try:
            answer = True, function(argument)
        except Exception as error:
            answer = False, error
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    main()
