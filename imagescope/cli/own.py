"""The commands for your own pictures: index, search, chat, serve."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagescope.errors import UserError
from imagescope.files import write_text
from imagescope.terminal import Terminal, print_json

if TYPE_CHECKING:
    from imagescope.own.answers import Answer
    from imagescope.own.conversation import Conversation
    from imagescope.own.indexing import Update
    from imagescope.own.scope import ImageScope

console = Terminal(highlight=False)
Opt = typer.Option
Name = Annotated[str, typer.Argument(help="The index, by its name.")]
Models = Annotated[str | None, Opt(help="A set of configs/models, or a file.")]
Engine = Annotated[str | None, Opt(help="auto, transformers, vllm or openai.")]
Method = Annotated[str, Opt(help="A name of `imagescope methods`.")]
Option = Annotated[list[str] | None, Opt(metavar="NAME=VALUE", help="An option of it (repeat).")]
Stages = Annotated[str | None, Opt(help="ImageScope's: s1, s1 s2, or s1 s2 s3.")]
Top = Annotated[int, Opt(min=1, help="How many pictures are shown.")]
Alone = Annotated[
    bool, Opt("--one-at-a-time", help="Each model has the GPU's memory alone, and is loaded anew.")
]
SHOWN = 5  # names of a kind, in the summary of an index


def index(
    folder: Annotated[Path, typer.Argument(help="Every picture below it is indexed.")],
    name: Annotated[str | None, Opt(help="The index' name; else the folder's.")] = None,
    models: Models = None,
    engine: Engine = None,
    prompts: Annotated[str | None, Opt(help="A prompt set, or a folder.")] = None,
    exclude: Annotated[
        list[str] | None,
        Opt(help="Files and folders to leave out, as '*.gif' or 'old/*' (repeat); remembered."),
    ] = None,
) -> None:
    """Caption and embed the pictures below a folder, or only what has changed there."""
    from imagescope.own.indexing import build

    _summarise(build(folder, name, models, _engine(engine), prompts, exclude or None))


def search(
    name: Name,
    text: Annotated[str, typer.Argument(help="What to look for, or what is to be different.")],
    reference: Annotated[Path | None, Opt(help="A picture to start from.")] = None,
    method: Method = "imagescope",
    option: Option = None,
    stages: Stages = None,
    top: Top = 10,
    as_json: Annotated[bool, Opt("--json", help="Print JSON.")] = False,
    html: Annotated[Path | None, Opt(help="Also write a page with thumbnails.")] = None,
    models: Models = None,
    engine: Engine = None,
) -> None:
    """Find pictures by a description, or by a picture and a change.

    Where `imagescope serve` runs for the index with the same method it is asked, as its models are
    in memory; with --models or --engine it is not.
    """
    from imagescope.config import parse_options
    from imagescope.own import show
    from imagescope.own.ask import ask

    _hush()
    options = parse_options(option or [])
    asked = None if models or engine else ask(name, text, reference, stages, top, method, options)
    if asked:
        answer, folder = asked.answer, asked.folder
    else:
        from imagescope.own.scope import ImageScope

        with ImageScope.open(name, models, _engine(engine), False, method, options) as scope:
            answer, folder = scope.search(text, reference, stages, top), scope.manifest.folder
    if as_json:
        print_json(show.as_json(answer))
    else:
        for line in show.understanding(answer):
            console.print(line, style="dim", markup=False, soft_wrap=True)
        console.print(f"below {folder}:", markup=False, soft_wrap=True)
        console.print(show.table(answer))
    if html:
        _write(html, show.page(answer, name))
        if not as_json:
            console.print(f"page: {html}", markup=False, soft_wrap=True)


def chat(
    name: Name,
    method: Method = "imagescope",
    option: Option = None,
    stages: Stages = None,
    top: Top = 5,
    models: Models = None,
    engine: Engine = None,
    alone: Alone = False,
) -> None:
    """Search by a dialogue: each line refines the last. /help says what else there is."""
    from imagescope.config import parse_options
    from imagescope.own.conversation import Conversation
    from imagescope.own.scope import ImageScope

    _hush()
    options = parse_options(option or [])
    with ImageScope.open(name, models, _engine(engine), not alone, method, options) as scope:
        pictures = f"{len(scope)} pictures of {scope.manifest.folder}"
        console.print(f"{pictures}. Say what to look for; /help for more.", markup=False)
        conversation = Conversation()
        while (line := _read()) is not None:
            try:
                if line.startswith("/"):
                    if not _command(line, conversation):
                        break
                elif line:
                    _say(scope, conversation, line, stages, top)
            except UserError as error:
                console.print(str(error), markup=False)


def serve(
    name: Name,
    host: Annotated[str, Opt(help="The address that is listened on.")] = "127.0.0.1",
    port: Annotated[int, Opt(min=0, max=65535, help="The port; 0 takes a free one.")] = 7860,
    method: Method = "imagescope",
    option: Option = None,
    top: Annotated[int, Opt(min=1, max=48, help="How many pictures are shown.")] = 12,
    models: Models = None,
    engine: Engine = None,
    alone: Alone = False,
) -> None:
    """Open a page for searching in the browser, for this machine alone unless --host says other."""
    from imagescope.config import parse_options
    from imagescope.own.web import serve as run

    _hush()
    if host not in ("127.0.0.1", "localhost", "::1"):
        console.print(
            f"Listening on {host}: whoever reaches this machine can search these pictures and see "
            "their thumbnails; there is no password.",
            markup=False,
        )
    options = parse_options(option or [])
    run(name, host, port, top, models, _engine(engine), not alone, method, options)


def _hush() -> None:
    """No log line for each step: those are for runs, a search asks a handful of questions."""
    logger = logging.getLogger("imagescope")
    if logger.level == logging.INFO:
        logger.setLevel(logging.WARNING)


def _engine(name: str | None) -> str | None:
    from imagescope.config import engine_name

    try:
        return engine_name(name) if name else None
    except ValueError as error:
        raise UserError(f"--engine: {error}") from None


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
            lines.append(f"  and {len(manifest.skipped) - SHOWN} more, in the index' index.json")
    if update.excluded:
        left_out = ", ".join(f"{pattern} ({n})" for pattern, n in update.excluded.items())
        lines.append(f"left out by name: {left_out}")
    if update.others:
        lines.append(f"{update.others} other files are no pictures by their names")
    lines.append(f'now: imagescope search {update.name} "what you look for"')
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def _read() -> str | None:
    """A line, or None at the end of the input."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (line editing and history, where there is one)
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


def _say(
    scope: ImageScope, conversation: Conversation, line: str, stages: str | None, top: int
) -> None:
    from imagescope.own import show

    answer: Answer | None = None
    for answer in conversation.say(scope, line, stages, top):
        if console.is_terminal and answer.upcoming:
            best = answer.results[0].name if answer.results else "nothing"
            console.print(f"{answer.title}: {best}", style="dim", markup=False)
    if answer is not None:
        console.print(f"looking for: {answer.carried}", style="dim", markup=False)
        console.print(show.table(answer))


def _like(conversation: Conversation, rank: str) -> None:
    """/like N: result N is the reference of the next line"""
    found = conversation.like(_rank(rank))
    console.print(f"{found.name} is the reference: say what is to be different.", markup=False)


def _why(conversation: Conversation, rank: str) -> None:
    """/why N: everything known about result N"""
    from imagescope.own import show

    answer = conversation.answer
    for line in show.explain(conversation.result(_rank(rank))):
        console.print(line, markup=False)
    for line in show.understanding(answer) if answer else ():
        console.print(f"   {line}", style="dim", markup=False)


def _new(conversation: Conversation, _: str) -> None:
    """/new: start over"""
    conversation.restart()
    console.print("Starting over.")


def _help(_: Conversation, __: str) -> None:
    """/help: this"""
    console.print("Each line refines the last one's description. Besides:")
    for command in COMMANDS.values():
        console.print(f"  {command.__doc__}", markup=False)
    console.print("  /quit: leave (so does the end of the input)")


COMMANDS: dict[str, Callable[[Conversation, str], None]] = {
    "/like": _like,
    "/why": _why,
    "/new": _new,
    "/help": _help,
}


def _command(line: str, conversation: Conversation) -> bool:
    """Does what a line with a slash says; False: leave."""
    word, _, rest = line.partition(" ")
    if word in ("/quit", "/exit"):
        return False
    if word not in COMMANDS:
        raise UserError(f"{word}: not known; /help says what is")
    COMMANDS[word](conversation, rest.strip())
    return True


def _rank(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"which result? A number, as in /like 2 (got {text!r})")
    return int(text)
