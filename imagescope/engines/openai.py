"""A client for any endpoint that speaks OpenAI's chat protocol: nothing runs here.

Images go as PNG in data: URLs. A raw template is the endpoint's business: the prompt goes as chat.
"""

from __future__ import annotations

import base64
import json
import logging
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from imagescope.errors import UserError

try:
    import httpx
except ModuleNotFoundError:
    raise UserError("engine openai lacks httpx: pip install 'imagescope[openai]'") from None

from imagescope.config import ModelConfig
from imagescope.engines.base import (
    Answers,
    EngineClass,
    Pair,
    Picture,
    Request,
    Requests,
    Response,
    Source,
)
from imagescope.engines.completion import REFUSED, Failure, read, response
from imagescope.engines.endpoint import Endpoint
from imagescope.models.device import optional
from imagescope.models.images import UnreadableImage, prepared

log = logging.getLogger("imagescope")
details = log.getChild("details")
AT_ONCE = 16  # requests in flight, where the configuration says nothing (max_num_seqs)
PAUSE = 0.5  # seconds before the first retry; doubled before each further one
LONGEST_PAUSE = 60.0  # seconds; a server that wants more ends the run with its words
SLOW = 30.0  # seconds without an answer, after which a line says so
TOP = 20  # most probable first tokens that a server names
BUSY = (408, 409, 425, 429)  # and 5xx: may pass
REQUEST = (400, 413, 422)  # about one request
# parameters that an endpoint may not know, and what is sent instead (None: nothing)
OPTIONAL = {
    "max_tokens": "max_completion_tokens",
    "top_logprobs": None,
    "logprobs": None,
    "repetition_penalty": None,
    "response_format": None,
    "temperature": None,
    "top_p": None,
    "seed": None,
    "stop": None,  # texts are cut here, too
}
TEMPLATE = "chat_template_kwargs"  # answers would be others without it
UNKNOWN = re.compile(
    r"unsupported|not (?:be )?support|unrecogni[sz]ed|unknown|unexpected|deprecated|"
    r"not (?:allowed|permitted|accepted|available)|does not accept|must be less",
    re.I,
)


class OpenAI(EngineClass):
    """See engines/base.py. loads stays 0: the model is somewhere else.

    identity: the name the endpoint knows the model by, not the endpoint: a server that moves keeps
        its answers. `served_as` tells different weights under one name apart.
    choices: from the TOP most probable first tokens; empty where the server gives none.
    """

    summary = "any endpoint that speaks OpenAI's chat protocol"
    licence = "the endpoint's terms"
    package = "httpx"
    remote = True

    def __init__(self, config: ModelConfig):
        self.config = config
        self.identity: dict[str, Any] = {"engine": "openai", "model": config.model}
        self.identity |= optional(config)
        if config.served_as:
            self.identity["served_as"] = config.served_as
        self._endpoint: Endpoint | None = None
        self._refused: set[str] = set()  # parameters of OPTIONAL that this endpoint does not take
        self._lock = threading.Lock()

    def generate(self, requests: Requests) -> Iterator[Answers]:
        """As many requests are open at once as max_num_seqs says; as many more wait. Raises
        UserError where the endpoint cannot be reached, refuses the key, does not know the model or
        answers with anything but chat completions; a request that it refuses alone gets a response
        with the error."""
        source = Source(requests)
        encode = lru_cache(maxsize=AT_ONCE)(_data_url)  # several questions about an image: one PNG
        waiting = SimpleQueue[tuple[int, Request] | None]()
        done = SimpleQueue[tuple[int, Any]]()
        ended = threading.Event()
        most = self.config.max_num_seqs or AT_ONCE
        places, open_, threads = count(), 0, 0

        def work(endpoint: Endpoint) -> None:
            while (job := waiting.get()) and not ended.is_set():
                i, request = job
                try:
                    done.put((i, self._ask(endpoint, request, encode, ended)))
                except Exception as error:
                    done.put((i, error))

        try:
            while open_ or not source.ended:
                for request in source.take(2 * most - open_):
                    endpoint = self._endpoint = self._endpoint or Endpoint(self.config)
                    waiting.put((next(places), request))
                    open_ += 1
                    if threads < min(most, open_):
                        # daemons: nobody waits for a server that does not answer, at the run's end
                        threading.Thread(target=work, args=(endpoint,), daemon=True).start()
                        threads += 1
                if open_:
                    i, answer = self._next(endpoint, done)
                    open_ -= 1
                    if isinstance(answer, Exception):
                        raise answer
                    yield {i: answer}
                elif not source.ended:
                    yield {}
        finally:
            ended.set()
            for _ in range(threads):
                waiting.put(None)

    def close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.close()
        self._endpoint = None

    def _next(self, endpoint: Endpoint, done: SimpleQueue[tuple[int, Any]]) -> tuple[int, Any]:
        try:
            return done.get(timeout=SLOW)
        except Empty:
            log.warning(
                "%s: no answer for %g s; an answer may take up to %g s (the role's `timeout`)",
                self._where(endpoint),
                SLOW,
                self.config.timeout,
            )
        return done.get()

    def _where(self, endpoint: Endpoint) -> str:
        return f"{endpoint.address} (model {self.config.model})"

    def _ask(
        self,
        endpoint: Endpoint,
        request: Request,
        encode: Callable[[Picture | Pair], str],
        ended: threading.Event,
    ) -> Response:
        try:
            arguments = self._arguments(request, encode)
        except UnreadableImage as error:
            return Response("", finish="error", error=str(error))
        tries = 0
        while True:
            body, pause = self._accepted(arguments), None
            try:
                reply = endpoint.post(body)
            except httpx.HTTPError as error:
                failure = Failure(0, endpoint.unreachable(error))
                passing = isinstance(error, httpx.TransportError)
                if isinstance(error, httpx.TimeoutException):
                    passing = self.config.retry_timeouts
            else:
                completion = read(reply)
                if not isinstance(completion, Failure):
                    return self._clean(endpoint, response(completion, request))
                failure, pause = completion, reply.retry_after
                if failure.status in REQUEST and not _names(failure, TEMPLATE):
                    if self._adapted(endpoint, failure, body):
                        continue
                    return self._refusal(endpoint, failure)
                passing = failure.status in BUSY or failure.status >= 500
            if pause is None:
                pause = min(PAUSE * 2**tries * random.uniform(0.75, 1), LONGEST_PAUSE)
            if not passing or tries >= self.config.retries or pause > LONGEST_PAUSE:
                raise self._end(endpoint, failure)
            words = endpoint.line(failure.words)
            details.info("%s: %s; again in %.1f s", self._where(endpoint), words, pause)
            if ended.wait(pause):
                raise self._end(endpoint, failure)
            tries += 1

    def _arguments(
        self, request: Request, encode: Callable[[Picture | Pair], str]
    ) -> dict[str, Any]:
        prompt = request.prompt.encode("utf-8", "replace").decode()  # no lone surrogates
        content: Any = prompt
        if request.images:
            content = [
                {"type": "image_url", "image_url": {"url": encode(image)}}
                for image in request.images
            ]
            content.append({"type": "text", "text": prompt})
        arguments: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
        }
        if request.temperature:
            arguments |= {"top_p": request.top_p, "seed": request.seed}
        if request.stop:
            arguments["stop"] = list(request.stop[:4])  # the protocol's limit; the rest is cut here
        if request.choices:
            arguments |= {"logprobs": True, "top_logprobs": TOP}
        if request.schema is not None:
            schema = {"name": "answer", "schema": json.loads(request.schema)}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        # not OpenAI's, but known to vLLM, SGLang and others; never sent where they do nothing
        if request.repetition_penalty != 1:
            arguments["repetition_penalty"] = request.repetition_penalty
        if self.config.chat_template_options:
            arguments[TEMPLATE] = self.config.chat_template_options
        return arguments

    def _accepted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments without those that the endpoint is known to refuse, or under the name that
        it takes."""
        body = dict(arguments)
        for name in self._refused & body.keys():
            value, other = body.pop(name), OPTIONAL[name]
            if other:
                body[other] = value
        return body

    def _adapted(self, endpoint: Endpoint, failure: Failure, body: dict[str, Any]) -> bool:
        """Whether the failure is about a parameter that can be left out or renamed: it is from now
        on, and the request can be sent again."""
        name = next((n for n in OPTIONAL if n in body and _names(failure, n)), None)
        if name is None:
            return False
        names = {"logprobs", "top_logprobs"} if name in ("logprobs", "top_logprobs") else {name}
        with self._lock:
            new, self._refused = names - self._refused, self._refused | names
        if new:
            other = OPTIONAL[name]
            log.warning(
                "%s does not take %s: %s from now on (%s)",
                self._where(endpoint),
                name,
                f"it is sent {other}" if other else "it is asked without it",
                endpoint.line(failure.words),
            )
        return True

    def _refusal(self, endpoint: Endpoint, failure: Failure) -> Response:
        words = endpoint.line(failure.words)
        details.info("%s refused a request: %s", self._where(endpoint), words)
        return Response("", finish="error", error=f"{REFUSED}{words}")

    def _clean(self, endpoint: Endpoint, answer: Response) -> Response:
        """The same without secrets that the server repeated."""
        if answer.error:
            return Response("", finish="error", error=endpoint.line(answer.error))
        return replace(answer, text=endpoint.redact(answer.text))

    def _end(self, endpoint: Endpoint, failure: Failure) -> UserError:
        """What ends the run, in the server's words."""
        words = endpoint.line(failure.words)
        if failure.status in (401, 403):
            words = f"refuses the key in {self.config.api_key_env}: {words}"
        elif failure.status == 404:
            words = f"{words}: is the model's name right?"
        elif _names(failure, TEMPLATE):
            words += " (leave the role's chat_template_options out, or serve the model by vLLM)"
        elif failure.status:
            words = f"status {failure.status}: {words}"
        if failure.status in (0, 404, 405) and not re.search(r"/v\d", endpoint.address):
            words += " (base_url has no /v1, where most servers answer)"
        return UserError(f"{self._where(endpoint)}: {words}")


def _names(failure: Failure, name: str) -> bool:
    """Whether a failure says that this parameter is not taken; one whose value is too large, say,
    is the request's own."""
    if failure.named == name and name not in ("max_tokens", "temperature"):
        return True
    named = failure.named == name or re.search(rf"\b{name}\b", failure.words)
    return bool(named and UNKNOWN.search(failure.words))


def _data_url(image: Picture | Pair) -> str:
    buffer = BytesIO()
    with prepared(image) as picture:
        picture.save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
