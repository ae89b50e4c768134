"""`imagescope run` and `imagescope plan`: the options of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from imagescope.terminal import Terminal

if TYPE_CHECKING:
    from imagescope.config import RunConfig

console = Terminal()
Method = partial(typer.Option, rich_help_panel="Method")
Benchmark = partial(typer.Option, rich_help_panel="Benchmark")
Models = partial(typer.Option, rich_help_panel="Models")
Places = partial(typer.Option, rich_help_panel="Places")
Running = partial(typer.Option, rich_help_panel="Running")
DEFAULTS = {  # where it is no single value of RunConfig
    "split": "from the config",
    "prompts": "the model set's, else from the config",
    "models": "paper",
    "cache": "IMAGESCOPE_CACHE, else in --image-db",
}


class RunCommand(TyperCommand):
    """A command whose help shows its options in groups, with the defaults of RunConfig and of
    ImageScope's options. They are imported for the help alone."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        from imagescope.config import RunConfig
        from imagescope.registry import METHODS

        fields = {**METHODS.load("imagescope").Options.model_fields, **RunConfig.model_fields}
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            names, text = parameter.get_help_record(ctx) or ("", "")
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            group = getattr(parameter, "rich_help_panel", None) or kind
            field = fields.get(str(parameter.name))
            default = field.default if field and not field.is_required() else None
            if isinstance(default, tuple):
                default = " ".join(default)
            default = DEFAULTS.get(str(parameter.name), default)
            text += f"  [default: {default}]" if default not in (None, {}) else ""
            groups.setdefault(group, []).append((names, text))
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _configure(
    config: Annotated[str, typer.Argument(help="A dataset's YAML, as configs/CIRR.yaml.")],
    method: Annotated[str | None, Method(help="A name of `imagescope methods`.")] = None,
    option: Annotated[
        list[str] | None, Method(metavar="NAME=VALUE", help="An option of it (repeat).")
    ] = None,
    split: Annotated[str | None, Benchmark(help="val or test.")] = None,
    tau: Annotated[float | None, Method(help="Weight of captions against images, 0 to 1.")] = None,
    top_k: Annotated[int | None, Method(help="Candidates that are verified.")] = None,
    alpha: Annotated[int | None, Method(help="Candidates compared with the reference.")] = None,
    stages: Annotated[str | None, Method(help="s1, s1 s2, or s1 s2 s3.")] = None,
    subset: Annotated[
        bool | None, Benchmark("--subset/--no-subset", help="Rank a query's image set alone.")
    ] = None,
    shared_concept: Annotated[
        bool | None,
        Benchmark("--shared-concept/--no-shared-concept", help="Add it to the instruction."),
    ] = None,
    protocol: Annotated[str | None, Benchmark(help="paper or official.")] = None,
    run_name: Annotated[str | None, Places(help="Folder under runs/<DATASET>.")] = None,
    data_root: Annotated[Path | None, Places(help="Where the datasets lie.")] = None,
    image_db: Annotated[Path | None, Places(help="Where captions and embeddings are kept.")] = None,
    runs: Annotated[Path | None, Places(help="Where run folders are made.")] = None,
    models: Annotated[str | None, Models(help="A set of configs/models, or a file.")] = None,
    prompts: Annotated[str | None, Method(help="A prompt set, or a folder.")] = None,
    engine: Annotated[str | None, Models(help="auto, transformers, vllm or openai.")] = None,
    reasoner: Annotated[str | None, Models(help="Checkpoint: folder or hub id.")] = None,
    captioner: Annotated[str | None, Models(help="Checkpoint: folder or hub id.")] = None,
    verifier: Annotated[str | None, Models(help="Checkpoint: folder or hub id.")] = None,
    evaluator: Annotated[str | None, Models(help="Checkpoint: folder or hub id.")] = None,
    clip: Annotated[str | None, Models(help="Encoder checkpoint: folder or hub id.")] = None,
    cache: Annotated[Path | None, Places(help="The response cache's file.")] = None,
    replay: Annotated[Path | None, Places(help="Run from a bundle alone, without models.")] = None,
    ray_address: Annotated[str | None, Models(help="A running Ray cluster to join.")] = None,
    reading: Annotated[
        str | None,
        Running(help="How answers are read: tolerant, or paper (as the authors' code does)."),
    ] = None,
    fail_on_error: Annotated[
        float | None, Running(help="Share of a step's requests that may get no answer, 0 to 1.")
    ] = None,
    preflight: Annotated[
        bool | None, Running("--preflight/--no-preflight", help="Look first at all that is needed.")
    ] = None,
    limit: Annotated[int | None, Benchmark(help="Only the first so many queries.")] = None,
) -> Any:
    options = dict(locals())  # every option by its name; None: the config decides
    from imagescope.config import load_run, parse_options

    roles = ("captioner", "reasoner", "verifier", "evaluator", "clip")
    options["options"] = parse_options(options.pop("option") or [])
    checkpoints = {role: model for role in roles if (model := options.pop(role))}
    if clip := checkpoints.pop("clip", None):
        checkpoints["encoder"] = clip
    return load_run(options.pop("config"), options, checkpoints)


def _with_run_options(action: Callable[[Any], None]) -> Callable[..., None]:
    """A command that takes the options of a run, and hands over what they come to."""

    @wraps(_configure)
    def command(**options: Any) -> None:
        action(_configure(**options))

    command.__name__, command.__doc__ = action.__name__, action.__doc__
    return command


@_with_run_options
def run(config: RunConfig) -> None:
    """Run a method on a benchmark and write a run folder.

    Where no option is given the config decides; the defaults shown are those of a config that says
    nothing, and of ImageScope.
    """
    from imagescope.report.summary import print_summary
    from imagescope.runs.pipeline import run as run_pipeline

    result, log = run_pipeline(config), logging.getLogger("imagescope")
    try:
        from imagescope.report.build import write_report

        kept = result.image_db / ".thumbnails" if result.image_db else None
        page = write_report(result.folder, result.images, result.traces, kept)
        log.info("report: %s", page)
    except Exception as error:  # the results are written; a page must not take them along
        log.warning("no report: %s (later: imagescope report %s)", error, result.folder)
    print_summary(result, console)


@_with_run_options
def plan(config: RunConfig) -> None:
    """Say what a run would ask of the models, before anything runs.

    For an index of your own pictures: imagescope index FOLDER --plan
    """
    from imagescope.report.tables import print_plan
    from imagescope.runs.plan import forecast

    logging.getLogger("imagescope").setLevel(logging.WARNING)  # the table says it all
    print_plan(config, forecast(config), console)
