"""Commands about data and results: `data`, `submission`, `score`, `compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from imagescope.errors import UserError
from imagescope.terminal import Terminal, print_json, say

data_app = typer.Typer(help="Look at a benchmark's annotations and images.")
submission_app = typer.Typer(help="The evaluation servers' files.")
console = Terminal()
Opt = typer.Option
DataRoot = Annotated[Path, Opt(help="Where the datasets lie.")]
Dataset = Annotated[str, typer.Argument(help="A benchmark's name.")]


@data_app.command("check")
def data_check(
    dataset: Dataset,
    data_root: DataRoot = Path("data"),
    split: Annotated[str | None, Opt(help="val or test; else each that is there.")] = None,
    decode: Annotated[bool, Opt("--decode/--no-decode", help="Open every image.")] = True,
    as_json: Annotated[bool, Opt("--json", help="Counts as JSON.")] = False,
) -> None:
    """Count queries, images and targets; list what is missing or wrong. Status 1 if anything is."""
    from imagescope.benchmarks.check import check_all
    from imagescope.report.tables import print_check

    checks, absent = check_all(dataset, data_root, split, decode)
    if as_json:
        print_json(
            [{"name": c.benchmark.name, "split": c.benchmark.split, **c.counts()} for c in checks]
        )
    else:
        for checked in checks:
            print_check(checked, console)
    if absent:
        raise UserError("\n".join(dict.fromkeys(absent)))  # each split may say the same
    if not all(checked.ok for checked in checks):
        raise typer.Exit(1)


@data_app.command("export")
def data_export(
    dataset: Dataset,
    split: Annotated[str, Opt(help="val or test.")],
    output: Annotated[Path, Opt(help="The JSON lines file to write.")],
    data_root: DataRoot = Path("data"),
) -> None:
    """Write the queries, one JSON object a line; a dialogue gives one a turn."""
    from imagescope.benchmarks.check import export

    count = export(dataset, data_root, split, output)
    say(console, f"{count:,} queries: {output}")


@submission_app.command("check")
def submission_check(
    file: Annotated[Path, typer.Argument(help="A file for a benchmark's server.")],
    data_root: Annotated[
        Path | None, Opt(help="Where the datasets lie: ids and names are checked too.")
    ] = None,
    split: Annotated[str, Opt(help="The split it is for; servers score test.")] = "test",
    everything: Annotated[bool, Opt("--all", help="List every fault, not the first 50.")] = False,
) -> None:
    """Name every fault that makes a server refuse the file or costs points. Status 1 on any."""
    from imagescope.benchmarks.submissions import check

    findings = check(file, data_root, split)
    faults = [finding for finding in findings if not finding.warning]
    for finding in findings:
        if finding.warning:
            say(console, f"warning: {finding}")
    for fault in faults if everything else faults[:50]:
        say(console, f"fault: {fault}")
    if len(faults) > 50 and not everything:
        console.print(f"and {len(faults) - 50:,} more faults (--all lists them)")
    if faults:
        raise typer.Exit(1)
    console.print("no faults")


def score(
    dataset: Dataset,
    split: Annotated[str, Opt(help="One whose targets are public: val.")],
    predictions: Annotated[Path, Opt(help="A file in the format of the benchmark's server.")],
    data_root: DataRoot = Path("data"),
    as_json: Annotated[bool, Opt("--json", help="Metrics as JSON.")] = False,
) -> None:
    """Score a file in a server's format where targets are public."""
    from imagescope.benchmarks.submissions import score as score_file
    from imagescope.report.tables import print_metrics
    from imagescope.runs.folder import to_json

    metrics, findings = score_file(predictions, dataset, data_root, split)
    if as_json:
        print_json(to_json(metrics))
    else:
        print_metrics(metrics, f"{dataset} {split}, percent", console)
    for finding in findings[:10]:
        print(f"imagescope: {finding}", file=sys.stderr)
    if len(findings) > 10:
        print(f"imagescope: and {len(findings) - 10} more", file=sys.stderr)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or folders of runs; the first run is the baseline."),
    ],
    all_quoted: Annotated[
        bool, Opt("--all-quoted", help="Published figures of other and unknown encoders, too.")
    ] = False,
    form: Annotated[
        str, Opt("--format", help="table, markdown, csv, latex or json; to standard output.")
    ] = "table",
    as_json: Annotated[bool, Opt("--json", help="As --format json.")] = False,
    html: Annotated[
        Path | None, Opt(help="Write a page with all runs to this file: recall beside cost.")
    ] = None,
) -> None:
    """Metrics and cost of runs side by side, with paired significance and published figures."""
    from imagescope.report.formats import FORMATS
    from imagescope.report.leaderboard import write_leaderboard
    from imagescope.report.tables import print_comparison
    from imagescope.runs.compare import compare as compare_runs
    from imagescope.runs.folder import to_json

    form = "json" if as_json else form
    if form not in ("table", "json", *FORMATS):
        raise UserError(f"--format {form}: choose table, json, {', '.join(FORMATS)}")
    comparisons = compare_runs(runs, all_quoted=all_quoted)
    if form == "json":
        print_json(to_json(comparisons))
    elif form in FORMATS:
        sys.stdout.write(FORMATS[form](comparisons))
    elif not html:
        for comparison in comparisons:
            print_comparison(comparison, console)
    if html:
        page = write_leaderboard(comparisons, html)
        if form == "table":
            say(console, f"page: {page}")
