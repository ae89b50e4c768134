"""What every kind of finding says of a query and of a candidate, and as the page's data."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from imagescope.methods.base import LISTS, Stage, add_findings
from imagescope.records import (
    UNJUDGED,
    Edit,
    Evaluation,
    Finding,
    Images,
    Judgement,
    Query,
    Question,
    Ranking,
    Synthesis,
    Table,
    Texts,
    Trace,
    Verification,
)
from imagescope.report import findings
from imagescope.runs.folder import _line

STAGES = (
    Stage("a", "Look", "look", findings=("synthesis", "verification")),
    Stage("b", "Judge", "judge", findings=("evaluation",)),
)
SCRIPT = (Path(findings.__file__).parent / "findings.js").read_text()


def trace(**brought: Finding | None) -> Trace:
    """A trace whose second stage brought these findings."""
    questions = (Question("Is it red?", True), Question("Is it old?", False))
    fields = {"synthesis": Synthesis("", (Edit("Addition", "a hat"),), ("a red hat",), questions)}
    add_findings(fields, "b", brought)
    return Trace(Query("1", "x"), rankings={}, **fields)  # type: ignore[arg-type]


def said(found: Trace, name: str) -> list[str]:
    return [note.text for note in findings.notes(found, STAGES, name)[0]]


def test_each_kind_has_a_renderer_here_and_in_the_page() -> None:
    kinds = {name for name in Trace.__dataclass_fields__ if name not in ("query", "rankings")}
    assert set(findings.RENDERERS) == kinds and set(LISTS.values()) < kinds
    for kind in kinds:
        assert f"\n  {kind}(found" in SCRIPT


def test_what_a_query_was_taken_to_mean() -> None:
    lines = findings.lines(trace(t=Texts("Atoms", (("object", "hat"), ("", "red")))), STAGES)
    assert [str(line) for line in lines] == [
        "Addition: a hat",
        "looking for: a red hat",
        "Atoms, object: hat",
        "Atoms: red",
    ]
    failed = Synthesis("", (), ("x",), parse="fallback: no JSON", questions_parse="fallback: none")
    lines = findings.lines(Trace(Query("1", "x"), failed, {}), STAGES)
    assert [str(line) for line in lines][1:] == ["description: fallback: no JSON",
                                                 "questions: fallback: none"]  # fmt: skip


def test_answers_about_a_candidate() -> None:
    seen = Verification(
        ("p", "q"), ((0.9, nan), (0.25, 0.5)), ((True, None), (False, None)), (1, 0),
        ((0, 1, "Perhaps"),),
    )  # fmt: skip
    notes, brief = findings.notes(trace(verification=seen), STAGES, "p")
    assert [(n.text, n.passed, n.probability, n.kind) for n in notes] == [
        ("Is it red? yes", True, 0.9, "verification"),
        ("Is it old? not understood, wanted no", False, None, "verification"),
    ]
    assert brief == ["1 of 2 questions passed", "not: Is it old? not understood, wanted no"]
    other = ["Is it red? no, wanted yes", "Is it old? no answer, wanted no"]
    assert said(trace(verification=seen), "q") == other
    assert said(trace(verification=seen), "elsewhere") == said(trace(verification=None), "p") == []


@pytest.mark.parametrize(
    ("judgement", "text", "passed"),
    [
        (Judgement("p", True, " ANSWER: Yes"), "accepted by the evaluator", True),
        (Judgement("p", False, "ANSWER: No"), "rejected by the evaluator", False),
        (Judgement("p", False, "Hm.", True), "not understood", None),
        (Judgement("p", False, f"{UNJUDGED}: refused)"), "not judged", None),
    ],
)
def test_a_judgement_that_was_not_made_is_no_refusal(
    judgement: Judgement, text: str, passed: bool | None
) -> None:
    found = trace(evaluation=Evaluation((judgement,)))
    notes, brief = findings.notes(found, STAGES, "p")
    words = judgement.text.strip()
    assert notes == [findings.Note(text, passed, words=words, kind="evaluation")]
    assert brief == [text] and said(found, "q") == []


def test_a_table_holds_questions_and_parts_of_a_score() -> None:
    table = Table(
        "image checks",
        ("Is it red?", "Is it old?", "similarity", "part"),
        (("p", (True, False, 0.31254, "left")), ("q", (False, None, 2.0, None))),
        (True, False, None, None),
    )
    notes, brief = findings.notes(trace(t=table), STAGES, "p")
    assert [(note.text, note.passed) for note in notes] == [
        ("Is it red? yes", True),
        ("Is it old? no", True),
        ("similarity: 0.3125", None),
        ("part: left", None),
    ]
    assert brief == ["2 of 2 passed (image checks)", "similarity: 0.3125", "part: left"]
    assert said(trace(t=table), "q")[:2] == [
        "Is it red? no, wanted yes",
        "Is it old? no answer, wanted no",
    ]
    images = findings.Images()
    (shown,) = [
        d for d in findings.data(trace(t=table), STAGES[1], images) if d["kind"] == "tables"
    ]
    assert shown["columns"][0] == ("Is it red?", True) and images.names == ["p", "q"]
    assert shown["rows"][1] == [1, [["no", False], ["–", None], ["2", None], ["–", None]]]
    scores = Table("scores", ("text",), (("p", (0.5,)),))
    assert findings.notes(trace(t=scores), STAGES, "p")[1] == ["text: 0.5"]


def test_new_findings_are_kept_as_they_are() -> None:
    table = Table("t", ("a", "b"), (("p", (True, 0.5)), ("q", (None, "word"))), (True, None))
    found = trace(t=table, i=Images("Drawn", (("drawn/1.png", "seed 0"),), files=True), none=None)
    again = TypeAdapter(Trace).validate_json(_line(found), strict=True)
    assert again == found and again.tables[0].rows[0][1][0] is True
    assert "files" not in _line(trace(i=Images("Near", (("p", ""),)))), "as it was before"
    assert "tables" not in _line(trace())


def test_images_of_files_lie_below_the_image_database(tmp_path: Path) -> None:
    """Traces may come from others: a path that leads out of it is nobody's picture."""
    database = tmp_path / "image_db"
    (database / "drawn").mkdir(parents=True)
    for path in (database / "drawn" / "1.png", tmp_path / "secret.png"):
        path.write_bytes(b"x")
    (database / "link.png").symlink_to(tmp_path / "secret.png")
    names = ("drawn/1.png", "../secret.png", str(tmp_path / "secret.png"), "link.png", "drawn", "")
    shown = Images("Drawn", tuple((name, "") for name in names), files=True)
    images = findings.Images()
    images("1.png")  # a gallery image of the same name is another
    (data,) = [d for d in findings.data(trace(i=shown), STAGES[1], images) if d["kind"] == "images"]
    assert [number for number, _ in data["rows"]] == list(range(1, 7))
    gallery = tmp_path / "gallery.png"
    sources = images.sources({"1.png": gallery}, [tmp_path / "absent", database])
    assert sources == [gallery, database / "drawn" / "1.png", *[None] * 5]
    assert images.names[:2] == ["1.png", "1.png"]


def test_a_ranking_alone_says_nothing() -> None:
    found = Trace(Query("1", "x"), Synthesis("", (), ()), {"a": Ranking(("p",))})
    assert findings.lines(found, STAGES) == [] and findings.notes(found, STAGES, "p") == ([], [])
