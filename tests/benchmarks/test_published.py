"""Which published figures stand beside a run, and that the file of them is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imagescope import benchmarks
from imagescope.benchmarks.published import own_figures, quoted, read
from imagescope.errors import UserError

LAION = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
OPENAI = "openai/clip-vit-large-patch14"


def run(dataset: str, split: str = "test", encoder: str = LAION, **config: Any) -> dict[str, Any]:
    """A manifest of a run over the whole split."""
    queries, gallery = benchmarks.spec(dataset).splits[split]
    config = {"dataset": dataset, "split": split, "protocol": "paper", **config}
    return {
        "config": {**config, "models": {"encoder": {"model": encoder}}},
        "benchmark": {"queries": queries, "gallery": gallery},
    }


def figures(metric: str, *runs: dict[str, Any], everything: bool = False) -> dict[str, float]:
    """Method -> a quoted figure, in the order of the rows."""
    rows = quoted(runs, everything)
    return {row.method: row.figures[metric] for row in rows if metric in row.figures}


def test_rows_of_the_same_encoder_stand_beside_a_run() -> None:
    flickr = run("Flickr30K")
    assert figures("Recall@1", flickr) == {"ImageScope": 81.10, "CLIP alone": 75.72}
    assert {row.source for row in quoted([flickr])} == {"arXiv 2503.10166"}
    other = run("Flickr30K", encoder="laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    assert figures("Recall@1", other) == {"ImageScope": 78.84, "CLIP alone": 66.56}


@pytest.mark.parametrize(
    "other",
    [
        {"benchmark": {"queries": 5000, "gallery": 999}},
        {"benchmark": {"queries": 4999, "gallery": 1000}},
        {"benchmark": {}},
        run("Flickr30K", encoder="data/tiny/models/encoder"),
        run("Flickr30K", encoder="openai/clip-vit-base-patch16"),
        run("CIRR", "val"),
        run("VisDial", "val"),
    ],
)
def test_and_nowhere_else(other: dict[str, Any]) -> None:
    manifest = run("Flickr30K") | other
    assert quoted([manifest]) == []
    assert own_figures(manifest) is None


def test_the_page_quotes_what_the_runs_own_method_published() -> None:
    assert own_figures(run("Flickr30K")) == {
        "figures": {"Recall@1": 81.10, "Recall@5": 94.02, "Recall@10": 96.82},
        "source": "quoted from arXiv 2503.10166",
    }
    assert own_figures(run("Flickr30K", method="text-only")) is None
    assert own_figures({}) is None


def test_cirrs_reference_has_to_be_treated_alike() -> None:
    kept = run("CIRR", encoder=OPENAI)
    removed = run("CIRR", encoder=OPENAI, exclude_reference=True, method="cirevl")
    assert figures("Recall@1", kept) == {"ImageScope": 34.99}
    assert figures("Recall@1", removed) == {"CIReVL": 24.55, "LDRE": 26.53, "LinCIR": 25.04}
    assert not quoted([kept, removed])


def test_a_runs_own_method_comes_first() -> None:
    subset = {"encoder": OPENAI, "subset": True}
    ours = figures("Recall_subset@1", run("CIRR", **subset))
    theirs = figures("Recall_subset@1", run("CIRR", **subset, method="cirevl"))
    assert list(ours)[:2] == ["ImageScope", "CIReVL"]
    assert list(theirs)[:2] == ["CIReVL", "ImageScope"]
    assert ours == theirs and ours["CIReVL"] == 59.54


def test_circos_shared_concept_has_to_be_used_alike() -> None:
    without = figures("mAP@5", run("CIRCO"), everything=True)
    concept = figures("mAP@5", run("CIRCO", shared_concept=True), everything=True)
    assert "CIReVL" in without and "Paracosm" not in without
    assert "CIReVL" not in concept and "Paracosm" in concept


def test_what_rows_leave_unsaid_is_marked_and_shown_only_where_asked_for() -> None:
    kept = run("CIRR", encoder=OPENAI)
    assert all(row.unsaid == () for row in quoted([kept]))
    unsaid = {(row.method, row.encoder): row.unsaid for row in quoted([kept], everything=True)}
    assert unsaid["ImageScope", "ViT-L/14 openai"] == ()
    assert unsaid["ImageScope", "ViT-B/32 laion2b"] == ()
    assert unsaid["XR", ""] == ("encoder not known",)
    assert unsaid["OSrCIR", "ViT-L/14 openai"] == ("reference kept or removed: not known",)
    assert not any(method == "WISER" for method, _ in unsaid)  # it removes the reference
    circo = {(row.method, row.encoder): row.unsaid for row in quoted([run("CIRCO")], True)}
    assert circo["WISER", "ViT-L/14"] == ("weights not known",)
    assert circo["OSrCIR", "ViT-L/14 openai"] == ()


def test_fashioniqs_figures_are_for_its_average() -> None:
    runs = [run(f"FashionIQ-{c}", "val") for c in ("dress", "shirt", "toptee")]
    assert figures("Recall@10", *runs) == {"ImageScope": 31.36, "CIReVL": 28.55}
    assert not quoted(runs[:1]) and not quoted(runs[:2])
    dress = figures("Recall@10", runs[0], everything=True)
    assert dress["XR"] == 28.71 and dress["MRA-CIR"] == 31.87 and "ImageScope" not in dress


def test_the_file_is_of_benchmarks_and_splits_that_are_there() -> None:
    file = read()
    assert len(file.rows) > 60 and all(row.figures for row in file.rows)
    for name, split in file.splits.items():
        name = name.removesuffix(" subset")
        specs = [spec for spec in benchmarks.specs() if spec.name.startswith(name)]
        assert specs and all(split in spec.splits for spec in specs)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("CIRR: [1, 2]", r"row 1 \(New, L\): CIRR has .*Recall@50"),
        ("Other: [1]", r"row 1 \(New, L\): Other has no metrics"),
        ("weights: mine", "rows.0.weights"),
        ("CIRR: [1, 2, 3, x]", "rows.0.CIRR.3"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: str, said: str) -> None:
    file = tmp_path / "published.yaml"
    file.write_text(
        "metrics: {CIRR: [Recall@1, Recall@5, Recall@10, Recall@50]}\n"
        "splits: {CIRR: test}\ncheckpoints: {}\nsources: {x: somewhere}\n"
        f"rows:\n  - {{method: New, encoder: L, source: x, {row}}}\n"
    )
    with pytest.raises(UserError, match=said):
        read(file)
