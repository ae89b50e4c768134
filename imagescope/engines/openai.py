"""A client for any endpoint that speaks OpenAI's chat protocol: nothing runs here.

Images go as PNG in data: URLs. A raw template is the endpoint's business: the prompt goes as chat.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from queue import SimpleQueue
from typing import Any

from imagescope.config import ModelConfig
from imagescope.engines.base import Pair, Picture, Request, Response
from imagescope.engines.device import chat_options
from imagescope.engines.images import UnreadableImage, prepare
from imagescope.engines.text import cut
from imagescope.errors import UserError

log = logging.getLogger("imagescope")
AT_ONCE = 16  # requests in flight, where the configuration says nothing (max_num_seqs)
RETRIES = 5  # of a request that met a busy or failing server, with growing pauses
TIMEOUT = 600.0  # seconds an answer may take
TOP = 20  # most probable first tokens that a server names
MISSING = 1e-6  # the share given to a choice that is not among them


class OpenAI:
    """See engines/base.py. loads stays 0: the model is somewhere else.

    identity: the endpoint and the name it knows the model by; what it really runs, it alone knows.
    choices: from the TOP most probable first tokens; empty where the server gives none.
    """

    loads, load_seconds = 0, 0.0

    def __init__(self, config: ModelConfig):
        self.config = config
        self._base = config.base_url or os.environ.get("OPENAI_BASE_URL")  # as the client has it
        self.identity: dict[str, Any] = {
            "engine": "openai",
            "base_url": self._base,
            "model": config.model,
            **chat_options(config),
        }
        self._client: Any = None

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        """Raises UserError where the endpoint cannot be reached, refuses the key, or does not
        know the model; a request that it refuses alone gets a response with the error."""
        if not requests:
            return
        client = self._open()
        encode = lru_cache(maxsize=64)(_data_url)  # several questions about an image: one PNG
        waiting, done = deque(enumerate(requests)), SimpleQueue[tuple[int, Any]]()

        def work() -> None:
            while True:
                try:
                    i, request = waiting.popleft()
                except IndexError:
                    return
                try:
                    done.put((i, self._ask(client, request, encode)))
                except Exception as error:
                    done.put((i, error))

        # daemons: nobody waits for a server that does not answer, when the run ends
        for _ in range(min(len(requests), self.config.max_num_seqs or AT_ONCE)):
            threading.Thread(target=work, daemon=True).start()
        try:
            for _ in requests:
                i, found = done.get()
                if isinstance(found, Exception):
                    raise found
                yield i, found
        finally:
            waiting.clear()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None

    def _open(self) -> Any:
        if self._client is None:
            import openai

            config = self.config
            key = os.environ.get(config.api_key_env)
            if not key and not self._base:
                raise UserError(
                    f"engine openai: no base_url for {config.model}, and the variable "
                    f"{config.api_key_env} holds no key for OpenAI's own endpoint"
                )
            self._client = openai.OpenAI(
                api_key=key or "none",  # a server of one's own wants none
                base_url=self._base,
                max_retries=RETRIES,
                timeout=TIMEOUT,
            )
        return self._client

    def _ask(
        self, client: Any, request: Request, encode: Callable[[Picture | Pair], str]
    ) -> Response:
        import openai

        where = f"{client.base_url} (model {self.config.model})"
        try:
            answer = client.chat.completions.create(**self._arguments(request, encode))
        except UnreadableImage as error:
            return Response("", finish="error", error=str(error))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            log.warning("%s refused a request: %s", where, error.message)
            return Response("", finish="error", error=f"refused: {error.message}")
        except openai.AuthenticationError:
            raise UserError(f"{where}: refuses the key in {self.config.api_key_env}") from None
        except openai.NotFoundError as error:
            raise UserError(f"{where}: {error.message}: is the model's name right?") from None
        except openai.APIConnectionError as error:
            raise UserError(f"{where} cannot be reached: {error}. Is the server up?") from None
        except openai.APIError as error:
            raise UserError(f"{where}: {error.message}") from None
        return _response(answer, request)

    def _arguments(
        self, request: Request, encode: Callable[[Picture | Pair], str]
    ) -> dict[str, Any]:
        content: Any = request.prompt
        if request.images:
            content = [
                {"type": "image_url", "image_url": {"url": encode(image)}}
                for image in request.images
            ]
            content.append({"type": "text", "text": request.prompt})
        arguments: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": request.max_tokens,
        }
        if request.stop:
            arguments["stop"] = list(request.stop[:4])  # the protocol's limit; the rest is cut here
        if request.choices:
            arguments |= {"logprobs": True, "top_logprobs": TOP}
        if request.schema is not None:
            schema = {"name": "answer", "schema": json.loads(request.schema)}
            arguments["response_format"] = {"type": "json_schema", "json_schema": schema}
        # not OpenAI's, but known to vLLM, SGLang and others; never sent where they do nothing
        extra: dict[str, Any] = {}
        if request.repetition_penalty != 1:
            extra["repetition_penalty"] = request.repetition_penalty
        if self.config.chat_template_options:
            extra["chat_template_kwargs"] = self.config.chat_template_options
        if extra:
            arguments["extra_body"] = extra
        return arguments


def _data_url(image: Picture | Pair) -> str:
    buffer = BytesIO()
    prepare(image).save(buffer, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _response(answer: Any, request: Request) -> Response:
    if not answer.choices:
        return Response("", finish="error", error="the endpoint answered without a choice")
    first, usage = answer.choices[0], answer.usage
    text, stopped = cut(first.message.content or "", request.stop)
    return Response(
        text,
        usage.prompt_tokens if usage else 0,
        usage.completion_tokens if usage else 0,
        "length" if first.finish_reason == "length" and not stopped else "stop",
        _probabilities(first.logprobs, request.choices),
    )


def _probabilities(logprobs: Any, choices: Sequence[str]) -> tuple[float, ...]:
    """Each choice's share at the first token, over all spellings among the tokens named."""
    if not choices or not logprobs or not logprobs.content:
        return ()
    sums = dict.fromkeys((c.strip().lower() for c in choices), 0.0)
    for entry in logprobs.content[0].top_logprobs:
        word = entry.token.strip().lower()
        if word in sums:
            sums[word] += math.exp(entry.logprob)
    found = [max(sums[c.strip().lower()], MISSING) for c in choices]
    return tuple(share / sum(found) for share in found)
