"""The tiny datasets: real layouts, benchmark scenes only, instructions with one right answer."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from imagescope_tiny import datasets, datasets_composed, families
from imagescope_tiny.changes import apply
from imagescope_tiny.scenes import split_of

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    datasets.make(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(root, tmp_path_factory):
    """Every scene that a second, equal call draws."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (datasets, datasets_composed):
            real = module.draw
            patch.setattr(
                module, "draw", lambda s, *a, real=real, **k: (seen.append(s), real(s, *a, **k))[1]
            )
        again = tmp_path_factory.mktemp("again")
        datasets.make(again)
    return seen, again


def _load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_only_benchmark_scenes_are_drawn(drawn):
    seen, _ = drawn
    assert len(seen) > 2000
    assert {split_of(scene) for scene in seen} == {"benchmark"}


def test_the_same_seed_writes_the_same_bytes(root, drawn):
    _, again = drawn
    files = [p.relative_to(root) for p in root.rglob("*") if p.is_file()]
    assert len(files) > 2000
    assert all((root / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_complete_datasets_are_left_alone_and_broken_ones_mended(root):
    image = root / "Flickr30K" / "images" / "1000.jpg"
    before, untouched = image.read_bytes(), (root / "CIRR" / "manifest.json").stat().st_mtime_ns
    image.write_bytes(b"")
    counts = datasets.make(root)
    assert image.read_bytes() == before
    assert (root / "CIRR" / "manifest.json").stat().st_mtime_ns == untouched
    assert set(counts) == set(datasets.WRITERS)
    assert not [p for p in root.iterdir() if p.name.startswith(".")]


def test_every_step_of_a_family_leads_to_one_member():
    rng, taken = Random(0), set()
    for _ in range(30):
        members, steps = families.family(rng, taken, 6)
        assert len(set(members)) == 6
        for step in steps:
            target = apply(step.changes, members[step.reference])
            assert members.index(target) == step.target
    assert len(taken) == 180


def test_cirr(root):
    folder = root / "CIRR"
    queries = _load(folder / "captions/cap.rc2.val.json")
    names = _load(folder / "image_splits/split.rc2.val.json")
    assert len(queries) >= 300 and len(names) >= 500
    assert len({q["pairid"] for q in queries}) == len(queries)
    for query in queries:
        members = query["img_set"]["members"]
        assert len(set(members)) == 6 and set(members) <= set(names)
        assert members[query["img_set"]["reference_rank"]] == query["reference"]
        assert members[query["img_set"]["target_rank"]] == query["target_hard"]
    for name, path in names.items():
        assert path == f"./dev/{name}.png"
        with Image.open(folder / path) as image:
            assert image.size == (128, 128)
    hidden = _load(folder / "captions/cap.rc2.test1.json")
    assert hidden and not any("target" in key for q in hidden for key in [*q, *q["img_set"]])


def test_circo(root):
    folder = root / "CIRCO"
    files = {p.name for p in (folder / "unlabeled2017").iterdir()}
    assert all(re.fullmatch(r"\d{12}\.jpg", name) for name in files)
    queries = _load(folder / "annotations/val.json")
    assert [q["id"] for q in queries] == list(range(len(queries)))
    assert any(len(q["gt_img_ids"]) > 2 for q in queries)
    for query in queries:
        truths = query["gt_img_ids"]
        assert truths[0] == query["target_img_id"] and len(set(truths)) == len(truths)
        assert query["reference_img_id"] not in truths
        assert {f"{i:012}.jpg" for i in [*truths, query["reference_img_id"]]} <= files
        assert query["semantic_aspects"] and query["shared_concept"]
    assert not any("gt_img_ids" in q for q in _load(folder / "annotations/test.json"))


def test_fashioniq(root):
    folder = root / "FashionIQ"
    for category in ("dress", "shirt", "toptee"):
        names = _load(folder / f"image_splits/split.{category}.val.json")
        assert all(re.fullmatch(r"B0[0-9A-Z]{8}", name) for name in names)
        assert all((folder / "images" / f"{name}.png").is_file() for name in names)
        for query in _load(folder / f"captions/cap.{category}.val.json"):
            assert len(query["captions"]) == 2
            assert {query["target"], query["candidate"]} <= set(names)


@pytest.mark.parametrize(
    ("name", "table"),
    [("Flickr30K", "test_1k_flickr.csv"), ("MSCOCO", "test_5k_mscoco_2014.csv")],
)
def test_captions(root, name, table):
    with open(root / name / table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"train", "val", "test"}
    assert sum(row["split"] == "test" for row in rows) == datasets.IMAGES_PER_CSV
    for row in rows:
        assert len(json.loads(row["raw"])) == 5
        assert (root / name / "images" / row["filename"]).is_file()


def test_visdial(root):
    folder = root / "VisDial"
    pool = _load(folder / "Search_Space_val_50k.json")
    dialogues = _load(folder / "VisDial_v1.0_queries_val.json")
    assert len(dialogues) >= 60 and len(set(pool)) == len(pool) >= 600
    assert len({d["img"] for d in dialogues}) == len(dialogues)
    for talk in dialogues:
        assert talk["img"] in pool and len(talk["dialog"]) == 11
        assert all("? " in text for text in talk["dialog"][1:])
    assert all((folder / name).is_file() for name in pool)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        *((f"CIRR/captions/cap.rc2.{s}.json",) * 2 for s in ("val", "test1")),
        *((f"CIRR/captions_ext/cap.ext.rc2.{s}.json",) * 2 for s in ("val", "test1")),
        *((f"CIRCO/annotations/{s}.json", f"CIRCO/captions/{s}.json") for s in ("val", "test")),
        *((f"FashionIQ/captions/cap.{c}.val.json",) * 2 for c in ("dress", "shirt", "toptee")),
        ("VisDial/VisDial_v1.0_queries_val.json",) * 2,
    ],
)
def test_layouts_are_the_real_ones(root, ours, theirs):
    """Same keys, same types, at every depth, as the first record of the real file."""
    if not (DATA / theirs).is_file():
        pytest.skip(f"the real annotations are not beside this checkout: {theirs}")
    tiny, real = _load(root / ours)[0], _load(DATA / theirs)[0]
    assert _form(tiny) == _form(real)


def _form(value):
    if isinstance(value, dict) and all(re.fullmatch(r"[a-z_]+|\d", key) for key in value):
        return {key: _form(part) for key, part in sorted(value.items())}
    return type(value).__name__
