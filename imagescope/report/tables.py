"""The terminal's tables: comparisons, plans, checks of benchmarks, metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from imagescope.benchmarks.check import Checked
from imagescope.benchmarks.metrics import Difference, tested
from imagescope.benchmarks.published import Quoted
from imagescope.config import RunConfig
from imagescope.records import Estimate
from imagescope.report.formats import COSTS, spent
from imagescope.runs.compare import Comparison
from imagescope.runs.plan import memory
from imagescope.runs.plan_context import Forecast
from imagescope.terminal import say, table

LINES = 20  # of one kind of fault


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Which run is which, in what they differ and what each cost, a row a run for each metric, what
    the stages brought, and papers' figures. It is no wider for many runs than for two."""
    runs, title = comparison.runs, comparison.title
    for label, run in runs.items():
        encoder = comparison.encoders[label]
        say(console, f"{label}: {' '.join(run.paths)}{encoder and f', encoder {encoder}'}")
    if comparison.settings:
        rows = [
            ["" if i else name, ", ".join(labels), value or "–"]
            for name, values in comparison.settings.items()
            for i, (value, labels) in enumerate(_by_value(values).items())
        ]
        title_of_settings = f"{title}: the runs differ in"
        console.print(
            table("setting", "runs", "value", rows=rows, title=title_of_settings, words=3)
        )
    costs = [[label, run.method.name, *spent(run.cost)] for label, run in runs.items()]
    columns = ("run", "method", *COSTS)
    title_of_costs = f"{title}: cost of a query, less the gallery's"
    console.print(table(*columns, rows=costs, title=title_of_costs, words=2))
    if not all(run.cost.whole for run in runs.values()):
        console.print("≥: answers from the cache cost nothing there")
    rows = [
        ["" if i else line.metric, label, f"{value:.2f}" if value else "", *_difference(change)]
        for line in comparison.lines
        for i, (label, value, change) in enumerate(
            zip(runs, line.values, [None, *line.differences], strict=True)
        )
    ]
    if rows:
        names = ("metric", "run", "value", f"less {next(iter(runs))}'s", "p")
        last_stages = f"{title}: last stages, 95 % intervals"
        whole = ("metric", "run", "p")
        console.print(table(*names, rows=rows, title=last_stages, words=2, whole=whole))
        _print_tests(comparison.tests, console)
    gains = [
        [label, stages, metric, *_difference(difference)]
        for label, pairs in comparison.gains.items()
        for stages, differences in pairs.items()
        for metric, difference in differences.items()
    ]
    if gains:
        names = ("run", "stages", "metric", "difference", "p")
        console.print(table(*names, rows=gains, title="what the stages brought", words=3))
        _print_tests(len(gains), console)
    for note in comparison.notes:
        say(console, note)
    if comparison.quoted:
        _print_quoted(comparison.quoted, console)


def _by_value(values: Mapping[str, str]) -> dict[str, list[str]]:
    """value -> the runs that have it."""
    runs: dict[str, list[str]] = {}
    for label, value in values.items():
        runs.setdefault(value, []).append(label)
    return runs


def _difference(difference: Difference | None) -> tuple[str, str]:
    """Its cell, and that of p."""
    return (f"{difference:.2f}", difference.significance) if difference else ("", "")


def _print_tests(count: int, console: Console) -> None:
    if count:
        say(console, f"p: {tested(count)}")


def _print_quoted(quoted: Sequence[Quoted], console: Console) -> None:
    """Their sources, which are long, stand below the table."""
    metrics = list(dict.fromkeys(name for row in quoted for name in row.figures))
    sources = list(dict.fromkeys(row.source for row in quoted))
    rows = []
    for row in quoted:
        figures = (f"{row.figures[m]:.2f}" if m in row.figures else "" for m in metrics)
        encoder = "; ".join(filter(None, (row.encoder, *row.unsaid)))
        rows.append([row.method, encoder, *figures, f"[{sources.index(row.source) + 1}]"])
    names = [name.replace("@", "\n@") for name in metrics]
    columns, title = ("method", "encoder", *names, "from"), "quoted, not measured here"
    console.print(table(*columns, rows=rows, title=title, words=2, whole=[*names, "from"]))
    say(console, *(f"[{number}] {source}" for number, source in enumerate(sources, 1)))


def print_plan(config: RunConfig, steps: Mapping[str, Forecast], console: Console) -> None:
    """The forecast of a run, the models' memory, and what it all adds up to."""
    rows = []
    for step, row in steps.items():
        about = "" if row.exact else "~ "
        countable = row.identified and (row.exact or row.cached)
        tokens = row.prompt_tokens if row.expected_tokens is None else row.expected_tokens
        cells = (
            f"{about}{row.wanted:,}",
            f"{about}{row.wanted - row.to_ask:,}" if countable else "?",
            f"{about}{row.to_ask:,}",
            f"{row.images:,}" if row.images else "",
            f"{tokens:,.0f}",
            f"{row.expected_output:,.0f}" if row.expected_output is not None else "?",
            f"{row.expected_seconds:,.0f} s" if row.expected_seconds is not None else "?",
        )
        rows.append([step, *cells])
    names = ("step", "requests", "cached", "to ask", "images", "tokens in", "out", "time")
    console.print(table(*names, rows=rows))
    for name in dict.fromkeys(row.role for row in steps.values()):
        model = getattr(config.models, name)
        say(console, f"{name}: {model.model}, {memory(model)}")
    seconds = [row.expected_seconds for row in steps.values() if row.expected_seconds is not None]
    if len(seconds) < len(steps):
        say(console, "time: unknown until a run of these models has been measured on this machine")
    else:
        say(console, f"time: about {sum(seconds):,.0f} s, by the newest runs on this machine")


def print_check(checked: Checked, console: Console) -> None:
    """Counts beside the published ones, then what is wrong."""
    benchmark, counts = checked.benchmark, checked.counts()
    published = benchmark.spec.splits[benchmark.split]
    expected = benchmark.counts or published
    beside = dict(zip(("queries", "gallery"), expected, strict=True))
    rows = [
        [label, "hidden" if count is None else count, beside.get(label, "")]
        for label, count in counts.items()
        if label != "texts" or count != counts["queries"]
    ]
    source = "published" if expected == published else "declared"
    title = f"{benchmark.name} {benchmark.split}"
    console.print(table("", "here", source, rows=rows, title=title))
    if checked.no_gallery:
        say(console, "no gallery: neither its images nor a list of them is here")
    _print_lines([str(fault) for fault in checked.faults], "faults", console)
    files = benchmark.gallery.files
    if files and len(checked.missing) == len(files):
        say(console, f"no image is here; looked for {next(iter(files.values()))} and so on")
        for place in dict.fromkeys(benchmark.image_places):
            say(console, f"  looked in {place}")
    else:
        costs = checked.costs()
        missing = [f"missing: {files[n]}{costs.get(n, '')}" for n in sorted(checked.missing)]
        _print_lines(missing, "missing", console)
        unreadable = [f"{why}{costs.get(n, '')}" for n, why in checked.unreadable.items()]
        _print_lines(unreadable, "unreadable", console)


def _print_lines(lines: Sequence[str], what: str, console: Console) -> None:
    for line in lines[:LINES]:
        say(console, f"  {line}")
    if len(lines) > LINES:
        say(console, f"  and {len(lines) - LINES:,} more {what}")


def print_metrics(metrics: Mapping[str, Any], title: str, console: Console) -> None:
    """Metrics with their intervals, nested ones below their name."""
    rows = []
    for name, value in metrics.items():
        parts = {"": value} if isinstance(value, Estimate) else value
        for part, e in parts.items():
            label = f"{name}: {part}" if part else name
            rows.append([label, f"{e.value:.2f}", f"{e.low:.2f} to {e.high:.2f}"])
    console.print(table("metric", "value", "95 % interval", rows=rows, title=title))
