"""`search` asks a running `serve` of its index."""

from __future__ import annotations

import http.client
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from own_oracle import oracle, scenes
from typer.testing import CliRunner

from imagescope.cli.app import app
from imagescope.errors import UserError
from imagescope.own import library
from imagescope.own.answers import Answer
from imagescope.own.ask import answering, ask, state
from imagescope.own.desk import Desk
from imagescope.own.indexing import build
from imagescope.own.scope import ImageScope

__all__ = ["oracle"]
STAGES = ("s1", "s2", "s3")


@pytest.fixture
def captions(oracle: str, tmp_path: Path) -> list[str]:
    texts = scenes(tmp_path / "in", 8)
    build(tmp_path / "in", "n", oracle)
    return texts


@pytest.fixture
def serving(captions: list[str]) -> Iterator[Path]:
    """The file that says where to ask."""
    opened = state("n")
    desk = Desk(lambda: ImageScope.open("n"))
    with answering(desk, opened):
        yield library.place("n") / "serving.json"
    desk.close()


def test_the_answer_is_the_one_that_would_be_found_alone(
    serving: Path, captions: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ImageScope.open("n") as scope:
        for text, reference in ((captions[2], None), (captions[3], Path("in/001.png"))):
            reply, alone = (
                ask("n", text, reference, STAGES, 3),
                scope.search(text, reference, top=3),
            )
            assert reply and reply.folder == scope.manifest.folder
            assert reply.answer.results == alone.results  # its numbers and paths, too
            assert reply.answer.synthesis == alone.synthesis and len(alone.results) == 3
            assert reply.answer.reference == alone.reference


def test_the_command_asks(
    serving: Path, captions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise UserError("no model is to be opened here")

    monkeypatch.setattr(ImageScope, "open", opened)
    words = ["search", "n", captions[2], "--top", "3"]
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(shown.stdout)["results"][0]["name"] == "002.png"
    other = CliRunner().invoke(app, [*words, "--engine", "transformers"])  # that is another model
    assert isinstance(other.exception, UserError)


def test_each_stage_is_told_as_it_ends(serving: Path, captions: list[str]) -> None:
    told: list[str] = []
    reply = ask("n", captions[2], None, STAGES, 3, tell=lambda answer: told.append(answer.stage))
    assert reply and told == ["s1", "s2", "s3"] and reply.answer.stage == "s3"


def test_what_goes_wrong_later_is_said_or_done_without_the_server(
    serving: Path, captions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ImageScope.stages

    def failing(error: Exception) -> Callable[..., Iterator[Answer]]:
        def stages(*options: Any) -> Iterator[Answer]:
            yield next(iter(real(*options)))
            raise error

        return stages

    question = ("n", captions[2], None, STAGES, 3)
    monkeypatch.setattr(ImageScope, "stages", failing(UserError("no memory is left")))
    with pytest.raises(UserError, match="no memory is left"):
        ask(*question)
    monkeypatch.setattr(ImageScope, "stages", failing(RuntimeError("a fault")))
    assert ask(*question) is None


def test_what_is_wrong_with_a_question_is_said(serving: Path) -> None:
    with pytest.raises(UserError, match="the text is empty"):
        ask("n", " ", None, STAGES, 3)
    with pytest.raises(UserError, match=r"reference picture: .*no such file"):
        ask("n", "a circle", Path("absent.png"), STAGES, 3)


def test_nobody_else_is_answered(serving: Path) -> None:
    where = json.loads(serving.read_text())
    assert stat.S_IMODE(serving.stat().st_mode) == 0o600
    for token, body, status in (
        (None, b"{}", 403),
        ("Bearer x", b"{}", 403),
        (f"Bearer {where['token']}", b"{}", 400),
        (f"Bearer {where['token']}", b" " * (1 << 17), 413),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", where["port"], timeout=20)
        connection.request("POST", "/", body, {"Authorization": token} if token else {})
        assert connection.getresponse().status == status
        connection.close()


def test_a_server_that_is_gone_or_knows_less_is_not_asked(serving: Path, tmp_path: Path) -> None:
    where = json.loads(serving.read_text())
    index = library.place("n") / "index.json"
    os.utime(index, ns=(1, 1))  # made again since
    assert ask("n", "a circle", None, STAGES, 3) is None
    os.utime(index, ns=(where["index"][1], where["index"][1]))
    assert ask("n", "a circle", None, STAGES, 3)
    for changed in ({"pid": 2**22 + 1}, {"port": 1}, {"token": "x"}):
        serving.write_text(json.dumps(where | changed))
        assert ask("n", "a circle", None, STAGES, 3) is None
    serving.write_text(json.dumps(where))


def test_a_server_of_another_method_is_not_asked(captions: list[str]) -> None:
    weight = {"weight": 0.25}
    desk = Desk(lambda: ImageScope.open("n", method="image+text", options=weight))
    question = ("n", captions[0], Path("000.png"), None, 3)
    with answering(desk, state("n")):
        assert ask(*question) is None and ask(*question, "image+text") is None
        reply = ask(*question, "image+text", weight)
    desk.close()
    assert reply and reply.answer.method == "image+text" and reply.answer.stage == "s1"


def test_where_to_ask_is_forgotten_with_the_server(captions: list[str]) -> None:
    desk, place = Desk(lambda: ImageScope.open("n")), library.place("n") / "serving.json"
    with answering(desk, state("n")):
        assert place.exists()
    desk.close()
    assert not place.exists() and ask("n", "a circle", None, STAGES, 3) is None
