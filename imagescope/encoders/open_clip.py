"""Two towers opened by open_clip, from a checkpoint with an open_clip_config.json."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagescope.arrays import Array
from imagescope.encoders.loaded import LoadedEncoder, torch_dtype
from imagescope.encoders.towers import TwoTowers

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


class OpenClipEncoder(LoadedEncoder):
    summary = "CLIP and its kin, by open_clip's configuration"
    licence = "MIT"
    package = "open_clip"

    def open(self, folder: str) -> TwoTowers:
        import open_clip

        name, dtype = f"local-dir:{folder}", torch_dtype(self.config)
        files = sorted(Path(folder).glob("*.safetensors"))
        own = [file for file in files if file.name.startswith("open_clip")]
        # loaded here: open_clip itself would open its own pickle before others' safetensors
        model, _, transform = open_clip.create_model_and_transforms(
            name, load_weights=False, pretrained_text=False
        )
        open_clip.load_checkpoint(model, str((own or files)[0]))
        tokenizer = open_clip.get_tokenizer(name)
        length = min(self.config.max_length, model.context_length)

        def tokens(texts: list[str]) -> dict[str, Tensor]:
            return {"text": tokenizer(texts, context_length=length)}

        prepare = partial(_prepare, transform)
        return TwoTowers(model.to(dtype), dtype, "encode_image", "encode_text", tokens, prepare)


def _prepare(transform: Any, image: Image.Image) -> Array:
    pixels: Array = transform(image).numpy()
    return pixels
