"""Prompt sets: what is accepted, what is refused, how they are filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagescope.errors import UserError
from imagescope.methods.prompts import PromptKind, atomic_instructions, fill, load_prompts
from imagescope.records import Edit

TEXTS = {
    "caption": "Describe.",
    "synthesis": "Do [[INSTRUCTION]] to [[REF_IMAGE_DESC]].",
    "questions": "Ask about [[INSTRUCTION]]:[[ATOMIC_INST]]",
    "evaluation": "Is it [[INSTRUCTION]]?",
}
PAPER = {
    "caption": "caption",
    "synthesis": "prompt1_stage1_reasoner",
    "questions": "prompt2_stage2_reasoner",
    "evaluation": "prompt3_stage3_evaluator",
}


def write(folder: Path, names: dict[str, str] | None = None, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in (texts or TEXTS).items():
        (folder / f"{(names or {}).get(kind, kind)}.txt").write_text(text)
    return folder


def test_our_names_and_the_papers(tmp_path: Path) -> None:
    ours = load_prompts(write(tmp_path / "ours"), "CIRR")
    theirs = load_prompts(write(tmp_path / "theirs", PAPER), "CIRR")
    assert ours == theirs
    assert ours["synthesis"] == TEXTS["synthesis"]
    assert len(set(ours.hashes().values())) == 4


def test_the_releases_files_are_sent_byte_for_byte_and_ours_are_stripped(tmp_path: Path) -> None:
    blank = {kind: f" {text}\r\n{text} \n" for kind, text in TEXTS.items()}
    for path, names in ((tmp_path / "ours", None), (tmp_path / "theirs", PAPER)):
        write(path, names)
        for kind, text in blank.items():
            (path / f"{(names or {}).get(kind, kind)}.txt").write_bytes(text.encode())
    ours, theirs = (
        load_prompts(tmp_path / "ours", "CIRR"),
        load_prompts(tmp_path / "theirs", "CIRR"),
    )
    assert theirs == blank  # caption.txt, which has the same name in both, too
    assert ours == {kind: f"{text}\n{text}" for kind, text in TEXTS.items()}


def test_a_folder_of_folders_one_a_dataset(tmp_path: Path) -> None:
    write(tmp_path / "CIRR", PAPER)
    write(tmp_path / "fashioniq_dress", PAPER, **{**TEXTS, "caption": "Describe the dress."})
    assert load_prompts(tmp_path, "CIRR")["caption"] == "Describe."
    assert load_prompts(tmp_path, "FashionIQ-dress")["caption"] == "Describe the dress."
    with pytest.raises(UserError, match=r"no caption\.txt"):
        load_prompts(tmp_path, "VisDial")


def test_a_dataset_overrides_single_files(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path / "VisDial", synthesis="[[REF_IMAGE_DESC]] and [[INSTRUCTION]]")
    found = load_prompts(tmp_path, "VisDial")
    assert found["synthesis"].startswith("[[REF_IMAGE_DESC]]")
    assert found["caption"] == "Describe."


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("synthesis", "[[INSTRUCTION]]", r"\[\[REF_IMAGE_DESC\]\] is missing"),
        ("evaluation", "[[INSTRUCTION]] [[NAME]]", r"\[\[NAME\]\] is unknown"),
        ("caption", "[[INSTRUCTION]]", "unknown here"),
        ("caption", "  \n", "empty"),
    ],
)
def test_placeholders_are_checked_at_load(
    tmp_path: Path, kind: str, text: str, message: str
) -> None:
    write(tmp_path, **{**TEXTS, kind: text})
    with pytest.raises(UserError, match=message) as error:
        load_prompts(tmp_path, "CIRR")
    assert f"{kind}.txt" in str(error.value)


def test_a_methods_own_text_stands_in_for_a_file_that_no_set_has(tmp_path: Path) -> None:
    kinds = {"describe": PromptKind(frozenset({"INSTRUCTION"}), text="Say [[INSTRUCTION]].")}
    assert load_prompts("general", "CIRR", kinds, "mine")["describe"] == "Say [[INSTRUCTION]]."
    own = write(tmp_path, describe="Write [[INSTRUCTION]].")
    assert load_prompts(own, "CIRR", kinds, "mine")["describe"] == "Write [[INSTRUCTION]]."


def test_unknown_set_lists_what_there_is() -> None:
    with pytest.raises(UserError, match=r"no such config.*general"):
        load_prompts("nothing", "CIRR")


@pytest.mark.parametrize("dataset", ["CIRR", "VisDial", "FashionIQ-dress"])
@pytest.mark.parametrize("name", ["general", "dialogue", "dress", "shirt", "toptee", "tiny"])
def test_packaged_sets_load(name: str, dataset: str) -> None:
    found = load_prompts(name, dataset)
    assert min(map(len, (found["caption"], found["synthesis"], found["questions"]))) > 0


def test_values_are_not_filled_again() -> None:
    prompt = "[[INSTRUCTION]] | [[REF_IMAGE_DESC]]"
    hostile = "[[REF_IMAGE_DESC]] \\1 {x}"
    assert fill(prompt, INSTRUCTION=hostile, REF_IMAGE_DESC="secret") == f"{hostile} | secret"


def test_atomic_instructions() -> None:
    edits = [Edit("Addition", "add a dog"), Edit("Removal", "no cat")]
    assert atomic_instructions(edits) == "\n   (1) Addition: add a dog\n   (2) Removal: no cat"
