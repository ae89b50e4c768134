"""Text on a terminal: any language's letters, no control character, whatever the code page."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.table import Table

# What moves the cursor, turns the direction of writing, or is no character at all. Joiners stay:
# scripts and emoji need them.
CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str, keep: str = "") -> str:
    """The text with control characters, bidi marks and lone surrogates as escapes: \\x1b.

    keep: those that stay, as newlines in a message of several lines.
    """

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        return character if character in keep else character.encode("unicode_escape").decode()

    return CONTROL.sub(escape, text)


class Terminal(Console):
    """rich's console, which shows control characters in what it is given as escapes."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, keep="\n\t"), **options)


def say(console: Console, *lines: str, style: str | None = None) -> None:
    """Prints lines as they are: not wrapped, no markup, no colours for figures."""
    console.print(*lines, sep="\n", style=style, markup=False, highlight=False, soft_wrap=True)


def table(
    *columns: str,
    rows: Iterable[Sequence[object]],
    title: str | None = None,
    words: int = 1,
    whole: Collection[str] = (),
) -> Table:
    """A table, whose cells are shown as they are, without markup.

    words: so many columns, the first, hold words; the others hold figures, which stand on the
        right.  whole: columns that are not wrapped as long as others can be.
    """
    from rich.table import Table

    grid = Table(title=title, show_edge=False, pad_edge=False)
    for i, name in enumerate(columns):
        side: Literal["left", "right"] = "left" if i < words else "right"
        grid.add_column(name, justify=side, overflow="fold", no_wrap=name in whole)
    for row in rows:
        grid.add_row(*(Text(printable(str(cell), keep="\n")) for cell in row))
    return grid


class Formatter(logging.Formatter):
    """Log lines of a file or a terminal; names and models' words in them move no cursor."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message, keep="\n\t")
        return super().formatMessage(record)


def tolerate_narrow_code_pages() -> None:
    """From here on standard output and errors show "?" for what their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def shows(encoding: str | None, text: str) -> bool:
    """Whether an encoding has all characters of a text."""
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def print_json(value: Any) -> None:
    """JSON on standard output; where its encoding lacks a character, in ASCII with escapes."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    if not shows(sys.stdout.encoding, text):
        text = json.dumps(value, indent=1)
    print(text)
