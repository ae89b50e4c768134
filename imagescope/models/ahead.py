"""Pictures read in threads, ahead of the model that looks at them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

B = TypeVar("B")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def read_ahead(
    batches: Iterable[B],
    pictures: Callable[[B], Iterable[K]],
    read: Callable[[K], V],
    *,
    ahead: int = 2,
    threads: int = 4,
) -> Iterator[tuple[B, dict[K, V | str]]]:
    """Each batch with what `read` made of its pictures, or why it could not (its ValueError).

    While one batch is worked on, the next `ahead` are taken and being read. A picture that stands
    in several of these is read once; none is held longer. A batch may be a single request, then
    `ahead` counts requests.
    """

    def attempt(picture: K) -> V | str:
        try:
            return read(picture)
        except ValueError as error:  # UnreadableImage; or a processor that refuses a size
            return str(error)

    waiting: deque[tuple[B, dict[K, Future[V | str]]]] = deque()
    pool = ThreadPoolExecutor(threads, "decode")

    def first() -> tuple[B, dict[K, V | str]]:
        batch, futures = waiting[0]
        return batch, {picture: future.result() for picture, future in futures.items()}

    try:
        for batch in batches:
            futures: dict[K, Future[V | str]] = {}
            for picture in pictures(batch):
                begun = [others[picture] for _, others in waiting if picture in others]
                futures[picture] = begun[0] if begun else pool.submit(attempt, picture)
            waiting.append((batch, futures))
            if len(waiting) > ahead:
                yield first()
                waiting.popleft()
        while waiting:
            yield first()
            waiting.popleft()
    finally:  # also where the caller stops early
        pool.shutdown(cancel_futures=True)
