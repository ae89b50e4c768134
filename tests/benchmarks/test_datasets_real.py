"""The real annotation files: counts, known traps, and malformed copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import SHARED, copy_real, edit, needs_real

from imagescope import benchmarks
from imagescope.benchmarks.check import check_all, export
from imagescope.cli.app import main
from imagescope.errors import UserError

pytestmark = needs_real

COUNTS = {  # as published; dialogues count once
    ("CIRR", "val"): (4181, 2297),
    ("CIRR", "test"): (4148, 2315),
    ("FashionIQ-dress", "val"): (2017, 3817),
    ("FashionIQ-shirt", "val"): (2038, 6346),
    ("FashionIQ-toptee", "val"): (1961, 5373),
    ("VisDial", "val"): (2064, 50_000),
    ("CIRCO", "val"): (220, 0),  # its gallery is a folder of images that is not here
    ("CIRCO", "test"): (800, 0),
}


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_counts(name: str, split: str) -> None:
    benchmark = benchmarks.load(name, SHARED, split)
    queries = len({query.id for query in benchmark.queries})
    assert (queries, len(benchmark.gallery.names)) == COUNTS[name, split]
    assert benchmark.hidden == (split == "test")
    assert len(benchmark.missing) == len(benchmark.gallery.files) > 0
    assert all(q.reference for q in benchmark.queries) or name == "VisDial"
    assert not benchmark.incomplete  # only annotations are looked at


@pytest.mark.parametrize("name", ["CIRCO", "CIRR", "FashionIQ", "VisDial"])
def test_data_check_counts_and_says_that_images_are_missing(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", name, "--data-root", str(SHARED)]) == 1
    said = capsys.readouterr().out
    for (known, _), (queries, gallery) in COUNTS.items():
        if known.startswith(name):
            assert str(queries) in said and str(gallery) in said
    assert "no image is here" in said
    found, absent = check_all(name, SHARED, None)
    assert not absent and not any(checked.faults for checked in found)


def test_traps() -> None:
    blank = {q.id: q for q in benchmarks.load("CIRR", SHARED, "test1").queries}["27098"]
    assert blank.instruction == "the same image"
    shirt = benchmarks.load("FashionIQ-shirt", SHARED, "valid").queries[1928]
    assert shirt.instruction == "is grey with a design on the back"
    toptee = benchmarks.load("FashionIQ-toptee", SHARED, "val").queries
    assert toptee[676].instruction == "is an off the shoulder top"
    assert toptee[1076].instruction == "fades from red to orange"
    dress = benchmarks.load("FashionIQ-dress", SHARED, "val").queries[0]
    assert dress.instruction == "is shiny and silver with shorter sleeves and fit and flare"


def test_protocols_of_cirr() -> None:
    paper = benchmarks.load("CIRR", SHARED, "val").queries[0]
    assert paper.candidates is None and paper.exclude == ()
    official = benchmarks.load("CIRR", SHARED, "val", exclude_reference=True).queries[0]
    assert official.exclude == (official.reference,)
    subset = benchmarks.load("CIRR", SHARED, "val", subset=True).queries
    assert all(len(q.candidates or ()) == 5 for q in subset)
    assert not any(q.reference in (q.candidates or ()) for q in subset)


def test_circo_val() -> None:
    benchmark = benchmarks.load("CIRCO", SHARED, "val")
    first = benchmark.queries[0]
    assert first.reference == "000000271520.jpg"
    assert first.targets == ("000000355099.jpg", "000000528417.jpg", "000000534704.jpg")
    assert {len(q.targets or ()) for q in benchmark.queries} <= set(range(1, 15))
    concept = benchmarks.load("CIRCO", SHARED, "val", shared_concept=True).queries[0].instruction
    assert "a girl with a traditional Chinese umbrella" in concept and first.instruction in concept


def test_visdial_turns() -> None:
    queries = benchmarks.load("VisDial", SHARED, "val").queries
    assert [q.turn for q in queries[:12]] == [*range(11), 0]
    assert [q.verbatim for q in queries[:3]] == [True, False, False]
    assert queries[0].targets == ("000000185565.jpg",)
    assert queries[1].instruction == "is the photo in color? yes"


def test_export_keeps_file_order(tmp_path: Path) -> None:
    assert export("CIRR", SHARED, "test", tmp_path / "cirr.jsonl") == 4148
    first = json.loads((tmp_path / "cirr.jsonl").read_text().split("\n")[0])
    assert list(first) == ["id", "turn", "reference", "instruction", "targets", "candidates"]
    assert (first["id"], first["turn"], first["targets"]) == ("12063", 0, None)
    assert len(first["candidates"]) == 5 and first["reference"] == "test1-147-1-img1"
    assert export("VisDial", SHARED, "val", tmp_path / "chat.jsonl") == 22_704
    lines = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    assert (lines[10]["id"], lines[10]["turn"], lines[11]["id"]) == ("0", 10, "1")
    assert lines[0]["reference"] is lines[0]["candidates"] is None
    export("FashionIQ-dress", SHARED, "val", tmp_path / "dress.jsonl")
    dress = json.loads((tmp_path / "dress.jsonl").read_text().split("\n")[0])
    assert (dress["reference"], dress["targets"]) == ("B005X4PL1G", ["B0084Y8XIU"])


def drop(index: int, key: str) -> Callable[[Any], Any]:
    return lambda data: data[index].pop(key)


def put(index: int, key: str, value: Any) -> Callable[[Any], None]:
    return lambda data: data[index].__setitem__(key, value)


def repeat(index: int) -> Callable[[Any], None]:
    return lambda data: data.insert(index, data[0])


CIRR, CIRCO = "CIRR/captions/cap.rc2.val.json", "CIRCO/captions/val.json"
DRESS, DRESS_LIST = (
    f"FashionIQ/{f}.dress.val.json" for f in ("captions/cap", "image_splits/split")
)
TALK, SPACE = "VisDial/VisDial_v1.0_queries_val.json", "VisDial/Search_Space_val_50k.json"
MALFORMED = [
    (CIRR, drop(7, "caption"), 7, "caption: field required"),
    (CIRR, drop(7, "target_hard"), 7, "target_hard: field required"),
    (CIRR, put(3, "pairid", "12063"), 3, "valid integer"),
    (CIRR, put(3, "pairid", True), 3, "valid integer"),
    (CIRR, put(9, "reference", "dev-9-9-img9"), 9, "unknown image dev-9-9-img9"),
    (CIRR, repeat(5), 5, "pairid 12060 occurs twice"),
    (CIRCO, drop(2, "gt_img_ids"), 2, "gt_img_ids"),
    (CIRCO, put(2, "reference_img_id", "17"), 2, "valid integer"),
    (CIRCO, put(4, "reference_img_id", 999_999_999), 4, "unknown image 999999999"),
    (CIRCO, repeat(6), 6, "id 0 occurs twice"),
    (DRESS, drop(1, "candidate"), 1, "candidate: field required"),
    (DRESS, put(1, "captions", "one text"), 1, "valid list"),
    (DRESS, put(8, "target", "B00NOWHERE"), 8, "unknown image B00NOWHERE"),
    (DRESS, repeat(4), 4, "occurs twice"),
    (DRESS_LIST, repeat(4), 4, "listed twice"),
    (TALK, drop(3, "dialog"), 3, "dialog: field required"),
    (TALK, put(3, "dialog", ["a", 2]), 3, "valid string"),
    (TALK, put(5, "img", "unlabeled2017/000000000001.jpg"), 5, "unknown image"),
    (TALK, repeat(2), 2, "occurs twice"),
    (SPACE, repeat(9), 9, "listed twice"),
    (SPACE, lambda data: data.__setitem__(4, "../../etc/passwd"), 4, "12 digits"),
]


@pytest.mark.parametrize(("file", "change", "index", "reason"), MALFORMED)
def test_a_malformed_copy_is_refused(
    tmp_path: Path, file: str, change: Callable[[Any], None], index: int, reason: str
) -> None:
    folder = Path(file).parts[0]
    name = "FashionIQ-dress" if folder == "FashionIQ" else folder
    edit(copy_real(folder, tmp_path) / file, change)
    with pytest.raises(UserError) as error:
        benchmarks.load(name, tmp_path, "val")
    assert f"{tmp_path / file}, index {index}: " in str(error.value)
    assert reason in str(error.value)
    (checked,), _ = check_all(name, tmp_path, "val")
    assert checked.faults


@pytest.mark.parametrize("file", [CIRR, CIRCO, DRESS, DRESS_LIST, TALK, SPACE])
def test_a_truncated_copy_is_refused(tmp_path: Path, file: str) -> None:
    folder = Path(file).parts[0]
    path = copy_real(folder, tmp_path) / file
    text = path.read_text()
    path.write_text(text[: len(text) // 2])
    with pytest.raises(UserError, match="not valid JSON") as error:
        benchmarks.load("FashionIQ-dress" if folder == "FashionIQ" else folder, tmp_path, "val")
    whole = text[: len(text) // 2].count('"pairid"') - 1
    if file == CIRR:
        assert f"{path}, index {whole}: " in str(error.value)
