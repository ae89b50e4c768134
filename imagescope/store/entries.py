"""What goes into a cache and comes out: a response with all that its key is made of."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from imagescope.records import Response, plain
from imagescope.store.hashing import canonical, storable


@dataclass(frozen=True, slots=True)
class Entry:
    """A response as it is kept: request is JSON-able and holds everything the key is made of."""

    key: str
    identity: str
    request: dict[str, Any]
    response: Response

    def row(self) -> tuple[str, str, str, str, float]:
        """As the table has it, without its checksum."""
        texts = storable(canonical(self.request)), canonical(plain(self.response))
        return (self.key, self.identity, *texts, time.time())


@dataclass
class Used:
    """What a run took from the cache or put there: what a bundle of it holds (bundle.py).

    files: path -> sha256, "" where there is a file that could not be read; missing ones are not in
    it. failed: responses with an error, which no cache keeps, but which a replay must repeat.
    """

    responses: set[str] = field(default_factory=set)
    vectors: dict[str, set[str]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    failed: dict[str, Entry] = field(default_factory=dict)


@lru_cache(maxsize=8)
def _reader(kind: type[Response]) -> TypeAdapter[Response]:
    return TypeAdapter(kind)


def read_response(text: str) -> Response:
    """A stored response: types are checked, as the file may be anyone's; a field that is not there
    has its default, one that is not known here is passed over. Raises ValueError."""
    response = _reader(Response).validate_json(text, strict=True)
    if not all(0 <= share <= 1.001 for share in response.probabilities):  # nor is NaN
        raise ValueError("probabilities outside of [0, 1]")
    return response


def checked(response: Response) -> Response:
    """A response as it will be read from the store, lone surrogates as U+FFFD; an error where it
    could not be."""
    try:
        text = canonical(plain(response))
        return read_response(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    except (TypeError, ValueError) as error:
        why = str(error)
    return Response("", finish="error", error=f"the engine's answer is of no use: {why[:200]}")
