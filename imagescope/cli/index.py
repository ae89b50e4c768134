"""The commands that make and keep indexes of your own pictures: index, caption."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from imagescope.errors import UserError
from imagescope.terminal import Terminal, print_json, say, table

if TYPE_CHECKING:
    from imagescope.own.indexing import Update

console = Terminal(highlight=False)
Opt = typer.Option
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The index, by its name (`imagescope index ls`).")
]
Models = Annotated[
    str | None,
    Opt(
        metavar="SET",
        help="Which models: a set such as laptop, server, paper or tiny, or a YAML file. Default: "
        "those the index was made with; for a new one, paper.",
    ),
]
Engine = Annotated[
    str | None, Opt(metavar="NAME", help="What runs them: auto, transformers, vllm or openai.")
]
Json = Annotated[bool, Opt("--json", help="Print JSON.")]
SHOWN = 5  # names of a kind, in the summary of an index
FOLDER = "FOLDER"  # the command that is meant where the word is none of the others


class Index(TyperGroup):
    """`imagescope index FOLDER`, and commands for the indexes that are there."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = [FOLDER, *(args or ["--help"])]
        elif (folder := Path(args[0])).is_dir():
            where = f"to index the folder of this name: imagescope index .{os.sep}{folder}"
            say(Terminal(stderr=True), where, style="dim")
        rest: list[str] = super().parse_args(ctx, args)
        return rest


class Make(TyperCommand):
    """Its usage line shows the folder in place of a command's name."""

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        pieces = " ".join(self.collect_usage_pieces(ctx))
        formatter.write_usage(ctx.parent.command_path, pieces)


index_app = typer.Typer(cls=Index, help="Make an index of a folder of pictures, or look after one.")


@index_app.command(
    FOLDER,
    cls=Make,
    epilog="Other commands: `imagescope index ls` lists the indexes, `info NAME` tells about one, "
    "`rename NAME NEW` and `rm NAME` do what they say. A folder that is called like one of these "
    "is written with its path: imagescope index ./ls",
)
def index(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="All pictures in it and below it are indexed.")
    ],
    name: Annotated[
        str | None,
        Opt(metavar="NAME", help="What to call the index; otherwise as the folder is called."),
    ] = None,
    models: Models = None,
    engine: Engine = None,
    stages: Annotated[
        str | None,
        Opt(
            metavar="s0",
            help="s0: embed the pictures and leave captions out. That needs no language model and "
            "one pass; `imagescope caption NAME` adds captions later.",
        ),
    ] = None,
    prompts: Annotated[
        str | None, Opt(metavar="SET", help="Which prompts: a set of configs/prompts, or a folder.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        Opt(
            metavar="PATTERN",
            help="Leave out files or folders, such as '*.gif' or 'old/*'; may be repeated. "
            "Remembered for later updates.",
        ),
    ] = None,
    plan: Annotated[
        bool,
        Opt("--plan", help="Only say what it would take: pictures, downloads, memory, disk, time."),
    ] = False,
) -> None:
    """Make a searchable index of a folder of pictures, or bring it up to date.

    Each picture gets a caption and vectors. Run it again whenever the folder has changed: only
    what is new is looked at. The pictures themselves are neither copied nor changed.
    """
    from imagescope.own.forecast import forecast
    from imagescope.own.indexing import build, prepare

    captions = None if stages is None else stages != "s0"
    options = (folder, name, models, engine_name(engine), prompts, exclude or None, captions)
    if plan:
        for line in forecast(prepare(*options)):
            say(console, line)
    else:
        _summarise(build(*options))


def caption(name: Name, models: Models = None, engine: Engine = None) -> None:
    """Add captions to an index that was made without them.

    Captions let the language models take part in a search. The vectors of the pictures stay as
    they are; pictures that are new in the folder are added.
    """
    from imagescope.own.indexing import caption as add

    _summarise(add(name, models, engine_name(engine)))


@index_app.command("ls")
def ls(as_json: Json = False) -> None:
    """List the indexes."""
    from imagescope.own import library

    indexes = []
    for name in library.names():
        try:
            indexes.append(library.describe(name))
        except UserError as error:
            say(Terminal(stderr=True), f"{name}: {error}")
    if as_json:
        print_json(indexes)
    elif not indexes:
        say(console, f"no index yet in {library.home()}. Make one with: imagescope index FOLDER")
    else:
        fields = ("name", "pictures", "captions", "models", "updated", "folder")
        for index in indexes:
            index["updated"] = index["updated"][:16].replace("T", " ")  # UTC
        rows = [[_cell(index[field]) for field in fields] for index in indexes]
        console.print(table(*fields, rows=rows, words=len(fields), whole=("name", "updated")))


@index_app.command("info")
def info(name: Name, as_json: Json = False) -> None:
    """Tell what an index holds, what made it, and how much disk it takes."""
    from imagescope.own import library

    description = library.describe(name)
    if as_json:
        print_json(description)
        return
    for field, value in description.items():
        if value not in ({}, []):
            say(console, f"{field}: {_cell(value)}")


@index_app.command("rename")
def rename(
    name: Name, new: Annotated[str, typer.Argument(metavar="NEW", help="What it is to be called.")]
) -> None:
    """Give an index another name."""
    from imagescope.own import library

    _refuse_served(name)
    library.rename(name, new)
    say(console, f"{name} is now called {new}")


@index_app.command("rm")
def rm(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="The indexes, by their names.")
    ],
    yes: Annotated[bool, Opt("--yes", "-y", help="Do not ask before.")] = False,
) -> None:
    """Remove indexes. Your pictures stay as they are."""
    from imagescope.own import library

    for name in names:
        size = library.describe(name)["bytes"]
        _refuse_served(name)
        question = f"Remove the index {name} ({_megabytes(size)})? The pictures stay."
        if not yes and sys.stdin.isatty() and not typer.confirm(question):
            continue
        library.remove(name)
        say(console, f"{name}: removed, {_megabytes(size)}")
    say(
        console,
        f"Models' answers, captions among them, are kept in {library.home() / 'image_db'}, so that "
        "an index of the same pictures costs less (imagescope cache prune --help).",
    )


def engine_name(name: str | None) -> str | None:
    """The engine, if one is named. Raises UserError where there is none of the name."""
    from imagescope.config import engine_name

    try:
        return engine_name(name) if name else None
    except ValueError as error:
        raise UserError(f"--engine: {error}") from None


def _refuse_served(name: str) -> None:
    from imagescope.own.ask import serving

    if found := serving(name):
        raise UserError(f"{name} is being served (process {found.pid}): end that first")


def _cell(value: object) -> str:
    """A value of an index' description, for a terminal."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "".join(f"\n  {key}: {part}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def _summarise(update: Update) -> None:
    manifest, changes = update.manifest, update.changes
    lines = [
        f"{update.name}: {len(manifest.pictures)} pictures of {manifest.folder} "
        f"({manifest.models_name} models, {update.seconds:.1f} s)",
        f"new {len(changes.new)}, changed {len(changes.changed)}, moved {len(changes.moved)}, "
        f"removed {len(changes.removed)}, unchanged {changes.unchanged}",
    ]
    if manifest.skipped:
        lines.append(f"skipped {len(manifest.skipped)}:")
        shown = list(manifest.skipped.items())[:SHOWN]
        lines += [f"  {name}: {reason}" for name, reason in shown]
        if len(manifest.skipped) > SHOWN:
            rest = len(manifest.skipped) - SHOWN
            lines.append(f"  and {rest} more: imagescope index info {update.name}")
    if update.excluded:
        left_out = ", ".join(f"{pattern} ({n})" for pattern, n in update.excluded.items())
        lines.append(f"left out by name: {left_out}")
    if update.others:
        lines.append(f"{update.others} other files are no pictures by their names")
    if not manifest.captioned:
        lines.append(f"without captions; to add them: imagescope caption {update.name}")
    lines.append(f"now: imagescope search {update.name} what you look for")
    for line in lines:
        say(console, line)
