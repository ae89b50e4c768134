"""How answers are shown: a table, JSON, a page of HTML."""

from __future__ import annotations

import base64
import math
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from rich.table import Table
from rich.text import Text

from imagescope.own.answers import Answer, Check, Explanation, Result
from imagescope.records import UNJUDGED
from imagescope.terminal import printable

HERE = Path(__file__).parent


def table(answer: Answer) -> Table:
    """Rank, path below the folder, similarity and why, for a terminal."""
    grid = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("#", justify="right")
    grid.add_column("picture", overflow="fold", min_width=12)
    grid.add_column("score", justify="right")
    grid.add_column("why", overflow="fold")
    for result in answer:
        path, why = Text(printable(result.name)), Text(printable(verdict(result)))
        grid.add_row(str(result.rank), path, f"{result.score:.3f}", why)
    return grid


def verdict(result: Result) -> str:
    """In one line: how many questions were passed, which were not, what the evaluator decided."""
    why = result.explanation
    parts = []
    if why.checks:
        parts.append(f"{why.passed} of {len(why.checks)} questions passed")
        parts += [f"not: {statement(c)}" for c in why.checks if not c.passed]
    if outcome := decision(why):
        parts.append(outcome)
    if why.first_rank != result.rank:
        parts.append(f"was {why.first_rank}")
    return "; ".join(parts) or "by similarity"


def decision(why: Explanation) -> str:
    """What the evaluator decided; "" where it was not asked."""
    if why.accepted is None:
        if not why.words:
            return ""
        return "not judged" if why.words.startswith(UNJUDGED) else "not understood"
    return "accepted by the evaluator" if why.accepted else "not accepted"


def statement(check: Check) -> str:
    """A question with the answer it got, and the one it should have had if that is another."""
    nothing = "not understood" if check.unread else "no answer"
    got = {True: "yes", False: "no", None: nothing}[check.answer]
    instead = "" if check.passed else f", wanted {'yes' if check.expected else 'no'}"
    return f"{check.question} {got}{instead}"


def explain(result: Result) -> list[str]:
    """Everything known about why a result stands where it stands, line by line, for a terminal."""
    why = result.explanation
    lines = [
        f"{result.rank}. {result.path}",
        f"   caption: {why.caption}",
        f"   stage 1: rank {why.first_rank}, similarity {result.score:.3f}",
    ]
    for check in why.checks:
        sure = "" if math.isnan(check.yes) else f" (P(yes) {check.yes:.2f})"
        lines.append(f"   {'passed' if check.passed else 'failed'}: {statement(check)}{sure}")
    if not why.checks:
        lines.append("   stage 2: no question was put to it")
    if outcome := decision(why):
        lines.append(f"   stage 3: {outcome}: {why.words.strip()}")
    return [printable(line) for line in lines]


def understanding(answer: Answer) -> list[str]:
    """What the query was taken to mean: edits, descriptions, how parsing coped."""
    synthesis = answer.synthesis
    lines = [f"{edit.type}: {edit.text}" for edit in synthesis.edits]
    lines += [f"looking for: {text}" for text in synthesis.descriptions]
    for part, how in (("edits", synthesis.parse), ("questions", synthesis.questions_parse)):
        if how.startswith("fallback"):
            lines.append(f"{part}: {how}")
    return lines


def as_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain values; NaN becomes null."""
    synthesis = answer.synthesis
    return {
        "text": answer.text,
        "reference": str(answer.reference) if answer.reference else None,
        "stage": answer.stage,
        "seconds": round(answer.seconds, 3),
        "edits": [[edit.type, edit.text] for edit in synthesis.edits],
        "descriptions": list(synthesis.descriptions),
        "parse": synthesis.parse,
        "questions_parse": synthesis.questions_parse,
        "results": [_result(result) for result in answer],
    }


def _result(result: Result) -> dict[str, Any]:
    why = result.explanation
    return {
        "rank": result.rank,
        "path": str(result.path),
        "name": result.name,
        "score": round(result.score, 6),
        "caption": why.caption,
        "first_rank": why.first_rank,
        "questions": [
            asdict(check)
            | {
                "yes": None if math.isnan(check.yes) else round(check.yes, 4),
                "passed": check.passed,
                "unread": check.unread,
            }
            for check in why.checks
        ],
        "accepted": why.accepted,
        "words": why.words,
    }


def page(answer: Answer, index: str) -> str:
    """One HTML file: thumbnails inside, all text escaped, nothing fetched from anywhere."""
    html: str = _template("page.html.jinja").render(
        answer=answer, index=index, css=css(), understanding=understanding(answer)
    )
    return html


def card(result: Result) -> str:
    """One result as escaped HTML, without the place of the folder."""
    return str(_template("card.html.jinja").module.card(result, False))


def css() -> str:
    """The style of cards."""
    return (HERE / "own.css").read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True)
    functions = {"statement": statement, "verdict": verdict, "decision": decision}
    environment.globals |= {**functions, "picture": data_uri}
    return environment


def _template(name: str) -> Any:
    return _environment().get_template(name)


def data_uri(path: Path) -> str:
    """A thumbnail as a data: address; empty where it is gone."""
    try:
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""
