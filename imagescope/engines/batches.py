"""Batches on their way to a model of this process: what cannot be asked is set aside, and a batch
that fails as a whole is halved, down to the request that makes it fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from imagescope.engines.base import Pair, Picture, Request, Response

log = logging.getLogger("imagescope")
Batch = Sequence[tuple[int, Request]]  # requests with their place among all


def pictures(batch: Batch) -> list[Picture | Pair]:
    """What a batch's requests show, each once."""
    return list(dict.fromkeys(image for _, request in batch for image in request.images))


def answers(
    model: str,
    batch: Batch,
    pixels: Mapping[Picture | Pair, Any] | None,
    ask: Callable[[Batch], list[Response]],
    refusals: tuple[type[Exception], ...],
) -> Iterator[tuple[int, Response]]:
    """(place, response) of every request of a batch.

    model: its name, for messages.  pixels: of each picture, or a str: why there are none; None:
    the model takes no images.  ask: the batch's responses, in order; raises one of `refusals`.
    """
    readable = []
    for i, request in batch:
        if request.images and pixels is None:
            yield i, _failed(f"{model} takes no images")
        elif why := [p for image in request.images if isinstance(p := (pixels or {})[image], str)]:
            yield i, _failed(why[0])
        else:
            readable.append((i, request))
    if readable:
        yield from _halved(model, readable, ask, refusals)


def _halved(
    model: str,
    batch: Batch,
    ask: Callable[[Batch], list[Response]],
    refusals: tuple[type[Exception], ...],
) -> Iterator[tuple[int, Response]]:
    try:
        responses = ask(batch)
    except refusals as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
    else:
        yield from zip((i for i, _ in batch), responses, strict=True)
        return
    # (the error, and what its traceback holds of a GPU's memory, is gone here)
    if len(batch) == 1:
        log.warning("%s: a request failed: %s", model, why)
        yield batch[0][0], _failed(why)
        return
    log.debug("%s: a batch of %d failed, halved: %s", model, len(batch), why)
    half = len(batch) // 2
    yield from _halved(model, batch[:half], ask, refusals)
    yield from _halved(model, batch[half:], ask, refusals)


def _failed(why: str) -> Response:
    return Response("", finish="error", error=why)
