"""Figures that papers published (configs/published.yaml), and which of them stand beside a run.

A row fits runs of its benchmark and split over as many queries and images as published, with its
encoder and weights. On CIRR the reference has to be treated alike, but for the subset, which never
ranks it; CIRCO's shared concept has to be used alike. Of a row that leaves one of these unsaid
nobody knows whether it fits: it is shown, and marked, only where all rows are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from imagescope import benchmarks
from imagescope.config import config_path, explain
from imagescope.errors import UserError
from imagescope.yaml_file import read_yaml

Encoder = tuple[str | None, str | None]  # its name and weights


class Row(BaseModel):
    """A line of a paper's table: what it was measured with, and benchmark -> figures."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, tuple[float | None, ...]]

    method: str
    encoder: str | None
    weights: Literal["openai", "laion2b"] | None = None
    cirr_reference: Literal["kept", "removed"] | None = None
    circo_concept: bool = False
    source: str

    @property
    def figures(self) -> dict[str, tuple[float | None, ...]]:
        return self.__pydantic_extra__


class Published(BaseModel):
    """configs/published.yaml; its own comments say what its parts mean."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: dict[str, tuple[str, ...]]
    splits: dict[str, str]
    checkpoints: dict[str, Encoder]
    sources: dict[str, str]
    rows: tuple[Row, ...]

    @model_validator(mode="after")
    def _rows_fit(self) -> Published:
        for number, row in enumerate(self.rows, 1):
            place = f"row {number} ({row.method}, {row.encoder})"
            if row.source not in self.sources:
                raise ValueError(f"{place}: {row.source} is none of the sources")
            for name, figures in row.figures.items():
                if len(figures) != len(self.metrics.get(name, ())):
                    raise ValueError(f"{place}: {name} has {self.metrics.get(name, 'no metrics')}")
        return self


@cache
def read(path: Path | None = None) -> Published:
    """The published figures. Raises UserError for a file that is not as its comments say."""
    path = path or config_path("published.yaml")
    try:
        return Published.model_validate(read_yaml(path))
    except ValidationError as error:
        raise explain(error, str(path)) from None


@dataclass(frozen=True, slots=True)
class Quoted:
    """A row that fits runs. figures: metric -> percent.  unsaid: what nobody knows of it."""

    method: str
    encoder: str
    figures: dict[str, float]
    source: str
    unsaid: tuple[str, ...] = ()


def quoted(manifests: Sequence[Mapping[str, Any]], everything: bool = False) -> list[Quoted]:
    """The rows that fit all of these runs; the rows of the runs' own methods come first.

    everything: those of other and of unknown encoders, too.
    """
    places = {_place(manifest) for manifest in manifests}
    benchmark = _benchmark([manifest["config"]["dataset"] for manifest in manifests])
    if len(places) != 1 or None in places or benchmark is None:
        return []
    published = read()
    ((split, separate, reference, concept),) = (place for place in places if place)
    name = " ".join((benchmark, *separate))
    if published.splits.get(name) != split:
        return []
    encoders = {_encoder(manifest, published) for manifest in manifests}
    methods = {str(m["config"].get("method", "imagescope")).lower() for m in manifests}
    rows = []
    for row in published.rows:
        if name not in row.figures or concept not in (row.circo_concept, None):
            continue
        if reference and row.cirr_reference not in (reference, None):
            continue
        unsaid = _unsaid(row, encoders, bool(reference))
        if not everything and (unsaid or (row.encoder, row.weights) not in encoders):
            continue
        figures = zip(published.metrics[name], row.figures[name], strict=True)
        rows.append(
            Quoted(
                row.method,
                f"{row.encoder or ''} {row.weights or ''}".strip(),
                {metric: figure for metric, figure in figures if figure is not None},
                published.sources[row.source],
                unsaid,
            )
        )
    return sorted(rows, key=lambda row: row.method.lower() not in methods)


def _place(
    manifest: Mapping[str, Any],
) -> tuple[str, tuple[str, ...], str | None, bool | None] | None:
    """A run's split, the options that make a task of its own, what becomes of the reference, and
    use of the shared concept (None for benchmarks without these options); None where its queries or
    gallery are not as many as published."""
    config, counts = manifest["config"], manifest.get("benchmark") or {}
    spec, split = benchmarks.spec(config["dataset"]), str(config.get("split"))
    if (counts.get("queries"), counts.get("gallery")) != spec.splits.get(split):
        return None
    options, reference = benchmarks.options_of(config), None
    if "exclude_reference" in options and not options.get("subset"):
        reference = "removed" if options["exclude_reference"] else "kept"
    return split, spec.separate(options), reference, options.get("shared_concept")


def _benchmark(names: Sequence[str]) -> str | None:
    """The benchmark that runs of these are of: a family where they are of all that are in it."""
    if len(set(names)) == 1:
        return names[0]
    family = benchmarks.spec(names[0]).family
    return family if {spec.name for spec in benchmarks.family(family)} == set(names) else None


def _encoder(manifest: Mapping[str, Any], published: Published) -> Encoder:
    models = manifest["config"].get("models") or {}
    model = str((models.get("encoder") or {}).get("model", ""))
    return published.checkpoints.get(Path(model).name.lower(), (model, None))


def _unsaid(row: Row, encoders: set[Encoder], reference: bool) -> tuple[str, ...]:
    towers = {name for name, weights in encoders if weights}
    unsaid = {
        "encoder not known": row.encoder is None,
        "weights not known": row.encoder in towers and row.weights is None,
        "reference kept or removed: not known": reference and row.cirr_reference is None,
    }
    return tuple(text for text, holds in unsaid.items() if holds)


def own_figures(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run's own method has published in its place, for the page: {"figures": {metric:
    percent}, "source": text}; None where there is nothing."""
    try:
        method = str(manifest["config"].get("method", "imagescope"))
        rows = quoted([manifest])
    except (LookupError, TypeError, AttributeError, UserError):  # of another version
        return None
    if rows and rows[0].method.lower() == method:
        return {"figures": rows[0].figures, "source": f"quoted from {rows[0].source}"}
    return None
