"""Two towers opened by transformers: CLIP, SigLIP and their like."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from imagescope.arrays import Array
from imagescope.encoders.loaded import LoadedEncoder, torch_dtype
from imagescope.encoders.towers import TwoTowers
from imagescope.models.device import import_transformers, transformers_quiet

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class TransformersEncoder(LoadedEncoder):
    summary = "CLIP, SigLIP and other two-tower models of transformers"
    licence = "Apache-2.0"
    package = "transformers"

    def open(self, folder: str) -> TwoTowers:
        transformers, dtype = import_transformers(), torch_dtype(self.config)
        with transformers_quiet():
            load = transformers.AutoModel.from_pretrained
            model = load(folder, dtype=dtype, use_safetensors=True)
            if not hasattr(model, "get_image_features"):
                raise ValueError(f"{type(model).__name__} has no image and text towers")
            # PIL's, also where torchvision is: the two resize differently, and vectors must not
            # depend on what else is installed
            processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        # SigLIP was trained on texts filled up to its full length, without a mask
        full = "siglip" in model.config.model_type
        longest = model.config.get_text_config().max_position_embeddings

        def tokens(texts: list[str]) -> dict[str, Tensor]:
            inputs = tokenizer(
                texts,
                padding="max_length" if full else True,
                truncation=True,
                max_length=min(self.config.max_length, longest),
                return_tensors="pt",
            )
            return {n: inputs[n] for n in ("input_ids", "attention_mask")[: 1 if full else 2]}

        prepare = partial(_prepare, processor)
        names = "get_image_features", "get_text_features"
        return TwoTowers(model, dtype, *names, tokens, prepare)


def _prepare(processor: Any, image: Image.Image) -> Array:
    pixels: Array = processor(images=[image], return_tensors="np")["pixel_values"][0]
    return pixels
