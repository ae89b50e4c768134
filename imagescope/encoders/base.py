"""The encoder: image and text towers that map both into one space of unit vectors.

Loaded by transformers (CLIP, SigLIP and their like) or by open_clip, in float32 unless the
configuration says otherwise, one copy on every visible GPU, else on the CPU.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from imagescope.arrays import Array
from imagescope.config import EncoderConfig
from imagescope.errors import UserError
from imagescope.models.checkpoints import fetch, fingerprint
from imagescope.models.decoding import UnreadableImage, opened
from imagescope.models.device import threads_for, visible_gpus
from imagescope.records import Item
from imagescope.store.cache import Cache

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

AHEAD = 3  # batches that are decoded while the model works


class Encoder:
    """Unit vectors of images and texts. The model is loaded when the first is asked for.

    unreadable: path -> why, of the images met so far.  loads, load_seconds: as an engine's;
    seconds: of embedding, without loading.
    """

    def __init__(self, config: EncoderConfig):
        self.config = config
        self.unreadable: dict[str, str] = {}
        self.loads, self.load_seconds, self.seconds = 0, 0.0, 0.0
        self._towers: list[_Towers] = []

    @property
    def declared(self) -> dict[str, Any]:
        """What the configuration says of it, without looking at the checkpoint."""
        return self.config.model_dump(
            include={"model", "revision", "library", "dtype", "max_length"}
        )

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What determines its vectors: the checkpoint's content and how it is run. JSON-able."""
        plain = {k: v for k, v in self.declared.items() if k not in ("model", "revision")}
        return {**fingerprint(self.config.model, self.config.revision), **plain}

    @property
    def dimension(self) -> int:
        """Length of its vectors (loads the model)."""
        return self._load()[0].dimension

    def images(self, paths: Sequence[str | os.PathLike[str]]) -> tuple[Array, Array]:
        """float32 (n, d) unit rows, and bool (n,): False, and a row of zeros, where a file could
        not be read (`unreadable` says why). Files are decoded in threads, ahead of the model."""
        names = [os.fspath(path) for path in paths]
        vectors = np.zeros((len(names), self.dimension), np.float32)
        ok = np.zeros(len(names), bool)

        def batches() -> Iterator[tuple[list[int], Any]]:
            for first, pixels in self._decoded(names):
                rows = [first + i for i, p in enumerate(pixels) if not isinstance(p, str)]
                ok[rows] = True
                for i, why in enumerate(pixels):
                    if isinstance(why, str):
                        self.unreadable[names[first + i]] = why
                if rows:
                    yield rows, [p for p in pixels if not isinstance(p, str)]

        with self._timed():
            for rows, found in self._embed(batches(), lambda towers, x: towers.images(x)):
                vectors[rows] = found
        return vectors, ok

    def texts(self, texts: Sequence[str]) -> Array:
        """float32 (n, d) unit rows; texts are cut at max_length tokens, special ones included."""
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        size = self.config.batch_size
        batches = (
            (list(range(a, min(a + size, len(texts)))), [_plain(t) for t in texts[a : a + size]])
            for a in range(0, len(texts), size)
        )
        with self._timed():
            for rows, found in self._embed(batches, lambda towers, x: towers.texts(x)):
                vectors[rows] = found
        return vectors

    def close(self) -> None:
        """Gives the memory back; the encoder may be used again (it loads again)."""
        if not self._towers:
            return
        self._towers = []
        gc.collect()
        if visible_gpus():
            import torch

            torch.cuda.empty_cache()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        import torch

        towers = self._load()
        start = time.monotonic()
        try:
            with threads_for(towers[0].parameters):
                yield
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the encoder {self.config.model} ran out of a GPU's memory: give it a smaller "
                "batch_size, or other GPUs (CUDA_VISIBLE_DEVICES)"
            ) from error
        self.seconds += time.monotonic() - start

    def _load(self) -> list[_Towers]:
        if not self._towers:
            start, config = time.monotonic(), self.config
            folder = fetch(config.model, config.revision)
            kind = _OpenClip if config.library == "open_clip" else _Transformers
            devices = [f"cuda:{n}" for n in range(len(visible_gpus()))] or ["cpu"]
            try:
                first = kind(folder, config)
                self._towers = [first.on(device) for device in devices]
            except (
                *(OSError, ValueError, KeyError, ImportError),
                *(RuntimeError, AssertionError),  # torch's, where a GPU is absent, broken or full
            ) as error:
                why = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(
                    f"{config.library} cannot load the encoder {config.model}: {why}. "
                    "(library: transformers or open_clip, in configs/models)"
                ) from error
            self.loads += 1
            self.load_seconds += time.monotonic() - start
        return self._towers

    def _decoded(self, names: list[str]) -> Iterator[tuple[int, list[Tensor | str]]]:
        """(index of the first, pixels or why there are none) of each batch, read ahead."""
        towers, size = self._load(), self.config.batch_size
        pixels = towers[0].pixels

        def read(name: str) -> Tensor | str:
            try:
                with opened(name) as picture:
                    return pixels(picture)
            except (UnreadableImage, ValueError) as error:  # a processor refuses 1x9000 pixels, say
                return str(error)

        waiting: deque[tuple[int, list[Future[Tensor | str]]]] = deque()
        with ThreadPoolExecutor(min(32, os.cpu_count() or 1), "decode") as pool:
            for first in range(0, len(names), size):
                batch = [pool.submit(read, name) for name in names[first : first + size]]
                waiting.append((first, batch))
                if len(waiting) > AHEAD * len(towers):
                    start, batch = waiting.popleft()
                    yield start, [future.result() for future in batch]
            for start, batch in waiting:
                yield start, [future.result() for future in batch]

    def _embed(
        self, batches: Iterable[tuple[list[int], Any]], embed: Callable[[_Towers, Any], Tensor]
    ) -> Iterator[tuple[list[int], Array]]:
        """(rows, unit vectors) of each batch. A GPU works on one while the next is made ready:
        its results are fetched a batch later."""
        import torch

        towers = self._load()
        running: deque[tuple[list[int], Tensor]] = deque()
        with torch.inference_mode():
            for number, (rows, batch) in enumerate(batches):
                found = embed(towers[number % len(towers)], batch).float()
                running.append((rows, torch.nn.functional.normalize(found, dim=-1)))
                if len(running) > len(towers):
                    first, vectors = running.popleft()
                    yield first, vectors.cpu().numpy()
            for rows, vectors in running:
                yield rows, vectors.cpu().numpy()


def open_encoder(config: EncoderConfig, *, ray_address: str | None = None) -> Encoder:
    """The encoder a configuration names; nothing is read or loaded yet. With the address of a Ray
    cluster, images are embedded by all of its GPUs."""
    if ray_address:
        from imagescope.encoders.distributed import DistributedEncoder

        return DistributedEncoder(config, ray_address)
    return Encoder(config)


class _Towers(Protocol):
    """A library's model on one device."""

    dimension: int
    parameters: int  # how many the model has

    def on(self, device: str) -> _Towers: ...

    def pixels(self, image: Image.Image) -> Tensor:
        """What the model sees of a picture, float32 (3, h, w). Called from several threads."""

    def images(self, pixels: list[Tensor]) -> Tensor: ...

    def texts(self, texts: list[str]) -> Tensor: ...


class _Transformers:
    def __init__(self, folder: str, config: EncoderConfig):
        import torch
        import transformers

        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            dtype = _dtype(config)
            load = transformers.AutoModel.from_pretrained
            self._model = load(folder, dtype=dtype, use_safetensors=True).eval()
            if not hasattr(self._model, "get_image_features"):
                raise ValueError(f"{type(self._model).__name__} has no image and text towers")
            # PIL's, also where torchvision is: the two resize differently, and vectors must not
            # depend on what else is installed
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        finally:
            transformers.logging.set_verbosity(verbosity)
        self.parameters = self._model.num_parameters()
        text = self._model.config.get_text_config()
        self._length = min(config.max_length, text.max_position_embeddings)
        # SigLIP was trained on texts filled up to its full length, without a mask
        self._full = "siglip" in self._model.config.model_type
        self._device = "cpu"
        with torch.inference_mode():
            self.dimension = self.texts([""]).shape[-1]

    def on(self, device: str) -> _Transformers:
        found = self if device == "cpu" else deepcopy(self)
        found._model, found._device = found._model.to(device), device
        return found

    def pixels(self, image: Image.Image) -> Tensor:
        made: Tensor = self._processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return made

    def images(self, pixels: list[Tensor]) -> Tensor:
        made = self._model.get_image_features(
            pixel_values=_batch(pixels, self._device, self._model.dtype)
        )
        return _pooled(made)

    def texts(self, texts: list[str]) -> Tensor:
        inputs = self._tokenizer(
            texts,
            padding="max_length" if self._full else True,
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        known = ("input_ids",) if self._full else ("input_ids", "attention_mask")
        tensors = {name: inputs[name].to(self._device) for name in known}
        return _pooled(self._model.get_text_features(**tensors))


class _OpenClip:
    def __init__(self, folder: str, config: EncoderConfig):
        import open_clip
        import torch

        name = f"local-dir:{folder}"
        files = sorted(Path(folder).glob("*.safetensors"))
        own = [file for file in files if file.name.startswith("open_clip")]
        # loaded here: open_clip itself would open its own pickle before others' safetensors
        model, _, self._transform = open_clip.create_model_and_transforms(
            name, load_weights=False, pretrained_text=False
        )
        open_clip.load_checkpoint(model, str((own or files)[0]))
        self._model = model.to(_dtype(config)).eval()
        self.parameters = sum(weights.numel() for weights in model.parameters())
        self._tokenizer = open_clip.get_tokenizer(name)
        self._length = min(config.max_length, model.context_length)
        self._dtype, self._device = _dtype(config), "cpu"
        with torch.inference_mode():
            self.dimension = self.texts([""]).shape[-1]

    def on(self, device: str) -> _OpenClip:
        found = self if device == "cpu" else deepcopy(self)
        found._model, found._device = found._model.to(device), device
        return found

    def pixels(self, image: Image.Image) -> Tensor:
        made: Tensor = self._transform(image)
        return made

    def images(self, pixels: list[Tensor]) -> Tensor:
        made: Tensor = self._model.encode_image(_batch(pixels, self._device, self._dtype))
        return made

    def texts(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(texts, context_length=self._length)
        made: Tensor = self._model.encode_text(tokens.to(self._device))
        return made


def _dtype(config: EncoderConfig) -> Any:
    import torch

    found = getattr(torch, config.dtype, None)
    if not isinstance(found, torch.dtype):
        raise UserError(f"{config.model}: unknown dtype {config.dtype!r} (float32, bfloat16, …)")
    return found


def _batch(pixels: list[Tensor], device: str, dtype: Any) -> Tensor:
    import torch

    stacked = torch.stack(pixels)
    if device != "cpu":
        stacked = stacked.pin_memory().to(device, non_blocking=True)
    return stacked.to(dtype)


def _pooled(found: Any) -> Tensor:
    """The projected features: transformers 5 wraps them, 4 did not."""
    made: Tensor = getattr(found, "pooler_output", found)
    return made


def _plain(text: str) -> str:
    """Text a tokenizer takes: lone surrogates, which model output can hold, become '?'."""
    return text.encode("utf-8", "replace").decode()


class CachedTexts:
    """An encoder's text vectors, each computed once and then kept in the response cache.

    The same text always has the same vector. Texts are cut into chunks of the configuration's
    size before it is looked up what is held, and a chunk is stored whole or not at all: one that
    an interrupted run repeats has the company it would have had.
    replay: everything must be held; neither encoder nor checkpoint is touched.
    """

    def __init__(self, encoder: Encoder, cache: Cache, replay: bool = False):
        self._encoder, self._cache, self._replay = encoder, cache, replay
        self._counts = [0, 0, 0]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The encoder's; in a replay, the one it was exported with."""
        if self._replay:
            return self._cache.replayed(self._encoder.declared)
        return self._encoder.identity

    @cached_property
    def space(self) -> str:
        """The cache's name for what this encoder's vectors belong to."""
        return self._cache.register(self.identity, self._encoder.declared)

    def texts(self, texts: Sequence[str]) -> Array:
        """float32 (n, d) unit rows. Raises UserError where a replay lacks one."""
        wanted = [_plain(text) for text in texts]
        found = self.lookup(wanted)
        return np.stack([found[text] for text in wanted]) if wanted else np.zeros((0, 0), "f4")

    def means(self, groups: Sequence[Sequence[str]]) -> Array:
        """float32 (len(groups), d): the mean of each group's unit vectors, not normalised."""
        found = self.lookup([_plain(text) for group in groups for text in group])
        rows = [
            np.mean([found[_plain(t)] for t in group], axis=0, dtype=np.float32) for group in groups
        ]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

    def missing(self, texts: Sequence[str]) -> int:
        """How many of the distinct texts would have to be embedded."""
        keys = {_key(_plain(text)) for text in texts}
        return len(keys) - len(self._cache.vectors(self.space, list(keys)))

    def embed(self, items: Sequence[Item], known: Mapping[Path, Array] = {}) -> Array:
        """float32 (n, d): unit rows; zeros for an image that cannot be read, and for an item with
        nothing in it. known: the vectors of images that lie elsewhere.

        Raises UserError for an item with both text and image, which two towers cannot join, and
        where a replay lacks one.
        """
        if any(len(item.images) + bool(item.text) > 1 or item.video for item in items):
            raise UserError(
                f"{self._encoder.config.model} embeds a text or an image, not both as one: "
                "--method image+text adds their vectors"
            )
        said = self.lookup([_plain(item.text) for item in items if item.text])
        paths = [path for item in items for path in item.images if path not in known]
        seen = {**known, **self._images(paths)}
        rows = [
            said.get(_plain(item.text)) if item.text else seen.get(*item.images or (None,))
            for item in items
        ]
        width = next((len(row) for row in rows if row is not None), 0)
        return np.stack([np.zeros(width, np.float32) if row is None else row for row in rows])

    def _images(self, paths: Sequence[Path]) -> dict[Path, Array]:
        """path -> float32 (d,) of each image that can be read."""
        shas = self._cache.hashes([str(path) for path in paths])
        keys = {path: f"image:{shas[str(path)]}" for path in paths if shas[str(path)]}
        held = self._cache.vectors(self.space, list(keys.values())) if keys else {}
        missing = [path for path, key in keys.items() if key not in held]
        self._counts[0] += len(paths)
        self._counts[1] += len(keys) - len(missing)
        if missing and self._replay:
            raise UserError(
                f"{self._cache.path}: the vector of {missing[0]} is not in the bundle. Replay with "
                "the options of the run that was exported."
            )
        if missing:
            vectors, ok = self._encoder.images(missing)
            made = {keys[p]: v for p, v, fine in zip(missing, vectors, ok, strict=True) if fine}
            self._cache.put_vectors(self.space, made)
            self._counts[2] += len(made)
            held |= made
        return {path: held[key] for path, key in keys.items() if key in held}

    def take_counts(self) -> tuple[int, int, int]:
        """(wanted, cached, computed) since the last time; wanted counts repetitions."""
        wanted, cached, asked = self._counts
        self._counts = [0, 0, 0]
        return wanted, cached, asked

    def lookup(self, texts: Sequence[str]) -> dict[str, Array]:
        """text -> float32 (d,) of every distinct text; what is not held is computed and kept."""
        distinct = list(dict.fromkeys(texts))
        held = self._cache.vectors(self.space, [_key(text) for text in distinct])
        found = {text: held[_key(text)] for text in distinct if _key(text) in held}
        self._counts[0] += len(texts)
        self._counts[1] += len(found)
        size = self._encoder.config.chunk_size
        for first in range(0, len(distinct), size):
            chunk = [text for text in distinct[first : first + size] if text not in found]
            if not chunk:
                continue
            if self._replay:
                raise UserError(
                    f"{self._cache.path}: the vector of {chunk[0]!r} is not in the bundle. Replay "
                    "with the options of the run that was exported."
                )
            made = dict(zip(chunk, self._encoder.texts(chunk), strict=True))
            self._cache.put_vectors(self.space, {_key(text): v for text, v in made.items()})
            found |= made
            self._counts[2] += len(chunk)
        return found


def _key(text: str) -> str:
    return f"text:{text}"
