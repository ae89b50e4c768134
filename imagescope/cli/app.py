"""The commands: parse, call, print. What they do lies in the rooms they call."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from imagescope import __version__, progress
from imagescope.cli import index as cli_index
from imagescope.cli import own as cli_own
from imagescope.cli import registry as listings
from imagescope.cli import run as cli_run
from imagescope.cli.cache import cache_app
from imagescope.cli.data import compare, data_app, score, submission_app
from imagescope.errors import UserError
from imagescope.registry import COMMANDS
from imagescope.terminal import Formatter, Terminal, say, tolerate_narrow_code_pages


class Commands(TyperGroup):
    """Our commands, then those of other packages, which are imported when called or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        if "index" in names:  # a group, and groups come last: put it to its neighbours
            names.remove("index")
            names.insert(names.index("caption"), "index")
        return [*names, *COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if ours := super().get_command(ctx, cmd_name):
            return ours
        if cmd_name in COMMANDS:
            return get_command(COMMANDS.load(cmd_name))
        if cmd_name in ("demo", "tiny"):
            raise UserError(
                f"{cmd_name}: the drawn scenes and tiny checkpoints are not installed here; the "
                "package imagescope-tiny brings them (in a clone: pip install ./script/tiny)"
            )
        return None


app = typer.Typer(
    cls=Commands,
    help="Find images from language: a caption, a picture plus a change, or a dialogue.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data", no_args_is_help=True)
app.add_typer(submission_app, name="submission", no_args_is_help=True)
app.add_typer(cache_app, name="cache", no_args_is_help=True)
app.add_typer(cli_index.index_app, name="index")
for command in (score, compare, cli_index.caption, cli_own.search, cli_own.chat, cli_own.serve):
    app.command()(command)
console = Terminal()
# typer brings a click of its own, or uses the installed one, by its version
USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

# The spellings of the paper's release, and ours.
SPELLINGS = {
    "--llm-path": "--reasoner",
    "--img-cap-model-path": "--captioner",
    "--mllm-path": "--verifier",
    "--eval-mllm-path": "--evaluator",
    "--clip-path": "--clip",
    "--dataset-path": "--data-root",
    "--img-db-path": "--image-db",
}
INTERRUPTED = 130  # the status of a command that was ended by Ctrl-C
GLOBAL = ("--quiet", "-q", "--log-level")  # accepted anywhere on the line


def normalise(argv: list[str]) -> list[str]:
    """The command line as typer reads it: the paper's spellings and underscores accepted, the
    values of --stages gathered into one, global options moved to the front."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(enumerate(argv))
    for i, word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
            name = SPELLINGS.get(name, name)
            word = name + equals + value
        if name in GLOBAL:
            front.append(word)
            if name == "--log-level" and not equals and i + 1 < len(argv):
                front.append(next(words)[1])
        elif name == "--stages" and not equals:
            values = []
            while i + 1 < len(argv) and re.fullmatch(r"s[0-3]([ ,]+s[0-3])*", argv[i + 1]):
                i, stage = next(words)
                values.append(stage)
            rest += [word, " ".join(values)] if values else [word]
        else:
            rest.append(word)
    return front + rest


def _print_version(flag: bool) -> None:
    if flag:
        print(f"imagescope {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    level = logging.getLevelName(log_level.upper())
    if not isinstance(level, int):
        raise UserError(f"--log-level {log_level}: choose debug, info, warning or error")
    progress.quiet = quiet
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter())
    handler.addFilter(lambda record: record.name != "imagescope.details")  # output.log's alone
    handler.setLevel(max(level, logging.WARNING) if quiet else level)
    logger = logging.getLogger("imagescope")
    logger.setLevel(min(level, logging.INFO))  # output.log gets its lines in any case
    logger.handlers[:] = [handler]
    logger.propagate = False


Opt = typer.Option


for listing in (listings.methods, listings.encoders, listings.engines, listings.benchmarks):
    app.command()(listing)
app.command(cls=cli_run.RunCommand)(cli_run.run)
app.command(cls=cli_run.RunCommand)(cli_run.plan)


@app.command()
def doctor(
    data_root: Annotated[Path, Opt(help="Where the datasets lie.")] = Path("data"),
    models: Annotated[str, Opt(help="A set of configs/models, or a file.")] = "paper",
) -> None:
    """Say what is in place, what is missing, and the command that brings it."""
    from imagescope.runs.doctor import doctor as examine

    if not examine(data_root, models, console):
        raise typer.Exit(1)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="A run folder, or two to compare.")],
    out: Annotated[Path | None, Opt(help="Where a comparison of two goes.")] = None,
) -> None:
    """Write the page of a run, or of two side by side."""
    from imagescope.report.build import write_report
    from imagescope.report.compare import write_comparison

    match folders:
        case [run]:
            page = write_report(run)
        case [a, b]:
            page = write_comparison(a, b, out)
        case _:
            raise UserError("a report takes one run folder, or two to compare")
    say(console, str(page))


@app.command()
def overview(
    runs: Annotated[Path, typer.Argument(help="The folder of all runs.")] = Path("runs"),
    run_name: Annotated[str, Opt(help="Which run of each benchmark.")] = "default",
) -> None:
    """One table of the newest run of each benchmark."""
    from imagescope.report.overview import newest, print_overview

    print_overview(newest(runs, run_name), console)


def main(argv: list[str] | None = None) -> int:
    """The console entry point; returns the exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # Threads that spin while they wait take the processor from those they wait for, as soon as
    # anything else runs. Read once, when torch is imported, here and in child processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tolerate_narrow_code_pages()
    gc.set_threshold(500_000, 20, 20)  # a run keeps many small records
    try:
        status = app(
            normalise(sys.argv[1:] if argv is None else argv),
            prog_name="imagescope",
            standalone_mode=False,
        )
        if status == INTERRUPTED:  # typer has made a status of Ctrl-C
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except UserError as error:
        say(Terminal(stderr=True), f"imagescope: {error}")
        return 1
    except typer.Exit as error:
        return int(error.exit_code)
    except USAGE as error:
        error.show()
        return int(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("imagescope: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
