"""An endpoint of chat completions on this machine: it answers well, or misbehaves as told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SYNTHESIS = {"step1": [["Modification", "make it red"]], "step2": ["A red circle."]}
QUESTIONS = {"step2": [["Is there a red circle?", "True"]]}
LOGPROBS = {
    "content": [
        {
            "token": "Yes",
            "logprob": -0.1,
            "top_logprobs": [{"token": "Yes", "logprob": -0.1}, {"token": " no", "logprob": -2.4}],
        }
    ]
}


def content(body: dict[str, Any]) -> str:
    """What a model in the role that a request is meant for might say (the tiny prompts)."""
    said = body["messages"][0]["content"]
    if isinstance(said, str):
        return json.dumps(QUESTIONS if "Edits:" in said else SYNTHESIS)
    if body.get("max_tokens", body.get("max_completion_tokens")) == 1:
        return "Yes"
    return "A red circle on a white background. ANSWER: Yes"


def completion(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A reply in the protocol's form. changes: of the choice's message, or with `choice` or `whole`
    of what lies around it."""
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": content(body)}
        | {k: v for k, v in changes.items() if k not in ("choice", "whole")},
        "logprobs": LOGPROBS if body.get("logprobs") else None,
    } | changes.get("choice", {})
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    } | changes.get("whole", {})


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(self.body)
            self.number = len(self.server.seen)
        try:
            self.server.behave(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_GET(self) -> None:  # where a redirect leads
        self.reply(200, "<html>welcome</html>", "text/html")

    def reply(self, status: int, data: Any, kind: str = "application/json", **headers: str) -> None:
        """Sends a whole answer: bytes as they are, text in UTF-8, everything else as JSON."""
        if not isinstance(data, bytes):
            data = (data if isinstance(data, str) else json.dumps(data)).encode()
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def answer(self, **changes: Any) -> None:
        self.reply(200, completion(self.body, **changes))

    def log_message(self, *_: Any) -> None:
        pass


Behaviour = Callable[[Handler], Any]


class Endpoint(ThreadingHTTPServer):
    """with Endpoint() as fake: … fake.url … fake.behave = CHOSEN … fake.seen (requests' bodies)."""

    daemon_threads = True

    def __init__(self, behave: Behaviour = Handler.answer):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.seen, self.lock = behave, list[dict[str, Any]](), threading.Lock()
        self.stopped = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        pass


# Ways to answer


def says(**changes: Any) -> Behaviour:
    """A completion whose message has these fields (`choice`, `whole`: what lies around it)."""
    return lambda h: h.answer(**changes)


def replies(status: int, data: Any, kind: str = "application/json", **headers: str) -> Behaviour:
    return lambda h: h.reply(status, data, kind, **headers)


def fails(status: int, message: str, **fields: Any) -> Behaviour:
    """An error in the protocol's form."""
    return replies(status, {"error": {"message": message, **fields}})


def first(times: int, then: Behaviour) -> Behaviour:
    """Misbehaves so many times, and is well from then on."""
    return lambda h: then(h) if h.number <= times else h.answer()


def refuses(parameter: str, message: str, status: int = 400) -> Behaviour:
    """Answers well where a parameter is not sent."""
    return lambda h: fails(status, message)(h) if parameter in h.body else h.answer()


def echoes(status: int) -> Behaviour:
    """Repeats the Authorization header, as some gateways do."""
    return lambda h: fails(status, f"bad header: {h.headers['Authorization']}")(h)


def silence(h: Handler) -> None:
    """Never answers."""
    h.server.stopped.wait(60)


def hangs_up(h: Handler) -> None:
    """Closes at once."""
    h.close_connection = True


def half(h: Handler) -> None:
    """Promises more than it sends."""
    whole = json.dumps(completion(h.body)).encode()
    h.send_response(200)
    h.send_header("Content-Length", str(len(whole)))
    h.end_headers()
    h.wfile.write(whole[: len(whole) // 2])
    h.close_connection = True


def endless(h: Handler) -> None:
    """Sends for ever, a little at a time."""
    h.protocol_version = "HTTP/1.1"
    h.send_response(200)
    h.send_header("Transfer-Encoding", "chunked")
    h.end_headers()
    while not h.server.stopped.is_set():
        h.wfile.write(b"1\r\n \r\n")
        time.sleep(0.02)


def slow_headers(h: Handler) -> None:
    """Headers for ever, a letter at a time."""
    h.send_response(200)
    h.flush_headers()
    h.wfile.write(b"X-Header: ")
    while not h.server.stopped.is_set():
        h.wfile.write(b"x")
        time.sleep(0.02)


def loops(h: Handler) -> None:
    """Sends everybody to itself."""
    h.reply(307, "", Location=h.path)
