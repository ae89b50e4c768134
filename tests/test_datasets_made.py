"""Loaders on hand-made files: missing images, CSVs, shared folders, names that are no names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_files import (
    MEMBERS,
    edit,
    image,
    small_cirr,
    small_fashioniq,
    write_csv,
    write_json,
)

from imagescope import datasets
from imagescope.cli import main
from imagescope.errors import UserError
from imagescope.records import Ranking


def test_cirr_is_found_by_its_own_folder_and_in_any_case(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    for root in (tmp_path, tmp_path / "CIRR"):
        assert len(datasets.load("cirr", root, "val").queries) == 3
    test = datasets.load("CIRR", tmp_path, "test")
    assert test.hidden and test.queries[0].instruction == "the same image"
    assert test.score([Ranking(())]) == {}


def test_a_gallery_is_what_its_list_says(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    for name in [*MEMBERS, "dev-6-0-img0", "._dev-0-0-img0", "stray"]:
        image(tmp_path / "CIRR/dev" / f"{name}.png")
    benchmark = datasets.load("CIRR", tmp_path, "val")
    assert benchmark.gallery.names == (*MEMBERS, "dev-6-0-img0", "dev-7-0-img0")
    assert benchmark.missing == {"dev-7-0-img0"}
    assert benchmark.describe()["missing"]["images"] == 1


def test_paths_in_a_list_stay_inside(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    listing = tmp_path / "CIRR/image_splits/split.rc2.val.json"
    for hostile in ("../../secret.png", "/etc/passwd", "._dev/x.png", 7):
        edit(listing, lambda data, to=hostile: data.update({"dev-7-0-img0": to}))
        with pytest.raises(UserError, match="not the path of an image"):
            datasets.load("CIRR", tmp_path, "val")


def test_fashioniq_with_missing_images(tmp_path: Path) -> None:
    small_fashioniq(tmp_path)
    texts = [q.instruction for q in datasets.load("FashionIQ-dress", tmp_path, "val").queries]
    assert texts == ["is red and has sleeves", "is longer", "is blue"]
    image(tmp_path / "FashionIQ/images/B001.png")
    image(tmp_path / "FashionIQ/images/B002.jpg")  # some copies keep what the links led to
    benchmark = datasets.load("FashionIQ-dress", tmp_path, "val")
    assert benchmark.missing == {"B000", "B003"}
    assert [q.reference for q in benchmark.queries] == [None, "B001", "B002"]
    assert benchmark.incomplete == {("0", 0): ("reference",), ("2", 0): ("target",)}
    assert benchmark.describe()["missing"] == {
        "images": 2,
        "queries without target": 1,
        "queries without reference": 1,
    }
    found = [{"B001": 0}, {"B002": 1}, {}]  # the third's target cannot be ranked: a miss
    scores = benchmark.score([Ranking(("B001", "B002"), ranks=r, pool=2) for r in found])
    assert scores["Recall@10"].value == pytest.approx(200 / 3)
    assert scores["complete"]["Recall@10"].value == 100


def test_data_check_names_missing_and_unreadable_images_and_their_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_fashioniq(tmp_path)
    for name in ("B000", "B001", "B002"):
        image(tmp_path / f"FashionIQ/images/{name}.png")
    (tmp_path / "FashionIQ/images/B002.png").write_bytes(b"")
    line = ["data", "check", "FashionIQ-dress", "--data-root", str(tmp_path)]
    assert main(line) == 1
    said = capsys.readouterr().out
    assert "missing: " in said and "B003.png (target of query 2)" in said
    assert "B002.png: empty (target of query 1; reference of query 2)" in said
    image(tmp_path / "FashionIQ/images/B002.png")
    image(tmp_path / "FashionIQ/images/B003.png")
    assert main(line) == 0


HOSTILE = '__import__("os").system("touch hacked")'
CAPTIONS = ['says "no", twice', "one, two\nthree", "Süßes Törtchen, 東京 🎂", "", "plain"]
CSVS = {"Flickr30K": "test_1k_flickr.csv", "MSCOCO": "test_5k_mscoco_2014.csv"}


@pytest.mark.parametrize("name", CSVS)
def test_csv_captions(tmp_path: Path, name: str) -> None:
    rows = [
        ["sentids", "filename", "raw", "split"],
        ["x", "1.jpg", json.dumps(CAPTIONS), "test"],
        ["x", "2.jpg", json.dumps(["train"]), "train"],
        ["x", "3.jpg", json.dumps(["last", "x" * 200_000], ensure_ascii=False), "test"],
    ]
    write_csv(tmp_path / name / CSVS[name], rows)
    benchmark = datasets.load(name, tmp_path, "test")
    assert benchmark.gallery.names == ("1.jpg", "3.jpg")
    assert [q.instruction for q in benchmark.queries[:6]] == [*CAPTIONS, "last"]
    assert [q.id for q in benchmark.queries] == [str(i) for i in range(7)]
    assert benchmark.queries[5].targets == ("3.jpg",) and not benchmark.queries[5].reference


@pytest.mark.parametrize("name", CSVS)
@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (HOSTILE, "JSON list of captions"),
        (f"[{HOSTILE}]", "JSON list of captions"),
        ("['python', 'repr']", "JSON list of captions"),
        ('["a", 1]', "list of texts"),
        ("[]", "no caption"),
        ("", "JSON list of captions"),
    ],
)
def test_a_cell_is_data_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, cell: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [["raw", "split", "filename"], ['["fine"]', "test", "1.jpg"], [cell, "test", "2.jpg"]]
    path = write_csv(tmp_path / name / CSVS[name], rows)
    with pytest.raises(UserError) as error:
        datasets.load(name, tmp_path, "test")
    assert f"{path}, index 1: raw: " in str(error.value) and reason in str(error.value)
    assert not (tmp_path / "hacked").exists()


def test_malformed_csv(tmp_path: Path) -> None:
    path = tmp_path / "MSCOCO" / CSVS["MSCOCO"]
    good = ['["a"]', "test", "1.jpg"]
    for rows, reason in [
        ([["raw", "filename"], ['["a"]', "1.jpg"]], "no column split"),
        ([["raw", "split", "filename"], good, good], "index 1: filename: 1.jpg occurs twice"),
        ([["raw", "split", "filename"], ['["a"]', "test", "../1.jpg"]], "not the name of an image"),
        ([["raw", "split", "filename"], good, ['["b"]']], "index 1: the row is cut off"),
    ]:
        write_csv(path, rows)
        with pytest.raises(UserError, match=reason):
            datasets.load("MSCOCO", tmp_path, "test")
    path.write_text('raw,split,filename\n"[""a""]",test,1.jpg\n"[""cut')
    with pytest.raises(UserError, match="not valid CSV"):
        datasets.load("MSCOCO", tmp_path, "test")


def circo_row(i: int, reference: int, truths: list[int]) -> dict:
    return {
        "id": i,
        "reference_img_id": reference,
        "relative_caption": "is red",
        "shared_concept": "a ball",
        "target_img_id": truths[0],
        "gt_img_ids": truths,
        "semantic_aspects": ["addition"],
    }


@pytest.mark.parametrize("folder", ["captions", "annotations"])
def test_circo_gallery(tmp_path: Path, folder: str) -> None:
    write_json(tmp_path / f"CIRCO/{folder}/val.json", [circo_row(0, 24, [8, 32])])
    photos = tmp_path / "CIRCO/unlabeled2017"
    for stray in ("000000000024.jpg", "000000000008.jpg", "._000000000008.jpg", "8.jpg", "a.png"):
        image(photos / stray)
    (photos / "000000000099.jpg").mkdir()
    benchmark = datasets.load("CIRCO", tmp_path, "val")
    assert benchmark.gallery.names == ("000000000008.jpg", "000000000024.jpg")
    assert benchmark.missing == {"000000000032.jpg"} and not benchmark.incomplete
    info = {"images": [{"file_name": f"{i:012}.jpg"} for i in (32, 24, 8, 40)]}
    write_json(tmp_path / "CIRCO/annotations/image_info_unlabeled2017.json", info)
    listed = datasets.load("CIRCO", tmp_path, "val")
    assert listed.gallery.names == tuple(f"{i:012}.jpg" for i in (8, 24, 32, 40))
    assert listed.missing == {"000000000032.jpg", "000000000040.jpg"}
    write_json(tmp_path / f"CIRCO/{folder}/val.json", [circo_row(0, 25, [8])])
    with pytest.raises(UserError, match="unknown image 25"):
        datasets.load("CIRCO", tmp_path, "val")


def test_circo_and_visdial_share_a_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "CIRCO/captions/val.json", [circo_row(0, 24, [8])])
    talk = [{"img": "unlabeled2017/000000000008.jpg", "dialog": [f"text {i}" for i in range(11)]}]
    write_json(tmp_path / "VisDial/VisDial_v1.0_queries_val.json", talk)
    space = [f"unlabeled2017/{i:012}.jpg" for i in (8, 24)]
    write_json(tmp_path / "VisDial/Search_Space_val_50k.json", space)
    for owner, other in (("CIRCO", "VisDial"), ("VisDial", "CIRCO")):
        for i in (8, 24):
            image(tmp_path / owner / "unlabeled2017" / f"{i:012}.jpg")
        for name in (owner, other):
            benchmark = datasets.load(name, tmp_path, "val")
            assert not benchmark.missing and len(benchmark.gallery.names) == 2
        (tmp_path / owner / "unlabeled2017").rename(tmp_path / f"was-{owner}")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("CIRRR", "val"), "no benchmark is named"),
        (("FashionIQ-dress", "test"), "has no split test"),
        (("CIRR", "val"), "no such folder"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, arguments: tuple[str, str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        datasets.load(arguments[0], tmp_path, arguments[1])


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    (tmp_path / "CIRR/captions/cap.rc2.val.json").unlink()
    with pytest.raises(UserError, match=r"cap\.rc2\.val\.json: no such file; docs/benchmarks\.md"):
        datasets.load("CIRR", tmp_path, "val")
    with pytest.raises(UserError, match="CIRR's"):
        datasets.load("VisDial", tmp_path, "val", subset=True)


@pytest.mark.parametrize("split", ["val", "test1"])
@pytest.mark.parametrize("harm", ["not UTF-8", "no list", "no captions", "a folder"])
def test_data_check_reports_a_split_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, harm: str
) -> None:
    small_cirr(tmp_path)
    captions = tmp_path / f"CIRR/captions/cap.rc2.{split}.json"
    listing = tmp_path / f"CIRR/image_splits/split.rc2.{split}.json"
    for folder in ("dev", "test1"):
        for name in (*MEMBERS, "dev-6-0-img0", "dev-7-0-img0"):
            image(tmp_path / f"CIRR/{folder}/{name}.png")
    roots = (tmp_path, tmp_path / "CIRR")
    lines = [["data", "check", "CIRR", "--data-root", str(root)] for root in roots]
    assert [main(line) for line in lines] == [0, 0]
    if harm == "not UTF-8":
        captions.write_bytes(b"\xff\xfe\x00[")
    elif harm == "no list":
        listing.unlink()
    else:
        captions.unlink()
    if harm == "a folder":
        captions.mkdir()
    capsys.readouterr()
    for line in lines:
        assert main(line) == 1
        told = capsys.readouterr()
        wanted = listing if harm == "no list" else captions
        assert wanted.name in told.err and "CIRR" in told.out  # the other split is shown
    for path in (captions, listing):
        if path.is_file():
            path.unlink()
    if harm != "a folder":
        assert [main(line) for line in lines] == [0, 0]  # a split that is not there at all


def test_data_check_reports_a_split_of_circo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "CIRCO/captions/val.json", [circo_row(0, 24, [8])])
    for i in (8, 24):
        image(tmp_path / f"CIRCO/unlabeled2017/{i:012}.jpg")
    line = ["data", "check", "CIRCO", "--data-root", str(tmp_path)]
    write_json(tmp_path / "CIRCO/annotations/captions_test2017.json", {})  # COCO's, not CIRCO's
    assert main(line) == 0
    (tmp_path / "CIRCO/captions/test.json").write_bytes(b"\xff")
    assert main(line) == 1
    assert "captions/test.json: not UTF-8" in capsys.readouterr().err
