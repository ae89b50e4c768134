"""What models leave unanswered: counted, told everywhere alike, and an end of the run beyond a
limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from imagescope.cli.app import main
from imagescope.config import ModelConfig
from imagescope.engines.base import EngineClass, Pair, Picture, Request, Response
from imagescope.engines.cached import Cached
from imagescope.engines.failures import check, warning
from imagescope.engines.role import Role, Step
from imagescope.errors import UserError
from imagescope.registry import ENGINES, Registry
from imagescope.store.cache import Cache

Kind = Callable[[Request], bool]
SYNTHESIS = json.dumps({"step1": [["Addition", "x"]], "step2": ["A red circle."]})
QUESTIONS = json.dumps({"step2": [["Is there a red circle?", "True"]]})


def is_question(request: Request) -> bool:
    return not request.images and "Edits:" in request.prompt  # (the tiny prompts)


def is_verification(request: Request) -> bool:
    return bool(request.choices)


def is_evaluation(request: Request) -> bool:
    return any(isinstance(image, Pair) for image in request.images)


def is_caption(request: Request) -> bool:
    return bool(request.images) and not is_verification(request) and not is_evaluation(request)


class Engine(EngineClass):
    """Answers well, but refuses each `every`th request of a kind."""

    remote = True
    refuses: ClassVar[Kind]
    every: ClassVar[int]

    def __init__(self, _: ModelConfig):
        self.identity, self.met = {"model": "stand-in"}, 0

    def answer(self, request: Request) -> Response:
        if type(self).refuses(request):
            self.met += 1
            if self.met % self.every == 0:
                why = "refused: it is against the rules"
                return Response("", finish="error", error=why)
        if is_verification(request):
            return Response("Yes")
        if is_evaluation(request):
            return Response("ANSWER: No")
        if request.images:
            return Response("A blue square.")
        return Response(QUESTIONS if is_question(request) else SYNTHESIS)


@pytest.fixture
def run(
    tmp_path: Path,
    tiny_data: Path,
    register: Callable[[Registry, str, Any], None],
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Runs 20 queries of CIRR; returns status, manifest and output.log."""

    def start(refuses: Kind, every: int, *more: str) -> tuple[int, dict[str, Any], str]:
        kind = type("Refusing", (Engine,), {"refuses": staticmethod(refuses), "every": every})
        name = f"refusing-{len(ENGINES)}"  # a test may start several
        register(ENGINES, name, kind)
        places = {"data-root": tiny_data, "runs": tmp_path / "runs", "cache": tmp_path / "c.sqlite"}
        options = [word for name, path in places.items() for word in (f"--{name}", str(path))]
        line = ["run", "CIRR", "--split", "val", "--limit", "20", "--models", "tiny", *options]
        line += ["--engine", name]
        status = main([*line, "--image-db", str(tmp_path / "image_db"), *more])
        folder = max((tmp_path / "runs").glob("CIRR/default/*"), key=lambda p: p.stat().st_mtime_ns)
        manifest = json.loads((folder / "manifest.json").read_text())
        return status, manifest, (folder / "output.log").read_text()

    return start


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (is_caption, "captions"),
        (is_question, "questions"),
        (is_verification, "verification"),
        (is_evaluation, "evaluation"),
    ],
)
def test_a_step_without_any_answer_ends_the_run(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str], kind: Kind, step: str
) -> None:
    status, manifest, _ = run(kind, 1, "--fail-on-error", "1")
    said = capsys.readouterr().err
    assert status == 1 and "Traceback" not in said
    counts = manifest["steps"][step]
    assert counts["refused"] == counts["errors"] == counts["wanted"] - counts["duplicates"] > 0
    number = counts["errors"]
    expected = f"{step}: {number:,} of {number:,} requests got no answer ({number:,} refused)"
    assert expected in said and "refused: it is against the rules" in said
    assert manifest["status"].startswith("failed: ") and expected in manifest["status"]
    assert not list(Path(manifest["config"]["runs"]).rglob("*_CIRR_val_*.json"))


def test_a_share_of_errors_above_the_limit_ends_the_run_and_the_option_lets_it_go_on(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status, manifest, _ = run(is_question, 10)
    said = capsys.readouterr().err
    assert status == 1
    assert "questions: 2 of 20 requests got no answer (2 refused): refused: it is aga" in said
    assert "more than 5.0% (fail_on_error)" in said and "--fail-on-error 1" in said

    # what was answered is kept: only the two refused ones are asked again, and now answered
    status, manifest, _ = run(is_question, 10)
    assert status == 0 and manifest["status"] == "finished"
    assert manifest["steps"]["questions"]["asked"] == 2


def test_the_limit_can_be_raised(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status, manifest, log = run(is_question, 10, "--fail-on-error", "0.1")
    captured = capsys.readouterr()
    assert status == 0 and manifest["status"] == "finished with warnings"
    counts = manifest["steps"]["questions"]
    assert (counts["errors"], counts["refused"], counts["unread"]) == (2, 2, 0)
    told = "questions: 2 of 20 requests got no answer (2 refused): refused: it is against the rules"
    assert told in captured.err and f"warning: {told}" in captured.out and told in log
    assert "20 asked, 0 unread, 2 refused, 2 errors" in log
    (row,) = [line for line in captured.out.splitlines() if line.startswith("2 questions ")]
    assert row.replace("│", "").split()[3:] == ["20", "0", "20", "0", "2", "2"]


def ask(cache: Cache, *requests: Request) -> Step:
    role = Role("r", Cached(Sees(), cache), ModelConfig(model="m"))
    role.ask(requests, "captions", [r.prompt for r in requests])
    return role.steps["captions"]


class Sees(EngineClass):
    """An engine that finds out only when it decodes an image that it is none."""

    identity: ClassVar[dict[str, Any]] = {"model": "stand-in"}

    def answer(self, request: Request) -> Response:
        path = next((image.path for image in request.images), "")  # type: ignore[union-attr]
        error = f"{path}: not an image" if path else "the endpoint gave no choice"
        return Response("", finish="error", error=error)


def test_an_unreadable_image_is_no_error_of_the_model(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    broken, absent = (Picture(str(tmp_path / name)) for name in ("text.png", "absent.png"))
    with Cache.open(tmp_path / "c.sqlite") as cache:
        step = ask(cache, Request("q", (broken,)), Request("q", (absent,)))
        assert (step.wanted, step.asked, step.unreadable, step.errors) == (2, 0, 2, 0)
        check("captions", step, 0.0)
        step = ask(cache, Request("q"), Request("q"), Request("q", (absent,)))
        assert (step.wanted, step.duplicates, step.asked, step.unreadable) == (3, 1, 1, 1)
        assert (step.errors, step.refused, step.answered) == (1, 0, 0)
        with pytest.raises(UserError, match="1 of 1 requests got no answer: the endpoint gave no"):
            check("captions", step, 0.05)


def test_when_no_answer_is_understood_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    step = Step(wanted=12, duplicates=2, asked=9, unreadable=1, unread=8)
    assert warning("verification", step) == ""  # one was understood
    step.unread = 9
    assert "verification: not one of 9 answers could be understood" in warning("verification", step)
    check("verification", step, 0.0)  # the rules for answers not understood apply: no error
    assert warning("verification", Step()) == ""
    assert warning("retrieval", Step(not_finite=3)).startswith("retrieval: 3 scores are no finite")
