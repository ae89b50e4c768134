"""Indexing a folder: what is a picture, what changed, and that only that is computed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from own_oracle import ASKED, SEEN, Oracle, content, oracle, scenes
from PIL import Image

from imagescope import ImageScope
from imagescope.engines.base import Request
from imagescope.errors import UserError
from imagescope.own import library
from imagescope.own.folder import walk
from imagescope.own.indexing import build

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos"
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
    assert len(library.read_vectors("n", second.manifest)) == len(second.manifest.pictures) == 7
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
    np.save(vectors, np.zeros((0, 4), np.float32))
    with pytest.raises(UserError, match="0 vectors for 3 pictures"):
        library.read_vectors("n", manifest)
    vectors.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        library.read_vectors("n", manifest)
    for odd in (np.zeros((3, 4)), np.zeros(3, np.float32), np.array([{}] * 3, object)):
        np.save(vectors, odd, allow_pickle=True)
        with pytest.raises(UserError, match="cannot be read"):
            library.read_vectors("n", manifest)
    index = library.place("n") / "index.json"
    content = json.loads(index.read_text())
    content["models"]["encoder"]["of_later"] = content["of_later"] = 1
    index.write_text(json.dumps(content))
    assert library.read_manifest("n") == manifest
    index.write_text(json.dumps(content | {"version": 2}))
    with pytest.raises(UserError, match="newer version"):
        library.read_manifest("n")
    index.write_text("{")
    with pytest.raises(UserError, match="not a readable index"):
        library.read_manifest("n")


def test_walk_takes_any_spelling_of_a_suffix(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.Tiff", "c.webp", "d.pdf", "e"):
        (tmp_path / name).touch()
    found = walk(tmp_path)
    assert list(found.pictures) == ["a.JPG", "b.Tiff", "c.webp"] and found.others == 2


def test_one_odd_entry_has_its_reason_and_the_survey_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "good.png").touch()
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "long.png").symlink_to("x" * 300)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    with open(os.fsencode(tmp_path) + b"/\xff.png", "w"):
        pass
    os.mkdir(os.fsencode(tmp_path) + b"/\xfe")
    with open(os.fsencode(tmp_path) + b"/\xfe/a.png", "w"):
        pass
    place = tmp_path / "no-entry"
    place.mkdir()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path == place:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = walk(tmp_path)
    assert list(found.pictures) == ["good.png"]
    assert found.skipped == {
        "self.png": "Too many levels of symbolic links",
        "gone.png": "No such file or directory",
        "long.png": "File name too long",
        "pipe.png": "not a regular file",
        "\\udcff.png": "its name is not valid UTF-8",
        "\\udcfe/a.png": "its name is not valid UTF-8",
        "no-entry/": "folder cannot be read: Permission denied",
    }


def test_a_picture_that_vanishes_meanwhile_has_its_reason(oracle: str, tmp_path: Path) -> None:
    scenes(tmp_path / "in", 2)
    os.mkfifo(tmp_path / "in" / "pipe.png")
    real = walk

    def then_gone(*options: object) -> object:
        found = real(*options)  # type: ignore[arg-type]
        (tmp_path / "in" / "001.png").unlink()
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("imagescope.own.changes.walk", then_gone)
        update = build(tmp_path / "in", "n", oracle)
    assert list(update.manifest.pictures) == ["000.png"]
    reasons = {"001.png": "No such file or directory", "pipe.png": "not a regular file"}
    assert update.manifest.skipped == reasons


def test_what_machines_put_there_and_what_is_excluded(tmp_path: Path) -> None:
    names = ["a.png", "raw/b.png", "raw/deep/c.png", "d-small.PNG"]
    odd = ["@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/x.png", "$RECYCLE.BIN/S-1/y.png"]
    odd += ["lost+found/z.png", "My.photoslibrary/resources/derivatives/1/t.jpg"]
    for name in (*names, *odd, "My.photoslibrary/originals/1/t.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = walk(tmp_path)
    assert set(found.pictures) == {*names, "My.photoslibrary/originals/1/t.jpg"}
    assert found.excluded.total() == 5 and found.excluded["@eaDir"] == 1
    found = walk(tmp_path, ["*-SMALL.png", "raw/deep/", "*.photoslibrary"])
    assert list(found.pictures) == ["a.png", "raw/b.png"]
    assert found.excluded["raw/deep/"] == found.excluded["*-SMALL.png"] == 1
    assert list(walk(tmp_path, ["raw/*"]).pictures) == [
        *("My.photoslibrary/originals/1/t.jpg", "a.png", "d-small.PNG"),
    ]


def test_exclusions_are_remembered_and_our_own_folder_is_never_indexed(
    oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGESCOPE_HOME", str(tmp_path / "in" / "home"))
    scenes(tmp_path / "in", 2)
    scenes(tmp_path / "in" / "old", 1, seed=5)
    first = build(tmp_path / "in", "n", oracle, exclude=["old"])
    assert list(first.manifest.pictures) == ["000.png", "001.png"]
    second = build(tmp_path / "in", "n")
    assert list(second.manifest.pictures) == ["000.png", "001.png"]
    assert second.excluded == {"old": 1, "ImageScope's own folder": 1}
    assert len(build(tmp_path / "in", "n", exclude=[""]).manifest.pictures) == 3
    with pytest.raises(UserError, match="keeps its own files"):
        build(tmp_path / "in" / "home" / "indexes", "m", oracle)
    with pytest.raises(UserError, match=r"no readable picture.*left out by \*"):
        build(tmp_path / "in", "n", exclude=["*"])


def test_an_index_of_version_0_1_is_read_and_rewritten(oracle: str, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss", reason="older indexes were faiss's")
    scenes(tmp_path / "in", 3)
    manifest = build(tmp_path / "in", "n", oracle).manifest
    rows = np.array(library.read_vectors("n", manifest))
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    old = manifest.model_copy(update={"vectors": "vectors-1.faiss"})
    faiss.write_index(index, str(library.place("n") / old.vectors))
    plain = old.model_dump(mode="json", exclude={"exclude"})  # as it was written then
    (library.place("n") / "index.json").write_text(json.dumps(plain))
    assert library.read_manifest("n") == old
    assert (library.read_vectors("n", old) == rows).all()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "faiss", None)
        with pytest.raises(UserError, match=r"faiss, which is not installed here.*Make it again"):
            library.read_vectors("n", old)
        new = build(tmp_path / "in", "n").manifest  # neither does this want faiss
        assert (library.read_vectors("n", new) == rows).all()


def test_a_full_disk_ends_the_index_in_one_line_and_is_no_pictures_fault(
    oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes(tmp_path / "in", 2)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", full)
        with pytest.raises(UserError, match=r"thumbnails/.*cannot be written: No space left"):
            build(tmp_path / "in", "n", oracle)
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", full)
        with pytest.raises(UserError, match=r"home/.*cannot be written: No space left"):
            build(tmp_path / "in", "n", oracle)
    assert len(build(tmp_path / "in", "n", oracle).manifest.pictures) == 2


def test_a_home_that_cannot_be_written(
    oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes(tmp_path / "in", 2)
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMAGESCOPE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(UserError, match=r"cannot be written: Not a directory .*IMAGESCOPE_HOME"):
        build(tmp_path / "in", "n", oracle)


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


def test_an_outside_reference_is_captioned_at_the_same_length_as_the_index(
    oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(oracle).write_text(Path(oracle).read_text().replace("max_tokens: 96", "max_tokens: 400"))
    answer, limits = Oracle.answer, []

    def measured(self: Oracle, request: Request) -> str:
        if request.prompt == "Describe the image.":
            limits.append(request.max_tokens)
        return answer(self, request)

    monkeypatch.setattr(Oracle, "answer", measured)
    scenes(tmp_path / "in", 1)
    scenes(tmp_path / "out", 1, seed=8)
    build(tmp_path / "in", "n", oracle)
    with ImageScope.open("n") as scope:
        scope.search("keep it", reference=tmp_path / "out" / "000.png", stages=("s1",))
    assert limits == [400, 400]
