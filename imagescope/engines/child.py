"""An engine in a process of its own: for engines that keep their memory until the process ends.

The child ends with close(), and with its parent however that ends: it reads requests from a pipe,
and a pipe whose other end is gone says so. Lines of JSON go both ways.

    python -m imagescope.engines.child KIND CONFIG REPLIES
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from typing import IO, Any

from imagescope.config import ModelConfig
from imagescope.engines.base import (
    Answers,
    Engine,
    EngineClass,
    Pair,
    Picture,
    Request,
    Requests,
    Response,
    Source,
)
from imagescope.engines.feed import Feed, Parts
from imagescope.errors import UserError
from imagescope.models import device
from imagescope.registry import ENGINES

WINDOW, PART = 4096, 256  # requests that a child has at a time, and that are sent at a time
TAIL = 12  # lines of a dead child's output that its error shows


class EngineDied(UserError):
    """The process that ran a model ended by itself: out of memory, say, or a crash."""


class Child(EngineClass):
    """See engines/base.py. kind: a name of registry.ENGINES."""

    def __init__(self, kind: str, config: ModelConfig):
        self.config = config
        self.width = make(kind, config).width
        self.loads, self.load_seconds = 0, 0.0
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        return device.identity(self._kind, self.config)

    def generate(self, requests: Requests) -> Iterator[Answers]:
        """The child has WINDOW requests to choose from, or what max_num_seqs asks for; as it
        answers it is sent others. Raises EngineDied where it ends before it has answered."""
        window = max(WINDOW, 4 * (self.config.max_num_seqs or 0))
        source, unanswered, finished = Source(requests), 0, False
        try:
            while unanswered or not source.ended:
                while unanswered < window and (part := source.take(PART)):
                    if self._process is None:
                        self._start()
                    self._say([asdict(request) for request in part])
                    unanswered += len(part)
                if unanswered:
                    answers = self._hear()["answers"]
                    unanswered -= len(answers)
                    yield {int(i): as_response(response) for i, response in answers.items()}
                elif not source.ended:
                    yield {}
            if self._process is not None:
                self._say(None)
                self._hear()
            finished = True
        except BrokenPipeError:
            raise self._death() from None
        finally:
            if not finished:
                self.close()  # whatever it is still doing, nobody waits for it

    def close(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        _end(process.pid)
        process.wait()
        for stream in (process.stdin, self._replies, self._output):
            with suppress(BrokenPipeError):
                if stream:
                    stream.close()

    def _start(self) -> None:
        self._before = self.loads, self.load_seconds  # of the children that ended
        reading, writing = os.pipe()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        module = [sys.executable, "-m", __name__, self._kind]
        self._process = subprocess.Popen(
            [*module, self.config.model_dump_json(), str(writing)],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            pass_fds=[writing],
            start_new_session=True,  # Ctrl-C is the parent's; and it ends with all it started
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        os.close(writing)
        self._replies = os.fdopen(reading, "rb")
        threading.Thread(target=_outlive, args=(self._process,), daemon=True).start()

    def _say(self, message: Any) -> None:
        assert self._process and self._process.stdin
        self._process.stdin.write(json.dumps(message).encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> Any:
        reply = json.loads(self._replies.readline() or "null")
        if reply is None:
            raise self._death()
        if "error" in reply:
            raise UserError(reply["error"])
        loads, seconds = self._before
        self.loads, self.load_seconds = loads + reply["loads"], seconds + reply["load_seconds"]
        return reply

    def _death(self) -> EngineDied:
        assert self._process
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()[-TAIL:]
        said = "".join(f"\n  {line}" for line in lines)
        return EngineDied(
            f"the {self._kind} process of {self.config.model} ended with {how}{hint}. What was "
            f"answered is kept; the same command goes on from there.{said}"
        )


def as_request(data: dict[str, Any]) -> Request:
    """A Request from its JSON."""
    images = tuple(Pair(**i) if "right" in i else Picture(**i) for i in data["images"])
    tuples = {name: tuple(data[name]) for name in ("stop", "choices")}
    return Request(**data | tuples | {"images": images})


def as_response(data: dict[str, Any]) -> Response:
    """A Response from its JSON."""
    return Response(**data | {"probabilities": tuple(data["probabilities"])})


def make(kind: str, config: ModelConfig) -> Engine:
    """The engine itself, in this process."""
    engine: Engine = ENGINES.load(kind)(config)
    return engine


def _end(pid: int) -> None:
    """Ends the process and everything it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _outlive(process: subprocess.Popen[bytes]) -> None:
    """Ends what a dead child left running: it would hold the pipe open, and GPU memory."""
    process.wait()
    _end(process.pid)


def _listen(parts: Parts) -> None:
    """Requests from stdin; when the parent is gone, so are we, at once and with our children."""
    for line in sys.stdin.buffer:
        part = json.loads(line)
        parts.put(part and [as_request(data) for data in part])
    _end(os.getpgrp())


def main(kind: str, config: str, replies: int) -> None:
    """The child's life: answers until its parent is gone."""
    parts = Parts()
    threading.Thread(target=_listen, args=(parts,), daemon=True).start()
    engine: Any = make(kind, ModelConfig.model_validate_json(config))
    with os.fdopen(replies, "w", encoding="utf-8") as out:

        def say(**message: Any) -> None:
            message |= {"loads": engine.loads, "load_seconds": engine.load_seconds}
            out.write(json.dumps(message) + "\n")
            out.flush()

        while True:
            feed = Feed(parts)
            try:
                for answers in engine.generate(feed):
                    feed.answered(len(answers))
                    if answers:
                        say(answers={i: asdict(response) for i, response in answers.items()})
            except UserError as error:
                say(error=str(error))
            except Exception:  # a bug, or the engine broke: the parent shows the end of our output
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)  # at once: the thread that reads stdin must not be waited for
            else:
                say()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
