"""Encoders that open a checkpoint, in float32 unless the configuration says otherwise: a copy on
every visible GPU, else one on the CPU, fed batch by batch while the next pictures are made ready.
"""

from __future__ import annotations

import gc
import os
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from imagescope.arrays import Array
from imagescope.config import EncoderConfig, Side
from imagescope.encoders.base import Encoder, Kind, plain
from imagescope.encoders.pixels import read
from imagescope.errors import UserError
from imagescope.models.ahead import read_ahead
from imagescope.models.checkpoints import fetch, fingerprint
from imagescope.models.device import threads_for, visible_gpus
from imagescope.models.processes import Processes
from imagescope.records import Item
from imagescope.registry import ENCODERS

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

AHEAD = 3  # batches that are made ready while the model works
READERS = 16  # at most; each process takes some 500 MB
SCALES = 4  # cores up to which threads make pictures ready as fast as processes do
MANY = 4096  # pictures after which processes are worth their start, some ten seconds


class Model(Protocol):
    """A library's model on one device: what a new library brings.

    dimension: length of its vectors.  parameters: how many it has.
    prepare: what the model takes of a picture; None: the picture itself. It is called in threads,
        and in processes, to which it is pickled. Raises ValueError for one it cannot process.
    """

    dimension: int
    parameters: int
    prepare: Callable[[Image.Image], Array] | None

    def on(self, device: str) -> Model:
        """The same on a device ("cpu", "cuda:0"): itself moved, or a copy."""

    def embed(self, texts: list[str], pictures: list[Any], side: Side) -> Tensor:
        """(n, d), not normalised, of texts, of pictures (the other list is empty), or of pairs."""


@dataclass
class Chunk:
    """Items that are embedded together. waiting: batches still to come; reasons: why a row stays
    zeros."""

    items: Sequence[Item]
    vectors: Array
    waiting: int
    reasons: dict[int, str] = field(default_factory=dict)


class Batch(NamedTuple):
    """Rows of a chunk whose items are of one kind."""

    chunk: Chunk
    rows: list[int]

    @property
    def items(self) -> list[Item]:
        return [self.chunk.items[row] for row in self.rows]

    @property
    def paths(self) -> list[Path]:
        return [path for item in self.items for path in item.images]


class LoadedEncoder(Encoder):
    """See Encoder. The model is loaded when the first vector is asked for.

    A library's class says what it takes, opens a checkpoint, and leaves the rest to this one. Texts
    are cut at max_length tokens, special ones included.
    """

    checkpoint = True

    def __init__(self, config: EncoderConfig):
        super().__init__(config)
        self._models: list[Model] = []

    @abstractmethod
    def open(self, folder: str) -> Model:
        """The checkpoint of a folder, on the CPU. Raises what its library raises."""

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The checkpoint's content, and how it is run."""
        run = {k: v for k, v in self.declared.items() if k not in ("model", "revision")}
        return {**fingerprint(self.config.model, self.config.revision), **run}

    @property
    def dimension(self) -> int:
        """Length of its vectors (loads the model)."""
        return self._load()[0].dimension

    def embed(self, items: Sequence[Item], side: Side) -> tuple[Array, dict[int, str]]:
        (embedded,) = self.embed_chunks([items], side)
        return embedded

    def embed_chunks(
        self, chunks: Iterable[Sequence[Item]], side: Side
    ) -> Iterator[tuple[Array, dict[int, str]]]:
        """See Encoder. The model does not wait between chunks: pictures of the next are made ready
        while it works on this one."""
        begun: deque[Chunk] = deque()
        for _ in self._timed(self._embed(self._batches(chunks, begun), side)):
            while begun and not begun[0].waiting:
                chunk = begun.popleft()
                yield chunk.vectors, chunk.reasons
        for chunk in begun:  # of no items
            yield chunk.vectors, chunk.reasons

    def close(self) -> None:
        if not self._models:
            return
        self._models = []
        gc.collect()
        if visible_gpus():
            import torch

            torch.cuda.empty_cache()

    def _timed(self, work: Iterator[None]) -> Iterator[None]:
        import torch

        while True:
            start, loading = time.monotonic(), self.load_seconds
            try:
                next(work)
            except StopIteration:
                return
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"the encoder {self.config.model} ran out of a GPU's memory: give it a smaller "
                    "batch_size, or other GPUs (CUDA_VISIBLE_DEVICES)"
                ) from error
            finally:
                self.seconds += time.monotonic() - start - (self.load_seconds - loading)
            yield

    def _load(self) -> list[Model]:
        if not self._models:
            start, config = time.monotonic(), self.config
            folder = fetch(config.model, config.revision)
            devices = [f"cuda:{n}" for n in range(len(visible_gpus()))] or ["cpu"]
            try:
                first = self.open(folder)
                self._models = [first.on(device) for device in devices]
            except (
                *(OSError, ValueError, KeyError, ImportError),
                *(RuntimeError, AssertionError),  # torch's, where a GPU is absent, broken or full
            ) as error:
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(
                    f"{config.library} cannot load the encoder {config.model}: {why}. "
                    f"(library: {', '.join(ENCODERS)}, in configs/models)"
                ) from error
            self.loads += 1
            self.load_seconds += time.monotonic() - start
        return self._models

    def _batches(self, chunks: Iterable[Sequence[Item]], begun: deque[Chunk]) -> Iterator[Batch]:
        """Each chunk, which is put into `begun`, cut into batches of one kind. None reaches over
        a chunk's end: a run that goes on after some chunks cuts as one that makes them all."""
        size = self.config.batch_size
        for items in chunks:
            rows: dict[Kind, list[int]] = {}
            for row, item in enumerate(items):
                rows.setdefault(self.kind(item), []).append(row)
            cuts = [
                alike[first : first + size]
                for alike in rows.values()
                for first in range(0, len(alike), size)
            ]
            zeros = np.zeros((len(items), self.dimension), np.float32)
            begun.append(chunk := Chunk(items, zeros, len(cuts)))
            yield from (Batch(chunk, cut) for cut in cuts)

    def _embed(self, batches: Iterator[Batch], side: Side) -> Iterator[None]:
        """Puts what becomes of each batch into its chunk, and yields. A GPU works on a batch while
        the next is made ready: its vectors are fetched a batch later."""
        running: deque[tuple[Batch, Tensor | None]] = deque()
        for number, (batch, pixels) in enumerate(self._ready(batches)):
            models = self._load()
            vectors = _forward(models[number % len(models)], batch, pixels, side)
            running.append((batch, vectors))
            if len(running) > len(models):
                _put(*running.popleft())
                yield
        for batch, vectors in running:
            _put(batch, vectors)
            yield

    def _ready(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, dict[Path, Any]]]:
        """The batches less what cannot be read, with their pictures as the model takes them."""
        first = next(batches, None)  # (raises for what is not taken, before anything is loaded)
        if first is None:
            return
        models, cores = self._load(), os.cpu_count() or 1
        prepare, padded = models[0].prepare, self.config.preprocessing == "target_pad"
        here = partial(read, prepare=prepare, padded=padded)
        fast = prepare and visible_gpus() and cores > SCALES
        with Processes(here, MANY) if fast else nullcontext(here) as reader:
            for batch, pixels in read_ahead(
                chain([first], batches),
                lambda batch: batch.paths,
                reader,
                ahead=AHEAD * len(models),
                threads=min(READERS, cores),
            ):
                lost = {
                    row: why
                    for row, path in zip(batch.rows, batch.paths, strict=False)
                    if isinstance(why := pixels[path], str)
                }
                batch.chunk.reasons.update(lost)
                yield Batch(batch.chunk, [row for row in batch.rows if row not in lost]), pixels


def _forward(model: Model, batch: Batch, pixels: dict[Path, Any], side: Side) -> Tensor | None:
    """A batch's unit vectors, on their way; None where nothing of it can be read."""
    import torch

    if not batch.rows:
        return None
    texts = [plain(item.text) for item in batch.items if item.text or not item.images]
    with torch.inference_mode(), threads_for(model.parameters):
        vectors = model.embed(texts, [pixels[path] for path in batch.paths], side)
        return torch.nn.functional.normalize(vectors.float(), dim=-1)


def _put(batch: Batch, vectors: Tensor | None) -> None:
    if vectors is not None:
        batch.chunk.vectors[batch.rows] = vectors.cpu().numpy()
    batch.chunk.waiting -= 1


def torch_dtype(config: EncoderConfig) -> Any:
    """The torch.dtype that a configuration names. Raises UserError for an unknown one."""
    import torch

    dtype = getattr(torch, config.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UserError(f"{config.model}: unknown dtype {config.dtype!r} (float32, bfloat16, …)")
    return dtype
