"""The example package of docs/extending.md: installed, listed and run as anybody's would be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
FILES = sorted(path for path in EXAMPLE.glob("*/*.py") if path.name != "__init__.py")
GUIDE = (ROOT / "docs" / "extending.md").read_text()


class Installed:
    """The package in a folder of its own: no other environment knows it."""

    def __init__(self, folder: Path):
        self.project, self.site = folder / "project", folder / "site"
        shutil.copytree(EXAMPLE, self.project, ignore=shutil.ignore_patterns("__pycache__"))
        offline = "--quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check"
        done = self._python("-m", "pip", "install", *offline.split(), "--target", self.site, ".")
        assert done.returncode == 0, done.stderr

    def imagescope(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._python("-m", "imagescope", *words)

    def result(self, run: str, file: str) -> Any:
        (path,) = (self.project / "runs" / "ExampleAlbum" / run).glob(f"*/{file}")
        return json.loads(path.read_text())

    def _python(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        paths = os.pathsep.join(map(str, (self.site, ROOT)))
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=self.project,
            env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("plugin"))


@pytest.mark.parametrize("kind", ["methods", "encoders", "engines", "benchmarks"])
def test_what_a_package_brings_is_listed(installed: Installed, kind: str) -> None:
    points = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    told = installed.imagescope(kind)
    assert told.returncode == 0, told.stderr
    for name in points[f"imagescope.{kind}"]:
        assert name in told.stdout


def test_it_runs(installed: Installed) -> None:
    """Method, engine, encoder and benchmark together. The scripted descriptions are right, so every
    target is first; the second query's needs the reference, too."""
    told = installed.imagescope("run", "album.yaml", "--run-name", "a", "--option", "k=10")
    assert told.returncode == 0, told.stderr
    assert installed.result("a", "metrics.json")["stage1"]["Recall@1"]["value"] == 100
    manifest = installed.result("a", "manifest.json")
    assert manifest["models"]["reasoner"]["engine"] == "example-scripted"
    assert manifest["models"]["encoder"]["library"] == "example-colours"
    assert manifest["steps"]["describe"]["asked"] == 3

    plan = installed.imagescope("plan", "album.yaml")
    assert plan.returncode == 0, plan.stderr
    again = installed.imagescope("run", "album.yaml", "--run-name", "b", "--option", "k=10")
    assert again.returncode == 0, again.stderr
    steps = installed.result("b", "manifest.json")["steps"]
    assert steps["describe"]["asked"] == 0, "answers are kept"


def test_its_own_method_meets_our_encoder_and_the_other_way_round(installed: Installed) -> None:
    told = installed.imagescope("run", "album.yaml", "--method", "text-only", "--run-name", "t")
    assert told.returncode == 0, told.stderr
    unknown = installed.imagescope("run", "album.yaml", "--option", "q=1")
    assert unknown.returncode == 1 and "no option q" in unknown.stderr


def test_a_missing_file_of_answers_is_said_in_a_line(installed: Installed) -> None:
    told = installed.imagescope("run", "album.yaml", "--reasoner", "nothing.json")
    assert told.returncode == 1 and "nothing.json: no scripted answers" in told.stderr
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_the_guide_shows_the_files_as_they_are(file: Path) -> None:
    text = file.read_text()
    assert f"```python\n{text}```" in GUIDE
    assert len(text.splitlines()) <= 60


def test_the_guide_shows_the_configurations_as_they_are() -> None:
    for name in ("album.yaml", "models.yaml"):
        assert f"```yaml\n{(EXAMPLE / name).read_text()}```" in GUIDE
    project = (EXAMPLE / "pyproject.toml").read_text()
    names = project[project.index("[project.entry-points") : project.index("[tool.")].strip()
    assert f"```toml\n{names}\n```" in GUIDE
