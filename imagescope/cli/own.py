"""The commands that search your own pictures: search, chat, serve."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagescope import progress
from imagescope.cli.index import Engine, Models, Name, engine_name
from imagescope.errors import UserError
from imagescope.files import write_text
from imagescope.terminal import Terminal, print_json, say

if TYPE_CHECKING:
    from imagescope.own.answers import Answer
    from imagescope.own.conversation import Conversation
    from imagescope.own.scope import ImageScope

console = Terminal(highlight=False)
Opt = typer.Option
Method = Annotated[
    str, Opt(metavar="NAME", help="How to search: a name that `imagescope methods` lists.")
]
Option = Annotated[
    list[str] | None,
    Opt(metavar="NAME=VALUE", help="An option of the method, such as tau=0.3; may be repeated."),
]
Stages = Annotated[
    str | None,
    Opt(
        metavar="STAGES",
        help="How far to go. s0: rank by the encoder alone, no language model is asked. s1: the "
        "reasoner rewords the query first. s1 s2: the best pictures are then checked. s1 s2 s3 "
        "(the default): the very best are then compared.",
    ),
]
Top = Annotated[int, Opt(metavar="N", min=1, help="How many pictures to show.")]
Alone = Annotated[
    bool,
    Opt(
        "--one-at-a-time",
        help="Keep one model in GPU memory at a time: for a small GPU; every question waits "
        "for models to load.",
    ),
]
Approximate = Annotated[
    bool,
    Opt(
        "--approximate",
        help="For a million pictures: rank a shortlist that faiss makes, not every picture. Its "
        "index is made at the first search.",
    ),
]


def search(
    name: Name,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="WORD", help="What to look for; with --reference, what should be different."
        ),
    ],
    reference: Annotated[
        Path | None,
        Opt(metavar="PICTURE", help="A picture to start from: a file, or a name in the index."),
    ] = None,
    method: Method = "imagescope",
    option: Option = None,
    stages: Stages = None,
    top: Top = 10,
    as_json: Annotated[
        bool,
        Opt(
            "--json",
            help="Print JSON: text, reference, method, stage, title, seconds, descriptions, parse, "
            "findings, and results with rank, path, name, score, caption, first_rank, notes "
            "(docs/own_pictures.md explains them).",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        Opt(metavar="FILE", help="Also write this file, a page with the pictures found."),
    ] = None,
    models: Models = None,
    engine: Engine = None,
    approximate: Approximate = False,
) -> None:
    """Find pictures by a description, or by a picture and a change.

    The query needs no quotes: imagescope search holidays a red kite over the sea

    While `imagescope serve` runs for the same index and method, it answers, since its models are
    loaded already; with --models, --engine or --approximate this command loads its own.
    """
    from imagescope.config import parse_options
    from imagescope.own import show
    from imagescope.own.ask import ask

    _hush()
    text, options = " ".join(words), parse_options(option or [])
    asked = None
    if not (models or engine or approximate):
        asked = ask(name, text, reference, stages, top, method, options, _tell)
    if asked:
        answer, folder = asked.answer, asked.folder
        _note(f"answered by the running `imagescope serve {name}`")
    else:
        from imagescope.own.scope import ImageScope

        with ImageScope.open(
            name, models, engine_name(engine), False, method, options, approximate
        ) as scope:
            answer, folder = _watch(scope, text, reference, stages, top), scope.manifest.folder
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


def _watch(
    scope: ImageScope, text: str, reference: Path | None, stages: str | None, top: int
) -> Answer:
    """The last stage's answer; what each stage comes to is told meanwhile."""
    _note(f"searching {len(scope):,} pictures …")
    for answer in scope.stages(text, reference, stages, top):
        _tell(answer)
    if answer.stage == "s0" and not stages:
        _note(f"{scope.lacking}: the encoder alone searched (see: imagescope caption --help)")
    return answer


def _tell(answer: Answer) -> None:
    """What a stage came to, on standard error."""
    best = f"best so far {answer[0].name}" if answer.upcoming and len(answer) else "done"
    upcoming = f"; next: {answer.upcoming} …" if answer.upcoming else ""
    _note(f"{answer.stage} {answer.title}: {best} ({answer.seconds:.1f} s){upcoming}")


def _note(line: str) -> None:
    """A line on standard error, for who waits."""
    if not progress.quiet:
        say(Terminal(stderr=True), line, style="dim")


def chat(
    name: Name,
    method: Method = "imagescope",
    option: Option = None,
    stages: Stages = None,
    top: Top = 5,
    models: Models = None,
    engine: Engine = None,
    alone: Alone = False,
    approximate: Approximate = False,
) -> None:
    """Search in a dialogue: each line refines the last.

    Type a description, then say what is to change, line by line.

    /help lists the other commands, such as /like 2 (start from result 2) and /quit.
    """
    from imagescope.config import parse_options
    from imagescope.own.conversation import Conversation
    from imagescope.own.scope import ImageScope

    _hush()
    options = parse_options(option or [])
    with ImageScope.open(
        name, models, engine_name(engine), not alone, method, options, approximate
    ) as scope:
        pictures = f"{len(scope)} pictures of {scope.manifest.folder}"
        if scope.lacking and not stages:
            pictures += f" ({scope.lacking}: the encoder alone searches)"
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
    host: Annotated[str, Opt(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, Opt(min=0, max=65535, help="The port to listen on; 0: any free one.")
    ] = 7860,
    method: Method = "imagescope",
    option: Option = None,
    top: Annotated[int, Opt(metavar="N", min=1, max=48, help="How many pictures to show.")] = 12,
    models: Models = None,
    engine: Engine = None,
    alone: Alone = False,
) -> None:
    """Search an index on a web page, in the browser.

    Only this machine can open the page, unless --host names another address. Ctrl-C ends it.
    """
    from imagescope.config import parse_options
    from imagescope.own.web import serve as run

    _hush()
    if host not in ("127.0.0.1", "localhost", "::1"):
        console.print(
            f"Listening on {host}: whoever reaches this machine can search these pictures, see and "
            "download them; there is no password.",
            markup=False,
        )
    options = parse_options(option or [])
    run(name, host, port, top, models, engine_name(engine), not alone, method, options)


def _hush() -> None:
    """No log line for each step: those are for runs, a search asks a handful of questions."""
    logger = logging.getLogger("imagescope")
    if logger.level == logging.INFO:
        logger.setLevel(logging.WARNING)


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
