"""Pictures on their way to a tower: padded before the processor, batches of pixels after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

RATIO = 1.25  # of the longer to the shorter side, above which a picture is padded


def target_pad(image: Image.Image) -> Image.Image:
    """A picture whose longer side is more than 1.25 times the shorter, with a black border on both
    sides of the shorter: each of floor((longer / 1.25 - shorter) / 2) pixels, so that the ratio is
    1.25 to within two pixels. Others stay as they are.

    What most releases of zero-shot composed retrieval put before CLIP's processor, which then
    crops less of the picture.
    """
    longer = max(image.size)
    across, down = (max(int((longer / RATIO - side) / 2), 0) for side in image.size)
    if not (across or down):
        return image
    padded = Image.new(image.mode, (image.width + 2 * across, image.height + 2 * down))
    padded.paste(image, (across, down))
    return padded


def batch(pixels: list[Tensor], device: str, dtype: Any) -> Tensor:
    """Pictures of one size, (3, h, w) each, as one (n, 3, h, w) on a device."""
    import torch

    stacked = torch.stack(pixels)
    if device != "cpu":
        stacked = stacked.pin_memory().to(device, non_blocking=True)
    return stacked.to(dtype)
