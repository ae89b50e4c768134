"""The encoder on a Ray cluster: images are embedded by replicas on all of its GPUs.

On one machine this is not needed: an Encoder uses every visible GPU itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imagescope.arrays import Array
from imagescope.config import EncoderConfig
from imagescope.encoders.base import Encoder
from imagescope.engines.cluster import connect, places
from imagescope.engines.distributed import Lost, Pool
from imagescope.errors import UserError
from imagescope.models.checkpoints import locate
from imagescope.models.images import ABSENT


class DistributedEncoder(Encoder):
    """See Encoder. Texts, which are few, are embedded here.

    address: of the running cluster ("auto": the one this machine is part of); its machines see
        images and checkpoint under the same paths.  replicas: None: one a GPU.
    """

    def __init__(
        self, config: EncoderConfig, address: str | None = None, replicas: int | None = None
    ):
        super().__init__(config)
        self._address, self._replicas = address, replicas
        self._pool: Pool | None = None

    def images(self, paths: Sequence[str | os.PathLike[str]]) -> tuple[Array, Array]:
        """See Encoder.images. Batches go to the replicas as they become free."""
        names, size = [os.path.abspath(path) for path in paths], self.config.batch_size
        vectors = np.zeros((len(names), self.dimension), np.float32)
        ok = np.zeros(len(names), bool)
        chunks = [names[first : first + size] for first in range(0, len(names), size)]
        with self._timed():
            for number, found in self._workers().map(chunks):
                for row, item in enumerate(found, number * size):
                    if isinstance(item, np.ndarray):
                        vectors[row], ok[row] = item, True
                    else:
                        why = item.error if isinstance(item, Lost) else str(item)
                        if why.endswith(ABSENT) and os.path.exists(names[row]):
                            raise UserError(
                                f"{names[row]}: a worker does not see this file. Do all machines "
                                "of the cluster have it under this path?"
                            )
                        self.unreadable[os.fspath(paths[row])] = why
        return vectors, ok

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        super().close()

    def _workers(self) -> Pool:
        if self._pool is None:
            room, gpus = places(connect(self._address))
            folder = Path(locate(self.config.model))
            model = str(folder.absolute()) if folder.is_dir() else self.config.model
            config = self.config.model_copy(update={"model": model})
            self._pool = Pool(lambda: _Embedder(config), "embed", self._replicas or room, gpus)
        return self._pool


class _Embedder:
    """An encoder as a Pool's worker."""

    def __init__(self, config: EncoderConfig):
        self._encoder = Encoder(config)

    def embed(self, paths: list[str]) -> list[Any]:
        """Each image's vector, or why it has none."""
        vectors, ok = self._encoder.images(paths)
        unreadable = self._encoder.unreadable
        return [
            vector if fine else unreadable[path]
            for path, vector, fine in zip(paths, vectors, ok, strict=True)
        ]
