"""Fresh environments, one an extra: what a wheel installs is enough for what it offers. Minutes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# extra -> what it brings; vllm and gpu need more than every machine has
EXTRAS = {
    "openai": "httpx",
    "openclip": "open_clip",
    "sentence-transformers": "sentence_transformers",
    "faiss": "faiss",
    "distributed": "ray",
    "serve": "fastapi",
    "heic": "pillow_heif",
    "docs": "mkdocs",
}
HOOK = "imagescope_torchvision_hook"
pytestmark = pytest.mark.slow


def run(*words: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Where PYTHONPATH leads to no checkout."""
    line = ["env", "-u", "PYTHONPATH", *map(str, words)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def check(*words: str | Path, cwd: Path = ROOT) -> str:
    told = run(*words, cwd=cwd)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "script" / "tiny"):
        check(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, project)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def install(python: Path, *what: str | Path) -> None:
    pins = ROOT / "requirements-cpu.txt"
    check(python, "-m", "pip", "install", "-q", "-c", pins, *what)


def site(python: Path) -> Path:
    return Path(
        check(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )


@pytest.fixture(scope="module", params=["3.11", "3.12", "3.13"])
def base(
    request: pytest.FixtureRequest,
    wheels: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The Python of an environment with the base install alone."""
    interpreter = shutil.which(f"python{request.param}")
    if not interpreter or run(interpreter, "-c", "import ensurepip, venv").returncode:
        pytest.skip(f"no Python {request.param} here: NOT TESTED WITH IT")
    folder = tmp_path_factory.mktemp("base")
    check(interpreter, "-m", "venv", folder)
    python = folder / "bin" / "python"
    install(python, wheels["imagescope"])
    if run(python, "-c", "import torchvision").returncode:  # as script/env.sh does
        shutil.copy(ROOT / "script" / "torchvision_hook.py", site(python) / f"{HOOK}.py")
        (site(python) / f"{HOOK}.pth").write_text(f"import {HOOK}\n")
    return python


def test_the_base_install_runs_or_says_what_lacks(
    base: Path, wheels: dict[str, Path], tmp_path: Path
) -> None:
    command = base.with_name("imagescope")
    for words in ("--help", "methods", "encoders", "engines", "benchmarks", "index ls"):
        check(command, *words.split(), cwd=tmp_path)
    told = run(command, "demo", cwd=tmp_path)
    assert told.returncode == 1 and len(told.stderr.splitlines()) == 1
    assert "imagescope-tiny" in told.stderr

    install(base, wheels["imagescope_tiny"])
    told = check(command, "demo", cwd=tmp_path)
    (run_folder,) = tmp_path.glob("imagescope-demo/runs/CIRR/default/*")
    assert (run_folder / "index.html").is_file() and "stage3" in told


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_it_is_for(
    extra: str, base: Path, wheels: dict[str, Path], tmp_path: Path
) -> None:
    """In an environment of its own, which sees the base install beside it."""
    check(base, "-m", "venv", tmp_path)
    python = tmp_path / "bin" / "python"
    (site(python) / "base.pth").write_text(f"import site; site.addsitedir({str(site(base))!r})\n")
    install(python, f"imagescope[{extra}] @ {wheels['imagescope'].as_uri()}")
    check(python, "-c", f"import imagescope.cli.app, {EXTRAS[extra]}", cwd=tmp_path)
