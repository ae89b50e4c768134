"""Runs side by side: pairing, FashionIQ's average, and when published figures are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from imagescope.benchmarks import split_of
from imagescope.cli.app import main
from imagescope.errors import UserError
from imagescope.records import Query, Ranking, Synthesis, Trace
from imagescope.report.tables import print_comparison
from imagescope.runs.compare import Comparison, Line, compare
from imagescope.runs.folder import to_json

STAGES = ("stage1", "stage2", "stage3")
LAION = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"


def make_run(
    folder: Path,
    ranks: list[list[int]],
    dataset: str = "CIRR",
    split: str = "val",
    gallery: int = 600,
    encoder: str = "data/tiny/models/encoder",
    first: int = 0,
    hidden: bool = False,
    **config: Any,
) -> Path:
    """A run folder; ranks: per query the target's rank at each stage."""
    folder.mkdir(parents=True)
    benchmark = {"queries": len(ranks), "gallery": gallery}
    known = {"dataset": dataset, "split": split, "protocol": "paper", "prompts": dataset}
    models = {"encoder": {"model": encoder}}
    manifest = {"config": {**known, "models": models, **config}, "benchmark": benchmark}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = []
    for i, row in enumerate(ranks, first):
        targets = None if hidden else ("t",)
        stages = {
            s: Ranking((), ranks={} if hidden else {"t": r}, pool=gallery)
            for s, r in zip(STAGES, row, strict=False)
        }
        lines.append(Trace(Query(str(i), "x", targets=targets), Synthesis("", (), ("x",)), stages))
    text = "".join(json.dumps(to_json(line)) + "\n" for line in lines)
    (folder / "traces.jsonl").write_text(text)
    return folder


def line(found: Comparison, metric: str) -> Line:
    (line,) = [x for x in found.lines if x.metric == metric]
    return line


WORSE = [[3, 3, 0] if i % 2 else [3, 3, 3] for i in range(60)]
BETTER = [[3, 3, 0] if i % 4 else [3, 3, 3] for i in range(60)]


def test_two_runs_are_paired_query_by_query(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", WORSE), make_run(tmp_path / "b", BETTER)
    (found,) = compare([a, b])
    third = line(found, "Recall@1")
    assert [v and v.value for v in third.values] == [50, 75]
    (difference,) = third.differences
    assert difference and difference.value == 25 and difference.low > 0 and difference.p < 0.01
    assert found.gains["A"]["stage3 - stage1"]["Recall@1"].value == 50
    assert not found.quoted


def test_a_run_shows_its_encoder_and_the_family_of_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = make_run(tmp_path / "a", WORSE, encoder="laion/CLIP-ViT-L-14-laion2B-s32B-b82K")
    b = make_run(tmp_path / "b", BETTER)
    (comparison,) = compare([a, b])
    assert comparison.encoders["A"] == "CLIP-ViT-L-14-laion2B-s32B-b82K (openclip/laion2b)"
    assert comparison.encoders["B"] == "encoder"
    print_comparison(comparison, Console(width=200))
    assert f"A: {a}, encoder CLIP-ViT-L-14-laion2B-s32B-b82K (openclip/laion2b)" in (
        capsys.readouterr().out
    )


def test_runs_over_other_queries_are_compared_where_they_meet(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", WORSE)
    b = make_run(tmp_path / "b", WORSE[:40], first=30)
    (found,) = compare([a, b])
    assert "over the 30 that all have" in found.notes[0]
    with pytest.raises(UserError, match="no query in common"):
        compare([a, make_run(tmp_path / "c", WORSE, first=1000)])


def test_benchmarks_stay_apart(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", WORSE),
        make_run(tmp_path / "b", WORSE, subset=True),
        make_run(tmp_path / "c", WORSE, dataset="Flickr30K", split="test"),
    ]
    assert [c.title for c in compare(runs)] == ["CIRR val", "CIRR val, subset", "Flickr30K test"]


def test_the_average_of_fashioniq_counts_categories_alike(tmp_path: Path) -> None:
    parts = {"dress": ([0] * 10, 10), "shirt": ([99] * 30, 20), "toptee": ([99] * 5, 30)}
    runs = [
        make_run(tmp_path / c, [[r] * 3 for r in ranks], f"FashionIQ-{c}", gallery=n)
        for c, (ranks, n) in parts.items()
    ]
    *single, average = compare(runs)
    assert len(single) == 3 and average.title == "FashionIQ average val"
    value = line(average, "Recall@10").values[0]
    assert value and value.value == pytest.approx(100 / 3)
    assert not any("average" in c.title for c in compare(runs[:2]))


def full(folder: Path, count: int, gallery: int, **more: Any) -> Path:
    return make_run(folder, [[2, 1, 0]] * count, gallery=gallery, **more)


def test_published_figures_stand_beside_their_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over hidden targets, too; tests/benchmarks/test_published.py says which rows."""
    run = full(tmp_path / "a", 4148, 2315, split="test", encoder=LAION, hidden=True)
    (found,) = compare([run])
    assert not found.lines and any("hidden" in note for note in found.notes)
    (row,) = found.quoted
    assert (row.method, row.figures["Recall@1"]) == ("ImageScope", 39.37)
    assert main(["compare", str(run)]) == 0
    said = capsys.readouterr().out
    assert "quoted, not measured here" in said and "39.37" in said
    assert main(["compare", str(run), "--all-quoted", "--json"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert ["encoder not known"] in [row["unsaid"] for row in plain["quoted"]]


def test_json_and_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", WORSE)
    assert main(["compare", str(run), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["title"] == "CIRR val" and found["lines"][0]["values"][0]["value"] == 50
    (tmp_path / "empty").mkdir()
    assert main(["compare", str(tmp_path / "empty")]) == 1
    assert "no run folder" in capsys.readouterr().err
    (run / "manifest.json").write_text("{}")
    assert main(["compare", str(run)]) == 1


def test_every_run_has_its_own_label(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / str(i), WORSE[:2]) for i in range(29)]
    (found,) = compare(paths)
    assert [run.paths for run in found.runs.values()] == [[str(path)] for path in paths]
    assert next(iter(found.runs)) == "A" and list(found.runs)[25:] == ["Z", "AA", "AB", "AC"]
    assert len(found.gains) == 29


def described(folder: Path, method: str, steps: dict[str, Any]) -> Path:
    """Writes a method of one stage, and what its steps cost, into a run's manifest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    stage = {"id": "stage1", "title": "Retrieval", "action": "retrieve", "steps": ["edit"]}
    entry = {"name": method, "label": "control", "options": {}, "stages": [stage]}
    path.write_text(json.dumps(manifest | {"method": entry, "steps": steps}))
    return folder


def cost(**counts: float) -> dict[str, float]:
    return {"prompt_tokens": 600, "output_tokens": 120, "model_seconds": 30, "cached": 0} | counts


def test_methods_of_other_stages_meet_at_their_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older run is ImageScope's, three stages long; the others have one stage."""
    a = make_run(tmp_path / "a", WORSE)
    b = described(
        make_run(tmp_path / "b", [[0]] * 60), "cirevl", {"edit": cost(), "captions": cost()}
    )
    (found,) = compare([a, b])
    assert [run.method.name for run in found.runs.values()] == ["imagescope", "cirevl"]
    first = line(found, "Recall@1")
    assert [v and v.value for v in first.values] == [50, 100]
    assert first.differences[0] and first.differences[0].value == 50
    assert list(found.gains) == ["A"]
    spent = found.runs["B"].cost
    assert (spent.tokens_in, spent.tokens_out, spent.model_seconds) == (10, 2, 0.5)
    assert spent.whole and found.runs["A"].cost.tokens_in is None
    assert main(["compare", str(a), str(b)]) == 0
    said = capsys.readouterr().out
    widths = [len(text) for text in said.splitlines() if not text.startswith(("A: ", "B: "))]
    assert max(widths) <= 80 and "…" not in said


def test_the_subset_of_cirr_fits_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its metrics have the longest names, measured and quoted."""
    a = full(tmp_path / "a", 4148, 2315, split="test", encoder=LAION, subset=True)
    b = full(tmp_path / "b", 4148, 2315, split="test", encoder=LAION, subset=True)
    assert main(["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out.splitlines()
    tables = [text.rstrip() for text in shown if not text.startswith(("A: ", "B: "))]
    assert max(map(len, tables)) <= 80
    (row,) = [text for text in tables if text.startswith("Recall_subset@2")]
    assert [cell.strip() for cell in row.split("│")[1:]] == [
        "A", "100.00 [100.00, 100.00]", "", ""
    ]  # fmt: skip
    assert any(text.startswith("[1] ") for text in tables)


def test_answers_from_the_cache_make_the_cost_a_least_one(tmp_path: Path) -> None:
    run = described(make_run(tmp_path / "a", [[0]] * 60), "cirevl", {"edit": cost(cached=1)})
    (found,) = compare([run])
    assert not found.runs["A"].cost.whole


@pytest.mark.parametrize("dataset", [None, 5, [], {"a": 1}, "nothing"])
def test_a_manifest_of_no_benchmark_is_said(tmp_path: Path, dataset: object) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"config": {"dataset": dataset}}))
    with pytest.raises(UserError):
        compare([tmp_path])


def test_a_split_that_is_no_name_is_said() -> None:
    with pytest.raises(UserError, match="no split"):
        split_of("CIRR", {})  # type: ignore[arg-type]  # as an odd manifest has it
