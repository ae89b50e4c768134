"""The encoder on a Ray cluster: images are embedded by replicas on all of its GPUs.

On one machine this is not needed: an Encoder uses every visible GPU itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from imagescope.config import EncoderConfig, Side
from imagescope.encoders.base import open_encoder
from imagescope.encoders.loaded import Batch, LoadedEncoder, Model
from imagescope.engines.cluster import connect, places
from imagescope.engines.distributed import Lost, Pool
from imagescope.errors import UserError
from imagescope.models.checkpoints import locate
from imagescope.models.images import ABSENT
from imagescope.records import Item
from imagescope.registry import ENCODERS


class DistributedEncoder(LoadedEncoder):
    """See LoadedEncoder. Texts alone, which are few, are embedded here.

    address: of the running cluster ("auto": the one this machine is part of); its machines see
        images and checkpoint under the same paths.  replicas: None: one a GPU.
    """

    def __init__(
        self, config: EncoderConfig, address: str | None = None, replicas: int | None = None
    ):
        self._local: LoadedEncoder = ENCODERS.load(config.library)(config)
        self.takes, self.instructed = self._local.takes, self._local.instructed
        super().__init__(config)
        self._address, self._replicas = address, replicas
        self._pool: Pool | None = None

    def open(self, folder: str) -> Model:
        return self._local.open(folder)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        super().close()

    def _embed(self, batches: Iterator[Batch], side: Side) -> Iterator[None]:
        """See LoadedEncoder. Batches with images, of all chunks, go to the replicas as these
        become free."""
        cut = list(batches)
        yield from super()._embed((batch for batch in cut if not batch.paths), side)
        shown = dict(enumerate(batch for batch in cut if batch.paths))
        del cut  # so that a chunk goes with its last batch
        if not shown:
            return
        tasks = [[(_absolute(item), side) for item in batch.items] for batch in shown.values()]
        for number, results in self._workers().map(tasks):
            batch = shown.pop(number)
            for row, path, result in zip(batch.rows, batch.paths, results, strict=True):
                if isinstance(result, np.ndarray):
                    batch.chunk.vectors[row] = result
                    continue
                why = result.error if isinstance(result, Lost) else str(result)
                if why.endswith(ABSENT) and path.exists():
                    raise UserError(
                        f"{path}: a worker does not see this file. Do all machines of the cluster "
                        "have it under this path?"
                    )
                batch.chunk.reasons[row] = why
            batch.chunk.waiting -= 1
            yield

    def _workers(self) -> Pool:
        if self._pool is None:
            room, gpus = places(connect(self._address))
            folder = Path(locate(self.config.model))
            model = str(folder.absolute()) if folder.is_dir() else self.config.model
            config = self.config.model_copy(update={"model": model})
            self._pool = Pool(lambda: _Embedder(config), "embed", self._replicas or room, gpus)
        return self._pool


def _absolute(item: Item) -> Item:
    return replace(item, images=tuple(Path(os.path.abspath(path)) for path in item.images))


class _Embedder:
    """An encoder as a Pool's worker."""

    def __init__(self, config: EncoderConfig):
        self._encoder = open_encoder(config)

    def embed(self, tasks: list[tuple[Item, Side]]) -> list[Any]:
        """Each item's vector, or why it has none."""
        vectors, reasons = self._encoder.embed([item for item, _ in tasks], tasks[0][1])
        return [reasons.get(row, vector) for row, vector in enumerate(vectors)]
