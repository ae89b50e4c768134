"""Indexing a folder: what is a picture, what changed, and that only that is computed."""

from __future__ import annotations

import shutil
from pathlib import Path

import faiss
import pytest
from own_oracle import ASKED, SEEN, content, oracle, scenes
from PIL import Image

from imagescope.datasets.folder import walk
from imagescope.errors import UserError
from imagescope.own import library
from imagescope.own.indexing import build

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "photos"
__all__ = ["oracle"]


def odd_files(folder: Path) -> None:
    """A broken file, a GIF, a PNG with alpha, a rotated JPEG, a text and a PostScript file named
    .jpg, and more."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = Image.effect_noise((60, 40), 50).convert("RGB")
    picture.save(folder / "whole.jpg")
    (folder / "broken.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:700])
    (folder / "whole.jpg").unlink()
    frames = [Image.new("P", (30, 30), i) for i in range(3)]
    frames[0].save(folder / "moving.GIF", save_all=True, append_images=frames[1:])
    Image.new("RGBA", (30, 30), (255, 0, 0, 0)).save(folder / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(folder / "turned.jpeg", exif=exif)
    (folder / "text.jpg").write_text("not a picture")
    (folder / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no picture, and does not say so")
    (folder / ".hidden.jpg").write_text("left alone")
    (folder / ".thumbs").mkdir()
    shutil.copy(folder / "clear.png", folder / ".thumbs" / "clear.png")


def test_odd_files_are_counted_with_reasons(oracle: str, tmp_path: Path) -> None:
    odd_files(tmp_path / "in" / "deep" / "er")
    outside = tmp_path / "outside.png"
    Image.new("RGB", (9, 9)).save(outside)
    (tmp_path / "in" / "link.png").symlink_to(outside)
    (tmp_path / "in" / "inner.png").symlink_to(tmp_path / "in" / "deep" / "er" / "clear.png")
    update = build(tmp_path / "in", "odd", oracle)
    deep = {f"deep/er/{name}" for name in ("moving.GIF", "clear.png", "turned.jpeg")}
    assert set(update.manifest.pictures) == deep | {"inner.png"}
    assert set(update.manifest.skipped) == {
        "deep/er/broken.jpg",
        "deep/er/text.jpg",
        "deep/er/program.jpg",
        "deep/er/empty.png",
        "link.png",
    }
    reasons = update.manifest.skipped
    assert "not an image" in reasons["deep/er/text.jpg"] and "empty" in reasons["deep/er/empty.png"]
    assert "out of the folder" in reasons["link.png"]
    assert update.others == 2  # notes.txt and .hidden.jpg; hidden folders are not entered
    thumbnail = library.thumbnail("odd", update.manifest.pictures["deep/er/turned.jpeg"])
    with Image.open(thumbnail) as small:
        assert small.height > small.width  # upright


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photographs lie beside this repository")
def test_photographs_and_odd_files(oracle: str, tmp_path: Path) -> None:
    shutil.copytree(
        PHOTOS, tmp_path / "in", ignore=lambda _, names: [n for n in names if ".jpg" not in n]
    )
    odd_files(tmp_path / "in")
    update = build(tmp_path / "in", "photos", oracle)
    assert len(update.manifest.pictures) == 12 + 3 and len(update.manifest.skipped) == 4


def test_an_update_computes_only_what_is_new(oracle: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    scenes(folder, 6)
    first = build(folder, "n", oracle)
    assert len(first.changes.new) == 6 and len(ASKED) == 6
    ASKED.clear()

    same = build(folder, "n")  # the model set is remembered
    assert same.changes.unchanged == 6 and not ASKED

    (folder / "sub").mkdir()
    (folder / "000.png").rename(folder / "sub" / "moved.png")
    (folder / "001.png").unlink()
    scenes(tmp_path / "other", 2, seed=9)
    shutil.copy(tmp_path / "other" / "000.png", folder / "002.png")  # changed
    shutil.copy(tmp_path / "other" / "001.png", folder / "new.png")
    shutil.copy(folder / "003.png", folder / "copy.png")
    second = build(folder, "n")
    changes = second.changes
    assert changes.moved == {"sub/moved.png": "000.png"} and changes.removed == ["001.png"]
    assert changes.changed == ["002.png"] and changes.new == ["copy.png", "new.png"]
    assert changes.unchanged == 3 and len(ASKED) == 2  # two contents were never seen before
    for name, entry in second.manifest.pictures.items():
        assert entry.caption == SEEN[content(folder / name)]
    index = library.read_vectors("n", second.manifest)
    assert index.ntotal == len(second.manifest.pictures) == 7
    left = {path.stem for path in (library.place("n") / "thumbnails").iterdir()}
    assert left == {entry.sha256 for entry in second.manifest.pictures.values()}


def test_an_interrupted_index_goes_on(
    oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes(tmp_path / "in", 5)

    def full(*_: object) -> str:
        raise OSError("disk full")

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(library, "write_vectors", full)
        build(tmp_path / "in", "n", oracle)
    assert library.names() == []
    ASKED.clear()
    assert len(build(tmp_path / "in", "n", oracle).manifest.pictures) == 5
    assert not ASKED  # every caption was kept


def test_names_and_folders(oracle: str, tmp_path: Path) -> None:
    scenes(tmp_path / "My pictures", 2)
    scenes(tmp_path / "others", 2)
    assert build(tmp_path / "My pictures", models=oracle).name == "My-pictures"
    with pytest.raises(UserError, match="choose another with --name"):
        build(tmp_path / "others", "My-pictures")
    with pytest.raises(UserError, match="cannot name an index"):
        build(tmp_path / "others", "../escape", oracle)
    with pytest.raises(UserError, match="no such folder"):
        build(tmp_path / "nowhere", "n", oracle)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no readable picture"):
        build(tmp_path / "bare", "n", oracle)
    with pytest.raises(UserError, match=r"no index 'n' .*there: My-pictures.*imagescope index"):
        library.read_manifest("n")


def test_without_weights_the_message_says_what_to_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    scenes(tmp_path / "in", 1)
    models = tmp_path / "some.yaml"
    roles = "\n".join(
        f"{role}: {{model: nobody/nothing-{role}}}"
        for role in ("captioner", "reasoner", "verifier", "evaluator", "encoder")
    )
    models.write_text(roles)
    with pytest.raises(UserError, match="hf download nobody/nothing-captioner"):
        build(tmp_path / "in", "n", str(models))


def test_damaged_indexes_say_so(oracle: str, tmp_path: Path) -> None:
    scenes(tmp_path / "in", 3)
    manifest = build(tmp_path / "in", "n", oracle).manifest
    vectors = library.place("n") / manifest.vectors
    faiss.write_index(faiss.IndexFlatIP(4), str(vectors))
    with pytest.raises(UserError, match="0 vectors for 3 pictures"):
        library.read_vectors("n", manifest)
    vectors.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        library.read_vectors("n", manifest)
    (library.place("n") / "index.json").write_text("{")
    with pytest.raises(UserError, match="not a readable index"):
        library.read_manifest("n")


def test_walk_takes_any_spelling_of_a_suffix(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Tiff", "c.webp", "d.pdf", "e"):
        (tmp_path / name).touch()
    found = walk(tmp_path)
    assert list(found.pictures) == ["a.JPG", "b.Tiff", "c.webp"] and found.others == 2


@pytest.mark.parametrize(
    ("folder", "name", "message"),
    [("nowhere", None, "no such folder"), ("in", "../x", "cannot name an index")],
)
def test_folder_and_name_come_before_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, name: str | None, message: str
) -> None:
    monkeypatch.setenv("IMAGESCOPE_HOME", str(tmp_path / "home"))

    def absent(*_: object) -> None:
        raise UserError("a checkpoint is not there")

    monkeypatch.setattr("imagescope.own.indexing.fingerprint", absent)
    scenes(tmp_path / "in", 1)
    with pytest.raises(UserError, match=message):
        build(tmp_path / folder, name)
