"""Padding, by hand."""

import numpy as np
import pytest
from PIL import Image

from imagescope.encoders.base import open_encoder
from imagescope.encoders.pixels import target_pad
from imagescope.records import Item


@pytest.mark.parametrize(
    "size, padded, corner",
    [
        ((100, 50), (100, 80), (0, 15)),  # 100 / 1.25 = 80: (80 - 50) / 2 = 15 above and below
        ((50, 101), (80, 101), (15, 0)),  # 101 / 1.25 = 80.8: 15.4 is cut to 15
        ((100, 80), (100, 80), (0, 0)),  # 1.25 exactly
        ((90, 100), (90, 100), (0, 0)),
    ],
)
def test_the_shorter_side_is_padded_to_the_ratio(size, padded, corner):
    image = target_pad(Image.new("RGB", size, "white"))
    assert image.size == padded
    assert image.getbbox() == (*corner, corner[0] + size[0], corner[1] + size[1])  # else black


def test_an_encoder_pads_before_its_processor(clip_config, tmp_path):
    wide, black = tmp_path / "wide.png", tmp_path / "black.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 100, 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(wide)
    target_pad(picture).save(black)
    padding = open_encoder(clip_config.model_copy(update={"preprocessing": "target_pad"}))
    (padded,), _ = padding.embed([Item(images=(wide,))], "gallery")
    (plain, same), _ = open_encoder(clip_config).embed(
        [Item(images=(wide,)), Item(images=(black,))], "gallery"
    )
    np.testing.assert_allclose(padded, same, atol=1e-5)
    assert abs(padded - plain).max() > 1e-3
