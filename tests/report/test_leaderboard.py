"""Many runs in one table: as a page, as Markdown, LaTeX and CSV, whatever they are called."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import HOSTILE, make_run

from imagescope.cli.app import main
from imagescope.records import Estimate
from imagescope.report.charts import cost_chart, frontier
from imagescope.report.formats import comma_separated, latex, markdown
from imagescope.report.leaderboard import write_leaderboard
from imagescope.runs.compare import compare

ODD = "=cmd|'/c' & 50%_$#{x}~^\\ *b* <i>"


def changed(run: Path, **entries: Any) -> Path:
    """Writes entries into a run's manifest; those of its configuration stand under `config`."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    config = manifest["config"] | entries.pop("config", {})
    path.write_text(json.dumps({**manifest, **entries, "config": config}))
    return run


def method(name: str, **options: Any) -> dict[str, Any]:
    stage = {"id": "stage1", "title": "Retrieval", "action": "retrieve", "steps": ["synthesis"]}
    return {"name": name, "label": "control", "options": options, "stages": [stage]}


def cost(seconds: float, **more: int) -> dict[str, dict[str, float]]:
    """Of twelve queries."""
    step = {"prompt_tokens": 120, "output_tokens": 36, "model_seconds": 12 * seconds, "cached": 0}
    return {"synthesis": step | more}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A baseline, another with worse ranks, and a third with an odd name."""
    folders = [make_run(tmp_path / "runs" / name, "text", 12) for name in ("a", "b", "c d")]
    changed(folders[0], method=method("first", tau=0.1), steps=cost(2.0))
    changed(folders[1], method=method("second", tau=0.2), steps=cost(0.5), config={"limit": 12})
    changed(folders[2], method=method(ODD, tau=0.2), steps=cost(0.25, cached=1))
    lines = (folders[1] / "traces.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    traces = [json.loads(line) for line in lines]
    for trace in traces:
        trace["rankings"]["stage3"]["ranks"] = {trace["query"]["targets"][0]: 90}
    text = "".join(json.dumps(trace) + "\n" for trace in traces)
    (folders[1] / "traces.jsonl").write_text(text, encoding="utf-8")
    return folders


def test_runs_say_in_what_they_differ(runs: list[Path]) -> None:
    (found,) = compare(runs)
    assert found.settings == {
        "method": {"A": "first", "B": "second", "C": ODD},
        "option.tau": {"A": "0.1", "B": "0.2", "C": "0.2"},
    }  # the limit is B's alone: the others may be of a version that had none
    changed(runs[0], config={"limit": 6})
    assert compare(runs)[0].settings["limit"] == {"A": "6", "B": "12", "C": ""}


def test_markdown_has_a_run_a_row(runs: list[Path]) -> None:
    comparisons = compare(runs)
    text = markdown(comparisons)
    tables = [part.split("\n") for part in text.split("\n\n") if part.startswith("|")]
    for table in tables:  # as many cells in every row, bars within names aside
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1
    first, differences = tables[:2]
    assert [row.split(" | ")[0] for row in first[2:]] == ["| A", "| B", "| C"]
    recall = comparisons[0].lines[3].values  # at 50
    assert recall[0] and f"**{recall[0].value:.2f}** [" in first[2] and "0.00 [" in first[3]
    assert "≥ 10.00 | ≥ 3.00 | ≥ 0.2500 |" in first[4] and "| 10.00 | 3.00 | 2.00 |" in first[2]
    assert differences[2].startswith("| B | ") and re.search(
        r"p (= |&lt; )0\.\d{3}", differences[2]
    )
    assert "corrected for 8 comparisons (Holm)" in text
    assert "\\*b\\* \\<i\\>" in text and "<i>" not in text


def test_latex_has_no_command_of_a_name(runs: list[Path]) -> None:
    text = latex(compare(runs))
    rows = [line for line in text.split("\n") if line.endswith(r" \\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {6}
    assert r"\& 50\%\_\$\#\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    assert r"0.00$^{\dagger}$" in text and "% dagger: p < 0.05" in text
    assert r"$\geq$0.2500" in text
    comments = [line for line in text.split("\n") if "runs/" in line]
    assert len(comments) == 3 and all(line.startswith("% ") for line in comments)


def test_a_path_of_two_lines_stays_in_its_comment(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a\n\\input{x}", "text", 12)
    for line in latex(compare([run])).split("\n"):
        assert "input" not in line or line.startswith("% ")


def test_csv_holds_figures_in_full_and_no_formula(runs: list[Path]) -> None:
    (found,) = comparisons = compare(runs)
    rows = list(csv.DictReader(io.StringIO(comma_separated(comparisons))))
    assert [row["run"] for row in rows] == ["A", "B", "C"]
    for i, row in enumerate(rows):
        for line in found.lines:
            value = line.values[i]
            assert value and float(row[line.metric]) == value.value
            if i:
                difference = line.differences[i - 1]
                assert difference and float(row[f"{line.metric} p (Holm)"]) == difference.corrected
    assert rows[2]["method"] == f"'{ODD}" and rows[0]["Recall@1 p"] == ""


def test_every_form_by_the_command(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(runs[0].parent)]
    for form, start in (("markdown", "## CIRR val"), ("csv", "benchmark,"), ("latex", "% CIRR")):
        assert main(["compare", *given, "--format", form]) == 0
        assert capsys.readouterr().out.startswith(start)
    for words in (["--json"], ["--format", "json"]):
        assert main(["compare", *given, *words]) == 0
        (plain,) = json.loads(capsys.readouterr().out)
        assert plain["settings"]["option.tau"] == {"A": "0.1", "B": "0.2", "C": "0.2"}
    assert main(["compare", *given]) == 0
    shown = capsys.readouterr().out
    assert "the runs differ in" in shown and "corrected for 8 comparisons (Holm)" in shown
    assert re.search(r"option\.tau +│ A +│ 0\.1", shown) and re.search(r"│ B, C +│ 0\.2", shown)
    assert main(["compare", *given, "--format", "word"]) == 1
    assert "choose table, json, markdown" in capsys.readouterr().err


def test_a_folder_stands_for_its_finished_runs(
    runs: list[Path], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(runs[1], status="failed: no memory")
    (found,) = compare([runs[0].parent])
    assert [run.paths for run in found.runs.values()] == [[str(runs[0])], [str(runs[2])]]
    assert "left out: 1 unfinished runs" in caplog.text
    for run in runs:
        changed(run, status="interrupted")
    assert main(["compare", str(runs[0].parent)]) == 1
    assert "none of the 3 runs below it has finished" in capsys.readouterr().err


def test_the_page_of_all_runs(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    changed(runs[2], method=method(HOSTILE), config={"models_name": HOSTILE})
    (runs[0] / "index.html").write_text("")
    page = runs[0].parent / "pages" / "all.html"
    assert main(["compare", str(runs[1]), str(runs[0]), str(runs[2]), "--html", str(page)]) == 0
    assert "page: " in capsys.readouterr().out
    text = page.read_text(encoding="utf-8")
    assert "<h1>3 runs</h1>" in text and "<img src=x" not in text
    order = re.findall(r'<span class="tag">(\w+)</span> (\w+)', text)
    assert order[-1] == ("A", "second")  # it finds nothing
    assert 'href="../a/index.html"' in text and "../b/" not in text  # which has no page
    assert text.count("<svg") == 1 and 'aria-label="Recall@1 against seconds' in text
    assert re.findall(r">([ABC])</text>", text) == ["A", "B"]  # C's answers came from the cache


def test_one_run_makes_a_page_without_a_chart(runs: list[Path]) -> None:
    page = write_leaderboard(compare(runs[:1]), runs[0] / "one.html")
    assert "<svg" not in page.read_text(encoding="utf-8")


def test_the_frontier_by_hand() -> None:
    points = [(3.0, 50.0), (1.0, 40.0), (2.0, 30.0), (1.0, 20.0), (4.0, 50.0), (5.0, 60.0)]
    assert frontier(points, lower=False) == [(1, 40), (3, 50), (5, 60)]
    assert frontier(points, lower=True) == [(1, 20)]


def test_a_free_run_does_not_need_a_logarithm() -> None:
    points = [("A", 0.0, Estimate(1.0, 0.5, 2.0)), ("B", 100.0, Estimate(3.0, 2.5, 4.0))]
    assert "var(--target)" in cost_chart(points, "BRI", True, "cost")
