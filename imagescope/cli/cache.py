"""The commands about the response cache: what it holds, bundles of a run, making room."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from imagescope.errors import UserError
from imagescope.terminal import Terminal

cache_app = typer.Typer(help="The response cache: info, bundles of a run, making room.")
console = Terminal(highlight=False)
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
        found = opened.info()
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table("model", "identity", "responses", "vectors")
    for name, model in found["models"].items():
        counts = (model["responses"], model["vectors"])
        table.add_row(str(model["model"]), name[:12], *(f"{n:,}" for n in counts))
    console.print(table)
    console.print(
        f"{found['path']}: a {found['kind']} of {found['bytes'] / 1e6:.1f} MB, "
        f"{found['responses']:,} responses, {found['vectors']:,} vectors, {found['files']:,} files",
        soft_wrap=True,
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
    console.print(
        f"{target}: {counts['responses']:,} responses, {counts['vectors']:,} vectors, "
        f"{counts['files']:,} image names, {counts['bytes'] / 1e6:.1f} MB",
        soft_wrap=True,
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
        console.print(f"{opened.path}: {gone:,} responses and vectors taken out", soft_wrap=True)


def _existing(given: Path | None) -> Path:
    path = given or Path(os.environ.get("IMAGESCOPE_CACHE", "image_db/responses.sqlite"))
    if not path.is_file():
        raise UserError(f"no such cache: {path} (give its place with --cache)")
    return path
