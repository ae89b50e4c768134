"""The encoder: what maps images, texts and both together into one space of unit vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from imagescope.arrays import Array
from imagescope.config import EncoderConfig, Side
from imagescope.errors import UserError
from imagescope.records import Item
from imagescope.registry import ENCODERS

Kind = Literal["text", "image", "joint"]
LATER = ("preprocessing",)  # settings that came after the first identities were written


class Encoder(ABC):
    """Unit vectors of items. What has a checkpoint to open is a LoadedEncoder.

    loads, load_seconds: as an engine's; seconds: of embedding, without loading.
    summary, licence, package: for lists; the last must be installed.
    """

    summary: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    package: ClassVar[str] = ""
    takes: frozenset[Kind] = frozenset({"text", "image"})
    instructed = False  # whether a side's instruction is part of what it embeds
    checkpoint = False  # whether there is one, to be looked for before a run

    def __init__(self, config: EncoderConfig):
        if not self.instructed and (config.instruction_query or config.instruction_gallery):
            raise UserError(
                f"{config.library} embeds items without an instruction: take instruction_query and "
                f"instruction_gallery away from {config.model}, or use sentence_transformers"
            )
        self.config = config
        self.loads, self.load_seconds, self.seconds = 0, 0.0, 0.0

    @property
    def declared(self) -> dict[str, Any]:
        """What the configuration says of it, without looking at the checkpoint."""
        names = {"model", "revision", "library", "dtype", "max_length"}
        later = self.config.model_dump(include=set(LATER), exclude_defaults=True)
        return self.config.model_dump(include=names) | later

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines its vectors. JSON-able."""
        return self.declared

    def condition(self, side: Side) -> str:
        """What else determines a vector on this side; "" where both sides are embedded alike."""
        return f"{side}:{self.config.instruction(side)}" if self.instructed else ""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of its vectors."""

    @abstractmethod
    def embed(self, items: Sequence[Item], side: Side) -> tuple[Array, dict[int, str]]:
        """float32 (n, d) unit rows, and why a row has no vector (its image cannot be read; the row
        is zeros). An item without an image is its text, even an empty one.

        Raises UserError, before anything is loaded, for an item that this encoder does not take.
        """

    def embed_chunks(
        self, chunks: Iterable[Sequence[Item]], side: Side
    ) -> Iterator[tuple[Array, dict[int, str]]]:
        """embed() of each chunk, in order. What can work ahead takes further chunks meanwhile."""
        return (self.embed(items, side) for items in chunks)

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

    def close(self) -> None:  # noqa: B027  (most have nothing to give back)
        """Gives the memory back; the encoder may be used again (it loads again)."""


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


def plain(text: str) -> str:
    """Text a tokenizer takes: lone surrogates, which model output can hold, become '?'."""
    return text.encode("utf-8", "replace").decode()


def missing_chunks(keys: Sequence[str], size: int, stored: Container[str]) -> list[list[str]]:
    """The keys cut into chunks, these less what is stored: what an interrupted run repeats is
    batched as before, so that float rounding agrees."""
    chunks = [keys[first : first + size] for first in range(0, len(keys), size)]
    return [new for chunk in chunks if (new := [key for key in chunk if key not in stored])]
