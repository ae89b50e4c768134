"""A page of any number of runs: what each comes to beside what it costs, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imagescope.benchmarks.metrics import tested
from imagescope.errors import UserError
from imagescope.files import write_text
from imagescope.report import charts
from imagescope.report.build import page_link, render
from imagescope.report.formats import COSTS, best, differences, spent
from imagescope.runs.compare import Comparison


def write_leaderboard(comparisons: Sequence[Comparison], page: Path) -> Path:
    """Writes one HTML file, which needs no other; returns its path. Raises UserError where it
    cannot be written."""
    runs = len({label for c in comparisons for label in c.runs if "+" not in label})
    context = {
        "runs": runs,
        "costs": COSTS,
        "comparisons": [_section(c, i, page) for i, c in enumerate(comparisons)],
    }
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_text(page, render("leaderboard.html.jinja", context))
    except OSError as error:
        raise UserError(f"cannot write the page to {page}: {error.strerror}") from None
    return page


def _section(comparison: Comparison, number: int, page: Path) -> dict[str, Any]:
    labels, top, own = list(comparison.runs), best(comparison), differences(comparison)
    rows = []
    for i, (label, run) in enumerate(comparison.runs.items()):
        cells = [
            {
                "value": value,
                "best": value is not None and len(labels) > 1 and value.value == top[j],
                "difference": own[label][j] if label in own else None,
                "digits": 4 if line.metric in comparison.lower_is_better else 2,
            }
            for j, line in enumerate(comparison.lines)
            for value in [line.values[i]]
        ]
        rows.append(
            {
                "label": label,
                "run": run,
                "encoder": comparison.encoders[label],
                "links": [(path, page_link(Path(path), page)) for path in run.paths],
                "cells": cells,
                "costs": spent(run.cost),
            }
        )
    lower = comparison.main in comparison.lower_is_better
    main = [line for line in comparison.lines if line.metric == comparison.main]
    if main:
        place = dict(zip(labels, main[0].values, strict=True))
        rows.sort(key=lambda row: _rank(place[str(row["label"])], lower))
    return {
        "id": f"comparison-{number}",
        "title": comparison.title,
        "first": labels[0],
        "main": comparison.main,
        "metrics": [line.metric for line in comparison.lines],
        "rows": rows,
        "chart": _chart(comparison, number),
        "partial": not all(run.cost.whole for run in comparison.runs.values()),
        "tested": tested(comparison.tests) if comparison.tests else "",
        "settings": comparison.settings,
        "notes": comparison.notes,
        "quoted": comparison.quoted,
        "quoted_metrics": list(dict.fromkeys(m for row in comparison.quoted for m in row.figures)),
    }


def _rank(value: Any, lower: bool) -> tuple[bool, float]:
    """Best first, runs without a value last."""
    return value is None, 0.0 if value is None else value.value if lower else -value.value


def _chart(comparison: Comparison, number: int) -> str:
    """The main metric against seconds; "" where fewer than two runs have both. A run whose answers
    came from the cache has no cost to show."""
    for line in comparison.lines:
        if line.metric == comparison.main:
            pairs = zip(comparison.runs.items(), line.values, strict=True)
            points = [
                (label, run.cost.model_seconds, value)
                for (label, run), value in pairs
                if value and run.cost.model_seconds is not None and run.cost.whole
            ]
            if len(points) > 1:
                lower = line.metric in comparison.lower_is_better
                return charts.cost_chart(points, line.metric, lower, f"cost{number}")
    return ""
