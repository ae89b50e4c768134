"""The commands about indexes, and what `search` tells while it works."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_oracle import ASKED, oracle, scenes

from imagescope import progress
from imagescope.cli.app import main
from imagescope.own import library
from imagescope.own.ask import answering, state
from imagescope.own.desk import Desk
from imagescope.own.indexing import build
from imagescope.own.scope import ImageScope

__all__ = ["oracle"]
Out = pytest.CaptureFixture[str]


@pytest.fixture
def captions(oracle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Six scenes, indexed as 'n'; the working folder is theirs."""
    monkeypatch.chdir(tmp_path)
    texts = scenes(tmp_path / "in", 6)
    build(tmp_path / "in", "n", oracle)
    ASKED.clear()
    yield texts
    progress.quiet = False


def test_indexes_are_listed_and_told_about(
    captions: list[str], tmp_path: Path, capsys: Out
) -> None:
    assert main(["index", "ls", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["pictures"], listed["captions"]) == ("n", 6, True)
    assert listed["folder"] == str(tmp_path / "in") and listed["bytes"] > 6 * 2 * 512 * 4
    assert main(["index", "info", "n"]) == 0
    shown = capsys.readouterr().out
    assert "pictures: 6" in shown and "  verifier: oracle-verifier" in shown
    assert main(["index", "ls"]) == 0 and "oracle" in capsys.readouterr().out
    assert main(["index", "info", "m"]) == 1
    assert "no index 'm'" in capsys.readouterr().err


def test_a_damaged_index_hides_no_other(captions: list[str], capsys: Out) -> None:
    (library.place("broken")).mkdir()
    (library.place("broken") / "index.json").write_text("{")
    assert main(["index", "ls", "--json"]) == 0
    out = capsys.readouterr()
    assert [index["name"] for index in json.loads(out.out)] == ["n"]
    assert "broken: " in out.err and "not a readable index" in out.err


def test_rename_keeps_what_was_computed(captions: list[str], tmp_path: Path, capsys: Out) -> None:
    assert main(["index", "rename", "n", "m"]) == 0 and library.names() == ["m"]
    with ImageScope.open("m") as scope:
        assert scope.search(captions[2], stages="s0")[0].name == "002.png"
    assert [path.name for path in (library.home() / "image_db").glob("?/")] == ["m"]
    build(tmp_path / "in", "m")
    assert not ASKED
    build(tmp_path / "in", "n", str(tmp_path / "oracle.yaml"))
    assert main(["index", "rename", "n", "m"]) == 1
    assert "there is an index 'm' already" in capsys.readouterr().err
    assert main(["index", "rename", "n", "../x"]) == 1 and library.names() == ["m", "n"]


def test_rm_leaves_the_pictures(captions: list[str], tmp_path: Path, capsys: Out) -> None:
    assert main(["index", "rm", "n", "m"]) == 1  # m is none, n is gone
    out = capsys.readouterr()
    assert "n: removed" in out.out and "no index 'm'" in out.err and library.names() == []
    assert len(list((tmp_path / "in").iterdir())) == 6
    assert not library.place("n").exists() and not (library.home() / "image_db" / "n").exists()
    build(tmp_path / "in", "n", str(tmp_path / "oracle.yaml"))
    assert not ASKED  # answers are kept


def test_a_served_index_keeps_its_name_and_place(captions: list[str], capsys: Out) -> None:
    desk = Desk(lambda: ImageScope.open("n"))
    with answering(desk, state("n")):
        for words in (["rename", "n", "m"], ["rm", "n"]):
            assert main(["index", *words]) == 1
            assert "n is being served" in capsys.readouterr().err
    desk.close()
    assert library.names() == ["n"]


def test_a_folder_may_be_called_like_a_command(
    captions: list[str], oracle: str, capsys: Out
) -> None:
    scenes(Path("ls"), 2)
    assert main(["index", "ls"]) == 0
    assert "imagescope index ./ls" in capsys.readouterr().err
    assert main(["index", "./ls", "--models", oracle]) == 0 and library.names() == ["ls", "n"]
    assert main(["index", "--name", "again", "ls", "--models", oracle]) == 0  # options first
    assert library.read_manifest("again").folder == Path("ls").resolve()


def test_index_without_a_word_says_how(capsys: Out) -> None:
    assert main(["index"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: imagescope index [OPTIONS] {FOLDER}" in shown and "rename NAME NEW" in shown


def test_a_plan_and_captions_later(captions: list[str], oracle: str, capsys: Out) -> None:
    words = ["index", "in", "--name", "m", "--models", oracle, "--stages", "s0"]
    assert main([*words, "--plan"]) == 0
    assert "captions: none" in capsys.readouterr().out and library.names() == ["n"]
    assert main(words) == 0
    assert "to add them: imagescope caption m" in capsys.readouterr().out
    assert main(["search", "m", "red"]) == 0
    assert "the encoder alone searched" in capsys.readouterr().err
    assert main(["caption", "m"]) == 0 and library.read_manifest("m").captioned


def test_search_takes_plain_words_and_tells_each_stage(captions: list[str], capsys: Out) -> None:
    assert main(["search", "n", *captions[2].split(), "--top", "2", "--json"]) == 0
    out = capsys.readouterr()
    answer = json.loads(out.out)
    assert answer["text"] == captions[2] and answer["results"][0]["name"] == "002.png"
    lines = out.err.splitlines()
    assert [line.split()[0] for line in lines] == ["searching", "s1", "s2", "s3"]
    assert "best so far 002.png" in lines[1] and "next: Predicate verification" in lines[1]
    assert main(["search", "n", "--stages", "s0", "red", "circle", "--json"]) == 0
    out = capsys.readouterr()
    assert (json.loads(out.out)["text"], json.loads(out.out)["stage"]) == ("red circle", "s0")
    assert main(["-q", "search", "n", "red", "--stages", "s1"]) == 0
    assert capsys.readouterr().err == ""


def test_the_fields_of_json_are_documented(captions: list[str], capsys: Out) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "own_pictures.md").read_text()
    assert main(["search", "n", captions[2], "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    (note, *_) = answer["results"][0]["notes"]
    (finding, *_) = answer["findings"]
    for fields in (answer, answer["results"][0], note, finding):
        assert [field for field in fields if f"`{field}`" not in docs] == []
    main(["index", "info", "n", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [field for field in told if f"`{field}`" not in docs] == []
