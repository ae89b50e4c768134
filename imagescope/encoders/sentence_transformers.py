"""Encoders opened by sentence-transformers: also those that embed an image and a text as one.

What a checkpoint takes is its own affair (its processor and chat template): a CLIP has texts and
images, a vision-language model with pooling takes both in one input, after an instruction. Its own
prompts ("query", "document") are used where the configuration has no instruction, and its own limit
of text tokens instead of max_length.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagescope.arrays import Array
from imagescope.config import EncoderConfig, Side
from imagescope.encoders.loaded import LoadedEncoder, torch_dtype
from imagescope.errors import UserError
from imagescope.models.device import transformers_quiet

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class SentenceTransformersEncoder(LoadedEncoder):
    summary = "joint and multimodal encoders, with instructions"
    licence = "Apache-2.0"
    package = "sentence_transformers"
    takes = frozenset({"text", "image", "joint"})
    instructed = True

    def open(self, folder: str) -> JointModel:
        return JointModel(folder, self.config)


class JointModel:
    """See loaded.Model."""

    prepare: Callable[[Image.Image], Array] | None = None  # the library does, texts beside them

    def __init__(self, folder: str, config: EncoderConfig):
        import transformers
        from sentence_transformers import SentenceTransformer

        for path in Path(folder).rglob("pytorch_model.bin"):  # a module's own; the library opens it
            if not path.with_name("model.safetensors").exists():
                raise ValueError(f"{path} is a pickle, which is not opened: convert it")
        with transformers_quiet():
            self._model = SentenceTransformer(
                folder,
                device="cpu",
                local_files_only=True,
                model_kwargs={"dtype": torch_dtype(config), "use_safetensors": True},
            ).eval()
            processor = self._model[0].processor
            if hasattr(processor, "image_processor"):  # PIL's, see encoders/transformers.py
                load = transformers.AutoImageProcessor.from_pretrained
                processor.image_processor = load(folder, backend="pil")
        self._config = config
        self.dimension = self._model.get_embedding_dimension() or 0
        self.parameters = sum(weights.numel() for weights in self._model.parameters())

    def on(self, device: str) -> JointModel:
        copy = self if device == "cpu" else deepcopy(self)
        copy._model = copy._model.to(device)
        return copy

    def embed(self, texts: list[str], pictures: list[Image.Image], side: Side) -> Tensor:
        # by name, since a text alone would be opened where it looks like an image's address
        if texts and pictures:
            pairs = zip(texts, pictures, strict=True)
            inputs: list[Any] = [{"image": image, "text": text} for text, image in pairs]
        else:
            inputs = [{"text": text} for text in texts] or [{"image": image} for image in pictures]
        config, model = self._config, self._model
        encode = model.encode_query if side == "query" else model.encode_document
        try:
            vectors: Tensor = encode(
                inputs,
                prompt=config.instruction(side) or None,
                batch_size=len(inputs),
                convert_to_tensor=True,
                show_progress_bar=False,
            )
        except (ValueError, TypeError) as error:
            raise UserError(f"{config.model}: {str(error).splitlines()[0]}") from error
        return vectors
