"""An engine: answers from a JSON file that maps words of a prompt to the answer, for a lesson."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from imagescope.config import ModelConfig
from imagescope.engines.base import EngineClass, Request, Response
from imagescope.errors import UserError


class Scripted(EngineClass):
    """See imagescope.engines.base.Engine. model: the JSON file's path."""

    summary = "answers from a JSON file"
    remote = True  # there is no checkpoint

    def __init__(self, config: ModelConfig):
        self._path = Path(config.model)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The content, not the path: a file that is moved keeps its answers in the cache."""
        return {"engine": "example-scripted", "sha256": hashlib.sha256(self._content).hexdigest()}

    @cached_property
    def _content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise UserError(f"{self._path}: no scripted answers: {error.strerror}") from None

    def answer(self, request: Request) -> Response:
        answers: dict[str, str] = json.loads(self._content)
        keys = [words for words in answers if words in request.prompt]
        if keys:
            return Response(answers[max(keys, key=len)])
        error = f"no answer is written for {request.prompt!r:.80}"
        return Response("", finish="error", error=error)
