"""The image database: what is kept, what is computed again, and what survives."""

import hashlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imagescope.config import EncoderConfig, ModelConfig
from imagescope.encoders.base import Encoder, open_encoder
from imagescope.encoders.cached import CachedEncoder
from imagescope.engines.base import EngineClass, Response
from imagescope.engines.cached import Cached
from imagescope.engines.role import Role
from imagescope.errors import UserError
from imagescope.gallery.database import ImageDB
from imagescope.gallery.vector_store import VectorStore
from imagescope.models.images import UnreadableImage, load_picture
from imagescope.records import Gallery, Item
from imagescope.store.bundle import export
from imagescope.store.cache import Cache

PROMPT = "Describe the picture."
TINY = Path(__file__).parents[2] / "data/tiny/models"


def vector(content: bytes) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(content).digest()[:4], "big")
    row = np.random.default_rng(seed).normal(size=8)
    return (row / np.linalg.norm(row)).astype(np.float32)


class ContentEncoder(Encoder):
    """Vectors that follow from content, and a record of what was asked."""

    def __init__(self, model="someone/encoder", pause=0.0):
        super().__init__(EncoderConfig(model=model, chunk_size=3))
        self.identity = {"model": model}
        self.asked, self.pause = [], pause

    dimension = 8

    def embed(self, items, side):
        assert side == "gallery"
        if any(item.images for item in items):
            time.sleep(self.pause)
        vectors, reasons = np.zeros((len(items), 8), np.float32), {}
        for n, item in enumerate(items):
            try:
                for path in item.images:
                    load_picture(path)
                vectors[n] = vector(
                    b"".join([item.text.encode(), *map(Path.read_bytes, item.images)])
                )
            except UnreadableImage as error:
                reasons[n] = str(error)
        self.asked += [item.text or item.images[0].name for item in items]
        return vectors, reasons


class ContentCaptioner(EngineClass):
    """Captions that follow from content; an engine."""

    def __init__(self, model="captioner"):
        self.identity = {"model": model}
        self.declared = {"model": model}
        self.asked: list[str] = []

    def answer(self, request):
        path = Path(request.images[0].path)
        self.asked.append(path.name)
        try:
            load_picture(path)
        except UnreadableImage as error:
            return Response("", finish="error", error=str(error))
        said = "" if path.name == "silent.png" else f"picture {path.read_bytes()[-30:-20].hex()}"
        return Response(f" {said}\n")

    def close(self):
        pass


@pytest.fixture
def photos(tmp_path):
    """Eight pictures."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(8):
        paint(folder / f"{n}.png", n)
    return folder


def paint(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def gallery(folder: Path, names=None) -> Gallery:
    names = names or sorted(path.name for path in folder.iterdir())
    return Gallery(tuple(names), {name: folder / name for name in names})


class Built:
    """One building of the database, and what it asked."""

    def __init__(
        self, tmp_path, gallery, model="someone/encoder", captioner="captioner", prompt=PROMPT,
        cache="cache.sqlite", dataset="CIRR", pause=0.0,
    ):  # fmt: skip
        self.encoder, self.captioner = ContentEncoder(model, pause), ContentCaptioner(captioner)
        self.cache = Cache.open(tmp_path / cache)
        replay = self.cache.bundle
        self.db = ImageDB.open(tmp_path / "db", dataset, "val", gallery, self.cache)
        role = Role(
            "captioner",
            Cached(self.captioner, self.cache, chunk_size=3, replay=replay),
            ModelConfig(model=captioner, max_tokens=64),
        )
        self.captions = self.db.captions(role, prompt)
        self.texts = CachedEncoder(self.encoder, self.cache, replay=replay)
        self.vectors = self.db.vectors(self.encoder, self.texts, self.captions)


def test_every_row_is_the_pictures_and_its_captions(tmp_path, photos):
    built = Built(tmp_path, gallery(photos))
    vectors = built.vectors
    assert vectors.names == tuple(f"{n}.png" for n in range(8)) and vectors.ok.all()
    for row, name in enumerate(vectors.names):
        np.testing.assert_array_equal(vectors.images[row], vector((photos / name).read_bytes()))
        caption = built.captions[name]
        assert caption.startswith("picture ") and caption == caption.strip()
        np.testing.assert_array_equal(vectors.captions[row], vector(caption.encode()))
    assert isinstance(vectors.images, np.memmap) and not vectors.images.flags.writeable
    assert vectors.images.dtype == np.float32 and built.db.counts == (16, 0, 16)


def test_the_folders_say_what_made_them(tmp_path, photos):
    built = Built(tmp_path, gallery(photos))
    folder = built.db.folder
    assert folder.parent == tmp_path / "db" / "CIRR" and folder.name.startswith("val-")
    assert json.loads((folder / "names.json").read_text()) == list(built.vectors.names)
    [captions], [images], [texts] = [
        list((folder / kind).iterdir()) for kind in ("captions", "images", "texts")
    ]
    assert captions.name.startswith("captioner-") and images.name.startswith("encoder-")
    assert texts.name == f"{captions.name}+{images.name}"
    made = json.loads((captions / "manifest.json").read_text())
    assert made["made_by"]["captioner"] == {"model": "captioner"}
    assert made["made_by"]["prompt"] == PROMPT and made["made_by"]["decoding"]["max_tokens"] == 64
    assert made["prompt_sha256"] == hashlib.sha256(PROMPT.encode()).hexdigest()
    assert (made["count"], made["captioned"], made["skipped"]) == (8, 8, {})
    made = json.loads((images / "manifest.json").read_text())
    assert made["made_by"] == {"encoder": {"model": "someone/encoder"}}
    assert (made["count"], made["embedded"], made["dimension"]) == (8, 8, 8)
    lines = (captions / "captions.jsonl").read_text().splitlines()
    assert json.loads(lines[3])["caption"] == built.captions["3.png"]
    assert not list(folder.rglob("part-*")) and not list(folder.rglob(".*"))


def test_a_second_time_nothing_is_computed(tmp_path, photos):
    first = Built(tmp_path, gallery(photos))
    again = Built(tmp_path, gallery(photos))
    assert not again.encoder.asked and not again.captioner.asked
    assert again.captions == first.captions and again.db.counts == (16, 16, 0)
    np.testing.assert_array_equal(again.vectors.images, first.vectors.images)


def test_new_changed_moved_and_deleted_pictures(tmp_path, photos):
    Built(tmp_path, gallery(photos))
    (photos / "0.png").rename(photos / "moved.png")
    (photos / "1.png").unlink()
    paint(photos / "2.png", 222)
    paint(photos / "new.png", 333)
    (photos / "copy.png").write_bytes((photos / "3.png").read_bytes())
    built = Built(tmp_path, gallery(photos))
    assert built.captioner.asked == ["2.png", "new.png"]
    assert built.encoder.asked[:2] == ["2.png", "new.png"] and len(built.encoder.asked) == 4
    for row, name in enumerate(built.vectors.names):
        np.testing.assert_array_equal(
            built.vectors.images[row], vector((photos / name).read_bytes())
        )
        np.testing.assert_array_equal(
            built.vectors.captions[row], vector(built.captions[name].encode())
        )
    assert len(list(built.db.folder.parent.iterdir())) == 2
    built.db.remove_others()
    assert list(built.db.folder.parent.iterdir()) == [built.db.folder]
    assert not Built(tmp_path, gallery(photos)).encoder.asked


def test_a_picture_that_changed_under_its_name_is_embedded_again(tmp_path, photos):
    Built(tmp_path, gallery(photos))
    paint(photos / "5.png", 555)
    built = Built(tmp_path, gallery(photos))
    assert built.captioner.asked == ["5.png"] and built.encoder.asked[0] == "5.png"
    np.testing.assert_array_equal(built.vectors.images[5], vector((photos / "5.png").read_bytes()))


def test_galleries_captioners_prompts_and_encoders_are_kept_apart(tmp_path, photos):
    usual = Built(tmp_path, gallery(photos))
    other = Built(tmp_path, gallery(photos), model="someone/other")
    assert len(other.encoder.asked) == 16 and not other.captioner.asked
    prompt = Built(tmp_path, gallery(photos), prompt="Another prompt.")
    assert len(prompt.captioner.asked) == 8
    model = Built(tmp_path, gallery(photos), captioner="another")
    assert len(model.captioner.asked) == 8
    part = Built(tmp_path, gallery(photos, ["1.png", "0.png"]))
    assert part.db.folder != usual.db.folder and not part.encoder.asked
    np.testing.assert_array_equal(part.vectors.images[0], usual.vectors.images[1])
    elsewhere = Built(tmp_path, gallery(photos), dataset="CIRCO")
    assert elsewhere.db.folder.parent.name == "CIRCO"
    folders = {
        kind: len(list((usual.db.folder / kind).iterdir())) for kind in ("captions", "images")
    }
    assert folders == {"captions": 3, "images": 2}


@pytest.mark.parametrize("kind", ["captions", "images", "texts"])
def test_a_database_made_by_something_else_is_not_used(tmp_path, photos, kind):
    built = Built(tmp_path, gallery(photos))
    [folder] = (built.db.folder / kind).iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    role = "captioner" if kind == "captions" else "encoder"
    manifest["made_by"][role] = {"model": "an impostor"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=f"made by something else: {role} is .*an impostor"):
        Built(tmp_path, gallery(photos))
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(UserError, match="newer version"):
        Built(tmp_path, gallery(photos))


def test_what_cannot_be_read_is_left_out_counted_and_not_tried_again(tmp_path, photos, caplog):
    (photos / "4.png").write_bytes((photos / "4.png").read_bytes()[:60])
    (photos / "6.png").write_bytes(b"")
    found = gallery(photos)
    (photos / "7.png").unlink()
    built = Built(tmp_path, found)
    assert built.vectors.ok.tolist() == [n not in (4, 6, 7) for n in range(8)]
    assert not built.vectors.images[[4, 6, 7]].any() and set(built.captions) == {
        f"{n}.png" for n in (0, 1, 2, 3, 5)
    }
    for kind in ("captions", "images"):
        [folder] = (built.db.folder / kind).iterdir()
        skipped = json.loads((folder / "manifest.json").read_text())["skipped"]
        assert set(skipped) == {"4.png", "6.png", "7.png"} and all(skipped.values())
    assert "empty" in skipped["6.png"] and set(built.db.describe()["skipped"]) == set(skipped)
    assert "3 images are not ranked" in caplog.text
    again = Built(tmp_path, found)
    assert not again.captioner.asked and not again.encoder.asked
    assert again.vectors.ok.tolist() == built.vectors.ok.tolist()


def test_no_readable_picture_at_all_is_an_error(tmp_path, photos):
    absent = gallery(photos, ["x.png", "y.png"])
    with pytest.raises(UserError, match=r"none of the gallery's 2 images can be read.*x\.png"):
        Built(tmp_path, absent)
    (photos / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"no image of the gallery can be read: .*not an image"):
        Built(tmp_path, gallery(photos, ["bad.png"]))
    with pytest.raises(UserError, match="gallery is empty"):
        Built(tmp_path, Gallery((), {}))


def test_a_picture_without_a_caption_is_ranked_by_its_image(tmp_path, photos):
    paint(photos / "silent.png", 99)
    built = Built(tmp_path, gallery(photos))
    assert "silent.png" not in built.captions and built.vectors.ok.all()
    np.testing.assert_array_equal(built.vectors.captions[-1], built.vectors.images[-1])
    missing = built.db.describe()["captions"]["missing"]
    assert missing == {"silent.png": "answered without text"}


def test_references_outside_the_gallery_are_captioned_but_not_ranked(tmp_path, photos):
    names = tuple(f"{n}.png" for n in range(4))
    outside = Gallery(names, {f"{n}.png": photos / f"{n}.png" for n in range(6)})
    built = Built(tmp_path, outside)
    assert set(built.captions) == {f"{n}.png" for n in range(6)}
    assert built.vectors.names == names and len(built.vectors.images) == 4


def test_a_place_that_cannot_be_written_is_said(tmp_path, photos):
    (tmp_path / "db").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be written.*--image-db"):
        Built(tmp_path, gallery(photos))


def test_captions_outlive_the_response_cache(tmp_path, photos):
    first = Built(tmp_path, gallery(photos))
    later = Built(tmp_path, gallery(photos), cache="another.sqlite")
    assert not later.captioner.asked and later.captions == first.captions


@pytest.mark.parametrize("pattern", ["vectors-*.npy", "rows-*.json"])
def test_damaged_files_are_made_again(tmp_path, photos, pattern, caplog):
    built = Built(tmp_path, gallery(photos))
    expected = np.array(built.vectors.images)
    for path in built.db.folder.rglob(pattern):
        path.write_bytes(path.read_bytes()[:-40])
    again = Built(tmp_path, gallery(photos))
    assert "damaged, made again" in caplog.text and len(again.encoder.asked) == 16
    np.testing.assert_array_equal(again.vectors.images, expected)


def exchanged(array: np.ndarray) -> np.ndarray:
    return array[::-1]


def another_width(array: np.ndarray) -> np.ndarray:
    return np.eye(len(array), dtype=np.float32)[:, :5] + np.eye(len(array), 5, -5, np.float32)


def not_a_number(array: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(array))[:, None] == 3, np.float32("nan"), array)


def scaled(array: np.ndarray) -> np.ndarray:
    return array * np.float32(1.01)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("change", [exchanged, another_width, not_a_number, scaled])
def test_vectors_that_changed_are_made_again(tmp_path, photos, caplog, change, old):
    """old: made before manifests had a checksum; what does not show there is not asked of it."""
    built = Built(tmp_path, gallery(photos))
    expected = np.array(built.vectors.images)
    for path in built.db.folder.rglob("vectors-*.npy"):
        np.save(path, change(np.load(path)))
        if old:
            manifest = json.loads((path.parent / "manifest.json").read_text())
            del manifest["sha256"], manifest["format"]
            (path.parent / "manifest.json").write_text(json.dumps(manifest))
    again = Built(tmp_path, gallery(photos))
    if old and change is exchanged:
        assert not again.encoder.asked
        return
    assert "damaged, made again" in caplog.text and len(again.encoder.asked) == 16
    np.testing.assert_array_equal(again.vectors.images, expected)


def test_a_manifest_of_old_gets_its_checksum(tmp_path, photos):
    built = Built(tmp_path, gallery(photos))
    for path in built.db.folder.rglob("manifest.json"):
        expected = path.read_text()
        manifest = json.loads(expected)
        del manifest["sha256"], manifest["format"]
        path.write_text(json.dumps(manifest | {"of a later version": 1}))
        again = Built(tmp_path, gallery(photos))
        assert not again.encoder.asked and not again.captioner.asked
        assert json.loads(path.read_text())["sha256"] == json.loads(expected)["sha256"]


HEADER = b"\x93NUMPY\x01\x00"
DAMAGE = [
    *[("vectors-*.npy", content) for content in (
        b"", b"PK\x03\x04", HEADER, HEADER + b"\xff\xff" + b"[" * 65535, HEADER + b"\x02\x00{}",
        HEADER + b"\x40\x00{'descr': '|O', 'fortran_order': False, 'shape': (8,), }    \n",
        HEADER + b"\x40\x00{'descr': '<f4', 'fortran_order': False, 'shape': (-8, 8), }\n",
    )],
    *[("rows-*.json", content) for content in (
        b"", b"5", b"null", b"{}", b"[1, 2]", b'[["a"], ["b"]]', b"[" * 100_000, b"\xff\xfe",
    )],
    *[("manifest.json", content) for content in (
        b"", b"5", b"[]", b"{}", b'{"made_by": 5}', b'{"made_by": {}, "rows": ["x"]}',
        b'{"made_by": {}, "unreadable": [1]}', b"{ damaged", b"[" * 100_000,
    )],
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "content"), DAMAGE)
def test_odd_content_is_made_again(tmp_path, photos, caplog, pattern, content):
    built = Built(tmp_path, gallery(photos))
    expected = np.array(built.vectors.images)
    for path in built.db.folder.rglob(pattern):
        path.write_bytes(content)
    again = Built(tmp_path, gallery(photos))
    assert "damaged, made again" in caplog.text and len(again.encoder.asked) == 16
    np.testing.assert_array_equal(again.vectors.images, expected)
    assert again.captions == built.captions and not again.captioner.asked
    assert not Built(tmp_path, gallery(photos)).encoder.asked


def test_rows_have_no_path(tmp_path, photos):
    [folder] = (Built(tmp_path, gallery(photos)).db.folder / "images").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"rows": f"../{folder.name}/x"}))
    assert len(Built(tmp_path, gallery(photos)).encoder.asked) == 8


@pytest.mark.parametrize("change", [
    lambda lines: [line.replace('"picture ', '"a picture ') for line in lines],
    lambda lines: ["5"], lambda lines: ["[" * 100_000], lambda lines: ['{"sha256": 1}'],
])  # fmt: skip
def test_captions_that_changed_are_made_again(tmp_path, photos, caplog, change):
    built = Built(tmp_path, gallery(photos))
    [path] = built.db.folder.rglob("captions.jsonl")
    path.write_text("\n".join(change(path.read_text().splitlines())))
    again = Built(tmp_path, gallery(photos), cache="new.sqlite")
    assert "damaged, made again" in caplog.text and len(again.captioner.asked) == 8
    assert again.captions == built.captions


@pytest.mark.parametrize("count", [1, 3])
def test_one_chunk_leaves_no_part_behind(tmp_path, photos, count):
    built = Built(tmp_path, gallery(photos, [f"{n}.png" for n in range(count)]))
    assert not list(built.db.folder.rglob("part-*"))


def test_a_model_whose_vectors_are_no_units_is_named(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(ContentEncoder, "embed", lambda self, items, side: (
        np.full((len(items), 8), np.nan, np.float32), {}
    ))  # fmt: skip
    with pytest.raises(UserError, match=r"encoder-\w+: 3 vectors are not finite"):
        Built(tmp_path, gallery(photos))


def test_parts_of_another_width_are_made_again(tmp_path, caplog):
    """Nothing says which is right but the model itself."""

    def embedding(width):
        def embed(chunks):
            for keys in chunks:
                asked.extend(keys)
                yield np.eye(len(keys), width, dtype=np.float32), {}

        return embed  # fmt: skip

    asked: list[str] = []
    relative, folder = tmp_path / "relative", tmp_path / "s"
    VectorStore(relative, {"encoder": 1}).rows(["a", "b"], embedding(5), 2, "test")
    store = VectorStore(folder, {"encoder": 1}, [relative])
    rows, _, computed = store.rows(["a", "b", "c"], embedding(4), 2, "test")
    assert asked == ["a", "b", "c", "a", "b"] and computed == 3
    assert rows.shape == (3, 4) and "not of length 4" in caplog.text


def test_a_gallery_of_many_parts_opens_each_a_few_times(tmp_path, monkeypatch):
    """Going on with a half-made gallery must not cost more than making it."""
    keys = [f"{n:064x}" for n in range(600)]

    def embed(chunks):
        for chunk in chunks:
            if keys[300] in chunk:
                raise KeyboardInterrupt
            yield np.eye(len(chunk), 30, dtype=np.float32), {}

    def rest(chunks):
        return ((np.eye(len(chunk), 30, dtype=np.float32), {}) for chunk in chunks)

    with pytest.raises(KeyboardInterrupt):
        VectorStore(tmp_path / "s", {"encoder": 1}).rows(keys, embed, 10, "test")
    opened, usual = [], np.lib.format.open_memmap
    monkeypatch.setattr(
        np.lib.format, "open_memmap", lambda p, **k: (opened.append(p), usual(p, **k))[1]
    )
    _, _, computed = VectorStore(tmp_path / "s", {"encoder": 1}).rows(keys, rest, 10, "test")
    assert computed == 300 and len(opened) < 60 * 5


def in_child(tmp_path, photos, pause):
    """Builds in a process of its own."""

    def work():
        Built(tmp_path, gallery(photos), pause=pause)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def test_a_kill_costs_at_most_the_chunk_in_work(tmp_path, photos):
    child = in_child(tmp_path, photos, pause=0.3)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "db").rglob("images/*/part-*.npy")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    parts = list((tmp_path / "db").rglob("part-*.npy"))
    kept = sum(len(np.load(part)) for part in parts)
    assert 3 <= kept < 8
    built = Built(tmp_path, gallery(photos))
    assert not built.captioner.asked and built.encoder.asked[: 8 - kept] == [
        f"{n}.png" for n in range(kept, 8)
    ]
    os.makedirs(tmp_path / "other")
    whole = Built(tmp_path / "other", gallery(photos))
    for kind in ("images", "captions"):
        a, b = getattr(built.vectors, kind), getattr(whole.vectors, kind)
        assert a.tobytes() == b.tobytes()


def test_a_killed_gallery_goes_on_to_the_same_bytes(tmp_path, photos):
    """With an encoder that reads ahead of its model, over the ends of chunks."""
    config = EncoderConfig(model=str(TINY / "encoder"), batch_size=2, chunk_size=3)
    items = {path.name: Item(images=(path,)) for path in sorted(photos.iterdir())}

    def make(folder, pause=0.0):
        encoder, embedded = open_encoder(config), []

        def embed(chunks):
            asked = ([items[key] for key in chunk] for chunk in chunks)
            for chunk, rows in zip(chunks, encoder.embed_chunks(asked, "gallery"), strict=True):
                time.sleep(pause if embedded else 0)
                embedded.extend(chunk)
                yield rows

        store = VectorStore(folder, {"encoder": 1})
        vectors, ok, computed = store.rows(list(items), embed, config.chunk_size, "test")
        assert ok.all() and computed == len(embedded)
        return vectors, embedded

    whole, _ = make(tmp_path / "whole")
    child = multiprocessing.get_context("fork").Process(target=make, args=(tmp_path / "s", 600))
    child.start()
    deadline = time.monotonic() + 60
    while not list((tmp_path / "s").glob("part-*.npy")):
        assert child.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    rest, embedded = make(tmp_path / "s")
    assert embedded == list(items)[3:]
    assert rest.tobytes() == whole.tobytes()
    written = [next((tmp_path / f).glob("vectors-*")).read_bytes() for f in ("s", "whole")]
    assert written[0] == written[1]


def test_a_damaged_part_is_made_again(tmp_path, photos):
    child = in_child(tmp_path, photos, pause=0.3)
    while not (parts := list((tmp_path / "db").rglob("images/*/part-*.npy"))):
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    parts[0].write_bytes(parts[0].read_bytes()[:100])
    built = Built(tmp_path, gallery(photos))
    np.testing.assert_array_equal(built.vectors.images[0], vector((photos / "0.png").read_bytes()))


def test_two_at_once_do_not_hurt_each_other(tmp_path, photos):
    children = [in_child(tmp_path, photos, pause) for pause in (0.02, 0.05, 0.0)]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    built = Built(tmp_path, gallery(photos))
    assert not built.encoder.asked and not built.captioner.asked
    for row, name in enumerate(built.vectors.names):
        np.testing.assert_array_equal(
            built.vectors.images[row], vector((photos / name).read_bytes())
        )


def test_a_caption_that_failed_is_asked_again(tmp_path, photos, monkeypatch):
    """Out of memory, say: no empty caption is kept, in the gallery's file or in the cache."""
    found, answer = gallery(photos), ContentCaptioner.answer

    def failing(self, request):
        if request.images[0].path.endswith("3.png"):
            return Response("", finish="error", error="out of memory")
        return answer(self, request)

    monkeypatch.setattr(ContentCaptioner, "answer", failing)
    assert "3.png" not in Built(tmp_path, found).captions
    monkeypatch.undo()
    again = Built(tmp_path, found, cache="new.sqlite")  # the others are in the gallery's file
    assert again.captioner.asked == ["3.png"] and again.captions["3.png"].startswith("picture ")


def test_two_runs_find_different_broken_files(tmp_path, photos):
    """What one knows of a gallery is not lost when another has written its manifest meanwhile."""
    store = VectorStore(tmp_path / "s", {"encoder": 1})

    def embed(chunks):
        assert chunks == [["a"], ["b"]]
        yield np.zeros((1, 4), np.float32), {0: "broken"}
        (tmp_path / "s" / "manifest.json").write_text('{"made_by": {"encoder": 1}}')
        yield np.array([[0, 1, 0, 0]], np.float32), {}

    rows, ok, _ = store.rows(["a", "b"], embed, 1, "test")
    assert ok.tolist() == [False, True] and rows[1].tolist() == [0, 1, 0, 0]


def test_captions_known_to_the_gallery_alone_are_bundled(tmp_path, photos):
    """A new cache beside an old image database: what is taken from there is in the bundle, too."""
    found = gallery(photos)
    Built(tmp_path, found)
    made = Built(tmp_path, found, cache="new.sqlite")
    assert not made.captioner.asked
    export(made.cache, tmp_path / "bundle.sqlite", made.cache.used, made.db.bundle())
    for path in photos.iterdir():
        path.unlink()
    assert Built(tmp_path, found, cache="bundle.sqlite").captions == made.captions


def test_a_bundle_replays_without_images_or_models(tmp_path, photos):
    (photos / "6.png").write_bytes(b"")
    found = gallery(photos)
    Built(tmp_path, found)  # what cannot be read is known by then, and not asked again
    made = Built(tmp_path, found)
    export(made.cache, tmp_path / "bundle.sqlite", made.cache.used, made.db.bundle())
    for path in photos.iterdir():
        path.unlink()
    before = sorted((tmp_path / "db").rglob("*"))
    replayed = Built(tmp_path, found, cache="bundle.sqlite")
    assert replayed.captions == made.captions
    assert not replayed.captioner.asked and not replayed.encoder.asked
    for kind in ("images", "captions", "ok"):
        a, b = getattr(replayed.vectors, kind), getattr(made.vectors, kind)
        np.testing.assert_array_equal(a[made.vectors.ok], b[made.vectors.ok])
    assert replayed.vectors.ok.tolist() == made.vectors.ok.tolist()
    assert sorted((tmp_path / "db").rglob("*")) == before
    with pytest.raises(UserError, match="with these settings"):
        Built(tmp_path, found, cache="bundle.sqlite", model="someone/other")
