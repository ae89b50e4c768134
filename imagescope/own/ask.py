"""`search` asks the `serve` of the same index, where one runs: its models are in memory.

`serve` answers on a second port, of the loopback alone, a line of JSON after each stage. Port and a
token are in the index' folder, in serving.json, which its owner alone can read: whoever knows the
token may have any of the owner's pictures looked at.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from imagescope.errors import UserError
from imagescope.files import replacing
from imagescope.own import library
from imagescope.own.answers import Answer
from imagescope.runs.manifest import running

if TYPE_CHECKING:
    from imagescope.own.desk import Desk

log = logging.getLogger("imagescope")
HERE = "127.0.0.1"
LARGEST = 64 << 10  # bytes of a question
LONGEST = 600  # seconds until a stage is answered: others may be before us


class Serving(BaseModel):
    """serving.json. index: what tells that index.json has not changed since it was opened.  method,
    options: as `serve` was given them."""

    pid: int
    port: int
    token: str
    index: tuple[int, int]
    method: str
    options: dict[str, Any]


class Question(BaseModel):
    """What is asked. reference: a name of the index, or else the picture at `file`."""

    text: str
    reference: str | None
    file: str | None
    stages: str | tuple[str, ...] | None
    top: int


class Reply(BaseModel):
    """An answer, and the folder that its pictures are below."""

    answer: Answer
    folder: Path


def ask(
    name: str,
    text: str,
    reference: Path | None,
    stages: str | Sequence[str] | None,
    top: int,
    method: str = "imagescope",
    options: Mapping[str, Any] | None = None,
    tell: Callable[[Answer], None] = lambda answer: None,
) -> Reply | None:
    """What a running `serve` of this index answers; None where none runs, or none of the index as
    it is now, or one of another method.

    tell: is called with the answer of each stage as soon as it is there. Raises UserError for a
    question that the server refuses.
    """
    server = serving(name)
    if server is None or (server.index, server.method, server.options) != (
        state(name),
        method,
        options or {},
    ):
        return None
    question = Question(
        text=text,
        reference=str(reference) if reference else None,
        file=str(reference.expanduser().resolve()) if reference else None,
        stages=stages if isinstance(stages, str) or stages is None else tuple(stages),
        top=top,
    )
    connection = http.client.HTTPConnection(HERE, server.port, timeout=LONGEST)
    try:
        headers = {"Authorization": f"Bearer {server.token}"}
        connection.request("POST", "/", question.model_dump_json(), headers)
        response = connection.getresponse()
        if response.status not in (200, 400):
            raise ValueError(f"status {response.status}")
        for line in response:
            if isinstance(refusal := json.loads(line), str):
                raise UserError(refusal)
            reply = TypeAdapter(Reply).validate_json(line)
            tell(reply.answer)
            if not reply.answer.upcoming:
                return reply
        raise ValueError("it ended before the last stage")
    except (OSError, http.client.HTTPException, ValueError) as error:
        log.warning("the running `serve` did not answer: searching without it (%s)", error)
    finally:
        connection.close()
    return None


def serving(name: str) -> Serving | None:
    """The running `serve` of an index, or None."""
    try:
        server = Serving.model_validate_json((library.place(name) / "serving.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return server if running(server.pid) else None


@contextmanager
def answering(desk: Desk, index: tuple[int, int]) -> Iterator[None]:
    """Answers questions while the block lasts. index: its `state` before it was opened."""
    name, token = desk.scope.name, secrets.token_urlsafe()

    class Handler(BaseHTTPRequestHandler):
        timeout = 20  # seconds that a question may take to arrive

        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "")
            length = self.headers.get("Content-Length", "")
            if not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
                self.send_error(403)
            elif not length.isdecimal() or int(length) > LARGEST:
                self.send_error(413)
            else:
                self._answer(self.rfile.read(int(length)))

        def _answer(self, content: bytes) -> None:
            """A line for each stage's answer; one that is a string says what is wrong."""
            try:
                question = Question.model_validate_json(content)
                inside = question.reference in desk.scope.files
                reference = question.reference if inside else question.file
                text, stages, top = question.text, question.stages, question.top
                steps = desk.scope.stages(text, reference, stages, top)
                answer = desk.step(steps).result()
            except (UserError, ValidationError) as error:
                self._begin(400)
                self._line(json.dumps(str(error)))
                return
            self._begin(200)
            try:
                while answer is not None:
                    reply = Reply(answer=answer, folder=desk.scope.manifest.folder)
                    self._line(reply.model_dump_json())
                    answer = desk.step(steps).result()
            except UserError as error:
                self._line(json.dumps(str(error)))
            except OSError:  # whoever asked has gone
                desk.drop(steps)

        def _begin(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/x-ndjson")
            self.end_headers()

        def _line(self, text: str) -> None:
            self.wfile.write(f"{text}\n".encode())

        def log_message(self, *_: object) -> None:
            """Nothing: questions are nobody's business."""

    path = library.place(name) / "serving.json"
    with ThreadingHTTPServer((HERE, 0), Handler) as server:
        config = desk.scope.config
        described = Serving(
            pid=os.getpid(),
            port=server.server_port,
            token=token,
            index=index,
            method=config.method,
            options=config.options,
        )
        thread = Thread(target=server.serve_forever, name="ask", daemon=True)
        thread.start()
        try:
            _write(path, described)
            yield
        finally:
            server.shutdown()
            if path.exists() and token in path.read_text():  # else another `serve` came after us
                path.unlink(missing_ok=True)


def _write(path: Path, serving: Serving) -> None:
    try:
        with replacing(path, durable=False, mode=0o600) as file:
            file.write_text(serving.model_dump_json())
    except OSError as error:  # an index on a read-only disk can be served, too
        log.warning("%s: cannot be written (%s): `search` will not ask here", path, error.strerror)


def state(name: str) -> tuple[int, int]:
    """Size and time of an index.json; (0, 0) where there is none."""
    try:
        stat = (library.place(name) / "index.json").stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns
