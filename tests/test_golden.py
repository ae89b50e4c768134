"""What was written once is answered, and written, the same for ever.

tests/golden was made by commit 1bcfd44 with the tiny checkpoints: two replayable bundles with the
traces, metrics and submissions of their runs, a response cache, a part of an image database, cache
keys and filled prompts. A file in it changes only in a commit whose message says why.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest

from imagescope.cli.app import main
from imagescope.engines import Lazy, cached
from imagescope.engines.base import (
    Answers,
    Pair,
    Picture,
    Request,
    Requests,
    Response,
    blocks,
)
from imagescope.errors import UserError
from imagescope.methods.prompts import VERIFICATION, atomic_instructions, fill, load_prompts
from imagescope.models.checkpoints import fingerprint
from imagescope.records import Edit, added
from imagescope.runs.export import read_manifest
from imagescope.runs.folder import read_metrics, read_traces
from imagescope.store.cache import Cache
from imagescope.store.hashing import digest

GOLDEN = Path(__file__).parent / "golden"
REASONER = "data/tiny/models/reasoner"
RUNS = {
    "cirr": ("CIRR", "--split", "val", "--limit", "32"),
    "visdial": ("VisDial", "--protocol", "official", "--limit", "33"),
}


def run(work: Path, data: Path, dataset: str, *options: str) -> Path:
    """The folder of a finished run of the tiny checkpoints' configuration."""
    arguments = [
        *("run", f"configs/{dataset}.yaml", "--data-root", str(data), "--models", "tiny"),
        *("--engine", "transformers", "--runs", str(work / "runs"), "--quiet", *options),
    ]
    assert main(arguments) == 0
    (folder,) = (work / "runs").glob("*/*/*")
    return folder


def asked(folder: Path) -> int:
    """How many requests and vectors a run had to compute."""
    steps = json.loads((folder / "manifest.json").read_text())["steps"]
    return sum(step["asked"] for step in steps.values())


@pytest.mark.parametrize("name", RUNS)
def test_a_bundle_replays_to_the_same_bytes(name: str, tmp_path: Path, tiny_data: Path) -> None:
    expected = GOLDEN / name
    bundle = shutil.copy(expected / "bundle.sqlite", tmp_path)
    folder = run(tmp_path, tiny_data, *RUNS[name], "--replay", str(bundle))
    assert asked(folder) == 0
    for file in ("traces.jsonl", "metrics.json"):
        assert (folder / file).read_bytes() == (expected / file).read_bytes()
    for path in expected.glob("stage*.json"):
        (submission,) = folder.glob(f"*_{path.name}")
        assert submission.read_bytes() == path.read_bytes()
    assert Path(bundle).read_bytes() == (expected / "bundle.sqlite").read_bytes()  # only read


@pytest.fixture
def reasoner_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reasoner has been trained anew since: a run finds the hash of its checkpoint as the cache
    has it. The other four are hashed."""
    with Cache.open(shutil.copy(GOLDEN / "cache-1.sqlite", tmp_path / "then.sqlite")) as cache:
        stored = {d["model"]: identity["sha256"] for _, d, identity in cache._identities()}

    def then(model: str, revision: str | None = None) -> dict[str, str]:
        return {"sha256": stored[REASONER]} if model == REASONER else fingerprint(model, revision)

    monkeypatch.setattr("imagescope.models.device.fingerprint", then)


@pytest.mark.usefixtures("reasoner_then")
def test_a_cache_of_the_first_format_answers_a_whole_run(tmp_path: Path, tiny_data: Path) -> None:
    """Nothing is asked and no vector made anew: responses from the cache, captions and vectors from
    the image database, both as 1bcfd44 left them."""
    cache = tmp_path / "responses.sqlite"
    shutil.copy(GOLDEN / "cache-1.sqlite", cache)
    shutil.copytree(GOLDEN / "image_db", tmp_path / "image_db" / "CIRR")
    places = ("--cache", str(cache), "--image-db", str(tmp_path / "image_db"))
    folder = run(tmp_path, tiny_data, *RUNS["cirr"], *places)
    assert asked(folder) == 0
    for file in ("traces.jsonl", "metrics.json"):
        assert (folder / file).read_bytes() == (GOLDEN / "cirr" / file).read_bytes()


@pytest.mark.usefixtures("reasoner_then")
def test_a_run_with_refused_requests_is_exported_and_replayed(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caption and a verdict that no cache has, and that the models refuse to give."""
    cache, generate = shutil.copy(GOLDEN / "cache-1.sqlite", tmp_path), Lazy.generate
    places = ("--cache", str(cache), "--image-db", str(tmp_path / "image_db"))
    options = (*RUNS["cirr"], "--fail-on-error", "1")
    shutil.copytree(GOLDEN / "image_db", tmp_path / "image_db" / "CIRR")
    shutil.rmtree(tmp_path / "image_db" / "CIRR" / "val-8311989f" / "captions")
    with Cache.open(cache) as opened:
        for name, declared, _ in list(opened._identities()):
            if str(declared["model"]).endswith(("captioner", "evaluator")):
                with opened.write() as db:
                    query = "SELECT MAX(key) FROM responses WHERE identity = ?"
                    (key,) = db.execute(query, (name,)).fetchone()
                    db.execute("DELETE FROM responses WHERE key = ?", (key,))
    refused = []

    def refusing(self: Lazy, requests: Requests) -> Iterator[Answers]:
        if "reasoner" in self.declared["model"]:
            yield from generate(self, requests)
            return
        for block in blocks(requests):
            refused.extend(block)
            error = Response("", finish="error", error="refused: a filter")
            yield {i: error for i, _ in block}

    monkeypatch.setattr(Lazy, "generate", refusing)
    folder = run(tmp_path, tiny_data, *options, *places)
    assert len(refused) >= 2
    monkeypatch.undo()
    bundle = tmp_path / "bundle.sqlite"
    assert main(["cache", "export", str(folder), "--output", str(bundle)]) == 0
    (tmp_path / "again").mkdir()
    again = run(tmp_path / "again", tiny_data, *options, "--replay", str(bundle))
    for file in ("traces.jsonl", "metrics.json"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_is_still_read(name: str) -> None:
    traces = read_traces(GOLDEN / name)
    assert [t.query.id for t in traces] and all(t.rankings["stage3"].names for t in traces)
    assert set(read_metrics(GOLDEN / name)) == {"stage1", "stage2", "stage3"}
    config, identities = read_manifest(GOLDEN / name)
    assert config.dataset == RUNS[name][0] and len(identities) == 5


# Keys

SHA = {"a.png": "a" * 64, "b.png": "b" * 64}
REQUESTS = {
    "text": Request("Say it.", max_tokens=64),
    "decoding": Request("Say it.", max_tokens=9, repetition_penalty=1.05, stop=("\n", "</s>")),
    "picture": Request("What is it?", (Picture("a.png"),)),
    "question": Request("Is it?", (Picture("a.png"),), max_tokens=1, choices=("yes", "no")),
    "pair": Request("Does it fit?", (Pair("a.png", "b.png"),), max_tokens=4096),
    "pair without reference": Request("Does it fit?", (Pair(None, "b.png"),)),
    "schema": Request("As JSON.", schema='{"type": "object"}'),
    "unicode": Request('Ünï ☃ \n\t"quoted" \u2028'),
}


def keys() -> dict[str, str]:
    return {
        name: digest(["identity", cached._material(request, SHA)])
        for name, request in REQUESTS.items()
    }


def test_cache_keys() -> None:
    assert keys() == json.loads((GOLDEN / "keys.json").read_text())


def test_a_new_field_with_a_default_changes_no_key_and_loses_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Request and Response as a later version may have them: one more field each."""
    wider_request: Any = make_dataclass(
        "Request", [("tone", str, added("plain"))], bases=(Request,), frozen=True
    )
    wider_response: Any = make_dataclass(
        "Response", [("mood", str, added("calm"))], bases=(Response,), frozen=True
    )
    for name, request in REQUESTS.items():
        values = {part.name: getattr(request, part.name) for part in fields(request)}
        material = cached._material(wider_request(**values), SHA)
        assert digest(["identity", material]) == keys()[name]
        other = cached._material(wider_request(**values, tone="shrill"), SHA)
        assert digest(["identity", other]) != keys()[name]
    file = shutil.copy(GOLDEN / "cache-1.sqlite", tmp_path)
    with Cache.open(file) as cache:
        everything = [key for (key,) in cache.rows("SELECT key FROM responses")]
        before = cache.responses(everything)
    monkeypatch.setattr("imagescope.store.entries.Response", wider_response)
    with Cache.open(file) as cache:
        after = cache.responses(everything)
    assert len(after) == len(before) == len(everything) > 1000
    assert {response.mood for response in after.values()} == {"calm"}


# Prompts


def filled() -> dict[str, str]:
    """Each prompt of the packaged sets, filled, and the verifier's."""
    values = {
        "INSTRUCTION": "make the dog [[REF_IMAGE_DESC]] black",
        "REF_IMAGE_DESC": "A white dog.",
        "ATOMIC_INST": atomic_instructions([Edit("Modification", "black"), Edit("Removal", "hat")]),
    }
    result = {"verification": VERIFICATION.format(question="Is the dog black?")}
    for name in ("dialogue", "dress", "general", "shirt", "tiny", "toptee"):
        for kind, prompt in load_prompts(name, name).items():
            result[f"{name} {kind}"] = fill(prompt, **values)
    return result


def test_filled_prompts() -> None:
    assert filled() == json.loads((GOLDEN / "prompts.json").read_text())


# Traces


def test_a_trace_line_takes_new_fields_and_checks_types(tmp_path: Path) -> None:
    first = (GOLDEN / "cirr" / "traces.jsonl").read_text(encoding="utf-8").splitlines()[0]
    trace = json.loads(first)
    (tmp_path / "traces.jsonl").write_text(first)
    (before,) = read_traces(tmp_path)
    trace["later"], trace["query"]["later"], trace["rankings"]["stage1"]["later"] = 1, {}, []
    trace["verification"]["yes"][0][0] = None
    (tmp_path / "traces.jsonl").write_text(json.dumps(trace))
    (after,) = read_traces(tmp_path)
    assert after.query == before.query and after.rankings == before.rankings
    assert after.verification and math.isnan(after.verification.yes[0][0])
    for odd in ("5", "{}", "[" * 100_000, first.replace('"id": "', '"id": 5, "x": "'), "null"):
        (tmp_path / "traces.jsonl").write_text(f"{first}\n{odd}\n")
        with pytest.raises(UserError, match="line 2: not a trace"):
            read_traces(tmp_path)
