"""Any image file becomes RGB pixels or an error that says why; the canvas is the paper's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagescope.engines import images
from imagescope.engines.base import Pair, Picture
from imagescope.engines.images import UnreadableImage, canvas, load_picture, prepare

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"


def mean(image: Image.Image) -> list[float]:
    return np.asarray(image, float).mean((0, 1)).tolist()


@pytest.fixture
def red() -> Image.Image:
    return Image.new("RGB", (6, 4), (200, 30, 40))


def test_its_own_size_in_rgb(tmp_path: Path, red: Image.Image) -> None:
    red.save(tmp_path / "a.png")
    found = load_picture(tmp_path / "a.png")
    assert (found.mode, found.size) == ("RGB", (6, 4))
    assert mean(found) == [200, 30, 40]


def test_cmyk_and_palette(tmp_path: Path, red: Image.Image) -> None:
    red.convert("CMYK").save(tmp_path / "cmyk.jpg")
    red.convert("P").save(tmp_path / "palette.gif")
    red.convert("P").save(tmp_path / "palette.png")
    for path in tmp_path.iterdir():
        assert mean(load_picture(path)) == pytest.approx([200, 30, 40], abs=8), path.name


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    image.paste((10, 20, 30, 255), (0, 0, 2, 4))
    image.save(tmp_path / "a.png")
    found = load_picture(tmp_path / "a.png")
    assert found.getpixel((0, 0)) == (10, 20, 30)
    assert found.getpixel((3, 3)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9])
    palette.save(tmp_path / "p.png", transparency=0)
    assert load_picture(tmp_path / "p.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257 * 100, 100), (65535, 255)])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, value: int, expected: int) -> None:
    array = np.array([[value, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(array).save(tmp_path / name)
        found = load_picture(tmp_path / name)
        assert found.getpixel((0, 0)) == (expected,) * 3, name
        assert found.getpixel((1, 0)) == (255,) * 3, name


def test_floats_and_wide_integers(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "f.tif")
    assert [p[0] for p in np.asarray(load_picture(tmp_path / "f.tif"))[0]] == [0, 128, 255]
    Image.fromarray(np.array([[0, 90, 200]], np.int32)).save(tmp_path / "i.tif")
    assert [p[0] for p in np.asarray(load_picture(tmp_path / "i.tif"))[0]] == [0, 90, 200]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 4), "blue")
    image.paste("red", (0, 0, 2, 4))  # red at the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned right: red on top
    image.save(tmp_path / "a.png", exif=exif)
    found = load_picture(tmp_path / "a.png")
    assert found.size == (4, 8)
    assert found.getpixel((1, 0)) == (255, 0, 0)
    assert found.getpixel((1, 7)) == (0, 0, 255)


def test_heic_as_telephones_make_it(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pillow-heif reads HEIC")
    heif.register_heif_opener()
    picture = Image.new("RGB", (64, 32), "red")
    picture.paste("blue", (0, 0, 32, 32))
    picture.getexif()[0x0112] = 6  # turned by 90 degrees clockwise: what was left is on top
    picture.save(tmp_path / "a.HEIC", quality=95)
    found = load_picture(tmp_path / "a.HEIC")
    assert found.size == (32, 64) and found.mode == "RGB"
    top, bottom = found.getpixel((16, 10)), found.getpixel((16, 54))
    assert top[2] > 200 > 60 > top[0] and bottom[0] > 200 > 60 > bottom[2]


def test_what_is_no_image_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    cases = {
        "truncated.jpg": whole[: len(whole) // 2],
        "empty.jpg": b"",
        "text.jpg": b"404: not found",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UnreadableImage, match=name):
            load_picture(tmp_path / name)
    with pytest.raises(UnreadableImage, match="empty"):
        load_picture(tmp_path / "empty.jpg")
    with pytest.raises(UnreadableImage, match="no such file"):
        load_picture(tmp_path / "none.jpg")
    with pytest.raises(UnreadableImage, match="directory"):
        load_picture(tmp_path)
    monkeypatch.setattr(images, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(UnreadableImage, match="too large"):
        load_picture(tmp_path / "whole.jpg")


def test_the_canvas() -> None:
    left, right = Image.new("RGB", (10, 30), "red"), Image.new("RGB", (900, 20), "blue")
    pixels = np.asarray(canvas(left, right))
    assert pixels.shape == (826, 1645, 3)
    assert (pixels[26:, :800] == (255, 0, 0)).all()
    assert (pixels[26:, 845:] == (0, 0, 255)).all()
    assert (pixels[26:, 820:825] == 0).all()
    assert (pixels[26:, 800:820] == 255).all() and (pixels[26:, 825:845] == 255).all()
    for start in (0, 845):  # a label in the strip, in the middle over its image
        dark = np.nonzero((pixels[:26, start : start + 800] < 128).any((0, 2)))[0]
        assert abs((dark[0] + dark[-1]) / 2 - 400) < 3
        assert 80 < dark[-1] - dark[0] < 300
    assert (np.asarray(canvas(None, right))[26:, :800] == 0).all()
    assert (np.asarray(canvas(None, right))[26:, 845:] == (0, 0, 255)).all()


def test_prepare(tmp_path: Path, red: Image.Image) -> None:
    path = str(tmp_path / "a.png")
    red.save(path)
    assert prepare(Picture(path)).size == (6, 4)
    assert prepare(Pair(path, path)).size == (1645, 826)
    assert prepare(Pair(None, path)).getpixel((400, 400)) == (0, 0, 0)
    with pytest.raises(UnreadableImage, match="none"):
        prepare(Pair(str(tmp_path / "none.png"), path))


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no shared photographs beside this checkout")
def test_photographs() -> None:
    for path in sorted(PHOTOS.glob("*.jpg")):
        found = load_picture(path)
        assert found.mode == "RGB" and min(found.size) > 100
