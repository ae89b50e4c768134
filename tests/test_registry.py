"""Names: looked up lazily, with a hint where there is none, those of other packages included."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from imagescope.config import load_run
from imagescope.errors import UserError
from imagescope.registry import ENGINES, METHODS, Registry


def test_a_wrong_name_gets_the_nearest_and_all() -> None:
    with pytest.raises(
        UserError, match=r"no method is named Cirvel: did you mean cirevl\? \(there"
    ):
        METHODS.load("Cirvel")
    with pytest.raises(UserError, match="no thing is named x: there are none"):
        Registry("thing", {}).load("x")


def test_a_name_of_ours_is_not_taken_by_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    group = "imagescope.things"
    points = [EntryPoint("ours", "json:dumps", group), EntryPoint("theirs", "json:loads", group)]
    monkeypatch.setattr("imagescope.registry.entry_points", lambda group: points)
    registry = Registry("thing", {"ours": "json:dump"})
    assert dict(registry) == {"ours": "json:dump", "theirs": "json:loads"}
    assert registry.load("theirs")("1") == 1


def test_what_cannot_be_imported_is_said_with_its_place() -> None:
    registry = Registry("thing", {"a": "no_such_module:x", "b": "json:no_such"})
    with pytest.raises(UserError, match=r"thing a \(no_such_module:x\): No module named"):
        registry.load("a")
    with pytest.raises(UserError, match=r"thing b \(json:no_such\): .*no attribute"):
        registry.load("b")


def test_objects_are_added_and_removed_for_this_process() -> None:
    registry = Registry("thing", {"a": "json:dumps"})
    registry.add("mine", 3)
    assert registry.load("mine") == 3 and list(registry) == ["a", "mine"]
    with pytest.raises(UserError, match="thing a is there already"):
        registry.add("a", 4)
    registry.remove("mine")
    assert list(registry) == ["a"]


@pytest.mark.parametrize("key", ["engine", "models"])
def test_a_wrong_engine_is_found_in_the_config(tmp_path: Path, key: str) -> None:
    text = "engine: vlm" if key == "engine" else "models: set.yaml"
    role = "{model: m, engine: vlm}"
    roles = "".join(f"{name}: {role}\n" for name in ("captioner", "reasoner", "verifier"))
    (tmp_path / "set.yaml").write_text(f"{roles}evaluator: {{model: m}}\nencoder: {{model: m}}")
    path = tmp_path / "run.yaml"
    path.write_text(f"dataset: CIRR\n{text.replace('set.yaml', str(tmp_path / 'set.yaml'))}")
    with pytest.raises(UserError, match=r"(?s)yaml.*no engine is named vlm: did you mean vllm\?"):
        load_run(path)


def test_engines_say_what_they_are_without_being_opened() -> None:
    kinds = {name: ENGINES.load(name) for name in ENGINES}
    assert [name for name, kind in kinds.items() if kind.remote] == ["openai"]
    assert [name for name, kind in kinds.items() if kind.own_process] == ["vllm"]
    assert all(kind.summary and kind.package for kind in kinds.values())
