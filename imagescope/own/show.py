"""How answers are shown: a table, JSON, HTML."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from imagescope.own.answers import Answer, Result
from imagescope.own.library import THUMBNAIL
from imagescope.terminal import printable

HERE = Path(__file__).parent
STATIC = {
    "style.css": HERE.parent / "report" / "style.css",  # the reports' type and colours
    **{name: HERE / name for name in ("own.css", "viewer.js", "page.js")},
}
BROWSERS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif")  # what they can show
NOTHING_FITS = "Nothing fits well: no picture passed all of its checks. These come nearest."


def table(answer: Answer) -> Table:
    """Rank, path below the folder, score and why, for a terminal."""
    grid = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    grid.add_column("#", justify="right")
    grid.add_column("picture", overflow="fold", min_width=12)
    grid.add_column("score", justify="right")
    grid.add_column("why", overflow="fold")
    for result in answer:
        path, why = Text(printable(result.name)), Text(printable(verdict(result)))
        grid.add_row(str(result.rank), path, score(result), why)
    return grid


def score(result: Result) -> str:
    return "–" if math.isnan(result.score) else f"{result.score:.3f}"


def verdict(result: Result) -> str:
    """In one line: how many questions were passed, which were not, what else was said of it."""
    return "; ".join([*result.explanation.brief, *moved(result)]) or "by similarity"


def moved(result: Result) -> list[str]:
    """Where the first stage had it, if that is elsewhere."""
    first = result.explanation.first_rank
    if first == result.rank:
        return []
    return [f"was {first}"] if first else ["was not among the best"]


def explain(result: Result) -> list[str]:
    """Everything known about why a result stands where it stands, line by line, for a terminal."""
    why = result.explanation
    lines = [
        f"{result.rank}. {result.path}",
        *([f"   caption: {why.caption}"] if why.caption else []),
        f"   score {score(result)}" + "".join(f", {where}" for where in moved(result)),
    ]
    marks = {True: "passed: ", False: "failed: ", None: ""}
    for note in why.notes:
        sure = "" if note.probability is None else f" (P(yes) {note.probability:.2f})"
        words = f": {note.words}" if note.words else ""
        lines.append(f"   {marks[note.passed]}{note.text}{sure}{words}")
    if not why.notes:
        lines.append("   ranked by its score alone")
    return [printable(line) for line in lines]


def understanding(answer: Answer) -> list[str]:
    """What the query was taken to mean, line by line, for a terminal."""
    return [printable(str(line)) for line, _ in answer.lines]


def as_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain values; NaN becomes null."""
    return {
        "text": answer.text,
        "reference": str(answer.reference) if answer.reference else None,
        "method": answer.method,
        "stage": answer.stage,
        "title": answer.title,
        "seconds": round(answer.seconds, 3),
        "descriptions": list(answer.synthesis.descriptions),
        "parse": answer.synthesis.parse,
        "findings": [asdict(line) for line, _ in answer.lines],
        "results": [_result(result) for result in answer],
    }


def _result(result: Result) -> dict[str, Any]:
    why = result.explanation
    return {
        "rank": result.rank,
        "path": str(result.path),
        "name": result.name,
        "score": None if math.isnan(result.score) else round(result.score, 6),
        "caption": why.caption,
        "first_rank": why.first_rank,
        "notes": [asdict(note) for note in why.notes],
    }


class Served:
    """Where the page's server has a picture. local: the visitor may know where files lie.  likes:
    a picture can be searched with."""

    likes = True

    def __init__(self, local: bool):
        self.local = local

    def small(self, result: Result) -> str:
        return self._address("thumbnail", result)

    def large(self, result: Result) -> str:
        return self._address("view", result)

    def file(self, result: Result) -> str:
        return self._address("file", result)

    def _address(self, kind: str, result: Result) -> str:
        return f"/api/{kind}?name={quote(result.name, safe='')}"


class Written:
    """The same for a page that is a file: thumbnails inside it, and pictures where they lie."""

    local, likes = True, False

    def small(self, result: Result) -> str:
        return data_uri(result.thumbnail)

    def large(self, result: Result) -> str:
        return self.file(result) if result.path.suffix.lower() in BROWSERS else ""

    def file(self, result: Result) -> str:
        return result.path.absolute().as_uri()


def page(answer: Answer, index: str) -> str:
    """One HTML file: thumbnails inside, all text escaped, nothing fetched from anywhere but the
    pictures themselves, when one is opened on the machine that they are on."""
    script = STATIC["viewer.js"].read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(
        "page.html.jinja",
        answer=answer,
        index=index,
        cards=Markup(cards(answer, Written(), answer.by_score)),
        verdict=NOTHING_FITS if answer.nothing_fits else "",
        css="".join(STATIC[name].read_text(encoding="utf-8") for name in ("style.css", "own.css")),
        script=script,
        digest=digest,
    )


def cards(results: Sequence[Result], links: Served | Written, by_score: bool) -> str:
    """Results as escaped HTML. by_score: their order is that of their scores."""
    module: Any = _environment().get_template("card.html.jinja").module
    return str(module.cards(results, links, by_score))


def meaning(answer: Answer) -> str:
    """What the query was taken to mean, as escaped HTML."""
    module: Any = _environment().get_template("card.html.jinja").module
    return str(module.meaning(answer))


def progress(answer: Answer) -> str:
    """How far a search is."""
    doing = f"{answer.title}; {answer.upcoming.lower()} under way" if answer.upcoming else "Done"
    return f"{doing} · {answer.seconds:.1f} s"


def render(template: str, **values: Any) -> str:
    """One of this folder's templates; all values are escaped."""
    html: str = _environment().get_template(template).render(values)
    return html


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"score": score, "moved": moved, "picture": data_uri}
    return environment


def data_uri(path: Path | None, shrink: bool = False) -> str:
    """A thumbnail as a data: address; empty where it is gone. shrink: it is a picture of any size,
    of which a thumbnail is made."""
    from imagescope.models.decoding import UnreadableImage, thumbnail

    if path is None:
        return ""
    try:
        if shrink:
            buffer = io.BytesIO()
            thumbnail(path, THUMBNAIL).save(buffer, "JPEG", quality=85)
            content = buffer.getvalue()
        else:
            content = path.read_bytes()
    except (OSError, UnreadableImage):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
