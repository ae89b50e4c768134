"""The shell scripts, with a stand-in for the command: what they pass on, from where, and status."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*(ROOT / "script").glob("*.sh"), ROOT / ".ci" / "run"])
SPLITS = {
    "CIRCO": "test",
    "CIRR": "test",
    "FashionIQ": "val",
    "Flickr30K": "test",
    "MSCOCO": "test",
    "VisDial": "val",
}
VARIABLES = {
    "IMAGE_DB": "--image-db",
    "RUNS": "--runs",
    "MODELS": "--models",
    "METHOD": "--method",
    "REASONER": "--reasoner",
    "CAPTIONER": "--captioner",
    "VERIFIER": "--verifier",
    "EVALUATOR": "--evaluator",
    "CLIP": "--clip",
    "ENGINE": "--engine",
    "RUN_NAME": "--run-name",
    "SPLIT": "--split",
    "DATA_ROOT": "--data-root",
}


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose imagescope writes down its words, one call a line, and exits 3 for
    every config that is named in $FAIL."""
    program = tmp_path / "venv" / "bin" / "imagescope"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/usr/bin/env bash\n(IFS="|"; printf "%s\\n" "$*")\n'
        'if [[ -n "${FAIL:-}" && "$2" == *"$FAIL"* ]]; then exit 3; fi\n'
    )
    program.chmod(0o755)
    return tmp_path / "venv"


def bash(
    *words: str | Path, venv: Path, cwd: Path, **given: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    return subprocess.run(
        ["bash", *map(str, words)],
        cwd=cwd,
        env={**kept, "IMAGESCOPE_VENV": str(venv), **given},
        capture_output=True,
        text=True,
    )


def sourced(program: str, venv: Path, cwd: Path, **given: str) -> subprocess.CompletedProcess[str]:
    line = f'set -euo pipefail; source "{ROOT}/script/env.sh"; {program}'
    return bash("-c", line, venv=venv, cwd=cwd, **given)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_scripts_are_bash(script: Path) -> None:
    assert script.read_text().startswith("#")
    assert subprocess.run(["bash", "-n", script]).returncode == 0


@pytest.mark.parametrize("dataset", SPLITS)
def test_defaults(dataset: str, venv: Path, tmp_path: Path) -> None:
    told = bash(ROOT / f"script/run_{dataset}.sh", venv=venv, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    calls = [line.split("|") for line in told.stdout.splitlines()]
    names = [f"FashionIQ-{c}" for c in ("dress", "shirt", "toptee")]
    names = names if dataset == "FashionIQ" else [dataset]
    assert [c[:2] for c in calls] == [["run", str(ROOT / "configs" / f"{n}.yaml")] for n in names]
    for words in calls:
        options = dict(zip(words[2::2], words[3::2], strict=True))
        assert options == {
            "--split": SPLITS[dataset],
            "--models": "paper",
            "--data-root": str(ROOT / "data"),  # the caller's folder has none
            "--image-db": str(ROOT / "image_db"),
            "--runs": str(ROOT / "runs"),
        }


def test_every_variable_is_an_option_of_the_command(
    venv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from imagescope.cli.app import main

    given = {name: f"my-{name.lower()}" for name in VARIABLES}
    told = bash(
        ROOT / "script/run_CIRR.sh", "--tau", "0.2", "two words", venv=venv, cwd=tmp_path, **given
    )
    words = told.stdout.strip().split("|")
    assert words[-3:] == ["--tau", "0.2", "two words"]
    options = dict(zip(words[2:-3:2], words[3:-3:2], strict=True))
    assert options == {option: given[name] for name, option in VARIABLES.items()}
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in options)


def test_paths_are_the_callers_else_the_repositorys(venv: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    told = bash(
        ROOT / "script/run_VisDial.sh", venv=venv, cwd=tmp_path,
        DATA_ROOT="mine", IMAGE_DB=str(tmp_path / "db"), REASONER="script", CLIP="owner/name",
    )  # fmt: skip
    words = told.stdout.strip().split("|")
    options = dict(zip(words[2::2], words[3::2], strict=True))
    assert options["--data-root"] == "mine"
    assert options["--image-db"] == str(tmp_path / "db")
    assert options["--reasoner"] == str(ROOT / "script")
    assert options["--clip"] == "owner/name"


def test_status_is_passed_on(venv: Path, tmp_path: Path) -> None:
    told = bash(ROOT / "script/run_FashionIQ.sh", venv=venv, cwd=tmp_path, FAIL="shirt")
    assert told.returncode == 3 and len(told.stdout.splitlines()) == 2
    told = bash(ROOT / "script/run_all.sh", venv=venv, cwd=tmp_path, FAIL="CIRR")
    calls = told.stdout.splitlines()
    assert told.returncode == 3 and len(calls) == 9  # the others all ran
    assert calls[-1].startswith("overview|")  # and the table comes last


def test_without_an_installation_it_says_what_to_do(tmp_path: Path) -> None:
    told = bash(
        ROOT / "script/run_CIRR.sh", venv=tmp_path / "none", cwd=tmp_path, PATH="/usr/bin:/bin"
    )
    assert told.returncode == 1 and "script/demo.sh" in told.stderr


def test_no_python_is_said_clearly(tmp_path: Path) -> None:
    told = sourced("ensure_env", tmp_path / "new", tmp_path, PYTHON="python-that-is-not")
    assert told.returncode == 1 and "Python >= 3.11" in told.stderr


def test_once(tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    program = """
        work() { echo worked; }
        VENV="$PWD/venv"; ROOT="$PWD"; mkdir -p script; touch script/env.sh; echo 1 >wanted
        once it wanted work; once it wanted work; echo 2 >wanted; once it wanted work
        broken() { false; }
        once other wanted broken
    """
    told = sourced(program, tmp_path / "venv", tmp_path)
    assert told.stdout.split() == ["worked", "worked"]
    assert told.returncode != 0 and not (tmp_path / "venv" / ".installed-other").exists()


def test_the_gpu_set_is_for_machines_with_a_gpu(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "GPU 0: a card"\n')
    tool.chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    assert sourced("device", tmp_path, tmp_path, PATH=path).stdout == "gpu\n"
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert sourced("device", tmp_path, tmp_path, PATH=path).stdout == "cpu\n"
    assert sourced("device", tmp_path, tmp_path, IMAGESCOPE_DEVICE="gpu").stdout == "gpu\n"


@pytest.mark.parametrize(
    ("flags", "fits"), [("fma avx2 bmi2", True), ("avx2 avx512f", True), ("avx sse4_2", False)]
)
def test_vllms_cpu_build_wants_avx2(flags: str, fits: bool, tmp_path: Path) -> None:
    program = f"""
        uname() {{ echo "Linux x86_64"; }}
        python_in_venv() {{ true; }}
        grep() {{ command grep "${{@:1:$#-1}}" <<<"{flags}"; }}  # the last word is /proc/cpuinfo
        if vllm_cpu_fits; then echo fits; fi
    """
    told = sourced(program, tmp_path, tmp_path)
    assert told.stdout == ("fits\n" if fits else ""), told.stderr


def test_tests_that_skip_for_want_of_vllm_are_announced(tmp_path: Path) -> None:
    program = "once() { :; }; vllm_cpu_fits() { false; }; ensure_env dev"
    told = sourced(program, tmp_path / "venv", tmp_path, IMAGESCOPE_DEVICE="cpu")
    assert told.returncode == 0 and "ALL OF ITS TESTS SKIP" in told.stderr


def test_no_index_or_machine_is_named() -> None:
    files = [*SCRIPTS, *ROOT.glob("requirements*.txt"), ROOT / "pyproject.toml"]
    for path in files:
        assert not re.search(r"index-url|find-links|https?://[^ ]*(pypi|pytorch)", path.read_text())


@pytest.mark.parametrize(
    ("words", "overview"),
    [
        ("", "mine|--run-name|variable"),
        ("--run-name x --runs elsewhere", "elsewhere|--run-name|x"),
        ("--run_name=x --tau 0.2 --runs=elsewhere", "elsewhere|--run-name|x"),
        ("--run-name=x --run_name z", "mine|--run-name|z"),
        ("--runs a --runs=b", "b|--run-name|variable"),
    ],
)
def test_the_last_table_is_of_these_runs(
    venv: Path, tmp_path: Path, words: str, overview: str
) -> None:
    script, given = ROOT / "script/run_all.sh", {"RUNS": "mine", "RUN_NAME": "variable"}
    told = bash(script, *words.split(), venv=venv, cwd=tmp_path, **given)
    assert told.returncode == 0, told.stderr
    *runs, last = told.stdout.splitlines()
    assert last == f"overview|{overview}"
    assert all(call.endswith("|".join(words.split())) for call in runs)  # they get all the words
    told = bash(script, "--runs", "two words", venv=venv, cwd=tmp_path)
    assert told.stdout.splitlines()[-1] == "overview|two words"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Stand-ins for what downloads, which write down their words; git makes a checkout, curl its
    file, unless $BROKEN names it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in ("git", "curl", "unzip", "hf"):
        (folder / name).write_text(
            '#!/usr/bin/env bash\nprintf "%s %s\\n" "$(basename "$0")" "$*" >>"$CALLS"\n'
            'if [[ "$(basename "$0")" == "${BROKEN:-}" ]]; then exit 22; fi\n'
            'if [[ "$*" == *checkout* ]]; then mkdir -p "$2/.git"; fi\n'
            'if [[ "$*" == *--output* ]]; then touch "$8"; fi\n'
            'if [[ "$1" == -q && "$5" == data ]]; then mkdir -p data/unlabeled2017; fi\n'
        )
        (folder / name).chmod(0o755)
    return folder


def download(
    *words: str, programs: Path, cwd: Path, **given: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What download.sh said, and the calls it made."""
    calls = cwd / "calls"
    calls.write_text("")
    told = bash(
        ROOT / "script/download.sh", *words, venv=cwd / "none", cwd=cwd, CALLS=str(calls),
        PATH=f"{programs}:{os.environ['PATH']}", **given,
    )  # fmt: skip
    return told, calls.read_text().splitlines()


def test_a_dry_run_downloads_nothing(programs: Path, tmp_path: Path) -> None:
    told, calls = download("--dry-run", programs=programs, cwd=tmp_path)
    assert (told.returncode, calls) == (0, []) and not (tmp_path / "data").exists()
    for words in (
        "https://github.com/levymsn/ChatIR",
        "zips/unlabeled2017.zip",
        "download laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        "# 4 files of CIRR",
        "By hand:",
        "nlvr",
        "gated",
    ):
        assert words in told.stdout
    paper = (ROOT / "configs/models/paper.yaml").read_text()
    for checkpoint in re.findall(r"^  model: (\S+)", paper, re.MULTILINE):
        assert f"download {checkpoint} " in told.stdout


def test_a_download_goes_on_where_it_broke_off(programs: Path, tmp_path: Path) -> None:
    told, _ = download("VisDial", programs=programs, cwd=tmp_path, BROKEN="curl")
    assert told.returncode == 1 and "failed: curl" in told.stderr
    (tmp_path / "data/unlabeled2017").mkdir()  # of an unpacking that was broken off
    (tmp_path / "data/unlabeled2017.zip").touch()
    _, calls = download("VisDial", programs=programs, cwd=tmp_path)
    assert [call.split()[0] for call in calls if "unlabeled" in call] == ["unzip"]
    _, calls = download("VisDial", programs=programs, cwd=tmp_path)
    assert not [call for call in calls if "unlabeled" in call]
    assert not (tmp_path / "data/unlabeled2017.zip").exists()


def test_other_annotations_are_said(programs: Path, tmp_path: Path) -> None:
    """Those that are there are compared; absent ones are as wrong as others."""
    for name in ("val", "test"):
        path = tmp_path / f"data/CIRCO/annotations/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[]")
    told, _ = download("CIRCO", programs=programs, cwd=tmp_path)
    assert told.returncode == 1 and "CIRCO: annotations are not those" in told.stderr
    assert "CIRCO/annotations/val.json: FAILED" in told.stdout


def test_the_published_annotations_pass(programs: Path, tmp_path: Path) -> None:
    real = ROOT.parent / "shared" / "data" / "CIRCO" / "captions"
    if not real.is_dir():
        pytest.skip(f"needs the real annotations: no {real}")
    folder = tmp_path / "data" / "CIRCO" / "annotations"
    folder.mkdir(parents=True)
    for path in real.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    told, _ = download("CIRCO", programs=programs, cwd=tmp_path)
    assert (told.returncode, "not those" in told.stderr) == (0, False)


def test_an_unknown_name_is_said(programs: Path, tmp_path: Path) -> None:
    told, calls = download("COCO", programs=programs, cwd=tmp_path)
    assert told.returncode == 1 and "knows CIRCO, CIRR" in told.stderr and not calls
