"""Charts as SVG inside the page: matplotlib draws, the page's style sheet colours.

Each colour is drawn as a placeholder and replaced by a custom property of the style sheet, so one
drawing serves light and dark; text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from imagescope.records import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "#000001": "var(--ink)",
    "#000002": "var(--muted)",
    "#000003": "var(--line)",
    "#000004": "var(--paper)",
    "#000011": "var(--stage-1)",
    "#000012": "var(--stage-2)",
    "#000013": "var(--stage-3)",
    "#000021": "var(--helped)",
    "#000022": "var(--hurt)",
    "#000023": "var(--unchanged)",
    "#000031": "var(--target)",
}
INK, MUTED, LINE, PAPER, STAGE_1, STAGE_2, STAGE_3, HELPED, HURT, UNCHANGED, TARGET = COLOURS
TEXT = 11.5  # points: 11 pixels and more where a chart is as narrow as on a phone of 390
STAGE_COLOURS = (STAGE_1, STAGE_2, STAGE_3)
STYLE: Any = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",
    "svg.hashsalt": "imagescope",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": TEXT,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}
Scores = Mapping[str, Mapping[str, Any]]  # stage -> metric -> Estimate, or part -> Estimate


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element for the page `name` prefixes its ids."""
    file = io.StringIO()
    figure.savefig(
        file,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1">', text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for placeholder, variable in COLOURS.items():
        text = text.replace(placeholder, variable)
    return text


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def families(scores: Scores) -> dict[str, list[str]]:
    """The metrics in percent of queries, grouped by what stands before the '@'."""
    found: dict[str, list[str]] = {}
    for metrics in scores.values():
        for name, value in metrics.items():
            head, at, _ = name.partition("@")
            if at and isinstance(value, Estimate) and name not in found.get(head, []):
                found.setdefault(head, []).append(name)
    return found


def stage_charts(scores: Scores, quoted: Mapping[str, float]) -> list[tuple[str, str]]:
    """[(family, svg)]: each metric of a family as a line through the stages, with its intervals.

    quoted: metric -> the paper's figure, a diamond at the right.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return [
            (family, _stage_chart(scores, names, quoted, f"stages{number}"))
            for number, (family, names) in enumerate(families(scores).items())
        ]


def _stage_chart(
    scores: Scores, names: Sequence[str], quoted: Mapping[str, float], ident: str
) -> str:
    stages = [s for s in scores if any(n in scores[s] for n in names)]
    figure, (axes,) = _figure(4.6, 3.1)
    ends: list[tuple[float, str]] = []
    for name in names:
        points = [(i, scores[s][name]) for i, s in enumerate(stages) if name in scores[s]]
        x, y = [i for i, _ in points], [e.value for _, e in points]
        axes.plot(x, y, color=STAGE_2, linewidth=1.6, zorder=2)
        for i, estimate in points:
            colour = STAGE_COLOURS[i % 3]
            axes.plot([i, i], [estimate.low, estimate.high], color=colour, linewidth=2.2,
                      alpha=0.45, solid_capstyle="round", zorder=2)  # fmt: skip
            axes.plot(i, estimate.value, "o", color=colour, markersize=6.5, clip_on=False,
                      markeredgecolor=PAPER, markeredgewidth=1.2, zorder=3)  # fmt: skip
        ends.append((y[-1], name))
        if name in quoted:
            axes.plot(len(stages) - 1 + 0.13, quoted[name], "D", color=TARGET, markersize=5,
                      markerfacecolor="none", markeredgewidth=1.4, zorder=4)  # fmt: skip
    top = max(e for s in stages for n in names if n in scores[s] for e in [scores[s][n].high])
    low = min(e for s in stages for n in names if n in scores[s] for e in [scores[s][n].low])
    low, top = max(0.0, low - 6), min(100.0, top + 6)
    axes.set_ylim(low, top)
    right = len(stages) - 1
    axes.set_xlim(-0.25, right + 0.75)
    for place, (value, name) in zip(_apart(ends, (top - low) * 0.075), ends, strict=True):
        axes.text(right + 0.22, place, f"{name}  {value:.1f}", va="center")
    axes.set_xticks(range(len(stages)), stages)
    axes.yaxis.set_major_formatter("{x:.0f} %")
    return _svg(figure, ident)


def _apart(ends: Sequence[tuple[float, str]], gap: float) -> list[float]:
    """Heights for labels at the given values, none nearer than `gap` to the next."""
    order = sorted(range(len(ends)), key=lambda i: ends[i][0])
    place = [value for value, _ in ends]
    for _ in range(50):
        for below, above in pairwise(order):
            lack = gap - (place[above] - place[below])
            if lack > 1e-9:
                place[below] -= lack / 2
                place[above] += lack / 2
    return place


def rounds(scores: Scores) -> dict[str, list[str]]:
    """The metrics that have a value per round of a dialogue: name -> 'round 0', 'round 1' ..."""
    found: dict[str, list[str]] = {}
    for metrics in scores.values():
        for name, value in metrics.items():
            if isinstance(value, Mapping) and value and all(k.startswith("round ") for k in value):
                found.setdefault(name, list(value))
    return found


def round_charts(scores: Scores) -> list[tuple[str, str]]:
    """[(metric, svg)]: a metric over the rounds of a dialogue, a line with its band per stage."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        return [
            (name, _round_chart(scores, name, labels, f"rounds{number}"))
            for number, (name, labels) in enumerate(rounds(scores).items())
        ]


def _round_chart(scores: Scores, name: str, labels: Sequence[str], ident: str) -> str:
    figure, (axes,) = _figure(4.6, 3.3)
    places = [int(label.removeprefix("round ")) for label in labels]
    ends = []
    stages = [s for s in scores if name in scores[s]]
    for i, stage in enumerate(stages):
        found = [scores[stage][name].get(label) for label in labels]
        points = [(x, e) for x, e in zip(places, found, strict=True) if isinstance(e, Estimate)]
        if not points:
            continue
        x = [p for p, _ in points]
        colour = STAGE_COLOURS[i % 3]
        axes.fill_between(x, [e.low for _, e in points], [e.high for _, e in points],
                          color=colour, alpha=0.13, linewidth=0)  # fmt: skip
        axes.plot(x, [e.value for _, e in points], "o-", color=colour, linewidth=1.8, markersize=5,
                  markeredgecolor=PAPER, markeredgewidth=1)  # fmt: skip
        ends.append((points[-1][1].value, stage))
    low, top = axes.get_ylim()
    span = max(places) - min(places) or 1
    axes.set_xlim(min(places) - 0.03 * span, max(places) + 0.34 * span)
    for place, (value, label) in zip(_apart(ends, (top - low) * 0.07), ends, strict=True):
        axes.text(max(places) + 0.03 * span, place, f"{label}  {value:.1f}", va="center")
    axes.set_xticks(places)
    axes.set_xlabel("round")
    axes.yaxis.set_major_formatter("{x:.0f} %")
    return _svg(figure, ident)


def movement_chart(
    before: Sequence[int | None], after: Sequence[int | None], reach: int, labels: tuple[str, str]
) -> str:
    """Target ranks before and after on logarithmic axes; a dot's area is its number of queries.

    reach: the ranks that later stages can reorder (the run's top_k; 0: all), a dashed line.
    """
    import matplotlib

    counts = Counter(
        (_binned(b + 1), _binned(a + 1))
        for b, a in zip(before, after, strict=True)
        if b is not None and a is not None
    )
    if not counts:
        return ""
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure, (axes,) = _figure(4.6, 4.3)
        last = 1.35 * max(max(pair) for pair in counts)
        largest = max(counts.values())
        for pairs, colour in _by_colour(counts):
            axes.scatter(
                [b for b, _ in pairs],
                [a for _, a in pairs],
                s=[12 + 420 * counts[p] / largest for p in pairs],
                color=colour,
                alpha=0.72,
                linewidths=0,
                zorder=3,
            )
        axes.plot([0.75, last], [0.75, last], color=MUTED, linewidth=0.8, zorder=1)
        if 0 < reach < last:
            axes.axvline(reach + 0.5, color=MUTED, linewidth=0.9, linestyle=(0, (3, 3)), zorder=1)
            axes.text(reach * 0.94, last * 0.82, f"top {reach}", color=MUTED, ha="right")
        for axis, label in ((axes.xaxis, labels[0]), (axes.yaxis, labels[1])):
            axis.set_label_text(f"target's rank after {label.lower()}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(0.75, last)
        axes.set_ylim(0.75, last)
        ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 300, 1000, 3000, 10000, 50000) if t < last]
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.set_yticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
        axes.text(0, 1.02, "▲ hurt", color=HURT, transform=axes.transAxes)
        axes.text(1, 1.02, "helped ▼", color=HELPED, transform=axes.transAxes, ha="right")
        return _svg(figure, "movement")


def _binned(rank: int) -> float:
    """Ranks are exact to 20; beyond, a tenth of a decade is one dot."""
    return rank if rank <= 20 else 10 ** (round(10 * math.log10(rank)) / 10)


def _by_colour(
    counts: Mapping[tuple[float, float], int],
) -> list[tuple[list[tuple[float, float]], str]]:
    return [
        ([p for p in counts if p[0] == p[1]], UNCHANGED),
        ([p for p in counts if p[1] < p[0]], HELPED),
        ([p for p in counts if p[1] > p[0]], HURT),
    ]


def cost_chart(
    points: Sequence[tuple[str, float, Estimate]], metric: str, lower: bool, ident: str
) -> str:
    """A metric (with its interval) against what a query costs, a labelled dot a run.

    points: (label, seconds, estimate).  lower: whether less of the metric is better. The line joins
    the runs that no other beats at the same cost or less.
    """
    import matplotlib

    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure, (axes,) = _figure(4.6, 3.1)
        front = frontier([(seconds, e.value) for _, seconds, e in points], lower)
        axes.plot([x for x, _ in front], [y for _, y in front], color=TARGET, linewidth=1.2,
                  drawstyle="steps-post", zorder=2)  # fmt: skip
        for label, seconds, e in points:
            axes.plot([seconds, seconds], [e.low, e.high], color=STAGE_2, linewidth=2.2, alpha=0.45,
                      solid_capstyle="round", zorder=2)  # fmt: skip
            axes.plot(seconds, e.value, "o", color=STAGE_2, markersize=7, markeredgecolor=PAPER,
                      markeredgewidth=1.2, zorder=3)  # fmt: skip
            axes.annotate(label, (seconds, e.value), (7, 5), textcoords="offset points", zorder=4)
        costs = [seconds for _, seconds, _ in points]
        if min(costs) > 0 and max(costs) > 20 * min(costs):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
        else:
            axes.set_xlim(left=0, right=1.12 * max(costs) or 1)
        axes.set_xlabel("seconds of model time a query")
        axes.set_title(metric, loc="left", color=MUTED, fontsize=TEXT)
        return _svg(figure, ident)


def frontier(points: Sequence[tuple[float, float]], lower: bool) -> list[tuple[float, float]]:
    """Of (cost, value) those whose value none of the same cost or less reaches, by cost. lower:
    whether less of the value is better."""
    front = list[tuple[float, float]]()
    for cost, value in sorted(points, key=lambda p: (p[0], p[1] if lower else -p[1])):
        if not front or (value < front[-1][1] if lower else value > front[-1][1]):
            front.append((cost, value))
    return front
