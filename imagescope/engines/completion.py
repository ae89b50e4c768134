"""What an endpoint says, read with care: a chat completion, or why there is none.

Nothing here raises on any reply; what is absent or odd is unknown, never guessed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imagescope.engines.base import Request, Response
from imagescope.engines.endpoint import Reply
from imagescope.engines.text import cut

MISSING = 1e-6  # the share given to a choice that is not among the most probable tokens
BUSY = re.compile(r"quota|rate.?limit|too many requests|overloaded|try again|capacity", re.I)
REFUSED = "refused: "  # what an error begins with where the endpoint will not answer this request


@dataclass(frozen=True)
class Failure:
    """A reply that is no completion. status: HTTP's, or that of an error inside a 200; 0 where
    neither says anything.  words: the server's, or what came instead."""

    status: int
    words: str
    named: str | None = None  # the parameter that the error is about


def read(reply: Reply) -> dict[str, Any] | Failure:
    """The completion as a JSON object that has a list of choices, else the failure."""
    data = _parsed(reply)
    fine = 200 <= reply.status < 300
    fields = data if isinstance(data, dict) else {}
    error = fields.get("error") or (fields if fields.get("object") == "error" else None)
    choices = fields.get("choices")
    if fine and isinstance(choices, list) and (choices or not error):
        return fields
    if error or not fine:
        words = _words(data)
        if not words and reply.kind.startswith("text/plain"):
            words = reply.content[:1000].decode("utf-8", "replace")
        if words:
            error = error if isinstance(error, dict) else fields
            named = error.get("param")
            status = _status(error, words) if fine else reply.status
            return Failure(status, words, named if isinstance(named, str) else None)
    start = reply.content[:200].decode("utf-8", "replace")
    what = f"status {reply.status}, {reply.kind}, {f'begins {start}' if start else 'empty'}"
    # (a page of HTML about a bad request is not about this request)
    status = 0 if fine or reply.status == 400 else reply.status
    return Failure(status, f"answered with no chat completion ({what})")


def _parsed(reply: Reply) -> Any:
    """The JSON of a reply, in Latin-1 where it is not in a Unicode encoding; None: it is none."""
    try:
        content = reply.content.decode(json.detect_encoding(reply.content))
    except UnicodeDecodeError:
        content = reply.content.decode("cp1252", "replace")
    try:
        return json.loads(content.removeprefix("\ufeff"), parse_int=lambda digits: int(digits[:18]))
    except (ValueError, RecursionError):
        return None


def _status(error: dict[str, Any], words: str) -> int:
    """The status that an error inside a 200 would have had."""
    code = str(error.get("code"))
    if re.fullmatch(r"[45]\d\d", code, re.ASCII):
        return int(code)
    return 429 if BUSY.search(words) else 0


def _words(data: Any) -> str:
    """The message of an error in any of the usual shapes; "" where there is none."""
    if isinstance(data, str):
        return data
    if isinstance(data, list) and data:
        return _words(data[0])
    if isinstance(data, dict):
        # FastAPI says beside its message which parameter is meant
        place = ".".join(map(str, data["loc"])) if isinstance(data.get("loc"), list) else ""
        for key in ("error", "message", "detail", "msg"):
            if data.get(key):
                return f"{place} {_words(data[key]) or json.dumps(data[key])}".strip()
    return ""


def response(data: dict[str, Any], request: Request) -> Response:
    """The first choice as a Response; with an error where it holds no text."""
    first = data["choices"][0] if data["choices"] else None
    first = first if isinstance(first, dict) else {}
    message, finish = first.get("message"), first.get("finish_reason")
    message = message if isinstance(message, dict) else {}
    text, refusal = _text(message.get("content")), message.get("refusal")
    if finish == "content_filter":
        return _failed(f"{REFUSED}the endpoint's content filter ended the answer")
    if isinstance(refusal, str) and refusal.strip() and not text:
        return _failed(f"{REFUSED}{refusal}")
    thought = message.get("reasoning_content") or message.get("reasoning")
    if text is None or (thought and not text.strip()):
        if words := _words(first.get("error")):
            return _failed(words)
        if thought:
            return _failed(
                "no text: the answer's tokens went into reasoning (tell the model not to think, "
                "or give the role more max_tokens)"
            )
        return _failed(f"no text in the answer: {json.dumps(data['choices'])[:200]}")
    text = text.encode("utf-8", "replace").decode().replace("\0", "")
    text, stopped = cut(text, request.stop)
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Response(
        text,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        "length" if finish == "length" and not stopped else "stop",
        probabilities(first.get("logprobs"), request.choices),
    )


def _failed(why: str) -> Response:
    return Response("", finish="error", error=why)


def _text(content: Any) -> str | None:
    """The text parts of a content, joined; parts of thinking are left out. None: no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    fields = [{"text": part} if isinstance(part, str) else part for part in content]
    parts = [
        part["text"]
        for part in fields
        if isinstance(part, dict)
        and part.get("type", "text") in ("text", "output_text")
        and isinstance(part.get("text"), str)
    ]
    return "".join(parts) if parts else None


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 1 << 53 else 0


def probabilities(logprobs: Any, choices: Sequence[str]) -> tuple[float, ...]:
    """Each choice's share at the first token, over all spellings among the tokens named. () where
    none of the choices is named with a number."""
    try:
        first = logprobs["content"][0]
        named = first["top_logprobs"] or [first]
    except (TypeError, KeyError, IndexError):
        return ()
    sums = dict.fromkeys((c.strip().lower() for c in choices), 0.0)
    for entry in named if isinstance(named, list) else ():
        fields = entry if isinstance(entry, dict) else {}
        token, logprob = fields.get("token"), fields.get("logprob")
        word = token.strip().lower() if isinstance(token, str) else ""
        # (a little above zero is rounding; NaN is in no range)
        if word in sums and isinstance(logprob, (int, float)) and -1e4 < logprob < 1e-3:
            sums[word] += math.exp(logprob)
    if not any(sums.values()):
        return ()
    shares = [max(sums[c.strip().lower()], MISSING) for c in choices]
    return tuple(share / sum(shares) for share in shares)
