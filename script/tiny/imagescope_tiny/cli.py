"""`imagescope tiny` and `imagescope demo`: the commands of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Synthetic scenes and five small, really trained checkpoints.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
demo = typer.Typer(rich_markup_mode=None)
Opt = typer.Option


@demo.command()
def run_demo(
    folder: Annotated[Path, typer.Argument(help="Where all of it goes.")] = Path("imagescope-demo"),
    method: Annotated[str, Opt(help="A name of `imagescope methods`.")] = "imagescope",
) -> None:
    """Draw scenes, and run a method on 400 composed queries about them with tiny checkpoints."""
    from imagescope.cli.run import run
    from imagescope_tiny.datasets import make

    make(folder / "data")
    run(
        config="configs/CIRR.yaml",
        method=method,
        split="val",
        models="tiny",
        data_root=folder / "data",
        image_db=folder / "image_db",
        runs=folder / "runs",
    )


@app.command("make")
def tiny_make(
    root: Annotated[Path, typer.Argument(help="Where the six datasets go.")] = Path("data/tiny"),
    seed: Annotated[int, Opt(help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Draw the scenes and write the six benchmarks' layouts."""
    from imagescope_tiny.datasets import make

    make(root, seed=seed)


@app.command("train")
def tiny_train(
    out: Annotated[Path, typer.Argument(help="Where the checkpoints go.")],
    only: Annotated[list[str] | None, Opt(help="Only these roles (repeat).")] = None,
    threads: Annotated[int, Opt(help="Processor threads.")] = 2,
    seed: Annotated[int, Opt(help="Of weights and samples.")] = 0,
) -> None:
    """Train the five checkpoints from nothing."""
    from imagescope_tiny.train import train_all

    train_all(out, only=only, threads=threads, seed=seed)


@app.command("evaluate")
def tiny_evaluate(
    models: Annotated[Path, typer.Argument(help="The checkpoints.")] = Path("data/tiny/models"),
    only: Annotated[list[str] | None, Opt(help="Only these roles (repeat).")] = None,
    threads: Annotated[int, Opt(help="Processor threads.")] = 2,
) -> None:
    """Measure the five checkpoints on held-out scenes."""
    from imagescope_tiny.train import evaluate_all

    evaluate_all(models, only=only, threads=threads)
