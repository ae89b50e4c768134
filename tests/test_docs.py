"""The README, the site and what they say: links lead somewhere, commands exist, figures are those
of the files they are quoted from."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from imagescope.cli.app import app
from imagescope.registry import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *DOCS, *sorted(ROOT.glob("examples/**/*.md"))]
OFFLINE = """
import socket
def refuse(*_):
    raise OSError("the documentation is built without a network")
socket.socket.connect = socket.socket.connect_ex = refuse
"""


@pytest.mark.skipif(
    find_spec("mkdocs") is None,
    reason="mkdocs is not installed here, so NOBODY LOOKS WHETHER THE SITE BUILDS: "
    "pip install -r requirements-dev.txt",
)
def test_the_site_is_built_and_read_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(OFFLINE)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    pages = {path.stem: path.read_text() for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in DOCS} <= set(pages)
    assert 'id="imagescope.own.scope.ImageScope.search"' in pages["api"]
    for name, page in pages.items():
        parts = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page)
        assert not [part for part in parts if re.search(r"(?:src|href)=\W?(?:https?:)?//", part)]
        assert "mermaid" not in page, f"{name}: the theme fetches mermaid from elsewhere"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?:|#|mailto:", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_readme_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\((docs/[\w]+\.md)", README))
    assert {str(path.relative_to(ROOT)) for path in DOCS} - linked == {"docs/index.md"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    names = {*get_command(app).list_commands(None), "demo", "tiny"}  # type: ignore[attr-defined, arg-type]
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    for line in "\n".join(blocks).splitlines():
        if found := re.match(r"(?:\$ )?imagescope ([a-z]\w*)", line.strip()):
            assert found[1] in names, line


def test_the_readmes_methods_are_ours_and_it_quotes_published_figures() -> None:
    """Each row of its table of methods: figures of papers are those of configs/published.yaml."""
    published = yaml.safe_load((ROOT / "configs" / "published.yaml").read_text())["rows"]
    table = README[README.index("| method |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table]
    assert {"imagescope", "cirevl", "image+text"} <= {row[0] for row in rows} <= set(METHODS)
    for name, *_, cirr, circo in rows:
        figures = [
            (row["CIRR"][0], row["CIRCO"][0])
            for row in published
            if row["method"].lower() == name and row["encoder"] == "ViT-L/14" and "CIRCO" in row
        ]
        quoted = (cirr, circo)
        assert quoted == ("–", "–") or tuple(map(float, quoted)) in figures, name
