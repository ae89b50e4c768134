"""What a run's manifest and metrics say, as the page shows it.

A manifest may be partial (a run that failed) or from another version: what is absent is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from imagescope import benchmarks
from imagescope.benchmarks import Spec
from imagescope.errors import UserError
from imagescope.methods.base import stage_numbers
from imagescope.records import Estimate
from imagescope.report.charts import Scores
from imagescope.runs.manifest import Manifest

ROLES = ("captioner", "reasoner", "encoder", "verifier", "evaluator")
DATABASE = {  # steps of no stage
    "captions": "Captions of the gallery",
    "embedding": "Embeddings of the gallery",
}
COMPLETE = {"complete": "Over the queries that lack no image"}
Table = Mapping[str, Any]


def scores(metrics: Table) -> dict[str, dict[str, Any]]:
    """metrics.json without what is no stage (the reason why there are none); a metric per round of
    a dialogue, as Hits@10/3, becomes a part of its metric, as {"Hits@10": {"round 3": ...}}."""
    return {s: _by_round(found) for s, found in metrics.items() if isinstance(found, Mapping)}


def _by_round(metrics: Table) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        metric, slash, turn = name.rpartition("/")
        if slash and turn.isdigit():
            found.setdefault(metric, {})[f"round {turn}"] = value
        else:
            found[name] = value
    return found


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What ran, as (label, value) pairs."""
    config, ran = manifest.config, manifest.method
    found: dict[str, Any] = {
        "Method": f"{ran.name} ({ran.label})",
        "Settings": ", ".join(f"{k} {_plain(v)}" for k, v in ran.options.items() if v is not None),
        "Protocol": config.get("protocol"),
        "Models": config.get("models_name"),
        "Prompts": config.get("prompts"),
        "Reading": None if config.get("reading") == "tolerant" else config.get("reading"),
        "Commit": manifest.get("git"),
        "Started": _moment(manifest.get("started")),
        "Took": duration(manifest["seconds"]) if _is_number(manifest.get("seconds")) else None,
        "Status": None if manifest.status in ("finished", "unknown") else manifest.status,
        "Limit": f"first {config['limit']} queries" if config.get("limit") else None,
    }
    found["Options"] = ", ".join(_options(manifest))
    return [(label, str(value)) for label, value in found.items() if value]


def spec_of(manifest: Manifest) -> Spec | None:
    """The run's benchmark; None for one of another version, or of a package that is not here."""
    try:
        return benchmarks.spec(str(manifest.config.get("dataset")))
    except UserError:
        return None


def _options(manifest: Manifest) -> Iterator[str]:
    """The benchmark's options that are on."""
    spec = spec_of(manifest)
    options = benchmarks.options_of(manifest.config) if spec else {}
    for name, value in options.items():
        if value is True:
            yield name.replace("_", " ")


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _moment(text: Any) -> str | None:
    try:
        return datetime.fromisoformat(text).strftime("%-d %B %Y, %H:%M")
    except (TypeError, ValueError):
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def models(manifest: Manifest) -> list[dict[str, str]]:
    """One row per role that was asked: role, model, engine, and what else identifies it."""
    rows = []
    for role in ROLES:
        chosen = manifest.part("config", "models", role)
        used = manifest.part("models", role)
        if not used and (manifest.part("models") or not chosen):  # not this method's, or unknown
            continue
        engine = used.get("engine") or used.get("library")
        revision = used.get("revision") or chosen.get("revision") or used.get("sha256") or ""
        rows.append(
            {
                "role": role,
                "model": str(used.get("model") or chosen.get("model") or ""),
                "family": manifest.encoder_family if role == "encoder" else "",
                "engine": str(engine or chosen.get("engine") or chosen.get("library") or ""),
                "dtype": str(used.get("dtype") or chosen.get("dtype") or ""),
                "revision": str(revision)[:12],
            }
        )
    return rows


def steps(manifest: Manifest) -> list[dict[str, Any]]:
    """One row per step that cost something, by its stage's number; `share` of all seconds."""
    numbers = stage_numbers(manifest.method.stages)
    rows = []
    for name in manifest.part("steps"):
        if cost := manifest.part("steps", name):
            label = DATABASE.get(name, str(name).capitalize())
            rows.append({"stage": numbers.get(name, 0), "label": label, **cost})
    rows.sort(key=lambda row: row["stage"])
    whole = sum(row.get("seconds") or 0 for row in rows) or 1.0
    for row in rows:
        row["colour"] = (row["stage"] - 1) % 3 + 1 if row["stage"] else 0
        row["share"] = (row.get("seconds") or 0) / whole
        row["time"] = duration(row.get("seconds") or 0)
    return rows


def counts(table: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Everything above zero in a mapping of counts, nested or not; a list counts its entries."""
    if isinstance(table, Mapping):
        for name, value in table.items():
            yield from counts(value, f"{prefix}, {name}" if prefix else str(name))
    elif isinstance(table, (list, tuple)):
        yield from counts(len(table), prefix)
    elif _is_number(table) and table > 0:
        yield prefix, int(table)


def metric_table(found: Scores) -> list[dict[str, Any]]:
    """The metrics that are single values: name and an Estimate (or None) per stage."""
    names = dict.fromkeys(
        name for stage in found.values() for name, v in stage.items() if isinstance(v, Estimate)
    )
    return [{"name": n, "values": [stage.get(n) for stage in found.values()]} for n in names]


def metric_groups(found: Scores, spec: Spec | None = None) -> list[dict[str, Any]]:
    """The metrics that have parts (rounds, aspects, categories): a table of the parts each."""
    groups = dict.fromkeys(
        name for stage in found.values() for name, v in stage.items() if isinstance(v, Mapping)
    )
    titles = {**COMPLETE, **(spec.groups if spec else {})}
    tables = []
    for group in groups:
        parts = {s: dict(metrics.get(group) or {}) for s, metrics in found.items()}
        rows = [r for r in metric_table(parts) if any(r["values"])]
        if rows:
            tables.append({"name": titles.get(group, group), "rows": rows})
    return tables


def headlines(found: Scores, spec: Spec | None = None) -> list[dict[str, Any]]:
    """The few figures at the top: the last stage's, and what changed since the first."""
    rows = {row["name"]: row for row in metric_table(found)}
    for group in metric_groups(found):
        for row in group["rows"]:
            name = f"{group['name']}, {row['name']}"
            rows[name.replace(", round ", "/")] = {**row, "name": name}
    wanted = [rows[name] for name in (spec.headline if spec else rows) if name in rows]
    tiles = []
    for row in wanted[:4]:
        first, last = row["values"][0], row["values"][-1]
        if last is None:
            continue
        change = last.value - first.value if first and len(row["values"]) > 1 else None
        lower = spec is not None and row["name"] in spec.lower_is_better
        better = change is not None and (change < 0 if lower else change > 0)
        tiles.append({"name": row["name"], "value": last, "change": change, "better": better})
    return tiles
