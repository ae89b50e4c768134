"""Two towers opened by transformers: CLIP, SigLIP and their like."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from imagescope.config import EncoderConfig, Side
from imagescope.encoders.base import Encoder, torch_dtype
from imagescope.encoders.pixels import batch
from imagescope.models.device import import_transformers, transformers_quiet

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class TransformersEncoder(Encoder):
    summary = "CLIP, SigLIP and other two-tower models of transformers"
    licence = "Apache-2.0"
    package = "transformers"

    def open(self, folder: str) -> TwoTowers:
        return TwoTowers(folder, self.config)


class TwoTowers:
    """See base.Model."""

    def __init__(self, folder: str, config: EncoderConfig):
        import torch

        transformers = import_transformers()
        with transformers_quiet():
            dtype = torch_dtype(config)
            load = transformers.AutoModel.from_pretrained
            self._model = load(folder, dtype=dtype, use_safetensors=True).eval()
            if not hasattr(self._model, "get_image_features"):
                raise ValueError(f"{type(self._model).__name__} has no image and text towers")
            # PIL's, also where torchvision is: the two resize differently, and vectors must not
            # depend on what else is installed
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.parameters = self._model.num_parameters()
        text = self._model.config.get_text_config()
        self._length = min(config.max_length, text.max_position_embeddings)
        # SigLIP was trained on texts filled up to its full length, without a mask
        self._full = "siglip" in self._model.config.model_type
        self._device = "cpu"
        with torch.inference_mode():
            self.dimension = self.embed([""], [], "query").shape[-1]

    def on(self, device: str) -> TwoTowers:
        copy = self if device == "cpu" else deepcopy(self)
        copy._model, copy._device = copy._model.to(device), device
        return copy

    def picture(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return pixels

    def embed(self, texts: list[str], pictures: list[Tensor], side: Side) -> Tensor:
        if pictures:
            pixels = batch(pictures, self._device, self._model.dtype)
            return _pooled(self._model.get_image_features(pixel_values=pixels))
        inputs = self._tokenizer(
            texts,
            padding="max_length" if self._full else True,
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        names = ("input_ids",) if self._full else ("input_ids", "attention_mask")
        tensors = {name: inputs[name].to(self._device) for name in names}
        return _pooled(self._model.get_text_features(**tensors))


def _pooled(output: Any) -> Tensor:
    """The projected features: transformers 5 wraps them, 4 did not."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features
