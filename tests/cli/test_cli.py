"""The command line as such: mistakes are said in a line or two, never as a traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from imagescope import __version__
from imagescope.cli.app import main
from imagescope.registry import Registry

Said = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run configs/CIRR.yaml --splt val", "No such option: --splt"),
        ("run configs/CIRR.yaml --top-k abc", "--top-k"),
        ("run", "Missing argument"),
        ("bogus", "No such command"),
        ("search a b --top 0", "--top"),
        ("serve a --port 99999", "--port"),
        ("cache prune --days nan", "--days"),
    ],
)
def test_a_misspelt_command_is_explained(line: str, words: str, capsys: Said) -> None:
    assert main(line.split()) == 2
    said = capsys.readouterr()
    assert words in " ".join(said.err.split()) and "Traceback" not in said.err


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--method cirvel", "no method is named cirvel: did you mean cirevl?"),
        ("--option topk=3", "method imagescope has no option topk: did you mean top_k?"),
        ("--method text-only --tau 0.2", "method text-only has no option tau"),
        ("--method image+text --option weight=2", "weight: Input should be less than or equal"),
        ("--option tau", "option 'tau': expected name=value"),
    ],
)
def test_an_option_that_the_method_lacks_is_explained(
    command: str, line: str, words: str, capsys: Said
) -> None:
    assert main([command, "configs/CIRR.yaml", *line.split()]) == 1
    said = capsys.readouterr()
    assert words in said.err and "Traceback" not in said.err


def test_nothing_asked_shows_the_help(capsys: Said) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert "Find images from language" in said.out + said.err
    assert main(["--help"]) == 0


def test_the_version_is_told(capsys: Said) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"imagescope {__version__}\n"


@pytest.mark.parametrize("command", ["", "run", "cache prune"])
def test_h_is_help(command: str, capsys: Said) -> None:
    assert main([*command.split(), "-h"]) == 0
    short = capsys.readouterr().out
    assert main([*command.split(), "--help"]) == 0
    assert short == capsys.readouterr().out and f"Usage: imagescope {command}".strip() in short


@pytest.mark.parametrize("command", ["run", "plan"])
def test_the_help_shows_groups_defaults_and_choices(command: str, capsys: Said) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    groups = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert groups == [
        "Arguments", "Method", "Benchmark", "Places", "Models", "Running", "Options"
    ]  # fmt: skip
    text = " ".join(text.split())
    for part in (
        "0 to 1. [default: 0.15]",
        "s1, s1 s2, or s1 s2 s3. [default: s1 s2 s3]",
        "val or test. [default: from the config]",
        "paper or official. [default: paper]",
        "auto, transformers, vllm or openai. [default: auto]",
    ):
        assert part in text


def test_help_imports_nothing_heavy() -> None:
    """What makes `imagescope --help` slow is what it imports (0.3 s of processor time without)."""
    program = (
        "import sys; from imagescope.cli.app import main; main(['--help']); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert said.returncode == 0 and "Usage: imagescope" in said.stdout
    heavy = {"torch", "transformers", "matplotlib", "numpy", "pydantic", "PIL", "vllm", "open_clip"}
    assert not heavy & set(said.stderr.split())


@pytest.mark.parametrize(
    ("line", "completed"), [("imagescope do", "doctor"), ("imagescope run --top-", "--top-k")]
)
def test_the_shell_completes_commands_and_options(
    line: str, completed: str, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    monkeypatch.setenv("_IMAGESCOPE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert capsys.readouterr().out.split() == [completed]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dataset: CIRR\nprotocol: [paper]\n", "protocol"),
        ("dataset: CIRR\nsplit: [val]\n", "split"),
        ("dataset: CIRR\nprotocol: {a: 1}\n", "protocol"),
    ],
)
def test_a_malformed_config_is_explained(
    text: str, words: str, tmp_path: Path, capsys: Said
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert main(["run", str(tmp_path / "c.yaml"), "--models", "tiny"]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("line", [["run", "."], ["run", ""], ["doctor", "--models", ""]])
def test_an_empty_name_is_explained(line: list[str], capsys: Said) -> None:
    main(line)
    said = capsys.readouterr()
    assert "no such" in said.out + said.err or "neither" in said.out + said.err


def test_broken_run_folders_do_not_end_an_overview(tmp_path: Path, capsys: Said) -> None:
    for name, manifest, metrics in (
        ("a", '{"status": "finished"}', "{}"),
        ("b", '{"status": "finished", "config": []}', "[]"),
    ):
        folder = tmp_path / "CIRR" / "default" / name
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(manifest)
        (folder / "metrics.json").write_text(metrics)
    assert main(["overview", str(tmp_path)]) == 1
    assert "no finished run" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "CIRR" / "default" / "b")]) == 1


def test_another_package_brings_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    info = tmp_path / "greeting-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[imagescope.commands]\ngreet = greeting:app\n")
    program = "import typer\napp = typer.Typer()\n@app.command()\ndef say(who: str) -> None:\n"
    (tmp_path / "greeting.py").write_text(f'{program}    "Greet."\n    print("hello", who)\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("imagescope.cli.app.COMMANDS", Registry("command", {}))
    assert main(["greet", "world"]) == 0
    assert capsys.readouterr().out == "hello world\n"
    assert main(["-h"]) == 0
    assert re.search(r"greet +Greet\.", capsys.readouterr().out)
    (tmp_path / "greeting.py").unlink()
    sys.modules.pop("greeting")
    assert main(["greet", "world"]) == 1
    assert "command greet (greeting:app): No module" in capsys.readouterr().err


def test_what_lacks_for_every_split_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "check", "CIRR", "--data-root", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.count("no such folder") == 1
