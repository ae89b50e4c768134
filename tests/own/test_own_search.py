"""Searching an index: stages one by one, references, dialogues, and how answers are shown."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from own_oracle import ASKED, LOADED, SEEN, content, oracle, scenes
from typer.testing import CliRunner

from imagescope import ImageScope
from imagescope.cli.app import app
from imagescope.config import ROLES, load_models
from imagescope.errors import UserError
from imagescope.own import show
from imagescope.own.conversation import Conversation
from imagescope.own.indexing import build
from imagescope.own.models import share_memory
from imagescope.records import Item, Ranking
from imagescope.search import approximate
from imagescope.search.approximate import Approximate

__all__ = ["oracle"]
runner = CliRunner()


@pytest.fixture
def captions(oracle: str, tmp_path: Path) -> list[str]:
    """Forty scenes, indexed as 'n'."""
    found = scenes(tmp_path / "in", 40)
    build(tmp_path / "in", "n", oracle)
    ASKED.clear()
    return found


def test_text_finds_its_picture_and_every_stage_reports(captions: list[str]) -> None:
    with ImageScope.open("n") as scope:
        answers = list(scope.stages(captions[7], top=5))
    assert [answer.stage for answer in answers] == ["s1", "s2", "s3"]
    first, second, third = (answer[0] for answer in answers)
    assert first.name == second.name == third.name == "007.png"
    assert first.score == pytest.approx(1, abs=1e-3) and first.explanation.notes == ()
    checks = second.explanation.notes
    assert checks and all(note.passed and note.kind == "verification" for note in checks)
    assert third.explanation.notes[:-1] == checks and third.explanation.caption == captions[7]
    decision = third.explanation.notes[-1]
    assert (decision.kind, decision.passed) == ("evaluation", True)
    assert (decision.text, decision.words) == ("accepted by the evaluator", "ANSWER: Yes")
    assert [answer.title for answer in answers][:2] == ["Semantic synthesis", answers[0].upcoming]
    assert answers[2].upcoming == ""
    assert [result.rank for result in answers[2]] == [1, 2, 3, 4, 5] and len(answers[2]) == 5
    assert third.path.is_file() and third.thumbnail.is_file()


def test_scores_are_the_fused_similarity(captions: list[str]) -> None:
    """(1 - tau) t.v + tau t.c: here v = c, so it is the cosine, and falls with the rank."""
    with ImageScope.open("n") as scope:
        answer = scope.search(captions[3], stages=("s1",), top=40)
    scores = [result.score for result in answer]
    assert len(scores) == 40 and scores == sorted(scores, reverse=True)
    assert [result.explanation.first_rank for result in answer] == list(range(1, 41))


def test_a_reference_is_captioned_and_never_its_own_result(
    captions: list[str], tmp_path: Path
) -> None:
    colour = next(word for word in captions[0].split() if word in ("red", "blue", "green", "cyan",
                  "pink", "purple", "orange", "yellow"))  # fmt: skip
    other = "red" if colour != "red" else "blue"
    with ImageScope.open("n") as scope:
        inside = scope.search(f"{colour} to {other}", reference="000.png", top=40)
        assert "000.png" not in {result.name for result in inside}
        assert inside.synthesis.reference_description == captions[0]
        assert len(inside) == 39
        assert not [p for p in ASKED if p == "Describe the image."]  # the index has its caption
        outside = tmp_path / "outside.png"
        shutil.copy(tmp_path / "in" / "000.png", outside)
        copy = scope.search(f"{colour} to {other}", reference=outside, top=40)
        assert [r.name for r in copy] == [r.name for r in inside]  # a copy is hidden as well
        scenes(tmp_path / "more", 1, seed=77)
        new = scope.search("keep it", reference=tmp_path / "more" / "000.png", top=40)
        assert new.synthesis.reference_description == SEEN[content(tmp_path / "more" / "000.png")]
        assert len(new) == 40 and new.reference == tmp_path / "more" / "000.png"


def test_verification_moves_the_picture_that_passes(captions: list[str]) -> None:
    """'red to blue' on a reference: what is not blue falls behind what is."""
    place = next(i for i, text in enumerate(captions) if "red" in text.split())
    with ImageScope.open("n") as scope:
        answer = scope.search("red to blue", f"{place:03d}.png", top=40, stages=("s1", "s2"))
    checked = [r for r in answer if r.explanation.notes]
    passed = [r.explanation.passed for r in checked]
    assert len(checked) == 20 and passed == sorted(passed, reverse=True) and 0 < sum(passed) < 20
    assert all(("blue" in r.explanation.caption) == bool(r.explanation.passed) for r in checked)


def test_questions_the_user_gets_wrong(captions: list[str], oracle: str, tmp_path: Path) -> None:
    with ImageScope.open("n") as scope:
        for text, options, message in (
            ("  ", {}, "the text is empty"),
            ("red", {"stages": ("s2",)}, "build on each other"),
            ("red", {"stages": ()}, "build on each other"),
            ("red", {"top": 0}, "at least 1"),
            ("red", {"reference": tmp_path / "absent.png"}, "reference picture: .*no such file"),
            ("red", {"reference": oracle}, "reference picture: .*not an image"),
        ):
            with pytest.raises(UserError, match=message):
                scope.search(text, **options)  # type: ignore[arg-type]
    other = tmp_path / "other.yaml"
    other.write_text(Path(oracle).read_text().replace("oracle-encoder", "another-encoder"))
    with pytest.raises(UserError, match=r"another encoder \(oracle-encoder\).*--models"):
        ImageScope.open("n", str(other))


def test_another_reasoner_may_search_the_same_index(
    captions: list[str], oracle: str, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(Path(oracle).read_text().replace("oracle-reasoner", "another-reasoner"))
    with ImageScope.open("n", str(other)) as scope:
        assert scope.search(captions[1])[0].name == "001.png"


def test_a_glance_asks_no_model_but_the_encoder(captions: list[str], tmp_path: Path) -> None:
    with ImageScope.open("n") as scope:
        answers = scope.stages(captions[9], glance=True)
        first = next(answers)
        assert first.stage == "s0" and first[0].name == "009.png" and not ASKED
        assert [answer.stage for answer in answers] == ["s1", "s2", "s3"]
        scenes(tmp_path / "more", 1, seed=77)
        for reference in ("000.png", tmp_path / "more" / "000.png"):
            first = next(iter(scope.stages(captions[9], reference, glance=True)))
            assert first.stage == "s0" and len(first) == 10
            assert reference not in {result.name for result in first}


def test_what_cannot_be_embedded_has_a_row_of_zeros(captions: list[str]) -> None:
    with ImageScope.open("n") as scope:
        vectors = scope._context.embed([Item(), Item()], "query")
    assert vectors.shape == (2, 512) and not vectors.any()


def test_a_conversation_refines_likes_and_starts_over(captions: list[str]) -> None:
    talk = Conversation()
    with ImageScope.open("n") as scope:
        list(talk.say(scope, "a red circle"))
        *_, answer = talk.say(scope, "a white background")
        assert answer.carried == "a red circle a white background"
        assert talk.like(2).path == answer[1].path == talk.reference
        *_, liked = talk.say(scope, "keep it", top=3)
        assert liked.reference == answer[1].path and talk.reference is None
        assert answer[1].name not in {result.name for result in liked}
        with pytest.raises(UserError, match=r"no result 4 \(1 to 3\)"):
            talk.result(4)
        talk.restart()
        with pytest.raises(UserError, match="no result 1 yet"):
            talk.like(1)
        *_, fresh = talk.say(scope, captions[5])
        assert fresh.carried == captions[5]


def test_an_answer_without_results_is_an_answer(
    oracle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index of nothing but the reference: nothing is found, and that is said."""
    scenes(tmp_path / "in", 1)
    build(tmp_path / "in", "one", oracle)
    talk = Conversation(reference=Path("000.png"))
    with ImageScope.open("one") as scope:
        answers = list(talk.say(scope, "keep it"))
        assert [answer.stage for answer in answers] == ["s1", "s2", "s3"]
        assert not any(len(answer) for answer in answers) and talk.reference is None
        with pytest.raises(UserError, match="no result 1 yet"):
            talk.like(1)


def test_one_at_a_time_has_one_model_in_memory(captions: list[str], tmp_path: Path) -> None:
    """Whatever several visitors' searches ask in turn, and whoever leaves early."""
    scenes(tmp_path / "more", 1, seed=77)
    with ImageScope.open("n", resident=False) as scope:
        one, other = scope.stages(captions[0]), scope.stages(captions[1])
        for answers in (one, other, one, other, other):
            next(answers)
            assert len(LOADED) == 1
        other = scope.stages("keep it", tmp_path / "more" / "000.png")
        assert next(other).stage == "s1" and {"oracle-reasoner"} == LOADED
        assert next(one).stage == "s3" and {"oracle-evaluator"} == LOADED
    with ImageScope.open("n") as scope:
        scope.search(captions[2])
        assert {"oracle-reasoner", "oracle-verifier", "oracle-evaluator"} == LOADED


def test_memory_is_shared_by_size() -> None:
    models = share_memory(load_models("paper"))
    shares = [models.role(name).gpu_memory_utilization for name in ROLES]
    assert sum(shares) <= 0.9 + 1e-6 and min(shares) > 0.1


# -- how it is shown ------------------------------------------------------------------------


def test_json_is_plain_values(captions: list[str]) -> None:
    with ImageScope.open("n") as scope:
        found = json.loads(json.dumps(show.as_json(scope.search("a red circle")), allow_nan=False))
    best = found["results"][0]
    assert found["stage"] == "s3" and best["rank"] == 1 and Path(best["path"]).is_file()
    check, *_, decision = best["notes"]
    assert check["text"] == "is there red? yes" and check["passed"] is True
    assert check["probability"] is None and decision["kind"] == "evaluation"
    assert {"label": "looking for", "text": "a red circle"}.items() <= found["findings"][-1].items()


def test_a_page_escapes_what_it_shows(captions: list[str], tmp_path: Path) -> None:
    hostile = '<img src=x onerror="alert(1)">'
    with ImageScope.open("n") as scope:
        answer = scope.search(f"a red circle {hostile}")
    html = show.page(answer, "n")
    assert hostile not in html and "&lt;img src=x" in html
    assert html.count("data:image/jpeg;base64,") == 10 and "http:" not in html
    assert html.count('data-large="file:///') == 10  # the pictures themselves, where they lie
    assert "is there red? " in html


def test_explanations_name_what_failed(captions: list[str]) -> None:
    with ImageScope.open("n") as scope:
        answer = scope.search("a red circle and a blue cross", top=20)
    failing = next(r for r in answer if r.explanation.passed < len(r.explanation.notes))
    assert "wanted yes" in show.verdict(failing) and "of 2 questions passed" in show.verdict(
        failing
    )
    assert any(line.strip().startswith("failed: is there") for line in show.explain(failing))
    assert failing.explanation.notes[0].probability is None


def test_only_some_pictures_are_searched(captions: list[str]) -> None:
    some = ("003.png", "007.png", "011.png")
    with ImageScope.open("n") as scope:
        for previous in (None, "a red circle"):
            *_, answer = scope.stages(captions[5], previous=previous, glance=True, among=some)
            assert {result.name for result in answer} == set(some)
        *_, answer = scope.stages("keep it", "003.png", among=some)
        assert {result.name for result in answer} == {"007.png", "011.png"}


def test_an_order_is_the_scores_until_checks_change_it(captions: list[str]) -> None:
    with ImageScope.open("n") as scope:
        first, *_, last = scope.stages("a red circle and a blue cross", top=20)
        assert first.by_score and not first.nothing_fits
        passed = [r.explanation.passed == r.explanation.checks > 0 for r in last]
        assert last.nothing_fits is not any(passed) and not last.by_score
        none = scope.search("red green blue yellow purple cyan pink orange")
        assert none.nothing_fits
    assert show.NOTHING_FITS in show.page(none, "n")


# -- the commands ---------------------------------------------------------------------------


def test_commands_index_and_search(oracle: str, tmp_path: Path) -> None:
    captions = scenes(tmp_path / "in", 5)
    (tmp_path / "in" / "bad[1].jpg").write_text("x")
    found = runner.invoke(app, ["index", str(tmp_path / "in"), "--name", "n", "--models", oracle])
    assert found.exit_code == 0 and "n: 5 pictures" in found.output and "skipped 1" in found.output
    assert "bad[1].jpg: not an image" in found.output
    page = tmp_path / "out.html"
    found = runner.invoke(app, ["search", "n", captions[2], "--top", "3", "--html", str(page)])
    assert found.exit_code == 0 and "002.png" in found.output.replace("\n", "")
    assert "accepted by the evaluator" in " ".join(found.output.split()) and page.is_file()
    found = runner.invoke(app, ["search", "n", captions[2], "--json", "--stages", "s1 s2"])
    assert json.loads(found.stdout)["stage"] == "s2"


def test_chat(captions: list[str]) -> None:
    lines = [captions[4], "/why 1", "/like 1", "red to blue", "/like 99", "/nonsense", "/help",
             "/new", "/like 1", "", "/quit", "never read"]  # fmt: skip
    found = runner.invoke(app, ["chat", "n"], input="\n".join(lines))
    said = " ".join(found.output.split())
    assert found.exit_code == 0, found.output
    for expected in (
        "40 pictures",
        f"caption: {captions[4]}",
        "004.png is the reference",
        "no result 99 (1 to 5)",
        "/nonsense: not known",
        "/why N: everything known about result N",
        "Starting over.",
        "no result 1 yet",
    ):
        assert expected in said
    assert "never read" not in ASKED


def test_an_approximate_search_answers_as_the_exact_one(
    captions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    shortlists = []

    class Spy(Approximate):
        def search(self, *given: Any) -> list[Ranking] | None:
            shortlists.append(super().search(*given))
            return shortlists[-1]

    monkeypatch.setattr(approximate, "SHORTLIST", 1)
    monkeypatch.setattr("imagescope.own.scope.Approximate", Spy)
    line = ["search", "n", captions[3], "--stages", "s1", "--json"]
    exact, near = (
        json.loads(runner.invoke(app, [*line, *more]).stdout) for more in ([], ["--approximate"])
    )
    # (the last of so short a list may be others)
    assert near["results"][:5] == exact["results"][:5] and len(shortlists) == 1 and shortlists[0]
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="approximate search needs faiss"):
        ImageScope.open("n", approximate=True)
