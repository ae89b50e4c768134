"""`imagescope tiny` and `imagescope demo`, which script/tiny brings when it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from imagescope.cli.app import main
from imagescope.registry import Registry

ROOT = Path(__file__).parents[2] / "script" / "tiny"
Said = pytest.CaptureFixture[str]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the entry points that script/tiny declares, as pip writes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"imagescope_tiny-{project['version']}.dist-info"
    info.mkdir(parents=True)
    head = f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.setattr("imagescope.cli.app.COMMANDS", Registry("command", {}))
    return info.parent


def test_data_that_cannot_be_written(site: Path, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "file").write_text("")
    assert main(["tiny", "make", str(tmp_path / "file" / "x")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_help_is_light(site: Path) -> None:
    program = """
import sys
from imagescope.cli.app import main
for words in ("", "demo", "tiny", "tiny make", "tiny train", "tiny evaluate"):
    assert main([*words.split(), "--help"]) == 0, words
heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    path = os.pathsep.join([str(site), str(ROOT), *sys.path])
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    assert "Draw the scenes" in told.stdout


@pytest.mark.parametrize("words", [["tiny", "make"], ["demo"]])
def test_where_it_is_not_installed_a_line_says_what_brings_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setattr("imagescope.registry.entry_points", lambda group: ())
    monkeypatch.setattr("imagescope.cli.app.COMMANDS", Registry("command", {}))
    assert main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the package imagescope-tiny brings them" in line
