"""Batches on their way to a model of this process: what cannot be asked is set aside, and a batch
that fails as a whole is halved, down to the request that makes it fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from imagescope.engines.base import Answers, Pair, Picture, Request, Response

log = logging.getLogger("imagescope")
Batch = Sequence[tuple[int, Request]]  # requests with their place among all


def pictures(batch: Batch) -> list[Picture | Pair]:
    """What a batch's requests show, each once."""
    return list(dict.fromkeys(image for _, request in batch for image in request.images))


def showable(
    model: str, batch: Batch, pixels: Mapping[Picture | Pair, Any] | None
) -> tuple[list[tuple[int, Request]], Answers]:
    """The requests of a batch that the model can be shown, and the answers to the others.

    model: its name, for messages.  pixels: of each picture, or a str: why there are none; None:
    the model takes no images.
    """
    shown, refused = [], {}
    for i, request in batch:
        if request.images and pixels is None:
            refused[i] = error(f"{model} takes no images")
        elif why := [p for image in request.images if isinstance(p := (pixels or {})[image], str)]:
            refused[i] = error(why[0])
        else:
            shown.append((i, request))
    return shown, refused


def answers(
    model: str,
    batch: Batch,
    ask: Callable[[Batch], list[Response]],
    refusals: tuple[type[Exception], ...],
) -> Iterator[tuple[int, Response]]:
    """(place, response) of every request of a batch. ask: the batch's responses, in order; raises
    one of `refusals`."""
    if not batch:
        return
    try:
        responses = ask(batch)
    except refusals as why:
        if len(batch) == 1:
            yield batch[0][0], failed(model, why)
            return
        log.debug("%s: a batch of %d failed, halved: %s", model, len(batch), why)
    else:
        yield from zip((i for i, _ in batch), responses, strict=True)
        return
    # (the error, and what its traceback holds of a GPU's memory, is gone here)
    half = len(batch) // 2
    yield from answers(model, batch[:half], ask, refusals)
    yield from answers(model, batch[half:], ask, refusals)


def failed(model: str, why: Exception) -> Response:
    """The response to a request that failed alone."""
    line = (str(why).strip() or type(why).__name__).splitlines()[0]
    log.warning("%s: a request failed: %s", model, line)
    return error(line)


def error(why: str) -> Response:
    return Response("", finish="error", error=why)
