"""Loaders on hand-made files: missing images, CSVs, shared folders, names that are no names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmark_files import (
    MEMBERS,
    declare,
    edit,
    image,
    small_cirr,
    small_fashioniq,
    write_csv,
    write_json,
)

from imagescope import benchmarks
from imagescope.cli.app import main
from imagescope.errors import UserError
from imagescope.records import Ranking


def test_cirr_is_found_by_its_own_folder_and_in_any_case(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    for root in (tmp_path, tmp_path / "CIRR"):
        assert len(benchmarks.load("cirr", root, "val").queries) == 3
    test = benchmarks.load("CIRR", tmp_path, "test")
    assert test.hidden and test.queries[0].instruction == "the same image"
    assert test.score([Ranking(())]) == {}


def test_a_gallery_is_what_its_list_says(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    for name in [*MEMBERS, "dev-6-0-img0", "._dev-0-0-img0", "stray"]:
        image(tmp_path / "CIRR/dev" / f"{name}.png")
    benchmark = benchmarks.load("CIRR", tmp_path, "val")
    assert benchmark.gallery.names == (*MEMBERS, "dev-6-0-img0", "dev-7-0-img0")
    assert benchmark.missing == {"dev-7-0-img0"}
    assert benchmark.describe()["missing"]["images"] == 1


def test_paths_in_a_list_stay_inside(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    listing = tmp_path / "CIRR/image_splits/split.rc2.val.json"
    for hostile in ("../../secret.png", "/etc/passwd", "._dev/x.png", 7):
        edit(listing, lambda data, to=hostile: data.update({"dev-7-0-img0": to}))
        with pytest.raises(UserError, match="not the path of an image"):
            benchmarks.load("CIRR", tmp_path, "val")


def test_fashioniq_with_missing_images(tmp_path: Path) -> None:
    small_fashioniq(tmp_path)
    texts = [q.instruction for q in benchmarks.load("FashionIQ-dress", tmp_path, "val").queries]
    assert texts == ["is red and has sleeves", "is longer", "is blue"]
    image(tmp_path / "FashionIQ/images/B001.png")
    image(tmp_path / "FashionIQ/images/B002.jpg")  # some copies keep what the links led to
    benchmark = benchmarks.load("FashionIQ-dress", tmp_path, "val")
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
    benchmark = benchmarks.load(name, tmp_path, "test")
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
        benchmarks.load(name, tmp_path, "test")
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
            benchmarks.load("MSCOCO", tmp_path, "test")
    path.write_text('raw,split,filename\n"[""a""]",test,1.jpg\n"[""cut')
    with pytest.raises(UserError, match="not valid CSV"):
        benchmarks.load("MSCOCO", tmp_path, "test")


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
    benchmark = benchmarks.load("CIRCO", tmp_path, "val")
    assert benchmark.gallery.names == ("000000000008.jpg", "000000000024.jpg")
    assert benchmark.missing == {"000000000032.jpg"} and not benchmark.incomplete
    info = {"images": [{"file_name": f"{i:012}.jpg"} for i in (32, 24, 8, 40)]}
    write_json(tmp_path / "CIRCO/annotations/image_info_unlabeled2017.json", info)
    listed = benchmarks.load("CIRCO", tmp_path, "val")
    assert listed.gallery.names == tuple(f"{i:012}.jpg" for i in (8, 24, 32, 40))
    assert listed.missing == {"000000000032.jpg", "000000000040.jpg"}
    write_json(tmp_path / f"CIRCO/{folder}/val.json", [circo_row(0, 25, [8])])
    with pytest.raises(UserError, match="unknown image 25"):
        benchmarks.load("CIRCO", tmp_path, "val")


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
            benchmark = benchmarks.load(name, tmp_path, "val")
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
        benchmarks.load(arguments[0], tmp_path, arguments[1])


def test_a_missing_annotation_file_is_named(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    (tmp_path / "CIRR/captions/cap.rc2.val.json").unlink()
    with pytest.raises(UserError, match=r"cap\.rc2\.val\.json: no such file; docs/benchmarks\.md"):
        benchmarks.load("CIRR", tmp_path, "val")


def test_options_are_a_benchmarks_own_and_the_protocols_are_presets() -> None:
    cirr, dialogues = benchmarks.spec("CIRR"), benchmarks.spec("VisDial")
    assert cirr.choose({}) == {"exclude_reference": False, "subset": False}
    official = cirr.choose({"subset": None}, "official")
    assert official == {"exclude_reference": True, "subset": False}
    assert not cirr.choose({"exclude_reference": False}, "official")["exclude_reference"]
    assert dialogues.choose({}) == {"first_round": 1}
    assert dialogues.choose({"subset": False}, "official") == {"first_round": 0}
    with pytest.raises(UserError, match=r"no option subset; .* first_round"):
        dialogues.choose({"subset": True})
    with pytest.raises(UserError, match="Flickr30K has no option subset; it has none"):
        benchmarks.spec("Flickr30K").choose({"subset": True})
    with pytest.raises(UserError, match="CIRR, option subset: bool expected, got 'yes'"):
        cirr.choose({"subset": "yes"})


def test_a_manifest_may_have_the_options_of_other_benchmarks() -> None:
    """Earlier versions wrote down those of all."""
    older = {"exclude_reference": True, "first_round": 0, "subset": False, "shared_concept": False}
    config = {"dataset": "VisDial", "protocol": "official", **older}
    assert benchmarks.options_of(config) == {"first_round": 0}
    config = {"dataset": "CIRR", "protocol": "official", "dataset_options": {"subset": True}}
    assert benchmarks.options_of(config) == {"exclude_reference": True, "subset": True}


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
    declare(tmp_path / "CIRCO", CIRCO={"val": (1, 2)})
    write_json(tmp_path / "CIRCO/annotations/captions_test2017.json", {})  # COCO's, not CIRCO's
    assert main(line) == 0
    (tmp_path / "CIRCO/captions/test.json").write_bytes(b"\xff")
    assert main(line) == 1
    assert "captions/test.json: not UTF-8" in capsys.readouterr().err


def twice(path: Path, record: str, again: str) -> None:
    """Writes `again` behind `record` in a JSON file's text."""
    text = path.read_text()
    assert record in text
    path.write_text(text.replace(record, record + again, 1))


def faults(root: Path, name: str, split: str = "val") -> list[str]:
    _, found = benchmarks.inspect(name, root, split)
    return [str(fault).removeprefix(f"{root}/") for fault in found]


def test_what_is_there_twice_is_a_fault_with_its_index(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    captions = tmp_path / "CIRR/captions/cap.rc2.val.json"
    splits = tmp_path / "CIRR/image_splits/split.rc2.val.json"
    twice(captions, '"caption": "change 1"', ', "caption": "change 9"')
    assert faults(tmp_path, "CIRR") == [
        "CIRR/captions/cap.rc2.val.json, index 1: 'caption' is there twice"
    ]
    small_cirr(tmp_path)
    twice(captions, '"reference_rank": 0', ', "reference_rank": 1')  # a key of the image set
    assert faults(tmp_path, "CIRR") == [
        "CIRR/captions/cap.rc2.val.json, index 0: 'reference_rank' is there twice"
    ]
    small_cirr(tmp_path)
    twice(splits, '"dev-2-0-img0": "./dev/dev-2-0-img0.png"', ', "dev-2-0-img0": "./dev/x.png"')
    assert faults(tmp_path, "CIRR") == [
        "CIRR/image_splits/split.rc2.val.json, index 3: 'dev-2-0-img0' is there twice"
    ]
    small_cirr(tmp_path)
    edit(splits, lambda data: data.update({"dev-7-0-img0": "dev/dev-2-0-img0.png"}))
    assert faults(tmp_path, "CIRR") == [
        "CIRR/image_splits/split.rc2.val.json, index 7: dev-7-0-img0: dev/dev-2-0-img0.png is "
        "dev-2-0-img0's file, too"
    ]


def test_two_names_for_one_file_in_other_lists(tmp_path: Path) -> None:
    rows = [["raw", "split", "filename"], ['["a"]', "test", "1.jpg"], ['["b"]', "test", "./1.jpg"]]
    write_csv(tmp_path / "MSCOCO" / CSVS["MSCOCO"], rows)
    assert ["occurs twice" in fault and "index 1" in fault for fault in
            faults(tmp_path, "MSCOCO", "test")] == [True]  # fmt: skip
    write_csv(tmp_path / "MSCOCO" / CSVS["MSCOCO"], [[*rows[0], "raw"], [*rows[1], "x"]])
    assert "column raw is there twice" in faults(tmp_path, "MSCOCO", "test")[0]
    write_json(tmp_path / "CIRCO/annotations/val.json", [circo_row(0, 24, [8])])
    info = {"images": [{"file_name": f"{i:012}.jpg"} for i in (8, 24, 8)]}
    write_json(tmp_path / "CIRCO/annotations/image_info_unlabeled2017.json", info)
    assert "index 2: file_name: 000000000008.jpg is listed twice" in faults(tmp_path, "CIRCO")[0]


def test_the_benchmarks_own_layouts(tmp_path: Path) -> None:
    coco = tmp_path / "CIRCO/COCO2017_unlabeled"
    write_json(tmp_path / "CIRCO/annotations/val.json", [circo_row(0, 24, [8])])
    info = {"images": [{"file_name": f"{i:012}.jpg"} for i in (8, 24)]}
    write_json(coco / "annotations/image_info_unlabeled2017.json", info)
    for i in (8, 24):
        image(coco / f"unlabeled2017/{i:012}.jpg")
    circo = benchmarks.load("CIRCO", tmp_path, "val")
    assert len(circo.gallery.names) == 2 and not circo.missing

    talk = [{"img": "unlabeled2017/000000000008.jpg", "dialog": [f"text {i}" for i in range(11)]}]
    write_json(tmp_path / "ChatIR/dialogues/VisDial_v1.0_queries_val.json", talk)
    space = ["unlabeled2017/000000000008.jpg"]
    write_json(tmp_path / "ChatIR/ChatIR_Protocol/Search_Space_val_50k.json", space)
    (tmp_path / "CIRCO/COCO2017_unlabeled").rename(tmp_path / "COCO2017_unlabeled")
    assert not benchmarks.load("VisDial", tmp_path, "val").missing

    small_cirr(tmp_path / "made")
    (tmp_path / "cirr_dataset").mkdir()
    (tmp_path / "made/CIRR").rename(tmp_path / "cirr_dataset/cirr")
    for name in (*MEMBERS, "dev-6-0-img0", "dev-7-0-img0"):
        image(tmp_path / f"cirr_dataset/dev/{name}.png")
    assert not benchmarks.load("CIRR", tmp_path, "val").missing
    (tmp_path / "cirr_dataset/img_raw").mkdir()
    (tmp_path / "cirr_dataset/dev").rename(tmp_path / "cirr_dataset/img_raw/dev")
    assert not benchmarks.load("CIRR", tmp_path, "val").missing

    small_fashioniq(tmp_path / "made")
    (tmp_path / "made/FashionIQ").rename(tmp_path / "fashion-iq")
    assert len(benchmarks.load("FashionIQ-dress", tmp_path, "val").queries) == 3


def test_where_nothing_is_found_all_places_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"FashionIQ, .*fashion-iq, .*fashionIQ_dataset: no such"):
        benchmarks.load("FashionIQ-dress", tmp_path, "val")
    (tmp_path / "CIRCO").mkdir()
    with pytest.raises(UserError, match=r"annotations/val.json: no such.*captions/val.json, too"):
        benchmarks.load("CIRCO", tmp_path, "val")
    write_json(tmp_path / "CIRCO/annotations/val.json", [circo_row(0, 24, [8])])
    assert main(["data", "check", "CIRCO", "--split", "val", "--data-root", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    for place in ("CIRCO/COCO2017_unlabeled", "VisDial", "CIRCO", "COCO2017_unlabeled"):
        assert f"looked in {tmp_path / place}/unlabeled2017" in said


def test_another_count_than_the_benchmarks_is_a_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_fashioniq(tmp_path)
    for number in range(4):
        image(tmp_path / f"FashionIQ/images/B00{number}.png")
    line = ["data", "check", "FashionIQ-dress", "--data-root", str(tmp_path)]
    assert main(line) == 0
    (tmp_path / "FashionIQ/counts.json").unlink()
    capsys.readouterr()
    assert main(line) == 1
    said = capsys.readouterr().out
    assert "FashionIQ: 3 queries, not 2,017" in said and "4 images, not 3,817" in said
    declare(tmp_path / "FashionIQ", **{"FashionIQ-dress": {"val": (3, 5)}})
    assert main(line) == 1
    write_json(tmp_path / "FashionIQ/counts.json", {"FashionIQ-dress": {"val": "many"}})
    assert main(line) == 1
    assert "[queries, gallery] of FashionIQ-dress val expected" in capsys.readouterr().err


def test_the_tiny_benchmarks_declare_their_counts(tiny_data: Path) -> None:
    for name in ("CIRR", "FashionIQ", "VisDial", "CIRCO", "MSCOCO", "Flickr30K"):
        line = ["data", "check", name, "--data-root", str(tiny_data), "--no-decode"]
        assert main(line) == 0, name
