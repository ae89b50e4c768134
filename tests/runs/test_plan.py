"""The plan: any method's steps, whose earlier cost it goes by, and how it opens its engines."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import small_cirr

from imagescope.config import RunConfig, load_models, load_run
from imagescope.errors import UserError
from imagescope.runs import pipeline, plan, plan_context
from imagescope.runs.folder import machine
from imagescope.runs.plan_context import Forecast

GOLDEN = Path(__file__).parents[1] / "golden"


def settings(root: Path, **more: Any) -> RunConfig:
    models = load_models("tiny").model_dump()
    given = {"dataset": "CIRR", "data_root": root, "runs": root / "runs", "models": models}
    return RunConfig.model_validate(given | more)


def earlier(config: RunConfig, dataset: str, started: str | None, seconds: float) -> None:
    """A finished run that synthesised ten queries, each in so many seconds."""
    cost = {
        "asked": 10,
        "prompt_tokens": 1000,
        "output_tokens": 200,
        "model_seconds": 10 * seconds,
        "load_seconds": 0,
    }
    manifest = {
        "config": config.model_dump(mode="json") | {"dataset": dataset},
        "machine": machine(),
        "started": started,
        "steps": {"synthesis": cost},
    }
    folder = config.runs / dataset / "default" / f"clip-{started}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def remembered(config: RunConfig) -> float | None:
    row = Forecast(role="reasoner", wanted=1, asked=1)
    plan._remember(config, {"synthesis": row})
    return row.expected_seconds


def test_the_newest_run_of_the_same_dataset_tells_the_time(tmp_path: Path) -> None:
    config = settings(tmp_path)
    assert remembered(config) is None
    earlier(config, "CIRR", None, 99)  # no start: not ours
    assert remembered(config) is None
    earlier(config, "VisDial", "2025-01-01T00:00:00+00:00", 1)
    assert remembered(config) == 1
    earlier(config, "CIRCO", "2025-03-01T12:00:00+02:00", 2)
    assert remembered(config) == 2  # newer, though VisDial comes later by name
    earlier(config, "Flickr30K", "2025-03-01T11:00:00+00:00", 3)
    assert remembered(config) == 3  # an hour later, in another time zone
    earlier(config, "CIRR", "2024-01-01T00:00:00+00:00", 4)
    assert remembered(config) == 4
    earlier(config, "CIRR", "2024-02-01T00:00:00+00:00", 5)
    assert remembered(config) == 5


def test_other_runs_fill_in_what_the_same_dataset_lacks(tmp_path: Path) -> None:
    config = settings(tmp_path)
    earlier(config, "VisDial", "2025-01-01T00:00:00+00:00", 1)
    earlier(config, "CIRR", "2025-02-01T00:00:00+00:00", 2)
    path = next(config.runs.glob("CIRR/*/*/manifest.json"))
    path.write_text(path.read_text().replace('"asked": 10', '"asked": 0'))
    assert remembered(config) == 1


def test_the_plan_leaves_an_older_cache_as_it_is(tmp_path: Path) -> None:
    """It is looked up in a copy that is brought up to date."""
    kept = tmp_path / "cache.sqlite"
    shutil.copy(GOLDEN / "cirr" / "bundle.sqlite", kept)
    with closing(sqlite3.connect(kept)) as db, db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        db.execute("UPDATE meta SET value = 'cache'")
        count = db.execute("SELECT COUNT(*) FROM responses").fetchone()[0]
    before = kept.read_bytes()
    with plan.ReadOnly.open(kept) as cache:
        assert len(cache.table("responses")) == count > 0
        cache.insert("files", [("a", 1, 1, "b")])
    assert kept.read_bytes() == before and list(tmp_path.iterdir()) == [kept]


def test_the_plan_opens_engines_as_the_run_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: Any, ray_address: str | None = None) -> None:
        raise UserError(f"joined {ray_address}")

    monkeypatch.setattr(plan_context, "open_engine", opened)
    small_cirr(tmp_path)
    with pytest.raises(UserError, match="joined auto"):
        plan.forecast(settings(tmp_path, ray_address="auto"))


def tiny_cirr(data: Path, work: Path, method: str) -> RunConfig:
    places = {"image_db": work / "db", "cache": work / "cache.sqlite", "runs": work / "runs"}
    given = {"models": "tiny", "engine": "transformers", "data_root": data, "limit": 4}
    return load_run("CIRR", given | places | {"method": method})


@pytest.mark.parametrize("method", ["cirevl", "image+text", "imagescope"])
def test_any_method_is_planned_before_and_after_its_run(
    method: str, tiny_data: Path, tmp_path: Path
) -> None:
    """Before: captions are counted exactly, what follows from typical answers is marked, nothing
    is written. After: everything is there, counted as the run counted it."""
    config = tiny_cirr(tiny_data, tmp_path, method)
    before = plan.forecast(config)
    assert not list(tmp_path.iterdir())
    for step, row in before.items():
        assert row.exact is (step == "captions") and row.to_ask == row.wanted > 0
    if "edit" in before:
        assert before["edit"].role == "reasoner" and before["edit"].wanted == 4
    if "verification" in before:
        typical = 4 * 20 * 3  # queries, candidates, questions of the typical answer
        assert before["verification"].to_ask == before["verification"].images == typical
        assert before["evaluation"].images == 2 * before["evaluation"].wanted == 2 * 4 * 3
    steps = pipeline.run(config).steps
    after = plan.forecast(config)
    assert after.keys() == before.keys() == steps.keys()
    for step, row in after.items():
        assert (row.exact, row.to_ask, row.wanted) == (True, 0, steps[step].wanted), step


def test_what_an_interrupted_run_left_is_counted(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_cirr(tiny_data, tmp_path, "cirevl")
    pipeline.run(config)
    more = plan.forecast(config.model_copy(update={"limit": 8}))
    assert more["captions"].exact and 0 < more["captions"].to_ask < more["captions"].wanted
    assert more["edit"].cached >= 4 and more["edit"].to_ask <= 4
    assert not more["edit"].exact and not more["retrieval"].exact
