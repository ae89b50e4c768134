"""The servers' files: written, every fault named, scored where targets are public."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import MEMBERS, SHARED, edit, image, needs_real, small_cirr, write_json

from imagescope import benchmarks
from imagescope.benchmarks import submissions
from imagescope.cli.app import main
from imagescope.errors import UserError
from imagescope.records import Ranking


def said(path: Path, root: Path | None = None, split: str = "test") -> list[str]:
    return [str(finding) for finding in submissions.check(path, root, split)]


def write(path: Path, value: Any) -> Path:
    return write_json(path, value)


def circo_file(**changed: Any) -> dict[str, Any]:
    return {str(i): list(range(1, 51)) for i in range(800)} | changed


def test_cirr_is_written_as_the_server_takes_it(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    benchmark = benchmarks.load("CIRR", tmp_path, "val")
    order = benchmark.gallery.names
    sent = json.loads(submissions.write(benchmark, [Ranking(order)] * 3))
    assert sent == {"version": "rc2", "metric": "recall"} | {
        str(100 + i): list(order) for i in range(3)
    }
    subset = benchmarks.load("CIRR", tmp_path, "val", subset=True)
    rankings = [Ranking(q.candidates or ()) for q in subset.queries]
    sent = json.loads(submissions.write(subset, rankings))
    assert sent["metric"] == "recall_subset"
    assert sent["100"] == MEMBERS[1:4]
    path = write(tmp_path / "sent.json", sent)
    assert said(path, tmp_path, "val") == []


def test_circo_is_written_as_ints(tmp_path: Path) -> None:
    row = {"id": 0, "reference_img_id": 8, "relative_caption": "x", "shared_concept": "y"}
    write_json(tmp_path / "CIRCO/annotations/test.json", [row])
    benchmark = benchmarks.load("CIRCO", tmp_path, "test")
    names = tuple(f"{i:012}.jpg" for i in range(1, 80))
    assert submissions.write(benchmark, [Ranking(names)]) == (
        '{"0":[' + ",".join(map(str, range(1, 51))) + "]}"
    )


def test_a_benchmark_without_a_server_has_no_file(tmp_path: Path) -> None:
    spec = benchmarks.spec("VisDial")
    empty = benchmarks.Benchmark(spec, "val", (), benchmarks.base.Gallery((), {}))
    assert submissions.write(empty, []) == ""


def test_a_faultless_circo_file(tmp_path: Path) -> None:
    assert said(write(tmp_path / "s.json", circo_file())) == []
    numeric = {k: [str(i) for i in v] for k, v in circo_file().items()}  # as the paper writes it
    assert said(write(tmp_path / "s.json", numeric)) == []


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        (list(range(1, 50)), "query 7: 49 images where the server expects 50"),
        ([1, *range(1, 50)], "query 7: 1 occurs twice"),
        ([1, *range(3, 51), "1"], "query 7: '1' occurs twice"),
        ([*range(1, 50), "000000000050"], "query 7: '000000000050' is padded with zeros"),
        ([*range(1, 50), "50.jpg"], "query 7: '50.jpg' is not an image id"),
        ([*range(1, 50), 50.0], "query 7: 50.0 is not an image id"),
        ([*range(1, 50), True], "query 7: True is not an image id"),
        ([*range(1, 50), None], "query 7: None is not an image id"),
        ([*range(1, 50), -3], "query 7: -3 is not one of COCO's ids"),
        ("1 2 3", "query 7: a list expected, got str"),
    ],
)
def test_faults_of_a_circo_list(tmp_path: Path, entries: Any, fault: str) -> None:
    assert fault in said(write(tmp_path / "s.json", circo_file(**{"7": entries})))


def test_wrong_missing_and_repeated_ids(tmp_path: Path) -> None:
    data = circo_file(**{"800": list(range(1, 51))})
    del data["3"]
    found = said(write(tmp_path / "s.json", data))
    assert found == ["query 3: missing from the file", "query 800: no query of test"]
    text = json.dumps(circo_file())
    (tmp_path / "s.json").write_text(text[:-1] + ', "5": ' + json.dumps(list(range(1, 51))) + "}")
    assert said(tmp_path / "s.json") == ["query 5: occurs twice in the file"]
    val = {str(i): list(range(1, 51)) for i in range(220)}
    assert "are these val's?" in said(write(tmp_path / "s.json", val))[0]


def cirr_file(root: Path, **changed: Any) -> Path:
    names = [*MEMBERS, "dev-6-0-img0", "dev-7-0-img0"]
    lists = {str(100 + i): names for i in range(3)}
    return write(root / "s.json", {"version": "rc2", "metric": "recall"} | lists | changed)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"version": None}, 'version: "rc2" expected, got nothing'),
        ({"version": "rc1"}, "version: \"rc2\" expected, got 'rc1'"),
        ({"metric": "recall@k"}, 'metric: "recall" or "recall_subset" expected'),
        ({"metric": ["recall"]}, 'metric: "recall" or "recall_subset" expected'),
        ({"103": []}, "query 103: no query of val"),
        ({"100": ["dev-0-0-img0.png"] * 8}, "is to be given without .png (and 7 more)"),
        ({"100": [*MEMBERS, "dev-6-0-img0", "dev-6-0-img0"]}, "'dev-6-0-img0' occurs twice"),
        ({"100": [*MEMBERS, "dev-6-0-img0", "cat"]}, "'cat' is not among the images to rank"),
        ({"100": [*MEMBERS, "dev-6-0-img0", 7]}, "7 is not a name"),
        ({"100": MEMBERS}, "6 images where the server expects 8"),
        ({"metric": "recall_subset"}, "8 images where the server expects 3"),
        ({"metric": "recall_subset", "100": [*MEMBERS[1:3], "dev-7-0-img0"]}, "not among"),
    ],
)
def test_faults_of_a_cirr_file(tmp_path: Path, changed: dict[str, Any], fault: str) -> None:
    small_cirr(tmp_path)
    path = cirr_file(tmp_path, **changed)
    assert any(fault in line for line in said(path, tmp_path, "val")), said(path, tmp_path, "val")
    line = ["submission", "check", str(path), "--data-root", str(tmp_path), "--split", "val"]
    assert main(line) == 1


def test_a_reference_among_the_candidates_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_cirr(tmp_path)
    path = cirr_file(tmp_path)
    (found,) = submissions.check(path, tmp_path, "val")
    assert found.warning and "1 at k = 1, 3 at k = 5, 3 at k = 10, 3 at k = 50" in found.text
    line = ["submission", "check", str(path), "--data-root", str(tmp_path), "--split", "val"]
    assert main(line) == 0
    assert "no faults" in capsys.readouterr().out


def test_a_file_over_the_servers_limit(tmp_path: Path) -> None:
    data = {"version": "rc2", "metric": "recall", "1": ["x" * 5_000_001]}
    assert "5.0 MB, the server takes 5 MB" in said(write(tmp_path / "s.json", data))


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"0": [1', "[" * 100_000])
def test_what_is_no_submission_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UserError, match=r"s\.json"):
        submissions.check(tmp_path / "s.json")
    with pytest.raises(UserError, match="cannot be read"):
        submissions.check(tmp_path / "absent.json")


def test_score_by_the_files_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Targets stand second for query 100, third for 101, fourth for 102."""
    small_cirr(tmp_path)
    path = cirr_file(tmp_path)
    line = ["score", "CIRR", "--split", "val", "--data-root", str(tmp_path), "--json"]
    assert main([*line, "--predictions", str(path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [round(found[f"Recall@{k}"]["value"], 2) for k in (1, 5, 10, 50)] == [0, 100, 100, 100]
    lists = {str(100 + i): [n for n in MEMBERS if n != MEMBERS[i]][:3] for i in range(3)}
    subset = write(tmp_path / "t.json", {"version": "rc2", "metric": "recall_subset"} | lists)
    assert main([*line, "--predictions", str(subset)]) == 0
    found = json.loads(capsys.readouterr().out)
    values = {k: round(v["value"], 2) for k, v in found.items()}
    assert values == {
        "Recall_subset@1": 33.33,
        "Recall_subset@2": 66.67,
        "Recall_subset@3": 100,
    }


def test_what_cannot_be_scored(tmp_path: Path) -> None:
    small_cirr(tmp_path)
    path = cirr_file(tmp_path, **{"100": [*MEMBERS, MEMBERS[0], MEMBERS[1]]})
    with pytest.raises(UserError, match="occurs twice"):
        submissions.score(path, "CIRR", tmp_path, "val")
    with pytest.raises(UserError, match="targets are hidden"):
        submissions.score(path, "CIRR", tmp_path, "test")
    with pytest.raises(UserError, match="no server"):
        submissions.score(path, "VisDial", tmp_path, "val")
    short = cirr_file(tmp_path, **{"100": MEMBERS[:3]})  # too short for the server, still scored
    found, findings = submissions.score(short, "CIRR", tmp_path, "val")
    assert found["Recall@5"].value == 100 and any("3 images" in str(f) for f in findings)


@needs_real
def test_real_circo_val_worked_by_hand(tmp_path: Path) -> None:
    """Query 0 has truths 355099, 528417, 534704; query 1 574778, 207836, 420715. Put at ranks 1
    and 3 (of 3) for query 0, AP@5 = (1 + 2/3) / 3 = 0.5556; at rank 2 alone for query 1, AP@5 =
    (1/2) / 3 = 0.1667. The target (the first) is found by query 0 at 1, by query 1 not."""
    others = list(range(1, 51))
    lists = {str(i): others for i in range(220)}
    lists["0"] = [355099, 1, 528417, *range(2, 49)]
    lists["1"] = [1, 207836, *range(2, 50)]
    path = write(tmp_path / "s.json", lists)
    found, _ = submissions.score(path, "CIRCO", SHARED, "val")
    assert found["mAP@5"].value == pytest.approx(100 * (5 / 9 + 1 / 6) / 220)
    assert found["Recall@5"].value == pytest.approx(100 / 220)
    rows = json.loads((SHARED / "CIRCO/captions/val.json").read_text())
    for aspect, value in found["semantic_aspects"].items():
        having = [row["id"] for row in rows if aspect in row["semantic_aspects"]]
        expected = 5 / 9 * (0 in having) + 1 / 6 * (1 in having)
        assert value.value == pytest.approx(100 * expected / len(having))


@needs_real
@pytest.mark.parametrize("subset", [False, True])
def test_real_cirr_files(tmp_path: Path, subset: bool) -> None:
    benchmark = benchmarks.load("CIRR", SHARED, "test1", subset=subset, exclude_reference=True)
    rankings = [
        Ranking(tuple(n for n in q.candidates or benchmark.gallery.names if n != q.reference)[:50])
        for q in benchmark.queries
    ]
    path = tmp_path / "s.json"
    path.write_text(submissions.write(benchmark, rankings))
    assert path.stat().st_size < 5_000_000
    assert said(path) == said(path, SHARED) == []


def test_circo_names_outside_the_gallery(tmp_path: Path) -> None:
    row = {"id": 0, "reference_img_id": 8, "relative_caption": "x", "shared_concept": "y"}
    write_json(tmp_path / "CIRCO/annotations/test.json", [row])
    for i in (8, 9):
        image(tmp_path / f"CIRCO/unlabeled2017/{i:012}.jpg")
    path = write(tmp_path / "s.json", {"0": [9, 10]})
    assert said(path, tmp_path) == ["query 0: 10 is not among the images to rank"]


def test_circo_images_that_are_missing_are_not_unknown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many queries as published, a folder with few of their images."""
    public = {"target_img_id": 9, "gt_img_ids": [9]}
    rows = [
        {"id": i, "reference_img_id": 8, "relative_caption": "x", "shared_concept": "y", **public}
        for i in range(220)
    ]
    write_json(tmp_path / "CIRCO/annotations/val.json", rows)
    for i in (8, 9):
        image(tmp_path / f"CIRCO/unlabeled2017/{i:012}.jpg")
    path = write(tmp_path / "s.json", {str(i): list(range(1, 51)) for i in range(220)})
    assert said(path, tmp_path, "val") == []
    line = ["score", "CIRCO", "--split", "val", "--data-root", str(tmp_path)]
    assert main([*line, "--predictions", str(path)]) == 0
    assert capsys.readouterr().err == ""
    few = write(tmp_path / "t.json", {str(i): [9, 8] for i in range(220)})
    assert "query 7: 2 images where the server expects 50" in said(few, tmp_path, "val")
    info = {"images": [{"file_name": f"{i:012}.jpg"} for i in range(2, 90)]}
    write_json(tmp_path / "CIRCO/annotations/image_info_unlabeled2017.json", info)
    assert "query 7: 1 is not among the images to rank" in said(path, tmp_path, "val")


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_tiny_circo_has_its_folder_for_a_gallery(
    tmp_path: Path, tiny_data: Path, split: str
) -> None:
    benchmark = benchmarks.load("CIRCO", tiny_data, split)
    names = benchmark.gallery.names
    path = tmp_path / "s.json"
    path.write_text(submissions.write(benchmark, [Ranking(names)] * len(benchmark.queries)))
    assert said(path, tiny_data, split) == []
    edit(path, lambda data: data["0"].__setitem__(0, 1))
    assert said(path, tiny_data, split) == ["query 0: 1 is not among the images to rank"]
