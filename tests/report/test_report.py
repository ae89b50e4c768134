"""The page of a run: what its data says, and what real Chromium makes of it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from PIL import EpsImagePlugin, Image
from synthetic_run import HOSTILE, TOP_K, draw_images, make_run

from imagescope.benchmarks import spec
from imagescope.engines.failures import warnings
from imagescope.engines.role import Step
from imagescope.errors import UserError
from imagescope.models.decoding import thumbnail
from imagescope.records import Estimate
from imagescope.report import facts, queries
from imagescope.report.build import write_report
from imagescope.report.compare import write_comparison
from imagescope.report.movement import movement
from imagescope.report.thumbnails import SIDE, write_thumbnails
from imagescope.runs.folder import read_traces

GALLERY = 60
NAMES = [f"scene-{i:04}.jpg" for i in range(GALLERY)]
ABSENT, BROKEN = NAMES[7], NAMES[8]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Drawn scenes; one has no file and one holds no image."""
    found = draw_images(tmp_path_factory.mktemp("images"), GALLERY)
    del found[ABSENT]
    found[BROKEN].write_bytes(b"no image")
    return found


def report(folder: Path, files: dict[str, Path], kind: str = "composed", count: int = 45) -> Path:
    make_run(folder, kind, count, NAMES)
    return write_report(folder, files)


def data(page: Path) -> dict[str, Any]:
    text = (page.parent / "report" / "queries.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("globalThis.imagescope = ").rstrip().rstrip(";"))


# ------------------------------------------------------------------------------------ the data


def test_movement_counts_what_each_stage_did() -> None:
    found = movement("Stage 2", [0, 5, 3, 9, None, 0], [0, 2, 4, 0, 3, 1])
    assert (found.helped, found.hurt, found.left) == (2, 2, 1)
    assert (found.to_first, found.from_first) == (1, 1)


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
    heads = re.findall(r'<th scope="col"[^>]*>(Asked|Unread|Refused|Errors)</th>', text)
    cells = '<td class="num">'.join(["", "1,234</td>", "29</td>", "11</td>", "17</td>"])
    assert heads == ["Asked", "Unread", "Refused", "Errors"] and cells in text
    assert "finished with warnings" in text


def described(folder: Path, **entry: Any) -> None:
    """Writes a method into a run's manifest."""
    path = folder / "manifest.json"
    known = {"name": "other", "label": "control", "options": {"weight": 0.5}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": known | entry}))


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes every trace of a run."""
    traces = [json.loads(x) for x in (folder / "traces.jsonl").read_text().split("\n")[:-1]]
    for trace in traces:
        change(trace)
    (folder / "traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))


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
    dots = re.findall(r'<span class="dot s\d">(.)</span></td><th scope="row">(\w+)', text)
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
    row = re.search(r'<th scope="row">50</th><td class="num">(\d+)', page.read_text())
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


# --------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("selenium", reason="the browser is driven by selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
    script = Path(__file__).parents[2] / "script" / "screenshot.py"
    spec = importlib.util.spec_from_file_location("screenshot", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    opened = module.open_browser()
    yield opened
    opened.quit()


class Page:
    """What the tests ask of an open page."""

    def __init__(self, browser: Any, page: Path):
        self.browser = browser
        browser.get("about:blank")
        browser.get_log("browser")
        browser.get(page.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def js(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def texts(self, selector: str) -> list[str]:
        return self.js(f"[...document.querySelectorAll({selector!r})].map(n => n.textContent)")

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({selector!r}).click()")

    def until(self, condition: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.browser, 20).until(lambda _: self.js(condition))

    def choose(self, name: str, value: str) -> None:
        self.js(
            f"(n => {{ n.value = {value!r}; n.dispatchEvent(new Event('change')) }})"
            f"(document.getElementById({name!r}))"
        )

    def assert_sound(self) -> None:
        """Every image on the page loads, nothing ran that should not, and no console message."""
        self.js("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        self.until("[...document.images].every(i => i.complete)")
        assert self.js("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)") == []
        assert self.js("document.images.length") > 0
        assert self.js("window.hacked === undefined && !document.querySelector('img[src=x]')")
        assert self.browser.get_log("browser") == []


@pytest.mark.parametrize("kind", ["composed", "text", "hidden", "dialogue"])
def test_every_kind_of_run_opens(
    tmp_path: Path, files: dict[str, Path], browser: Any, kind: str
) -> None:
    page = Page(browser, report(tmp_path / "run", files, kind, count=25))
    noun = "dialogues" if kind == "dialogue" else "queries"
    page.until("document.getElementById('count').textContent")
    assert page.js("document.getElementById('count').textContent") == f"1–20 of 25 {noun}"
    page.click("#toggle-all")
    page.until("document.querySelectorAll('#list .step').length >= 60")
    assert len(page.texts(".query .strip")) == 60
    hostile = page.texts(".query .text")[3]
    assert hostile == HOSTILE
    page.assert_sound()
    assert page.js("document.querySelectorAll('svg').length") == (0 if kind == "hidden" else 2)
    if kind == "dialogue":
        assert len(page.texts(".query:first-child .rounds button")) == 11
        page.click(".query .rounds li:first-child button")
        page.until("document.querySelector('.query .said').textContent.includes('no model was')")


def test_filters_sorting_search_and_pages(
    tmp_path: Path, files: dict[str, Path], browser: Any
) -> None:
    path = report(tmp_path / "run", files, count=45)
    rows = data(path)["queries"]
    page = Page(browser, path)
    expected = {
        "all": rows,
        "helped": [r for r in rows if r[5][-1] < r[5][0]],
        "hurt": [r for r in rows if r[5][-1] > r[5][0]],
        "lost": [r for r in rows if r[5][0] >= TOP_K],
        "fallback": [r for r in rows if r[6] & queries.FELL_BACK],
    }
    for name, wanted in expected.items():
        page.click(f"[data-filter={name}]")
        shown = page.texts("#list .query .sub > span:first-child")
        assert shown == [r[0] for r in wanted[:20]], name
        assert page.texts(f"[data-filter={name}] span") == [str(len(wanted))]
        assert page.js("document.activeElement.dataset.filter") == name
    assert 0 < len(expected["helped"]) < 45 and expected["hurt"] and expected["fallback"]

    page.click("[data-filter=all]")
    page.choose("sort", "gain")
    gains = sorted((r[5][0] - r[5][-1] for r in rows), reverse=True)
    first = page.js("document.querySelector('.badge').textContent")
    assert first == f"▲ {gains[0]}"
    page.choose("step", "3")
    by_last = max(r[5][1] - r[5][2] for r in rows)
    assert page.js("document.querySelector('.badge').textContent") == f"▲ {by_last}"

    page.choose("sort", "order")
    page.click("[aria-label='Page 3']")
    assert page.js("document.getElementById('count').textContent") == "41–45 of 45 queries"
    field = browser.find_element("id", "search")
    field.send_keys("(17)")
    assert page.texts(".query .text") == [rows[17][2]]
    assert "q=%2817%29" in browser.current_url  # the address keeps what is shown
    browser.refresh()
    assert page.texts(".query .text") == [rows[17][2]]
    field = browser.find_element("id", "search")
    field.clear()
    field.send_keys("nothing like this")
    assert page.texts(".empty")
    assert browser.get_log("browser") == []


def test_card_marks_the_target_and_shades_by_probability(
    tmp_path: Path, files: dict[str, Path], browser: Any
) -> None:
    path = report(tmp_path / "run", files, count=10)
    trace = read_traces(path.parent)[4]
    page = Page(browser, path)
    page.js("document.querySelectorAll('.query')[4].open = true")
    page.until("document.querySelectorAll('.query .step').length === 3")
    target = trace.query.targets[0]
    marked = page.js("[...document.querySelectorAll('.strip .target')].map(n => n.title)")
    assert marked == [target] * 3
    verified = trace.verification
    cells = page.texts(".answers tr:first-child td.p")
    assert cells == [str(int(100 * row[0] + 0.5)) for row in verified.yes]
    met = page.js("document.querySelectorAll('.answers td.p.met').length")
    assert met == sum(verified.scores)
    shades = page.js(
        "[...document.querySelectorAll('.answers tr:first-child td.p')]"
        ".map(n => Number(n.style.getPropertyValue('--p')))"
    )
    order = sorted(range(len(shades)), key=lambda i: verified.yes[i][0])
    assert [shades[i] for i in order] == sorted(shades)
    assert page.texts(".judgement p") == [j.text for j in trace.evaluation.judgements]


def test_what_was_not_understood_and_what_a_plugin_brings(
    tmp_path: Path, files: dict[str, Path], browser: Any
) -> None:
    folder = make_run(tmp_path / "run", "composed", 4, NAMES)

    def change(trace: dict[str, Any]) -> None:
        seen = trace["verification"]
        seen["answers"][0][:2], seen["unread"] = [None, None], [[0, 0, HOSTILE]]
        first = trace["evaluation"]["judgements"][0]
        first |= {"accepted": False, "unread": True, "text": "Perhaps."}
        trace["texts"] = [{"title": "Thoughts", "rows": [["why", HOSTILE]], "stage": "stage2"}]
        shown = [[NAMES[0], "nearest"], [ABSENT, ""]]
        drawn = [["drawn/1.png", f"seed 0 {HOSTILE}"], ["../secret.png", "not there"]]
        trace["images"] = [
            {"title": "Proxies", "rows": shown, "stage": "stage1"},
            {"title": "Drawn", "rows": drawn, "stage": "stage3", "files": True},
        ]
        cells = [[NAMES[0], [True, 0.25]], [ABSENT, [None, HOSTILE]]]
        table = {"title": "Checks", "columns": ["red?", "part"], "rows": cells, "stage": "stage3"}
        trace["tables"] = [table | {"expected": [False, None]}]

    rewritten(folder, change)
    database = tmp_path / "image_db"
    (database / "drawn").mkdir(parents=True)
    for path in (database / "drawn" / "1.png", tmp_path / "secret.png"):
        Image.new("RGB", (300, 200), "red").save(path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"]["image_db"] = str(database)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    page = Page(browser, write_report(folder, files))
    page.click("#list summary")
    page.until("document.querySelectorAll('.query .step').length === 3")
    cells = (
        "[...document.querySelectorAll('.answers td.unread')].map(n => [n.textContent, n.title])"
    )
    assert page.js(cells) == [["?", f"not understood: {HOSTILE}"], ["–", "no answer"]]
    assert page.texts(".judgement .verdict")[0] == "? not understood"
    headings = page.js(
        "[...document.querySelectorAll('.query .step')]"
        ".map(n => [...n.querySelectorAll('h4')].map(h => h.textContent))"
    )
    first = ["Edits", "Target, as described", "Proxies"]
    assert headings == [first, ["Thoughts"], ["Drawn", "Checks"]]
    assert f"why{HOSTILE}" in page.texts(".query .step:nth-of-type(2) li")
    assert "nearest" in page.texts(".query .step:first-of-type figcaption")
    last = ".query .step:nth-of-type(3)"
    assert f"seed 0 {HOSTILE}" in page.texts(f"{last} figcaption")
    assert page.texts(f"{last} .tile[title='secret.png']") == ["no imagenot there"]
    assert page.js(f"document.querySelectorAll(\"{last} .tile[title='1.png'] img\").length") == 1
    assert page.texts(f"{last} .answers td.p") == ["yes", "–", "0.25", HOSTILE]
    assert page.texts(f"{last} .answers td.off") == ["yes"]
    page.assert_sound()


def test_keyboard_phone_and_dark(tmp_path: Path, files: dict[str, Path], browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, report(tmp_path / "run", files, count=25))
    body = browser.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    assert page.js("document.activeElement.className") == "skip"
    body.send_keys("/")
    assert page.js("document.activeElement.id") == "search"
    page.js("document.querySelector('summary.none, #list summary').focus()")
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    page.until("document.querySelectorAll('#list .step').length === 3")
    light = page.js("getComputedStyle(document.body).backgroundColor")
    scheme = [{"name": "prefers-color-scheme", "value": "dark"}]
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    try:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        assert page.js("getComputedStyle(document.body).backgroundColor") != light
        assert page.js("document.documentElement.scrollWidth") <= 390  # only tables scroll
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_comparison_in_the_browser(tmp_path: Path, files: dict[str, Path], browser: Any) -> None:
    a = make_run(tmp_path / "a", "composed", 25, NAMES)
    b = make_run(tmp_path / "b", "composed", 25, NAMES)
    traces = [json.loads(x) for x in (b / "traces.jsonl").read_text().split("\n")[:-1]]
    for trace in traces[:6]:
        trace["rankings"]["stage3"]["ranks"] = {trace["query"]["targets"][0]: 55}
    (b / "traces.jsonl").write_text("".join(json.dumps(t) + "\n" for t in traces))
    import imagescope.report.compare as compare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "image_files", lambda manifest: files)
        page = Page(browser, write_comparison(a, b, tmp_path / "ab"))
    found = data(tmp_path / "ab" / "index.html")["queries"]
    for top in (10, 1):
        page.choose("step", str(top))
        wanted = [r[0] for r in found if r[5][0] < top <= r[5][1]]
        assert page.texts("#list .query .sub > span:first-child") == wanted
    page.choose("step", "10")
    page.click("#list summary")
    page.until("document.querySelectorAll('#list .view').length === 2")
    assert [t[:3] for t in page.texts(".view > h3")] == ["A ·", "B ·"]
    page.assert_sound()


@pytest.mark.slow  # a quarter of a minute: 4,000 queries with rankings of 1,000 names
def test_four_thousand_queries(
    tmp_path: Path, files: dict[str, Path], browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    import synthetic_run

    monkeypatch.setattr(synthetic_run, "KEEP", 1000)
    names = [f"scene-{i:04}.jpg" for i in range(2000)]
    some = list(files.values())
    many = {name: some[i % len(some)] for i, name in enumerate(names)}
    make_run(tmp_path / "run", "composed", 4000, names)
    start = time.process_time()
    page = write_report(tmp_path / "run", many)
    assert time.process_time() - start < 60
    opened = Page(browser, page)
    spent = opened.js("performance.timing.domContentLoadedEventEnd - performance.timing.fetchStart")
    assert spent < 5000  # milliseconds until the list stands
    assert opened.js("document.getElementById('count').textContent") == "1–20 of 4,000 queries"
