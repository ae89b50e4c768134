"""The whole method on tiny data with the tiny checkpoints, as a user runs it."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagescope.cli.app import main
from imagescope.config import ROLES, ModelConfig, load_run
from imagescope.engines.base import EngineClass, Request, Response
from imagescope.engines.roles import Models
from imagescope.records import Query, Ranking, Synthesis, Trace
from imagescope.runs.folder import RunFolder, read_traces, to_json
from imagescope.store.cache import Cache

REPO = Path(__file__).parents[2]
Run = Callable[..., Path]
STAGES = ("stage1", "stage2", "stage3")


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def arguments(work: Path, data: Path, dataset: str, *more: str) -> list[str]:
    return [
        *("run", f"configs/{dataset}.yaml", "--data-root", str(data), "--models", "tiny"),
        *("--image-db", str(work / "image_db"), "--runs", str(work / "runs"), "--quiet"),
        *("--cache", str(work / "responses.sqlite"), *more),
    ]


@pytest.fixture(scope="session")
def run(workplace: Path, tiny_data: Path) -> Run:
    def start(dataset: str, *more: str, work: Path = workplace) -> Path:
        before = set(work.glob("runs/*/*/*"))
        assert main(arguments(work, tiny_data, dataset, *more)) == 0
        (folder,) = set(work.glob("runs/*/*/*")) - before
        return folder

    return start


def load(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="session")
def cirr(run: Run) -> Path:
    return run("CIRR", "--split", "val", "--engine", "transformers", "--limit", "32")


def test_the_run_folder_holds_everything(cirr: Path) -> None:
    manifest, metrics = load(cirr, "manifest.json"), load(cirr, "metrics.json")
    assert cirr.parent.parts[-2:] == ("CIRR", "default")
    assert manifest["status"] == "finished"
    assert manifest["benchmark"]["queries"] == 32
    for stage in STAGES:
        found = metrics[stage]["Recall@1"]
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 100
    assert set(manifest["models"]) == {"captioner", "reasoner", "verifier", "evaluator", "encoder"}
    assert set(manifest["prompts"]) == {"caption", "synthesis", "questions", "evaluation"}
    log = (cirr / "output.log").read_text()
    assert "Recall@1: " in log and "arguments: " in log and "reasoner loaded 1 time" in log
    for step in ("captions", "synthesis", "questions", "verification", "evaluation"):
        counts = manifest["steps"][step]
        assert counts["wanted"] == counts["duplicates"] + counts["cached"] + counts["asked"] > 0
    for suffix in ("stage1_retrieve", "stage2_rerank", "stage3_eval"):
        (file,) = cirr.glob(f"*_CIRR_val_{suffix}.json")
        sent = json.loads(file.read_text())
        assert sent["version"] == "rc2" and sent["metric"] == "recall" and len(sent) == 34


def test_a_trace_explains_its_ranking(cirr: Path) -> None:
    traces = read_traces(cirr)
    metrics = load(cirr, "metrics.json")
    hits = 0
    for trace in traces:
        first, second, third = (trace.rankings[s] for s in STAGES)
        assert trace.synthesis.descriptions and trace.synthesis.reference_description
        assert sorted(first.names[:20]) == sorted(second.names[:20])
        assert first.names[20:] == second.names[20:] == third.names[20:]
        assert list(first.scores) == sorted(first.scores, reverse=True)
        if trace.verification:
            scores = dict(
                zip(trace.verification.candidates, trace.verification.scores, strict=True)
            )
            order = sorted(first.names[:20], key=lambda name: -scores[name])
            assert list(second.names[:20]) == order
        assert trace.evaluation is not None
        accepted = [j.candidate for j in trace.evaluation.judgements if j.accepted]
        assert third.names[0] == (accepted or second.names)[0]
        (target,) = trace.query.targets or ()
        if target in third.names:
            assert third.ranks[target] == third.names.index(target)
        else:
            assert third.ranks[target] >= len(third.names)
        hits += third.ranks[target] == 0
    assert metrics["stage3"]["Recall@1"]["value"] == pytest.approx(100 * hits / len(traces))


def test_a_warm_rerun_loads_nothing_and_gives_the_same_bytes(cirr: Path, run: Run) -> None:
    again = run("CIRR", "--split", "val", "--engine", "transformers", "--limit", "32")
    manifest = load(again, "manifest.json")
    assert set(manifest["loads"].values()) == {0}
    assert sum(step["asked"] for step in manifest["steps"].values()) == 0
    for name in ("metrics.json", "traces.jsonl"):
        assert (again / name).read_bytes() == (cirr / name).read_bytes()


def test_another_tau_and_alpha_ask_only_what_is_new(cirr: Path, run: Run) -> None:
    options = ("CIRR", "--split", "val", "--engine", "transformers", "--limit", "32")
    steps = load(run(*options, "--tau", "0.3"), "manifest.json")["steps"]
    assert steps["captions"]["asked"] == steps["synthesis"]["asked"] == 0
    assert steps["embedding"]["asked"] == steps["retrieval"]["asked"] == 0
    assert 0 <= steps["verification"]["asked"] < steps["verification"]["cached"]
    more = load(run(*options, "--top-k", "30"), "manifest.json")["steps"]
    assert more["questions"]["asked"] == 0
    assert 0 < more["verification"]["asked"] < more["verification"]["cached"]
    alpha = load(run(*options, "--alpha", "5"), "manifest.json")["steps"]
    assert alpha["verification"]["asked"] == 0
    assert alpha["evaluation"]["asked"] < alpha["evaluation"]["cached"]


def test_subset_ranks_the_image_set_alone(run: Run) -> None:
    folder = run("CIRR", "--split", "val", "--engine", "transformers", "--limit", "32", "--subset")
    assert set(load(folder, "metrics.json")["stage1"]) == {f"Recall_subset@{k}" for k in (1, 2, 3)}
    for trace in read_traces(folder):
        assert len(trace.rankings["stage1"].names) == 5
        assert trace.query.reference not in trace.rankings["stage1"].names


def test_hidden_targets_give_submissions_and_say_why(run: Run) -> None:
    folder = run("CIRR", "--split", "test", "--engine", "transformers", "--limit", "8")
    metrics = load(folder, "metrics.json")
    assert metrics.pop("why").startswith("the targets of this split are hidden")
    assert metrics == {stage: {} for stage in STAGES}
    assert len(list(folder.glob("*_CIRR_test_stage*.json"))) == 3


def test_text_to_image_and_dialogue_run_through_the_same_stages(run: Run) -> None:
    flickr = run("Flickr30K", "--engine", "transformers", "--limit", "40")
    assert {"Recall@1", "Recall@5", "Recall@10"} <= set(load(flickr, "metrics.json")["stage3"])
    assert all(t.query.reference is None for t in read_traces(flickr))
    chat = run("VisDial", "--engine", "transformers", "--limit", "33")
    manifest = load(chat, "manifest.json")
    assert manifest["loads"] == dict.fromkeys(("captioner", "reasoner", "verifier", "evaluator"), 1)
    metrics = load(chat, "metrics.json")["stage3"]
    assert {f"Hits@10/{t}" for t in range(1, 11)} <= set(metrics) and "BRI" not in metrics
    official = run("VisDial", "--engine", "transformers", "--limit", "33", "--protocol", "official")
    assert {"BRI", "Hits@10/0"} <= set(load(official, "metrics.json")["stage3"])


def identities(cache: Cache) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    rows = cache.rows("SELECT declared, identity FROM identities")
    return [(json.loads(declared), json.loads(identity)) for declared, identity in rows]


def test_a_bundle_replays_without_images_models_or_cache(
    cirr: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle.sqlite"
    manifest = load(cirr, "manifest.json")
    with Cache.open(manifest["config"]["cache"]) as cache:  # a checkpoint retrained in its place
        for made_by in manifest["models"].values():
            declared = next(d for d, i in identities(cache) if i == made_by)
            cache.register(made_by | {"sha256": "another"}, declared)
    assert main(["cache", "export", str(cirr), "--output", str(bundle)]) == 0
    bare = tmp_path / "data"
    shutil.copytree(
        tiny_data / "CIRR", bare / "CIRR", ignore=shutil.ignore_patterns("*.png", "*.jpg")
    )
    options = ("CIRR", "--split", "val", "--engine", "transformers", "--limit", "32")
    line = arguments(tmp_path, bare, *options, "--replay", str(bundle))
    assert main(line) == 0
    (again,) = tmp_path.glob("runs/*/*/*")
    for name in ("metrics.json", "traces.jsonl"):
        assert (again / name).read_bytes() == (cirr / name).read_bytes()
    assert set(load(again, "manifest.json")["loads"].values()) == {0}
    assert not (tmp_path / "image_db").exists() and not (tmp_path / "responses.sqlite").exists()
    capsys.readouterr()
    assert main([*line, "--top-k", "100"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "not in the bundle" in said and "verification, query" in said


def test_a_run_is_known_from_other_folders_too(
    cirr: Path, workplace: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started with relative paths; then its bundle and its page are made from elsewhere."""
    (tmp_path / "data").symlink_to(tiny_data)
    for name in ("image_db", "responses.sqlite"):
        (tmp_path / name).symlink_to(workplace / name)
    monkeypatch.chdir(tmp_path)
    options = ("CIRR", "--split", "val", "--engine", "transformers", "--limit", "2")
    assert main(arguments(Path(), Path("data"), *options)) == 0
    (folder,) = tmp_path.glob("runs/*/*/*")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*.jpg"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["cache", "export", str(folder), "--output", "bundle"]) == 0
    shutil.rmtree(folder / "report")
    assert main(["report", str(folder)]) == 0
    assert before and sorted(path.relative_to(folder) for path in folder.rglob("*.jpg")) == before
    (tmp_path / "moved").mkdir()  # the whole project, to another place
    for name in ("data", "image_db", "responses.sqlite", "runs"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    monkeypatch.chdir(tmp_path / "moved")
    (folder,) = Path().glob("runs/*/*/*")
    assert main(["cache", "export", str(folder), "--output", "bundle"]) == 0
    Path("responses.sqlite").unlink()
    assert main(["cache", "export", str(folder), "--output", "again"]) == 1


def small_fashioniq(source: Path, here: Path) -> str:
    """Four queries; one reference is missing, one image kept as JPEG by its name."""
    captions, splits = "captions/cap.dress.val.json", "image_splits/split.dress.val.json"
    rows = json.loads((source / captions).read_text())[:4]
    names = sorted({row[part] for row in rows for part in ("candidate", "target")})
    for path, value in ((captions, rows), (splits, names)):
        (here / path).parent.mkdir(parents=True)
        (here / path).write_text(json.dumps(value))
    (here / "images").mkdir()
    for name in names:
        kind = "jpg" if name == rows[0]["target"] else "png"
        if name != rows[1]["candidate"]:
            shutil.copy(source / "images" / f"{name}.png", here / "images" / f"{name}.{kind}")
    return "FashionIQ-dress"


def small_circo(source: Path, here: Path) -> str:
    """Three queries; the gallery is what lies in the folder, one file of it no image."""
    (path,) = source.glob("*/val.json")
    rows = json.loads(path.read_text())[:3]
    (here / "annotations").mkdir(parents=True)
    (here / "annotations" / "val.json").write_text(json.dumps(rows))
    (here / "unlabeled2017").mkdir()
    for row in rows:
        for image in {row["reference_img_id"], *row["gt_img_ids"]}:
            shutil.copy(source / f"unlabeled2017/{image:012d}.jpg", here / "unlabeled2017")
    (here / f"unlabeled2017/{rows[0]['reference_img_id']:012d}.jpg").write_bytes(b"no image")
    (here / "unlabeled2017/999999999999.jpg").write_bytes(b"nor this")
    return "CIRCO"


@pytest.mark.parametrize(
    ("benchmark", "make"), [("FashionIQ", small_fashioniq), ("CIRCO", small_circo)]
)
def test_a_replay_has_the_images_that_its_run_had(
    benchmark: str, make: Callable[[Path, Path], str], tiny_data: Path, tmp_path: Path
) -> None:
    """Dead links, files of other kinds and broken ones are in a replay, where no image is there
    at all, what they were in the run; also where a later run, which knows them, is replayed."""
    data = tmp_path / "data"
    options = (make(tiny_data / benchmark, data / benchmark), "--split", "val")
    line = arguments(tmp_path, data, *options, "--engine", "transformers")
    runs: list[Path] = []
    for _ in range(2):
        assert main(line) == 0
        runs += set(tmp_path.glob("runs/*/*/*")) - set(runs)
    for run in runs:
        assert main(["cache", "export", str(run), "--output", f"{run}.sqlite"]) == 0
    for images in ("images", "unlabeled2017"):
        shutil.rmtree(data / benchmark / images, ignore_errors=True)
    for run in runs:
        again = tmp_path / "again" / run.name
        assert main(arguments(again, data, *options, "--replay", f"{run}.sqlite")) == 0
        (replayed,) = again.glob("runs/*/*/*")
        for name in ("metrics.json", "traces.jsonl"):
            assert (replayed / name).read_bytes() == (run / name).read_bytes()


def cells(table: str) -> dict[str, list[str]]:
    """A plan's rows by their step."""
    lines = [[c.strip() for c in line.strip("│").split("│")] for line in table.splitlines()]
    return {line[0]: line for line in lines if len(line) == 8}


def test_the_plan_counts_what_is_held(
    cirr: Path, workplace: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("CIRR", "--split", "val", "--engine", "transformers", "--limit", "32")
    line = ["plan", *arguments(workplace, tiny_data, *options)[1:]]
    capsys.readouterr()
    assert main(line) == 0
    rows = cells(capsys.readouterr().out)
    steps = load(cirr, "manifest.json")["steps"]
    for step in ("embedding", "retrieval", "synthesis", "questions", "evaluation"):
        assert rows[step][1:4] == [f"{steps[step]['wanted']:,}"] * 2 + ["0"]
    assert main([*line, "--top-k", "100"]) == 0
    about, most = cells(capsys.readouterr().out)["evaluation"][1].split()
    assert about == "~" and 32 < int(most) <= 96  # unknown candidates: three pairs at most


def test_a_plan_leaves_nothing_behind(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ("plan", "CIRR", "--split", "val", "--data-root", str(tiny_data), "--models", "tiny")
    assert main([*line, "--limit", "2"]) == 0
    assert not list(tmp_path.iterdir())


def test_a_plan_writes_nothing_into_the_image_database(
    tiny_data: Path, tmp_path: Path, cirr: Path, workplace: Path
) -> None:
    def content() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in (workplace / "image_db").rglob("*") if p.is_file()}

    before = content()
    line = arguments(workplace, tiny_data, "CIRR", "--split", "val", "--engine", "transformers")
    for more in ((), ("--limit", "3"), ("--tau", "0.5"), ("--split", "test")):
        assert main(["plan", *line[1:], *more]) == 0
    assert content() == before


def test_a_plan_needs_no_checkpoints(
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither a half-downloaded folder nor the hub: requests are counted, nothing looked up."""

    def no_network(*_: Any) -> None:
        raise AssertionError("the plan went to the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text("{}")
    line = arguments(tmp_path, tiny_data, "CIRR", "--split", "val", "--limit", "8")
    more = ("--captioner", "owner/captioner", "--reasoner", str(half), "--clip", "owner/clip")
    assert main(["plan", *line[1:], *more]) == 0
    rows = cells(capsys.readouterr().out)
    assert rows["synthesis"][1:4] == ["~ 8", "?", "~ 8"]
    assert rows["captions"][2] == rows["embedding"][2] == rows["retrieval"][2] == "?"
    assert rows["embedding"][3].startswith("~ ") and rows["retrieval"][3] == "~ 8"


def test_another_methods_run_is_described_exported_and_replayed(
    cirr: Path, run: Run, tiny_data: Path, tmp_path: Path
) -> None:
    options = ("CIRR", "--split", "val", "--engine", "transformers", "--limit", "8")
    folder = run(*options, "--method", "cirevl")
    entry = load(folder, "manifest.json")["method"]
    assert (entry["name"], entry["label"]) == ("cirevl", "faithful")
    assert [stage["steps"] for stage in entry["stages"]] == [["edit", "retrieval"]]
    assert list(load(folder, "metrics.json")) == ["stage1"]
    assert load(cirr, "manifest.json")["method"]["stages"][2]["title"] == "Pairwise evaluation"
    bundle = tmp_path / "bundle.sqlite"
    assert main(["cache", "export", str(folder), "--output", str(bundle)]) == 0
    line = arguments(tmp_path, tiny_data, *options, "--method", "cirevl", "--replay", str(bundle))
    assert main(line) == 0
    (again,) = tmp_path.glob("runs/*/*/*")
    assert (again / "traces.jsonl").read_bytes() == (folder / "traces.jsonl").read_bytes()


def test_more_candidates_than_images(run: Run) -> None:
    folder = run(
        *("CIRR", "--split", "val", "--engine", "transformers", "--limit", "2"),
        *("--top-k", "5000", "--alpha", "6000", "--stages", "s1"),
    )
    assert len(read_traces(folder)[0].rankings["stage1"].names) <= 5000


def test_one_model_in_memory_whoever_shares_it(tmp_path: Path) -> None:
    """Captioner and evaluator are one checkpoint, and two others are loaded between them."""

    class Memory(EngineClass):
        def __init__(self, config: ModelConfig):
            self.model, self.identity = config.model, {"model": config.model}

        def answer(self, request: Request) -> Response:
            loaded.add(self.model)
            assert loaded == {self.model}
            return Response("yes")

        def close(self) -> None:
            loaded.discard(self.model)

    loaded: set[str] = set()
    config = load_run("CIRR", {"models": "tiny"})
    shared = config.models.captioner.model_copy(update={"max_tokens": 64})
    models = config.models.model_copy(update={"captioner": shared, "evaluator": shared})
    with Cache.open(tmp_path / "c.sqlite") as cache:
        config = config.model_copy(update={"models": models})
        held = Models(config, cache, opener=lambda role, *_, **__: Memory(role))
        for name in ROLES:
            with held.role(name) as role:
                role.ask([Request(name)], name, [name])
        assert not loaded


def test_a_full_disk_is_explained(
    workplace: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "traces.jsonl")

    monkeypatch.setattr(RunFolder, "write_traces", full)
    line = arguments(workplace, tiny_data, "CIRR", "--split", "val", "--limit", "2")
    assert main([*line, "--engine", "transformers", "--stages", "s1"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "traces.jsonl: No space left on device" in said and "Traceback" not in said
    assert not any(
        isinstance(h, logging.FileHandler) for h in logging.getLogger("imagescope").handlers
    )


def test_an_interrupted_place_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    line = arguments(tmp_path, REPO / "data" / "tiny", "CIRR", "--split", "val")
    assert main(line) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot write the run folder" in said and "--runs" in said and "Traceback" not in said


def test_traces_are_written_as_to_json_has_them(tmp_path: Path) -> None:
    ranking = Ranking(("a", "b"), (0.5, 0.25), {"a": 0}, 2)
    broken = Ranking(("c",), (float("nan"),), {"c": 0}, 1)
    traces = [Trace(Query("1", "x", targets=("ä",)), Synthesis("", (), ("y",)), {"stage1": found})
              for found in (ranking, broken)]  # fmt: skip
    folder = RunFolder.__new__(RunFolder)
    folder.path = tmp_path
    folder.write_traces(traces)
    lines = (tmp_path / "traces.jsonl").read_text().splitlines()
    assert lines == [json.dumps(to_json(trace), ensure_ascii=False) for trace in traces]
    assert json.loads(lines[1])["rankings"]["stage1"]["scores"] == [None]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, tiny_data: Path) -> None:
    """As a terminal does it: SIGINT to the whole process group."""
    words = arguments(tmp_path, tiny_data, "CIRR", "--split", "val", "--engine", "transformers")
    words.remove("--quiet")
    process = subprocess.Popen(
        [sys.executable, "-m", "imagescope", *words],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr
    while "CIRR val: " not in (line := process.stderr.readline()):  # the first one of a run
        assert line
    os.killpg(process.pid, signal.SIGINT)
    said = process.stderr.read()
    assert process.wait(timeout=60) == 130 and "Traceback" not in said
    assert said.rstrip().endswith("imagescope: interrupted; the same command goes on from here")
    (folder,) = tmp_path.glob("runs/*/*/*")
    assert load(folder, "manifest.json")["status"] == "interrupted"


@pytest.mark.slow  # forty runs of half a minute
def test_forty_kills_give_the_same_bytes(tmp_path: Path, tiny_data: Path) -> None:
    options = ("CIRR", "--split", "val", "--engine", "transformers", "--limit", "60")

    def start(work: Path) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "imagescope", *arguments(work, tiny_data, *options)]
        return subprocess.Popen(line, cwd=REPO, stderr=subprocess.PIPE, stdout=subprocess.PIPE)

    def only(work: Path) -> Path:
        finished = [
            path.parent
            for path in work.glob("runs/*/*/*/manifest.json")
            if json.loads(path.read_text())["status"] == "finished"
        ]
        assert len(finished) == 1
        return finished[0]

    calm = tmp_path / "calm"
    calm.mkdir()
    begun = time.monotonic()
    assert start(calm).wait() == 0
    seconds = time.monotonic() - begun
    wanted = {n: (only(calm) / n).read_bytes() for n in ("metrics.json", "traces.jsonl")}
    asked = sum(s["asked"] for s in load(only(calm), "manifest.json")["steps"].values())

    stormy, rng = tmp_path / "stormy", random.Random(7)
    stormy.mkdir()
    for _ in range(40):
        process = start(stormy)
        time.sleep(rng.uniform(0.05, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for folder in stormy.glob("runs/*/*/*"):
            shutil.rmtree(folder)  # a run that was quicker than its killer counts for nothing
    assert start(stormy).wait() == 0
    assert {n: (only(stormy) / n).read_bytes() for n in wanted} == wanted
    left = sum(s["asked"] for s in load(only(stormy), "manifest.json")["steps"].values())
    assert left < asked  # what the killed runs had answered was not asked again
