"""Two towers, one for images and one for texts: what libraries of such models have in common."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from imagescope.arrays import Array
from imagescope.config import Side

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor


@dataclass
class TwoTowers:
    """See loaded.Model.

    images, texts: names of the model's methods that embed pixels and tokens.  tokens: of texts, as
    that method takes them.
    """

    model: Any
    dtype: Any
    images: str
    texts: str
    tokens: Callable[[list[str]], dict[str, Tensor]]
    prepare: Callable[[Image.Image], Array] | None
    device: str = "cpu"

    def __post_init__(self) -> None:
        import torch

        self.model.eval()
        self.parameters = sum(weights.numel() for weights in self.model.parameters())
        with torch.inference_mode():
            self.dimension = self.embed([""], [], "query").shape[-1]

    def on(self, device: str) -> Self:
        other = copy(self)
        other.model = (self.model if device == "cpu" else deepcopy(self.model)).to(device)
        other.device = device
        return other

    def embed(self, texts: list[str], pictures: list[Array], side: Side) -> Tensor:
        import torch

        if pictures:
            pixels = torch.from_numpy(np.stack(pictures))
            if self.device != "cpu":
                pixels = pixels.pin_memory().to(self.device, non_blocking=True)
            output = getattr(self.model, self.images)(pixels.to(self.dtype))
        else:
            tokens = {name: ids.to(self.device) for name, ids in self.tokens(texts).items()}
            output = getattr(self.model, self.texts)(**tokens)
        features: Tensor = getattr(output, "pooler_output", output)  # transformers 5 wraps them
        return features
