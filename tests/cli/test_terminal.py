"""What a terminal is shown: every language's letters, no control character, any code page."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from pathlib import Path

import pytest
from own_oracle import oracle, scenes

from imagescope.cli.app import main
from imagescope.own import library
from imagescope.own.indexing import build
from imagescope.runs.doctor import Check
from imagescope.terminal import Formatter, Terminal, printable

__all__ = ["oracle"]
HOSTILE = "\x1b[31mred\x1b]0;title\x07 \u202eabc\u2069 \n\udcff"
SHOWN = "\\x1b[31mred\\x1b]0;title\\x07 \\u202eabc\\u2069 \\n\\udcff"


def test_only_control_characters_are_escaped() -> None:
    for text in ("Ünï.jpg", "日本語.png", "עברית", "👩\u200d🚀 naïve", "a\\b"):
        assert printable(text) == text
    assert printable(HOSTILE) == SHOWN
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_console_and_log_lines_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().print("caption: \x1b[2J Ünï", markup=False)
    assert "\\x1b[2J Ünï" in capsys.readouterr().out
    record = logging.makeLogRecord({"msg": "%s: no caption", "args": ("\x1b[2JÜnï",)})
    assert Formatter("%(message)s").format(record) == "\\x1b[2JÜnï: no caption"


@pytest.fixture
def named(oracle: str, tmp_path: Path) -> Path:
    """An index 'n' of three pictures, two of which have odd names."""
    scenes(tmp_path / "in", 3)
    (tmp_path / "in" / "000.png").rename(tmp_path / "in" / "Ünï.png")
    (tmp_path / "in" / "001.png").rename(tmp_path / "in" / "a\x1b[31m\nb.png")
    build(tmp_path / "in", "n", oracle)
    return tmp_path


def test_names_in_the_table(named: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "n", "a red square", "--stages", "s1"]) == 0
    out = capsys.readouterr().out
    assert "Ünï.png" in out and "a\\x1b[31m\\nb.png" in out and "\x1b[31m" not in out


def on_a_narrow_page(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Status and output of a command where standard output and errors are ASCII."""
    raw = io.BytesIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
        patched.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), "ascii"))
        status = main(arguments)
        sys.stdout.flush()
        return status, raw.getvalue().decode("ascii")


def test_a_narrow_code_page(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out = on_a_narrow_page(
        ["search", "n", "a grün square", "--stages", "s1", "--json"], monkeypatch
    )
    assert status == 0
    assert {r["name"] for r in json.loads(out)["results"]} >= {"Ünï.png", "a\x1b[31m\nb.png"}
    status, out = on_a_narrow_page(["search", "n", "a square", "--stages", "s1"], monkeypatch)
    assert status == 0 and "?n?.png" in out
    checks = [Check("machine", "Pÿthon", "ok", "x"), Check("data", "CIRR", "missing", "y")]
    monkeypatch.setattr("imagescope.runs.doctor.examine", lambda *_: checks)
    status, out = on_a_narrow_page(["doctor"], monkeypatch)
    assert status == 1 and "+ P?thon" in out and "- CIRR" in out
    assert on_a_narrow_page(["search", "grün", "x"], monkeypatch)[0] == 1


def test_a_search_on_a_medium_that_cannot_be_written(
    named: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = ["search", "n", "a red square"]
    assert main(ask) == 0
    first, answers = capsys.readouterr().out, library.home() / "image_db" / "responses.sqlite"
    before = answers.read_bytes()

    def access(path: Path, mode: int, **_: object) -> bool:
        return mode != os.W_OK or not str(path).startswith(str(library.home()))

    monkeypatch.setattr(os, "access", access)
    assert main(ask) == 0
    said = capsys.readouterr()
    assert said.out == first and "cannot be written: new answers are not kept" in said.err
    assert main(["search", "n", "a square never asked about"]) == 0
    assert answers.read_bytes() == before
