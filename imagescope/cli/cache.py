"""The commands about the response cache: what it holds, bundles of a run, making room."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from imagescope.errors import UserError
from imagescope.terminal import Terminal, print_json, say, table

cache_app = typer.Typer(help="The response cache: info, bundles of a run, making room.")
console = Terminal()
Opt = typer.Option
CacheFile = Annotated[
    Path | None, Opt(help="The cache's file (else IMAGESCOPE_CACHE, else the one in image_db).")
]


@cache_app.command()
def info(
    file: Annotated[Path | None, typer.Argument(help="A cache or a bundle.")] = None,
    cache: CacheFile = None,
    as_json: Annotated[bool, Opt("--json", help="Print JSON.")] = False,
) -> None:
    """What a cache or a bundle holds, by model."""
    from imagescope.store.cache import Cache

    with Cache.open(_existing(file or cache)) as opened:
        contents = opened.info()
    if as_json:
        print_json(contents)
        return
    rows = [
        [model["model"], name[:12], f"{model['responses']:,}", f"{model['vectors']:,}"]
        for name, model in contents["models"].items()
    ]
    console.print(table("model", "identity", "responses", "vectors", rows=rows, words=2))
    say(
        console,
        f"{contents['path']}: a {contents['kind']} of {contents['bytes'] / 1e6:.1f} MB, "
        f"{contents['responses']:,} responses, {contents['vectors']:,} vectors, "
        f"{contents['files']:,} files",
    )


@cache_app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    output: Annotated[Path | None, Opt(help="The bundle's file.")] = None,
) -> None:
    """Bundle what a run used: `imagescope run … --replay FILE` needs nothing else."""
    from imagescope.runs.export import export_run

    target = output or run / "bundle.sqlite"
    counts = export_run(run, target)
    say(
        console,
        f"{target}: {counts['responses']:,} responses, {counts['vectors']:,} vectors, "
        f"{counts['files']:,} image names, {counts['bytes'] / 1e6:.1f} MB",
    )


@cache_app.command()
def prune(
    cache: CacheFile = None,
    days: Annotated[float | None, Opt(min=0, help="Take out what is older.")] = None,
    model: Annotated[str | None, Opt(help="Take out what this model said (name or id).")] = None,
) -> None:
    """Make room: take out what is old, or a model's."""
    from imagescope.store.cache import Cache

    if days is None and model is None:
        raise UserError("say what may go: --days N, or --model NAME (see: imagescope cache info)")
    with Cache.open(_existing(cache)) as opened:
        gone = opened.prune(days, model)
        say(console, f"{opened.path}: {gone:,} responses and vectors taken out")


def _existing(path: Path | None) -> Path:
    path = path or Path(os.environ.get("IMAGESCOPE_CACHE", "image_db/responses.sqlite"))
    if not path.is_file():
        raise UserError(f"no such cache: {path} (give its place with --cache)")
    return path
