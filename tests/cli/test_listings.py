"""`imagescope methods | encoders | engines | benchmarks`: what there is, and what runs here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagescope.cli.app import main
from imagescope.registry import BENCHMARKS, ENCODERS, ENGINES, METHODS, Registry

Said = pytest.CaptureFixture[str]
KINDS = {"methods": METHODS, "encoders": ENCODERS, "engines": ENGINES, "benchmarks": BENCHMARKS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_is_listed_with_what_it_is(kind: str, capsys: Said) -> None:
    assert main([kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(KINDS[kind])
    assert all(row["what"] for row in rows)
    assert all("licence" in row or "label" in row for row in rows)
    assert main([kind]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in KINDS[kind])


def test_what_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    monkeypatch.setattr("imagescope.cli.registry.find_spec", lambda name: None)
    assert main(["engines", "--json"]) == 0
    here = {row["name"]: row["here"] for row in json.loads(capsys.readouterr().out)}
    assert here["vllm"] == "no: vllm is not installed"
    (tmp_path / "CIRR").mkdir()
    assert main(["benchmarks", "--data-root", str(tmp_path), "--json"]) == 0
    here = {row["name"]: row["here"] for row in json.loads(capsys.readouterr().out)}
    assert here["CIRR"] == f"yes: {tmp_path / 'CIRR'}" and here["CIRCO"].startswith("no: there is")


def test_a_broken_plugin_does_not_hide_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    broken = Registry("engine", {"broken": "no_such_package:X", **ENGINES})
    monkeypatch.setattr("imagescope.cli.registry.ENGINES", broken)
    assert main(["engines", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["here"].startswith("no: engine broken") and rows[1]["here"] == "yes"


def test_a_method_in_full(capsys: Said) -> None:
    assert main(["methods", "imagescope"]) == 0
    text = capsys.readouterr().out
    for part in (
        "faithful (arXiv 2503.10166)",
        "stage2  Predicate verification: questions, verification",
        "prompt synthesis: [[INSTRUCTION]] [[REF_IMAGE_DESC]]",
        "--option tau=0.15  float: weight of captions against images",
        '--option stages="s1 s2 s3"',
    ):
        assert part in text
    assert main(["methods", "cirevl", "--json"]) == 0
    option = json.loads(capsys.readouterr().out)["options"]["cut_at_colon"]
    assert (option["type"], option["default"], option["paper"]) == ("bool", False, True)
    assert main(["methods", "cirvel"]) == 1
    assert "did you mean cirevl?" in capsys.readouterr().err


@pytest.mark.parametrize("name", METHODS)
def test_the_example_is_a_command_that_is_understood(name: str, capsys: Said) -> None:
    assert main(["methods", name, "--json"]) == 0
    line = json.loads(capsys.readouterr().out)["example"].split()[1:]
    assert main([*line, "--data-root", "no/such/folder"]) == 1
    assert "no such folder" in capsys.readouterr().err  # and nothing is wrong before
