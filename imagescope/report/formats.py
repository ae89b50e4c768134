"""Comparisons of runs as text for papers and spreadsheets: Markdown, CSV, LaTeX; a run a row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from imagescope.benchmarks.metrics import Difference, tested
from imagescope.benchmarks.published import Quoted
from imagescope.records import Estimate
from imagescope.runs.compare import Comparison
from imagescope.runs.measured import Cost
from imagescope.terminal import printable

COSTS = ("tokens in", "tokens out", "model s")  # of a query, less the gallery's
LEVEL = 0.05  # of p, below which LaTeX marks a difference
TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def spent(cost: Cost) -> list[str]:
    """A cost's figures, "?" for what is unknown; "≥": answers from the cache cost nothing."""
    least = "" if cost.whole else "≥ "
    figures = (cost.tokens_in, cost.tokens_out, cost.model_seconds)
    return ["?" if n is None else f"{least}{n:,.{2 if n >= 1 or not n else 4}f}" for n in figures]


def differences(comparison: Comparison) -> dict[str, list[Difference | None]]:
    """run -> its differences from the first run, in the order of the metrics; none of the first."""
    labels = list(comparison.runs)[1:]
    return {
        label: [line.differences[i] for line in comparison.lines] for i, label in enumerate(labels)
    }


def best(comparison: Comparison) -> list[float | None]:
    """The best value of each metric, None where no run has one."""
    values = []
    for line in comparison.lines:
        known = [estimate.value for estimate in line.values if estimate]
        pick = min if line.metric in comparison.lower_is_better else max
        values.append(pick(known) if known else None)
    return values


# --------------------------------------------------------------------------------------- Markdown


def markdown(comparisons: Sequence[Comparison]) -> str:
    """A section a comparison: the runs, their differences from the first, settings, and figures of
    papers. Of each metric the best is bold."""
    return "\n\n".join("\n\n".join(_sections(comparison)) for comparison in comparisons) + "\n"


def _sections(comparison: Comparison) -> Iterator[str]:
    metrics, top = [line.metric for line in comparison.lines], best(comparison)
    yield f"## {_md(comparison.title)}"
    head = ["run", "method", "encoder", *metrics, *COSTS]
    rows = []
    for i, (label, run) in enumerate(comparison.runs.items()):
        values = [
            _value(line.values[i], bold=_is(line.values[i], top[j]))
            for j, line in enumerate(comparison.lines)
        ]
        words = (label, run.method.name, comparison.encoders[label])
        rows.append([*map(_md, words), *values, *spent(run.cost)])
    yield _md_table(head, rows, words=3)
    notes = ["percent (BRI: nats) after the last stage, with 95 % bootstrap intervals over queries"]
    notes += ["tokens and seconds: of a query, less the gallery's"]
    if not all(run.cost.whole for run in comparison.runs.values()):
        notes.append("≥: answers from the cache cost nothing")
    yield "\n".join(f"- {_md(note)}" for note in (*notes, *comparison.notes))
    if comparison.tests:
        first = next(iter(comparison.runs))
        cells = {label: map(_tested, row) for label, row in differences(comparison).items()}
        yield f"Less {first}'s; p: {tested(comparison.tests)}."
        yield _md_table(["run", *metrics], [[label, *row] for label, row in cells.items()], words=1)
    if comparison.settings:
        yield "The runs differ in:"
        rows = [[_md(name), *map(_md, v.values())] for name, v in comparison.settings.items()]
        yield _md_table(["setting", *comparison.runs], rows, words=99)
    if comparison.quoted:
        yield "Quoted, not measured here:"
        names = _quoted_metrics(comparison.quoted)
        rows = [
            [_md(row.method), _md("; ".join(filter(None, (row.encoder, *row.unsaid)))),
             *(f"{row.figures[m]:.2f}" if m in row.figures else "" for m in names), _md(row.source)]
            for row in comparison.quoted
        ]  # fmt: skip
        yield _md_table(["method", "encoder", *names, "from"], rows, words=2)
    yield "\n".join(
        f"- {label}: {', '.join(_md(path) for path in run.paths)}"
        for label, run in comparison.runs.items()
    )


def _value(estimate: Estimate | None, bold: bool) -> str:
    if estimate is None:
        return ""
    value, _, interval = f"{estimate:.2f}".partition(" ")
    return f"{f'**{value}**' if bold else value} {interval}"


def _is(estimate: Estimate | None, value: float | None) -> bool:
    return estimate is not None and estimate.value == value


def _tested(difference: Difference | None) -> str:
    if difference is None:
        return ""
    p = difference.significance
    return f"{difference:.2f}, p {p.replace('<', '&lt;') if p.startswith('<') else f'= {p}'}"


def _md_table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """words: so many columns hold words, the others figures, which stand on the right."""
    sides = ["---" if i < words else "--:" for i in range(len(head))]
    lines = [[*map(_md, head)], sides, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _md(text: str) -> str:
    """A text that is no markup."""
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", printable(text))


# ------------------------------------------------------------------------------------------ LaTeX


def latex(comparisons: Sequence[Comparison]) -> str:
    """A booktabs table a comparison: the runs, and below them papers' figures in italics. Of each
    metric the best run is bold, and a dagger marks a difference from the first run."""
    return "\n\n".join("\n".join(_tex_lines(comparison)) for comparison in comparisons) + "\n"


def _tex_lines(comparison: Comparison) -> Iterator[str]:
    metrics, top = [line.metric for line in comparison.lines], best(comparison)
    own = differences(comparison)
    yield f"% {printable(comparison.title)}; needs \\usepackage{{booktabs}}"
    for label, run in comparison.runs.items():
        yield f"% {label}: {printable(' '.join(run.paths))}"
    if comparison.tests:
        yield f"% dagger: p < {LEVEL} against the first row; {tested(comparison.tests)}"
    names = metrics or _quoted_metrics(comparison.quoted)
    yield rf"\begin{{tabular}}{{ll{'r' * (len(names) + 1)}}}"
    yield r"\toprule"
    yield _tex_row(["Method", "Encoder", *map(_tex, names), r"Model s\,/\,query"])
    yield r"\midrule"
    for i, (label, run) in enumerate(comparison.runs.items()):
        cells = []
        for j, line in enumerate(comparison.lines):
            estimate = line.values[i]
            cell = f"{estimate.value:.2f}" if estimate else "--"
            cell = rf"\textbf{{{cell}}}" if _is(estimate, top[j]) else cell
            difference = own[label][j] if label in own else None
            p = difference.corrected if difference else None
            cells.append(cell + (r"$^{\dagger}$" if p is not None and p < LEVEL else ""))
        cells = cells or ["--"] * len(names)
        seconds = spent(run.cost)[2].replace("≥ ", r"$\geq$")
        words = (run.method.name, comparison.encoders[label])
        yield _tex_row([*map(_tex, words), *cells, seconds])
    if comparison.quoted:
        yield r"\midrule"
        yield rf"\multicolumn{{{len(names) + 3}}}{{l}}{{\emph{{quoted, not measured here}}}} \\"
    for row in comparison.quoted:
        figures = (f"{row.figures[m]:.2f}" if m in row.figures else "--" for m in names)
        cells = [_tex(row.method), _tex(row.encoder), *figures]
        yield _tex_row([*(rf"\textit{{{cell}}}" for cell in cells), "--"])
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _tex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _tex(text: str) -> str:
    """A text that is no command."""
    return "".join(TEX.get(character, character) for character in printable(text))


# -------------------------------------------------------------------------------------------- CSV


def comma_separated(comparisons: Sequence[Comparison]) -> str:
    """A row a run with all its figures, in full; columns that a benchmark has not are empty."""
    rows = [row for comparison in comparisons for row in _csv_rows(comparison)]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def _csv_rows(comparison: Comparison) -> Iterator[dict[str, str | float | bool | None]]:
    own = differences(comparison)
    for i, (label, run) in enumerate(comparison.runs.items()):
        row: dict[str, str | float | bool | None] = {
            "benchmark": comparison.title,
            "run": label,
            "folders": " ".join(run.paths),
            "method": run.method.name,
            "encoder": comparison.encoders[label],
            "tokens in a query": run.cost.tokens_in,
            "tokens out a query": run.cost.tokens_out,
            "model seconds a query": run.cost.model_seconds,
            "cost is whole": run.cost.whole,
        }
        for j, line in enumerate(comparison.lines):
            if estimate := line.values[i]:
                row |= _numbered(line.metric, estimate)
            if difference := (own[label][j] if label in own else None):
                row |= _numbered(f"{line.metric} less the first's", difference)
                row[f"{line.metric} p"] = difference.p
                row[f"{line.metric} p (Holm)"] = difference.corrected
        yield row


def _numbered(name: str, estimate: Estimate) -> dict[str, str | float | bool | None]:
    return {name: estimate.value, f"{name}, low": estimate.low, f"{name}, high": estimate.high}


def _cell(value: str | float | bool | None) -> str | float | bool | None:
    """A text that a spreadsheet does not take for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _quoted_metrics(quoted: Sequence[Quoted]) -> list[str]:
    return list(dict.fromkeys(name for row in quoted for name in row.figures))


FORMATS: Mapping[str, Callable[[Sequence[Comparison]], str]] = {
    "markdown": markdown,
    "csv": comma_separated,
    "latex": latex,
}
