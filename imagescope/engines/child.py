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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from queue import SimpleQueue
from typing import IO, Any

from imagescope.config import ModelConfig
from imagescope.engines.base import Engine, Pair, Picture, Request, Response
from imagescope.errors import UserError
from imagescope.models import device
from imagescope.registry import ENGINES

TAIL = 12  # lines of a dead child's output that its error shows


class EngineDied(UserError):
    """The process that ran a model ended by itself: out of memory, say, or a crash."""


class Child:
    """See engines/base.py. kind: a name of registry.ENGINES."""

    def __init__(self, kind: str, config: ModelConfig):
        self.config = config
        self.loads, self.load_seconds = 0, 0.0
        self._kind = kind
        self._process: subprocess.Popen[bytes] | None = None

    @cached_property
    def identity(self) -> dict[str, Any]:
        return device.identity(self._kind, self.config)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        """Raises EngineDied where the child ends before it has answered."""
        if not requests:
            return
        if self._process is None:
            self._start()
        finished = False
        try:
            self._say([asdict(request) for request in requests])
            for line in self._replies:
                reply = json.loads(line)
                if "done" in reply:
                    self.loads += reply["loads"]
                    self.load_seconds += reply["load_seconds"]
                    finished = True
                    return
                if "error" in reply:
                    raise UserError(reply["error"])
                yield reply["i"], as_response(reply["response"])
            raise self._death()
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


def _listen(requests: SimpleQueue[list[Request]]) -> None:
    """Requests from stdin; when the parent is gone, so are we, at once and with our children."""
    for line in sys.stdin.buffer:
        requests.put([as_request(data) for data in json.loads(line)])
    _end(os.getpgrp())


def main(kind: str, config: str, replies: int) -> None:
    """The child's life: answers until its parent is gone."""
    requests: SimpleQueue[list[Request]] = SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    engine: Any = make(kind, ModelConfig.model_validate_json(config))
    with os.fdopen(replies, "w", encoding="utf-8") as out:

        def say(**message: Any) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        while True:
            asked = requests.get()
            loads, seconds = engine.loads, engine.load_seconds
            try:
                for i, response in engine.generate(asked):
                    say(i=i, response=asdict(response))
            except UserError as error:
                say(error=str(error))
            except Exception:  # a bug, or the engine broke: the parent shows the end of our output
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)  # at once: the thread that reads stdin must not be waited for
            else:
                loaded = engine.load_seconds - seconds
                say(done=True, loads=engine.loads - loads, load_seconds=loaded)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
