"""The page of a run: what its data says, and how it is made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from pages import ABSENT, BROKEN, NAMES, data, described, report, rewritten
from PIL import EpsImagePlugin, Image
from synthetic_run import HOSTILE, make_run

from imagescope.benchmarks import spec
from imagescope.engines.failures import warnings
from imagescope.engines.role import Step
from imagescope.errors import UserError
from imagescope.models.decoding import thumbnail
from imagescope.records import Estimate
from imagescope.report import facts, queries
from imagescope.report.build import write_report
from imagescope.report.compare import write_comparison
from imagescope.report.movement import Example, examples, movement
from imagescope.report.thumbnails import SIDE, write_thumbnails
from imagescope.runs.folder import read_traces

# ------------------------------------------------------------------------------------ the data


def test_movement_counts_what_each_stage_did() -> None:
    found = movement("Stage 2", [0, 5, 3, 9, None, 0], [0, 2, 4, 0, 3, 1])
    assert (found.helped, found.hurt, found.unchanged) == (2, 2, 1)
    assert (found.to_first, found.from_first) == (1, 1)


def test_examples_are_the_first_of_the_largest_changes() -> None:
    """Of a dialogue from its first round's first stage to its last round's last."""

    def row(id: str, turn: int, *ranks: int | None) -> list[Any]:
        return [id, turn, f"{id} {turn}", -1, [5], list(ranks), 0]

    rows = [row("a", 0, 9, 3), row("b", 0, 7, 1), row("c", 0, 2, 4), row("d", 0, None, 0)]
    assert examples(rows) == [
        Example(True, "a 0", -1, 5, 10, 4), Example(False, "c 0", -1, 5, 3, 5)
    ]  # fmt: skip
    assert examples([row("a", 1, 3, 8), row("a", 0, 9, 0)]) == [Example(True, "a 0", -1, 5, 10, 9)]
    assert examples([row("a", 0, 1, 1)]) == [] and examples([row("d", 0, None, None)]) == []


def test_the_page_names_its_run_and_leads_to_its_files(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    folder = make_run(tmp_path / "odd & <name>", "text", 5, NAMES)
    (folder / "a b_stage1#.json").write_text("{}")
    text = write_report(folder, files).read_text(encoding="utf-8")
    name = "default / odd &amp; &lt;name&gt;"
    assert f"<title>CIRR val · {name} · ImageScope</title>" in text
    assert re.search(rf'<p class="lead">{re.escape(name)}:\s+5 queries', text)
    links = re.findall(r'<a href="([^"#]+)">', text.split('class="note files"')[1].split("</p>")[0])
    assert [unquote(link) for link in links] == [
        "a b_stage1#.json", "manifest.json", "metrics.json", "traces.jsonl"
    ]  # fmt: skip


def test_page_says_the_same_as_the_traces(tmp_path: Path, files: dict[str, Path]) -> None:
    page = report(tmp_path / "run", files)
    traces, found = read_traces(page.parent), data(page)
    assert len(found["queries"]) == len(traces)
    for trace, (id, _, text, reference, targets, ranks, flags) in zip(
        traces, found["queries"], strict=True
    ):
        target = trace.query.targets[0]
        assert (id, text) == (trace.query.id, trace.query.instruction)
        assert found["images"][reference] == trace.query.reference
        assert [found["images"][i] for i in targets] == [target]
        assert ranks == [trace.rankings[s].ranks[target] for s in trace.rankings]
        assert bool(flags & queries.FELL_BACK) == trace.synthesis.parse.startswith("fallback")
    helped = sum(t[5][-1] < t[5][0] for t in found["queries"])
    assert f"▲ {helped} helped" in page.read_text(encoding="utf-8").split("All stages")[1]


def test_missing_and_broken_images_are_named_not_dropped(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    page = report(tmp_path / "run", files)
    found = data(page)
    assert sorted(found["images"][i] for i in found["missing"]) == [ABSENT, BROKEN]
    made = len(list((page.parent / "report").glob("*/*.jpg")))
    assert made == len(found["images"]) - 2
    assert f"2</b> of {len(found['images'])} images" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["composed", "text", "dialogue", "hidden"])
def test_nothing_hostile_reaches_the_page(
    tmp_path: Path, files: dict[str, Path], kind: str
) -> None:
    page = report(tmp_path / "run", files, kind, count=5)
    manifest = json.loads((page.parent / "manifest.json").read_text(encoding="utf-8"))
    manifest["config"]["dataset"] = manifest["git"] = HOSTILE
    (page.parent / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    write_report(page.parent, files)
    for path in [page, *(page.parent / "report").glob("*-*.js"), page.parent / "report/queries.js"]:
        text = path.read_text(encoding="utf-8")
        assert "<img src=x" not in text
        if path.suffix == ".js":
            assert "<" not in text and "\u2028" not in text


def test_hidden_targets_say_so_and_still_show_rankings(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    page = report(tmp_path / "run", files, "hidden", count=5)
    text = page.read_text(encoding="utf-8")
    assert "targets of this split are hidden" in text and 'id="movement"' not in text
    detail = (page.parent / "report" / "detail-0.js").read_text(encoding="utf-8")
    first = json.loads(detail.partition(" = ")[2].rstrip().rstrip(";"))[0]
    assert [len(images) for _, images, _ in first["top"]] == [queries.SHOWN] * 3


def test_first_stage_alone_and_a_bare_folder(tmp_path: Path, files: dict[str, Path]) -> None:
    folder = make_run(tmp_path / "run", "text", 4, NAMES)
    lines = (folder / "traces.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    traces = [json.loads(line) for line in lines]
    for trace in traces:
        trace["rankings"] = {"stage1": trace["rankings"]["stage1"]}
        trace["verification"] = trace["evaluation"] = None
    (folder / "traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))
    (folder / "metrics.json").unlink()
    (folder / "manifest.json").write_text("{ broken")
    text = write_report(folder, files).read_text(encoding="utf-8")
    assert "wrote no metrics" in text and 'id="movement"' not in text
    with pytest.raises(UserError, match=r"no traces\.jsonl"):
        write_report(tmp_path, files)


def test_a_second_report_replaces_the_first_whole(tmp_path: Path, files: dict[str, Path]) -> None:
    page = report(tmp_path / "run", files, count=120)
    assert (page.parent / "report" / "detail-2.js").exists()
    report(tmp_path / "run", files, count=10)
    assert not (page.parent / "report" / "detail-1.js").exists()
    left = {path.name for path in page.parent.iterdir()}
    assert left == {"index.html", "report", "traces.jsonl", "metrics.json", "manifest.json"}


def test_what_killed_reports_left_behind_goes(tmp_path: Path, files: dict[str, Path]) -> None:
    page = report(tmp_path / "run", files, count=10)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f".report.{ended.pid}.abc", ".report.abc", ".report.abc.old"):
        (page.parent / name).mkdir()
        (page.parent / name / "page.js").write_text("half")
    beside = page.parent / f".report.{os.getpid()}.abc"  # of another thread, say
    beside.mkdir()
    write_report(page.parent, files)
    assert list(page.parent.glob(".report.*")) == [beside]


def test_the_page_says_what_the_summary_says(tmp_path: Path, files: dict[str, Path]) -> None:
    folder = make_run(tmp_path / "run", "composed", 10, NAMES)
    manifest = json.loads((folder / "manifest.json").read_text())
    step = Step(wanted=1234, asked=1234, errors=17, refused=11, unread=29, reasons=["<too long>"])
    manifest["steps"] = {"verification": asdict(step)}
    manifest |= {"warnings": warnings({"verification": step}), "status": "finished with warnings"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = write_report(folder, files).read_text(encoding="utf-8")
    shown = "verification: 17 of 1,234 requests got no answer (11 refused): &lt;too long&gt;"
    assert f'<p class="notice">{shown}</p>' in text
    cells = re.findall(r'data-label="(Asked|Unread|Refused|Errors)">([^<]*)</td>', text)
    assert cells == [("Asked", "1,234"), ("Unread", "29"), ("Refused", "11"), ("Errors", "17")]
    assert "finished with warnings" in text


def test_the_page_says_which_method_ran(tmp_path: Path, files: dict[str, Path]) -> None:
    folder = make_run(tmp_path / "run", "text", 5, NAMES)
    text = write_report(folder, files).read_text(encoding="utf-8")
    assert "imagescope (faithful)" in text and "top_k 20" in text  # a run from before
    stage = {"id": "stage1", "title": "Look", "action": "retrieve", "steps": ["evaluation"]}
    described(folder, stages=[stage])
    rewritten(folder, lambda trace: trace.update(rankings={"stage1": trace["rankings"]["stage1"]}))
    text = write_report(folder, files).read_text(encoding="utf-8")
    assert "other (control)" in text and "weight 0.5" in text and 'id="movement"' not in text
    assert data(folder / "index.html")["stages"] == [["Look"]]
    dots = re.findall(r'<span class="dot s\d">(.)</span> (\w+)', text)
    assert ("1", "Evaluation") in dots and ("–", "Captions") in dots


def test_quoted_figures_are_marked(tmp_path: Path, files: dict[str, Path]) -> None:
    folder = make_run(tmp_path / "run", "text", 5, NAMES)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["models"]["encoder"]["model"] = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
    manifest["config"] |= {"dataset": "Flickr30K", "split": "test"}
    for asked, quoted in ((5000, True), (5, False)):  # five queries are not the paper's
        manifest["benchmark"] |= {"queries": asked, "gallery": 1000}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        text = write_report(folder, files).read_text(encoding="utf-8")
        assert ("81.10" in text) is quoted and "</code> (openclip/laion2b)</td>" in text
        assert ("Not measured here: quoted from" in text) is quoted


def test_rounds_of_a_dialogue_become_one_metric() -> None:
    found = facts.scores({"stage1": {"Hits@10/0": 1, "Hits@10/1": 2, "BRI": 3}, "why": "x"})
    assert found == {"stage1": {"Hits@10": {"round 0": 1, "round 1": 2}, "BRI": 3}}


def test_headlines_follow_the_benchmark() -> None:
    def one(value: float) -> Estimate:
        return Estimate(value, value, value)

    found = facts.scores(
        {
            "stage1": {"BRI": one(2), "Hits@10/9": one(50), "Hits@10/10": one(60)},
            "stage3": {"BRI": one(1), "Hits@10/9": one(50), "Hits@10/10": one(59)},
        }
    )
    tiles = facts.headlines(found, spec("VisDial"))
    assert [(t["name"], t["change"], t["better"]) for t in tiles] == [
        ("Hits@10, round 10", -1, False),
        ("BRI", -1, True),  # lower is better
    ]
    assert [t["name"] for t in facts.headlines(found)][:2] == ["BRI", "Hits@10, round 9"]


def test_comparison_counts_who_finds_what(tmp_path: Path, files: dict[str, Path]) -> None:
    a = make_run(tmp_path / "a", "text", 30, NAMES)
    b = make_run(tmp_path / "b", "text", 30, NAMES)
    traces = [json.loads(x) for x in (b / "traces.jsonl").read_text().split("\n")[:-1]]
    for trace in traces[:12]:  # B loses these
        (target,) = trace["query"]["targets"]
        trace["rankings"]["stage3"]["ranks"] = {target: 55}
    traces = traces[:-1]  # and never asked this one
    (b / "traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))
    page = write_comparison(a, b, tmp_path / "ab")
    found = data(page)
    pairs = [row[5] for row in found["queries"]]
    assert len(pairs) == 29 and all(pair[1] == 55 for pair in pairs[:12])
    alone = sum(pair[0] < 50 <= pair[1] for pair in pairs)
    row = re.search(
        r'<th scope="row">50</th><td class="num" data-label="A alone">(\d+)', page.read_text()
    )
    assert row and int(row[1]) == alone > 0
    other = make_run(tmp_path / "c", "dialogue", 3, NAMES)
    with pytest.raises(UserError, match="no query in common"):
        write_comparison(a, other, tmp_path / "ac")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "CMYK", "I;16"])
def test_thumbnails_of_every_mode(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new(mode, (300, 150), 0).save(path)
    small = thumbnail(path, SIDE)
    assert small.mode == "RGB" and max(small.size) == SIDE
    if mode == "RGBA":
        assert small.getpixel((3, 3)) == (255, 255, 255)


def test_what_is_no_picture_has_no_thumbnail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs under a picture's name are not run, and no file ends a report."""

    def squeezed(image: Image.Image) -> Image.Image:
        if image.width == 9:  # as Pillow does where a file's values are of the wrong type
            raise TypeError("bad operand type for abs(): 'str'")
        return image

    def run(*_: Any, **__: Any) -> None:
        pytest.fail("a program was run")

    monkeypatch.setattr("imagescope.models.decoding._squeezed", squeezed)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    files = {name: tmp_path / name for name in ("program.jpg", "odd.png", "good.png")}
    program = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    files["program.jpg"].write_text(program)
    Image.new("RGB", (9, 9)).save(files["odd.png"])
    Image.new("RGB", (8, 8)).save(files["good.png"])
    assert write_thumbnails(tmp_path / "out", list(files.values())) == [0, 1]


def test_thumbnails_are_made_once_for_all_runs(tmp_path: Path) -> None:
    """Those of an earlier run are linked as long as their pictures are the same; what a crash left
    of one is made again."""
    source = tmp_path / "a.png"
    kept, pages = tmp_path / "kept", [tmp_path / str(number) for number in range(4)]

    def small(page: Path) -> Path:
        assert write_thumbnails(page, [source], kept) == []
        return page / "0" / "0.jpg"

    Image.new("RGB", (200, 200), "red").save(source)
    first, second = small(pages[0]), small(pages[1])
    assert first.samefile(second)
    Image.new("RGB", (201, 200), "blue").save(source)
    third = small(pages[2])
    assert Image.open(third).getpixel((3, 3))[2] > 200  # type: ignore[index]
    third.write_bytes(b"")
    assert Image.open(small(pages[3])).size == (SIDE, 111)


def test_thumbnails_stand_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (400, 200), "red")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert thumbnail(tmp_path / "turned.jpg", SIDE).size == (SIDE // 2, SIDE)
