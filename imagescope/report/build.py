"""index.html of a run folder, with its data and thumbnails in report/ beside it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from imagescope.benchmarks.published import own_figures
from imagescope.errors import UserError
from imagescope.files import write_text
from imagescope.records import Trace
from imagescope.report import charts, facts, queries
from imagescope.report.findings import Images
from imagescope.report.movement import examples, movements
from imagescope.report.queries import Ranks
from imagescope.runs.folder import iter_traces, read_metrics
from imagescope.runs.manifest import Manifest, running

log = logging.getLogger("imagescope")
HERE = Path(__file__).parent
DATA = "report"  # the folder beside index.html


def write_report(
    run_dir: Path,
    files: Mapping[str, Path] | None = None,
    traces: Iterable[Trace] | None = None,
    kept: Path | None = None,
) -> Path:
    """Writes index.html and report/ into a run's folder; returns the page's path.

    files: image name -> path. None: found by loading the dataset that the manifest names; where
        that fails the page shows placeholders.
    traces: the run's; None: they are read from its folder.
    kept: a folder of thumbnails made before (thumbnails.py).

    Raises UserError where there are no traces.
    """
    run_dir = Path(run_dir)
    manifest = Manifest.read(run_dir, lenient=True)
    ran = manifest.method
    labels = {stage.id: f"Stage {number}" for number, stage in enumerate(ran.stages, 1)}
    metrics = {labels.get(stage, stage): m for stage, m in read_scores(run_dir).items()}
    files = image_files(manifest) if files is None else files
    databases = image_databases(manifest)
    reach = _whole(ran.options.get("top_k"))  # how far later stages reorder
    stages: Sequence[str] = ()
    rows: list[Any] = []
    ranks: list[Ranks] = []
    images = Images()

    def details() -> Iterator[Any]:
        nonlocal stages
        for trace in iter_traces(run_dir) if traces is None else traces:
            stages = stages or list(trace.rankings)
            ranks.append(queries.ranks(trace, stages))
            rows.append(queries.row(trace.query, ranks[-1], queries.flags(trace), images))
            yield queries.detail(trace, ran.stages, images)

    with data_folder(run_dir) as folder:
        missing = queries.write_data(
            folder,
            {"mode": "run", "reach": reach, "stages": [[s.title for s in ran.stages]]},
            rows,
            details(),
            images,
            lambda: images.sources(files, databases),
            kept,
        )
    if missing:
        log.info("report: %d of %d images have no thumbnail", len(missing), len(images.names))
    names = [labels.get(stage, stage) for stage in stages]
    first, last = [r[0] for r in ranks], [r[-1] for r in ranks]
    known = any(r is not None for r in first)
    spec = facts.spec_of(manifest)
    quoted = own_figures(manifest) or {"figures": {}, "source": ""}
    context = {
        "title": _title(manifest, run_dir),
        "split": manifest.config.get("split", ""),
        "run": _run(manifest, run_dir),
        "files": _written(run_dir),
        "names": images.names,
        "unseen": set(missing),
        "examples": examples(rows),
        "facts": facts.facts(manifest),
        "models": facts.models(manifest),
        "steps": facts.steps(manifest),
        "seconds": manifest.get("seconds"),
        "fallbacks": sorted(facts.counts(manifest.get("fallbacks"))),
        "warnings": [str(w) for w in manifest.get("warnings") or ()],
        "missing": sorted(facts.counts(manifest.part("benchmark").get("missing"))),
        "no_thumbnail": len(missing),
        "images": len(images.names),
        "queries": len(rows),
        "dialogues": len({r[0] for r in rows}) if any(r[1] for r in rows) else 0,
        "pool": _pool(manifest),
        "hidden": not known,
        "stages": names,
        "headlines": facts.headlines(metrics, spec),
        "metrics": facts.metric_table(metrics),
        "groups": facts.metric_groups(metrics, spec),
        "metric_stages": list(metrics),
        "quoted": quoted,
        "stage_charts": charts.stage_charts(metrics, quoted["figures"]),
        "round_charts": charts.round_charts(metrics),
        "movements": movements(ranks, names),
        "movement_chart": charts.movement_chart(first, last, reach, (names[0], names[-1]))
        if known and len(names) > 1
        else "",
        "reach": reach,
        "manifest": json.dumps(manifest, indent=1, ensure_ascii=False),
        "lower_is_better": spec.lower_is_better if spec else (),
    }
    write_text(run_dir / "index.html", render("page.html.jinja", context))
    return run_dir / "index.html"


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page from this package's templates; every value is escaped but our own charts."""
    pages = Environment(
        loader=PackageLoader("imagescope.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (HERE / "style.css").read_text(encoding="utf-8")
    return pages.get_template(template).render(style=style, data=DATA, **context)


@contextmanager
def data_folder(parent: Path) -> Iterator[Path]:
    """A new folder that takes report/'s place when it is complete."""
    try:
        for left in parent.glob(f".{DATA}.*"):  # by a process that was killed
            if not running(left.name.split(".")[2]):
                shutil.rmtree(left, ignore_errors=True)
        made = Path(tempfile.mkdtemp(dir=parent, prefix=f".{DATA}.{os.getpid()}."))
    except OSError as error:
        raise UserError(f"cannot write a report into {parent}: {error.strerror}") from None
    try:
        yield made
        for script in HERE.glob("*.js"):
            shutil.copy(script, made / script.name)
        made.chmod(0o755)
        old = parent / DATA
        if old.exists():
            aside = made.with_name(f"{made.name}.old")
            os.replace(old, aside)
            os.replace(made, old)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.replace(made, old)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def page_link(run: Path, page: Path) -> str:
    """The address of a run's page as seen from this one, "" where there is none."""
    target = run / "index.html"
    if not target.is_file():
        return ""
    return quote(os.path.relpath(target.resolve(), page.resolve().parent))


def read_scores(run_dir: Path) -> dict[str, dict[str, Any]]:
    """metrics.json by stage; {} where there is none."""
    try:
        return facts.scores(read_metrics(run_dir))
    except (UserError, TypeError):
        return {}


def image_files(manifest: Manifest) -> Mapping[str, Path]:
    """Where the images of the manifest's dataset lie; {} (and a log line) where it cannot load."""
    config = manifest.config
    try:
        from imagescope import benchmarks

        return benchmarks.load(
            config["dataset"],
            manifest.as_started(config["data_root"]),
            config["split"],
            **benchmarks.options_of(config),
        ).gallery.files
    except KeyError as error:
        log.warning("report: no images, manifest.json does not say %s", error)
    except (UserError, OSError) as error:
        log.warning("report: no images, the dataset cannot be loaded: %s", error)
    return {}


def image_databases(manifest: Manifest) -> list[Path]:
    """Where the images lie that the run's models made."""
    folder = manifest.config.get("image_db")
    return [manifest.as_started(folder)] if isinstance(folder, str) else []


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _title(manifest: Manifest, run_dir: Path) -> str:
    return str(manifest.config.get("dataset") or run_dir.resolve().name)


def _run(manifest: Manifest, run_dir: Path) -> str:
    """The run's name and its folder's, where they are not the same."""
    name, folder = str(manifest.config.get("run_name") or ""), run_dir.resolve().name
    return " / ".join(dict.fromkeys(filter(None, (name, folder))))


def _written(run_dir: Path) -> list[str]:
    """The names of the run's files."""
    return sorted(
        path.name
        for path in run_dir.iterdir()
        if path.suffix in (".json", ".jsonl", ".log") and not path.name.startswith(".")
    )


def _pool(manifest: Manifest) -> int | None:
    return _whole(manifest.part("benchmark").get("gallery")) or None
