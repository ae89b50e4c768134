"""A benchmark of another package: a Spec and an entry point are all that it brings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from imagescope import benchmarks
from imagescope.cli.app import main
from imagescope.registry import BENCHMARKS

MODULE = '''
"""Plain colours, asked for by name."""

import numpy as np

from imagescope.benchmarks.base import Option, Spec
from imagescope.benchmarks.metrics import recall, target_ranks
from imagescope.benchmarks.source import Row
from imagescope.records import Gallery, Query


class Colour(Row):
    image: str
    text: str


def read(source):
    folder, path = source.image_folder("images"), source.folder / f"{source.split}.json"
    queries, files = [], {}
    for index, row in source.rows(path, Colour):
        files[row.image] = folder / row.image
        text = row.text.upper() if source.options["loud"] else row.text
        queries.append(Query(str(index), text, targets=(row.image,)))
    return queries, Gallery(tuple(files), files)


def measure(queries, rankings, options):
    ranks = target_ranks(queries, rankings)
    parts = {f"rank {k}": 100.0 * (ranks == k) for k in range(2)}
    return {**recall(ranks, (1, 4)), "Mean rank": ranks + 1, "places": parts}


SPEC = Spec(
    name="Colours",
    folder="Colours",
    splits={"val": (4, 4)},
    headline=("Recall@1", "Mean rank"),
    homepage="https://example.org",
    licence="CC0",
    citation="Nobody, 2026",
    read=read,
    measure=measure,
    download="draw them to {root}/Colours",
    options={"loud": Option("instructions in capitals", separate=True)},
    lower_is_better=("Mean rank",),
    groups={"places": "Where the targets stand"},
)
'''


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A data root with Colours, whose package is installed."""
    (tmp_path / "colours.py").write_text(MODULE)
    info = tmp_path / "colours-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[imagescope.benchmarks]\nColours = colours:SPEC\n")
    monkeypatch.syspath_prepend(tmp_path)
    BENCHMARKS.__dict__.pop("_others", None)  # looked up once a process
    images = tmp_path / "Colours" / "images"
    images.mkdir(parents=True)
    rows = []
    for colour in ("red", "green", "blue", "yellow"):
        Image.new("RGB", (32, 32), colour).save(images / f"{colour}.png")
        rows.append({"image": f"{colour}.png", "text": f"a {colour} circle"})
    (tmp_path / "Colours" / "val.json").write_text(json.dumps(rows))
    (tmp_path / "Colours.yaml").write_text("dataset: Colours\nsplit: val\n")
    yield tmp_path
    BENCHMARKS.__dict__.pop("_others", None)


def test_it_is_checked_and_exported(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--data-root", str(root)]
    assert main(["data", "check", "colours", *place]) == 0
    assert "Colours val" in capsys.readouterr().out
    out = root / "queries.jsonl"
    line = ["data", "export", "Colours", "--split", "val", "--output", str(out)]
    assert main([*line, *place]) == 0
    assert json.loads(out.read_text().splitlines()[0])["targets"] == ["red.png"]
    line = ["score", "Colours", "--split", "val", "--predictions", str(out)]
    assert main([*line, *place]) == 1
    assert "Colours has no server" in capsys.readouterr().err
    (root / "Colours" / "val.json").write_text('[{"image": "red.png"}]')
    assert main(["data", "check", "Colours", *place]) == 1
    assert "text: field required" in capsys.readouterr().out


def test_its_options_are_its_own(root: Path) -> None:
    loud = benchmarks.load("Colours", root, "val", loud=True)
    assert loud.queries[0].instruction == "A RED CIRCLE"
    assert loud.describe()["options"] == {"loud": True}


def test_a_run_on_it_is_measured_shown_and_compared(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--data-root", str(root), "--image-db", str(root / "db"), "--runs", str(root / "runs")]
    line = ["run", str(root / "Colours.yaml"), "--models", "tiny", "--method", "text-only"]
    assert main([*line, *place]) == 0
    with (root / "Colours.yaml").open("a") as file:
        file.write("dataset_options: {loud: true}\n")
    assert main([*line, *place, "--run-name", "loud"]) == 0
    plain, loud = (
        next((root / "runs" / "Colours" / name).iterdir()) for name in ("default", "loud")
    )
    (stage,) = [v for v in json.loads((plain / "metrics.json").read_text()).values() if v]
    assert set(stage) == {"Recall@1", "Recall@4", "Mean rank", "places"}
    assert stage["Recall@4"]["value"] == 100 and 1 <= stage["Mean rank"]["value"] <= 4
    page = (plain / "index.html").read_text()
    assert "Where the targets stand" in page and "Mean rank" in page
    capsys.readouterr()
    assert main(["compare", str(plain), str(loud), "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    assert [table["title"] for table in tables] == ["Colours val", "Colours val, loud"]
    assert main(["overview", str(root / "runs")]) == 0
    assert "Colours" in capsys.readouterr().out
