"""examples/: each script as its first lines call it, and the notebook's cells as plain Python."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from imagescope.registry import METHODS

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of all examples, with one cache of answers."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IMAGESCOPE_CACHE", str(folder / "answers.sqlite"))
        patch.setenv("IMAGESCOPE_HOME", str(folder / "home"))
        patch.setenv("MPLBACKEND", "agg")
        yield folder


def python(program: Path, *words: str | Path) -> str:
    """What a program prints. It runs in this process, where torch has been imported already."""
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.setattr(sys, "argv", [str(program), *map(str, words)])
        runpy.run_path(str(program), run_name="__main__")
    return out.getvalue()


@pytest.fixture(scope="module")
def notebook(place: Path) -> str:
    """What the notebook's cells print. No kernel is started: that would take twenty packages."""
    cells = json.loads((EXAMPLES / "first_run.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") for cell in cells), "outputs are not kept in git"
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (place / "notebook.py").write_text("\n\n".join(code))
    return python(place / "notebook.py")


def test_the_notebook_runs(notebook: str) -> None:
    assert re.search(r"stage3 .*Recall@10 \d", notebook)
    assert re.search(r"(Addition|Removal|Modification|Comparison|Retention): ", notebook)


def test_a_run_is_read(notebook: str, place: Path) -> None:
    (run,) = place.glob("first-run/runs/FashionIQ-dress/default/*")
    told = python(EXAMPLES / "read_run.py", run)
    counts = re.findall(r"(\d+) helped, (\d+) hurt, (\d+) unchanged", told)
    assert [sum(map(int, numbers)) for numbers in counts] == [10, 10]
    assert "target's rank: " in told and "looked for: " in told


def test_a_new_method(notebook: str, place: Path) -> None:
    words = ("--data-root", place / "first-run" / "data", "--out", place / "new")
    try:
        told = python(EXAMPLES / "new_method.py", *words)
    finally:
        METHODS.remove("edit+captions")
    recall = {
        name: float(value) for name, value in re.findall(r"^(\S+) +Recall@1 (\S+)", told, re.M)
    }
    assert list(recall) == ["image+text", "cirevl", "edit+captions"]
    assert recall["edit+captions"] > recall["image+text"]
    text = (EXAMPLES / "new_method.py").read_text()
    method = text[text.index("class EditAndCaptions") : text.index("def main")].strip()
    assert len(method.splitlines()) <= 45


def test_own_pictures(notebook: str, place: Path) -> None:
    images = sorted((place / "first-run" / "data" / "FashionIQ" / "images").glob("*.png"))[:24]
    (place / "album").mkdir()
    for image in images:
        shutil.copy(image, place / "album")
    words = ("album", "a red circle", "--change", "change the background to black")
    told = python(EXAMPLES / "own_pictures.py", *words)
    assert "album: 24 pictures" in told
    assert len(re.findall(r"^  1\. ", told, re.MULTILINE)) == 1 + 3  # and a ranking a stage
