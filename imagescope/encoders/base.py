"""The encoder: what maps images, texts and both together into one space of unit vectors.

A library (registry.ENCODERS) opens the checkpoint, in float32 unless the configuration says
otherwise; here it gets a copy on every visible GPU, else on the CPU, and is fed batch by batch.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from imagescope.arrays import Array
from imagescope.config import EncoderConfig, Side
from imagescope.encoders.pixels import target_pad
from imagescope.errors import UserError
from imagescope.models.ahead import read_ahead
from imagescope.models.checkpoints import fetch, fingerprint
from imagescope.models.decoding import opened
from imagescope.models.device import threads_for, visible_gpus
from imagescope.records import Item
from imagescope.registry import ENCODERS

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

AHEAD = 3  # batches that are decoded while the model works
Kind = Literal["text", "image", "joint"]
LATER = ("preprocessing",)  # settings that came after the first identities were written


class Model(Protocol):
    """A library's model on one device: what a new library brings.

    dimension: length of its vectors.  parameters: how many it has.
    """

    dimension: int
    parameters: int

    def on(self, device: str) -> Model:
        """The same on a device ("cpu", "cuda:0"): itself moved, or a copy."""

    def picture(self, image: Image.Image) -> Any:
        """What the model takes of a picture. Called from several threads; raises ValueError for
        a picture that cannot be processed."""

    def embed(self, texts: list[str], pictures: list[Any], side: Side) -> Tensor:
        """(n, d), not normalised, of texts, of pictures (the other list is empty), or of pairs."""


class Encoder:
    """Unit vectors of items. The model is loaded when the first is asked for.

    A library's class says what it takes, opens a checkpoint, and leaves the rest to this one.
    loads, load_seconds: as an engine's; seconds: of embedding, without loading.
    summary, licence, package: for lists; the last must be installed.
    """

    summary: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    package: ClassVar[str] = ""
    takes: frozenset[Kind] = frozenset({"text", "image"})
    instructed = False  # whether a side's instruction is part of what it embeds
    checkpoint = True  # whether there is one, to be looked for before a run and opened

    def __init__(self, config: EncoderConfig):
        if not self.instructed and (config.instruction_query or config.instruction_gallery):
            raise UserError(
                f"{config.library} embeds items without an instruction: take instruction_query and "
                f"instruction_gallery away from {config.model}, or use sentence_transformers"
            )
        self.config = config
        self.loads, self.load_seconds, self.seconds = 0, 0.0, 0.0
        self._models: list[Model] = []

    def open(self, folder: str) -> Model:
        """The checkpoint of a folder, on the CPU. Raises what its library raises."""
        raise NotImplementedError

    @property
    def declared(self) -> dict[str, Any]:
        """What the configuration says of it, without looking at the checkpoint."""
        names = {"model", "revision", "library", "dtype", "max_length"}
        later = self.config.model_dump(include=set(LATER), exclude_defaults=True)
        return self.config.model_dump(include=names) | later

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines its vectors: the checkpoint's content and how it is run. JSON-able."""
        plain = {k: v for k, v in self.declared.items() if k not in ("model", "revision")}
        return {**fingerprint(self.config.model, self.config.revision), **plain}

    def condition(self, side: Side) -> str:
        """What else determines a vector on this side; "" where both sides are embedded alike."""
        return f"{side}:{self.config.instruction(side)}" if self.instructed else ""

    @property
    def dimension(self) -> int:
        """Length of its vectors (loads the model)."""
        return self._load()[0].dimension

    def embed(self, items: Sequence[Item], side: Side) -> tuple[Array, dict[int, str]]:
        """float32 (n, d) unit rows, and why a row has no vector (its image cannot be read; the row
        is zeros). An item without an image is its text, even an empty one, which is cut at
        max_length tokens, special ones included.

        Raises UserError, before anything is loaded, for an item that this encoder does not take.
        """
        kinds = [self.kind(item) for item in items]
        vectors, reasons = np.zeros((len(items), self.dimension), np.float32), dict[int, str]()
        with self._timed():
            for kind in dict.fromkeys(kinds):  # a batch's items are all of one kind
                rows = [row for row, other in enumerate(kinds) if other == kind]
                for done, units in self._embed(items, rows, side, reasons):
                    vectors[done] = units
        return vectors, reasons

    def kind(self, item: Item) -> Kind:
        """What an item is to this encoder. Raises UserError for one that it does not take."""
        kind: Kind = "text" if not item.images else "joint" if item.text else "image"
        if len(item.images) > 1 or item.video:
            raise UserError(f"{self.config.model} embeds one image at a time, and no video")
        if kind not in self.takes:
            also = ": --method image+text adds their vectors" if kind == "joint" else ""
            what = {"joint": "a text or an image, not both as one"}.get(kind, f"no {kind} alone")
            raise UserError(f"{self.config.model} embeds {what}{also}")
        return kind

    def close(self) -> None:
        """Gives the memory back; the encoder may be used again (it loads again)."""
        if not self._models:
            return
        self._models = []
        gc.collect()
        if visible_gpus():
            import torch

            torch.cuda.empty_cache()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        import torch

        models = self._load()
        start = time.monotonic()
        try:
            with threads_for(models[0].parameters):
                yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the encoder {self.config.model} ran out of a GPU's memory: give it a smaller "
                "batch_size, or other GPUs (CUDA_VISIBLE_DEVICES)"
            ) from error
        self.seconds += time.monotonic() - start

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

    def _embed(
        self, items: Sequence[Item], rows: list[int], side: Side, reasons: dict[int, str]
    ) -> Iterator[tuple[list[int], Array]]:
        """(rows, unit vectors) of each batch of items of one kind; reasons gets why rows have none.
        A GPU works on a batch while the next is made ready: it is fetched a batch later."""
        import torch

        models = self._load()
        running: deque[tuple[list[int], Tensor]] = deque()
        with torch.inference_mode():
            for number, (batch, texts, pictures) in enumerate(self._batches(items, rows, reasons)):
                raw = models[number % len(models)].embed(texts, pictures, side).float()
                running.append((batch, torch.nn.functional.normalize(raw, dim=-1)))
                if len(running) > len(models):
                    first, vectors = running.popleft()
                    yield first, vectors.cpu().numpy()
            for batch, vectors in running:
                yield batch, vectors.cpu().numpy()

    def _batches(
        self, items: Sequence[Item], rows: list[int], reasons: dict[int, str]
    ) -> Iterator[tuple[list[int], list[str], list[Any]]]:
        """(rows, their texts, their pictures) of each batch of one kind, less what is unreadable.
        Files are decoded in threads, ahead of the model."""
        size, models = self.config.batch_size, self._load()
        batches = [rows[first : first + size] for first in range(0, len(rows), size)]
        texts = {row: plain(items[row].text) for row in rows if items[row].text}
        if rows and not items[rows[0]].images:
            yield from ((batch, [texts.get(row, "") for row in batch], []) for batch in batches)
            return

        def picture(path: os.PathLike[str]) -> Any:
            with opened(os.fspath(path)) as image:
                padded = self.config.preprocessing == "target_pad"
                return models[0].picture(target_pad(image) if padded else image)

        path = {row: items[row].images[0] for row in rows}
        decoded = read_ahead(
            batches,
            lambda batch: [path[row] for row in batch],
            picture,
            ahead=AHEAD * len(models),
            threads=min(32, os.cpu_count() or 1),
        )
        for batch, pictures in decoded:
            for row in batch:
                if isinstance(why := pictures[path[row]], str):
                    reasons[row] = why
            if good := [row for row in batch if row not in reasons]:
                said = [texts[row] for row in good if row in texts]
                yield good, said, [pictures[path[row]] for row in good]


def has_checkpoint(config: EncoderConfig) -> bool:
    """Whether the encoder's library needs a checkpoint here."""
    library: type[Encoder] = ENCODERS.load(config.library)
    return library.checkpoint


def open_encoder(config: EncoderConfig, *, ray_address: str | None = None) -> Encoder:
    """The encoder a configuration names; nothing is read or loaded yet. With the address of a Ray
    cluster, images are embedded by all of its GPUs. Raises UserError for an unknown library."""
    if ray_address:
        from imagescope.encoders.distributed import DistributedEncoder

        return DistributedEncoder(config, ray_address)
    encoder: Encoder = ENCODERS.load(config.library)(config)
    return encoder


def torch_dtype(config: EncoderConfig) -> Any:
    """The torch.dtype that a configuration names. Raises UserError for an unknown one."""
    import torch

    dtype = getattr(torch, config.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UserError(f"{config.model}: unknown dtype {config.dtype!r} (float32, bfloat16, …)")
    return dtype


def plain(text: str) -> str:
    """Text a tokenizer takes: lone surrogates, which model output can hold, become '?'."""
    return text.encode("utf-8", "replace").decode()
