"""Replicas on every GPU of a machine or a Ray cluster, each kept full with parts of the work.

A Pool runs any worker; Distributed is an engine on one. A worker that dies is replaced and what it
had is done again, each part alone; a part that kills workers is halved until the item that does it
stands alone. Files are named by absolute path: a cluster needs them on a filesystem that its
machines share.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from imagescope.config import ModelConfig
from imagescope.engines.base import Answers, Picture, Request, Requests, Source
from imagescope.engines.batches import error
from imagescope.engines.child import EngineDied, make
from imagescope.engines.cluster import connect, places, reason
from imagescope.engines.feed import Shared
from imagescope.errors import UserError
from imagescope.models import device
from imagescope.models.checkpoints import locate

log = logging.getLogger("imagescope")
ATTEMPTS = 2  # of a job before it is halved; a part of a job that was halved has one
PART = 64  # requests that a replica is sent at a time
MAX_NUM_SEQS = 1024  # that an engine works on at most, where its configuration does not say
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
    up: bool = False
    jobs: dict[Any, Job] = field(default_factory=dict)  # by Ray's reference to the result
    loads: int = 0
    load_seconds: float = 0.0
    before: tuple[int, float] = field(default=(0, 0.0))  # of the actors that died

    def room(self, depth: int) -> bool:
        """Whether it may have one more job. One that was in flight when a worker died is alone."""
        return (
            self.up and len(self.jobs) < depth and not any(j.failures for j in self.jobs.values())
        )


class Pool:
    """Workers that each take a list of items and return a list of as many results.

    make: called with no arguments in the worker's process; returns an object whose `method`
        does the work. It may have `loads` and `load_seconds` (see engines/base.py).
    depth: chunks that a worker has at a time, in as many threads.
    """

    def __init__(
        self, make: Callable[[], Any], method: str, replicas: int, gpus: int = 0, depth: int = 1
    ):
        import ray

        options = {"num_gpus": gpus, "num_cpus": 0 if gpus else 1, "max_concurrency": depth}
        actor = ray.remote(_Worker).options(**options)
        self._new = lambda: actor.remote(make, method)
        self._ray = ray
        self._size, self._depth = replicas, depth
        self._slots: list[_Slot] = []

    @property
    def loads(self) -> int:
        """How often the model was loaded, counting replicas that load side by side once."""
        return max((slot.loads for slot in self._slots), default=0)

    @property
    def load_seconds(self) -> float:
        return max((slot.load_seconds for slot in self._slots), default=0.0)

    def map(self, chunks: Iterable[Sequence[Any]]) -> Iterator[tuple[int, list[Any]]]:
        """(number of the chunk, its results) as chunks are finished; Lost for an item that workers
        did not survive. Chunks are read as workers have room for them; an empty one says that there
        is none for now. Raises EngineDied where they die whatever they do, and a worker's own
        UserError."""
        if not self._slots:
            self._slots = [_Slot(self._new()) for _ in range(self._size)]
        source, ended = enumerate(chunks), False
        again = deque[Job]()  # what was in flight when a worker died
        results: dict[int, list[Any]] = {}  # of chunks that are not finished
        missing: dict[int, int] = {}
        starting = {self._hello(slot): slot for slot in self._slots if not slot.up}
        barren = 0  # deaths since a job succeeded
        try:
            while missing or not ended:
                while free := [s for s in self._slots if s.room(1 if again else self._depth)]:
                    slot = min(free, key=lambda slot: len(slot.jobs))
                    if again:
                        job = again.popleft()
                    else:
                        number, chunk = next(source, (-1, ()))
                        ended = number < 0
                        if not chunk:
                            break
                        job = Job(number, 0, chunk)
                        results[number], missing[number] = [None] * len(chunk), len(chunk)
                    slot.jobs[slot.actor.call.remote(list(job.items))] = job
                if not missing and self._up():
                    if not ended:
                        yield -1, []
                    continue
                flying = {ref: slot for slot in self._slots for ref in slot.jobs}
                done, _ = self._ray.wait(
                    [*flying, *starting], timeout=None if flying else START_SECONDS
                )
                if not done:
                    raise EngineDied(f"no worker started within {START_SECONDS} s: are GPUs free?")
                ref = done[0]
                slot = flying[ref] if ref in flying else starting.pop(ref)
                try:
                    outcomes, loads, seconds = self._ray.get(ref)
                except UserError as error:
                    raise UserError(str(getattr(error, "cause", error))) from None
                except Exception as error:  # Ray's, or whatever broke in the worker
                    why = reason(error)
                    barren += 1
                    if barren > 3 + 2 * self._size:
                        raise EngineDied(f"workers die whatever they are asked: {why}") from None
                    log.warning("a worker ended (%s); another takes its place", why)
                    jobs = self._replace(slot)
                    starting[self._hello(slot)] = slot
                    parts = [part for job in jobs for part in _again(job, why)]
                    again.extend(job for job, lost in parts if not lost)
                    finished = [(job, [lost]) for job, lost in parts if lost]
                else:
                    slot.up = True
                    slot.loads = slot.before[0] + loads
                    slot.load_seconds = slot.before[1] + seconds
                    finished = []
                    if ref in flying:
                        finished, barren = [(slot.jobs.pop(ref), outcomes)], 0
                for job, outcomes in finished:
                    number = job.chunk
                    results[number][job.start : job.start + len(outcomes)] = outcomes
                    missing[number] -= len(outcomes)
                    if not missing[number]:
                        del missing[number]
                        yield number, results.pop(number)
        finally:
            for slot in self._slots:
                if slot.jobs:  # nobody waits for what it is doing
                    self._replace(slot)

    def close(self) -> None:
        """Ends the workers, which gives their memory back; map starts new ones."""
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._slots = []

    def _up(self) -> bool:
        return any(slot.up for slot in self._slots)

    def _hello(self, slot: _Slot) -> Any:
        """Answered when the worker is up: jobs go only to those that are."""
        return slot.actor.call.remote([])

    def _replace(self, slot: _Slot) -> list[Job]:
        """Another worker in the slot; returns what the old one had in flight."""
        self._ray.kill(slot.actor)
        jobs = list(slot.jobs.values())
        slot.jobs, slot.up = {}, False
        slot.before = (slot.loads, slot.load_seconds)
        slot.actor = self._new()
        return jobs


def _again(job: Job, why: str) -> list[tuple[Job, Lost | None]]:
    """What becomes of a job whose worker died: jobs to try again, or one that is given up."""
    job = replace(job, failures=job.failures + 1)
    alone = len(job.items) == 1
    if job.failures < ATTEMPTS and (alone or not job.suspect):
        return [(job, None)]
    if alone:
        return [(job, Lost(f"workers did not survive it: {why}"))]
    half = len(job.items) // 2
    parts = (job.start, job.items[:half]), (job.start + half, job.items[half:])
    # (failures: 1, so that a part is alone in its worker, too)
    return [(Job(job.chunk, start, items, 1, suspect=True), None) for start, items in parts]


class _Worker:
    """The actor: makes what does the work at its first job."""

    def __init__(self, make: Callable[[], Any], method: str):
        self._make, self._method = make, method
        self._worker: Any = None
        self._lock = threading.Lock()

    def call(self, items: list[Any]) -> tuple[list[Any], int, float]:
        if not items:
            return [], 0, 0.0
        with self._lock:
            if self._worker is None:
                self._worker = self._make()
        results = getattr(self._worker, self._method)(items)
        loads = getattr(self._worker, "loads", 0), getattr(self._worker, "load_seconds", 0.0)
        return list(results), *loads


class _Answerer:
    """An engine as a Pool's worker, asked by several threads at once."""

    def __init__(self, kind: str, config: ModelConfig):
        self._engine = make(kind, config)
        self.answer = Shared(self._engine).ask

    @property
    def loads(self) -> int:
        return self._engine.loads

    @property
    def load_seconds(self) -> float:
        return self._engine.load_seconds


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
        self.config, self.width = config, make(kind, config).width
        self._kind, self._replicas, self._address = kind, replicas, address
        self._open: Pool | None = None
        self._closed = (0, 0.0)  # loads and seconds of pools that were closed

    declared: Mapping[str, Any] = {}

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

    def generate(self, requests: Requests) -> Iterator[Answers]:
        """Each replica has enough PARTs of requests to be never short of one."""
        source = Source(requests)
        while not (first := source.take(PART)):  # no worker starts before there is something to do
            if source.ended:
                return
            yield {}
        starts: dict[int, int] = {}  # chunk -> the place of its first request

        def chunks() -> Iterator[list[Request]]:
            part, place = first, 0
            for number in count():
                starts[number] = place
                place += len(part)
                yield [_absolute(request) for request in part]
                if source.ended:
                    return
                part = source.take(PART)

        for number, results in self._pool().map(chunks()):
            responses = (error(r.error) if isinstance(r, Lost) else r for r in results)
            yield dict(enumerate(responses, starts.pop(number, 0)))

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
            depth = -(-2 * (config.max_num_seqs or MAX_NUM_SEQS) // PART)
            self._open = Pool(lambda: _Answerer(kind, config), "answer", replicas, gpus, depth)
            log.info("%s: %d replicas", self.config.model, replicas)
        return self._open


def _absolute(request: Request) -> Request:
    """A worker may have another working folder."""
    images = tuple(
        replace(image, path=os.path.abspath(image.path))
        if isinstance(image, Picture)
        else replace(
            image,
            left=image.left and os.path.abspath(image.left),
            right=os.path.abspath(image.right),
        )
        for image in request.images
    )
    return replace(request, images=images)
