"""Replicas on every GPU of a machine or a Ray cluster, fed with chunks as they become free.

A Pool runs any worker; Distributed is an engine on one. A worker that dies is replaced and its
chunk done again; a chunk that kills workers is halved until the item that does it stands alone.
Files are named by absolute path: a cluster needs them on a filesystem that its machines share.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from imagescope.config import ModelConfig
from imagescope.engines.base import Pair, Picture, Request, Response, collect
from imagescope.engines.child import EngineDied, make
from imagescope.engines.cluster import connect, places, reason
from imagescope.errors import UserError
from imagescope.models import device
from imagescope.models.checkpoints import locate

log = logging.getLogger("imagescope")
ATTEMPTS = 2  # of a job before it is halved; a part of a job that was halved has one
START_SECONDS = 300  # how long to wait for a worker while there is none


@dataclass(frozen=True)
class Lost:
    """What stands in for the result of an item that no worker survived."""

    error: str


@dataclass
class Job:
    """Items of one chunk, from `start` on, and how often they were tried."""

    chunk: int
    start: int
    items: Sequence[Any]
    failures: int = 0
    suspect: bool = False  # a part of a job that failed ATTEMPTS times


@dataclass
class _Slot:
    """A worker's place. What its actors loaded is kept when one is replaced."""

    actor: Any
    job: Job | None = None
    loads: int = 0
    load_seconds: float = 0.0
    before: tuple[int, float] = field(default=(0, 0.0))  # of the actors that died


class Pool:
    """Workers that each take a list of items and return a list of as many results.

    make: called with no arguments in the worker's process; returns an object whose `method`
        does the work. It may have `loads` and `load_seconds` (see engines/transformers.py).
    """

    def __init__(self, make: Callable[[], Any], method: str, replicas: int, gpus: int = 0):
        import ray

        actor = ray.remote(_Worker).options(num_gpus=gpus, num_cpus=0 if gpus else 1)
        self._new = lambda: actor.remote(make, method)
        self._ray = ray
        self._size = replicas
        self._slots: list[_Slot] = []

    @property
    def loads(self) -> int:
        """How often the model was loaded, counting replicas that load side by side once."""
        return max((slot.loads for slot in self._slots), default=0)

    @property
    def load_seconds(self) -> float:
        return max((slot.load_seconds for slot in self._slots), default=0.0)

    def map(self, chunks: Sequence[Sequence[Any]]) -> Iterator[tuple[int, list[Any]]]:
        """(number of the chunk, its results) as chunks are finished; Lost for an item that workers
        did not survive. Raises EngineDied where they die whatever they do, and a worker's own
        UserError."""
        if not self._slots:
            self._slots = [_Slot(self._new()) for _ in range(self._size)]
        jobs = deque(Job(n, 0, chunk) for n, chunk in enumerate(chunks) if chunk)
        results: list[list[Any]] = [[None] * len(chunk) for chunk in chunks]
        missing = [len(chunk) for chunk in chunks]
        idle: list[_Slot] = []
        waiting = {self._hello(slot): slot for slot in self._slots}
        barren = 0  # deaths since a job succeeded
        try:
            while any(missing):
                while jobs and idle:
                    slot = idle.pop()
                    slot.job = jobs.popleft()
                    waiting[slot.actor.call.remote(list(slot.job.items))] = slot
                starting = all(slot.job is None for slot in waiting.values())
                timeout = START_SECONDS if starting else None
                done, _ = self._ray.wait(list(waiting), timeout=timeout)
                if not done:
                    raise EngineDied(f"no worker started within {START_SECONDS} s: are GPUs free?")
                slot = waiting.pop(done[0])
                job, slot.job = slot.job, None
                try:
                    outcomes, loads, seconds = self._ray.get(done[0])
                except UserError as error:
                    raise UserError(str(getattr(error, "cause", error))) from None
                except Exception as error:  # Ray's, or whatever broke in the worker
                    why = reason(error)
                    barren += 1
                    if barren > 3 + 2 * self._size:
                        raise EngineDied(f"workers die whatever they are asked: {why}") from None
                    log.warning("a worker ended (%s); another takes its place", why)
                    self._replace(slot)
                    waiting[self._hello(slot)] = slot
                    parts = _again(job, why) if job else []
                    jobs += [part for part in parts if isinstance(part, Job)]
                    outcomes = [part for part in parts if isinstance(part, Lost)]
                else:
                    slot.loads = slot.before[0] + loads
                    slot.load_seconds = slot.before[1] + seconds
                    idle.append(slot)
                    barren = 0 if job else barren
                if job and outcomes:
                    results[job.chunk][job.start : job.start + len(outcomes)] = outcomes
                    missing[job.chunk] -= len(outcomes)
                    if not missing[job.chunk]:
                        yield job.chunk, results[job.chunk]
        finally:
            for slot in waiting.values():
                if slot.job:  # nobody waits for what it is doing
                    slot.job = None
                    self._replace(slot)

    def close(self) -> None:
        """Ends the workers, which gives their memory back; map starts new ones."""
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._slots = []

    def _hello(self, slot: _Slot) -> Any:
        """Answered when the worker is up: jobs go only to those that are."""
        return slot.actor.call.remote([])

    def _replace(self, slot: _Slot) -> None:
        self._ray.kill(slot.actor)
        slot.before = (slot.loads, slot.load_seconds)
        slot.actor = self._new()


def _again(job: Job, why: str) -> list[Job | Lost]:
    """What becomes of a job whose worker died."""
    job = replace(job, failures=job.failures + 1)
    alone = len(job.items) == 1
    if job.failures < ATTEMPTS and (alone or not job.suspect):
        return [job]
    if alone:
        return [Lost(f"workers did not survive it: {why}")]
    half = len(job.items) // 2
    return [
        Job(job.chunk, job.start, job.items[:half], suspect=True),
        Job(job.chunk, job.start + half, job.items[half:], suspect=True),
    ]


class _Worker:
    """The actor: makes what does the work at its first job."""

    def __init__(self, make: Callable[[], Any], method: str):
        self._make, self._method = make, method
        self._worker: Any = None

    def call(self, items: list[Any]) -> tuple[list[Any], int, float]:
        if not items:
            return [], 0, 0.0
        if self._worker is None:
            self._worker = self._make()
        results = getattr(self._worker, self._method)(items)
        loads = getattr(self._worker, "loads", 0), getattr(self._worker, "load_seconds", 0.0)
        return list(results), *loads


class _Answerer:
    """An engine as a Pool's worker."""

    def __init__(self, kind: str, config: ModelConfig):
        self._engine: Any = make(kind, config)

    def answer(self, requests: list[Request]) -> list[Response]:
        return collect(self._engine, requests)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class Distributed:
    """See engines/base.py. kind: a name of registry.ENGINES.

    replicas: None: one per tensor_parallel_size GPUs of the cluster; without GPUs one per machine.
    """

    def __init__(
        self,
        kind: str,
        config: ModelConfig,
        *,
        replicas: int | None = None,
        address: str | None = None,
    ):
        self.config = config
        self._kind, self._replicas, self._address = kind, replicas, address
        self._open: Pool | None = None
        self._closed = (0, 0.0)  # loads and seconds of pools that were closed

    @cached_property
    def _resources(self) -> dict[str, float]:
        if self._address is None:  # known without starting anything
            return {"GPU": float(len(device.visible_gpus()))}
        return connect(self._address)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return device.identity(self._kind, self.config, on_gpu=self._resources.get("GPU", 0) > 0)

    @property
    def loads(self) -> int:
        return self._closed[0] + (self._open.loads if self._open else 0)

    @property
    def load_seconds(self) -> float:
        return self._closed[1] + (self._open.load_seconds if self._open else 0.0)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, Response]]:
        """Chunks of config.chunk_size go to the replicas as they become free."""
        size = self.config.chunk_size
        chunks = [requests[start : start + size] for start in range(0, len(requests), size)]
        for number, responses in self.chunks(chunks):
            for i, response in enumerate(responses):
                yield number * size + i, response

    def chunks(self, chunks: Sequence[Sequence[Request]]) -> Iterator[tuple[int, list[Response]]]:
        """(number of the chunk, its responses in order), several in flight at once."""
        if not chunks:
            return
        sent = [[_absolute(request) for request in chunk] for chunk in chunks]
        for number, found in self._pool().map(sent):
            yield (
                number,
                [
                    Response("", finish="error", error=r.error) if isinstance(r, Lost) else r
                    for r in found
                ],
            )

    def close(self) -> None:
        if self._open is not None:
            self._closed = (self.loads, self.load_seconds)
            self._open.close()
            self._open = None

    def _pool(self) -> Pool:
        if self._open is None:
            each = self.config.tensor_parallel_size
            replicas, gpus = places(connect(self._address), each)
            replicas = self._replicas or replicas
            if not replicas:
                raise UserError(f"{self.config.model}: needs {each} GPUs, the cluster has fewer")
            place = Path(locate(self.config.model))
            changes = {
                "dtype": self.identity["dtype"],
                "model": str(place.absolute()) if place.is_dir() else self.config.model,
            }
            kind, config = self._kind, self.config.model_copy(update=changes)
            self._open = Pool(lambda: _Answerer(kind, config), "answer", replicas, gpus)
            log.info("%s: %d replicas", self.config.model, replicas)
        return self._open


def _absolute(request: Request) -> Request:
    """A worker may have another working folder."""
    images = tuple(
        Picture(os.path.abspath(image.path))
        if isinstance(image, Picture)
        else Pair(image.left and os.path.abspath(image.left), os.path.abspath(image.right))
        for image in request.images
    )
    return replace(request, images=images)
