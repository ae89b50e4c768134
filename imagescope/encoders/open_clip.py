"""Two towers opened by open_clip, from a checkpoint with an open_clip_config.json."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

from imagescope.config import EncoderConfig, Side
from imagescope.encoders.base import Encoder, torch_dtype
from imagescope.encoders.pixels import batch

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class OpenClipEncoder(Encoder):
    summary = "CLIP and its kin, by open_clip's configuration"
    licence = "MIT"
    package = "open_clip"

    def open(self, folder: str) -> TwoTowers:
        return TwoTowers(folder, self.config)


class TwoTowers:
    """See base.Model."""

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
        self._dtype, self._device = torch_dtype(config), "cpu"
        self._model = model.to(self._dtype).eval()
        self.parameters = sum(weights.numel() for weights in model.parameters())
        self._tokenizer = open_clip.get_tokenizer(name)
        self._length = min(config.max_length, model.context_length)
        with torch.inference_mode():
            self.dimension = self.embed([""], [], "query").shape[-1]

    def on(self, device: str) -> TwoTowers:
        copy = self if device == "cpu" else deepcopy(self)
        copy._model, copy._device = copy._model.to(device), device
        return copy

    def picture(self, image: Image.Image) -> Tensor:
        pixels: Tensor = self._transform(image)
        return pixels

    def embed(self, texts: list[str], pictures: list[Tensor], side: Side) -> Tensor:
        if pictures:
            vectors = self._model.encode_image(batch(pictures, self._device, self._dtype))
        else:
            tokens = self._tokenizer(texts, context_length=self._length)
            vectors = self._model.encode_text(tokens.to(self._device))
        features: Tensor = vectors
        return features
