"""The tiny world: scenes and their split, pictures, and a language that never lies."""

from __future__ import annotations

import json
import re
from random import Random

import numpy as np
import pytest

from imagescope.methods.cirevl import LABEL, CIReVL
from imagescope.methods.parsing import OK, labelled, parse_questions, parse_synthesis
from imagescope.methods.prompts import load_prompts
from imagescope_tiny import answers, changes, language, scenes
from imagescope_tiny.dialogues import ROUNDS, can_talk, dialogue


def _scenes(count: int, seed: int = 0) -> list[scenes.Scene]:
    rng = Random(seed)
    return [scenes.random_scene(rng) for _ in range(count)]


def test_splits_are_disjoint_and_of_the_stated_shares():
    rng = Random(1)
    train = {scenes.random_scene(rng, "train") for _ in range(2000)}
    benchmark = {scenes.random_scene(rng, "benchmark") for _ in range(2000)}
    assert not train & benchmark
    assert {scenes.split_of(s) for s in train} == {"train"}
    share = np.mean([scenes.split_of(s) == "benchmark" for s in _scenes(4000)])
    assert 0.22 < share < 0.28


def test_the_split_never_moves():
    """Checkpoints in git were trained on one side of it: a change of the hash would leak."""
    found = {
        (colour, background)
        for colour in scenes.COLOURS
        for background in scenes.BACKGROUNDS
        if scenes.split_of(
            scenes.Scene((scenes.Thing("circle", colour, "large", "top left"),), background)
        )
        == "benchmark"
    }
    assert found == {
        ("orange", "grey"),
        ("cyan", "white"),
        ("cyan", "black"),
    }


def test_what_models_learn_from_is_made_of_training_scenes():
    """Every scene that the reasoner's samples describe in full, before or after an edit."""
    rng, prompts = Random(2), load_prompts("tiny", "CIRR")
    for make in (answers.composed_sample, answers.text_sample):
        for _ in range(200):
            synthesis, _ = make(prompts, rng, "train")
            _, described, how = parse_synthesis(synthesis.answer, "", "")
            assert how == OK
            target = language.parse_caption(described[-1])
            assert target and scenes.split_of(target) == "train"


def test_exercises_name_what_is_in_their_list_and_could_be_no_scene():
    rng, prompts = Random(3), load_prompts("tiny", "CIRR")
    for _ in range(100):
        sample = answers.lookup_sample(prompts, rng)
        listed, asked = (line.split(": ", 1)[1] for line in sample.prompt.splitlines())
        found, names = sample.answer.splitlines(), asked.split(", ")
        assert len(found) == len(names) > scenes.MAX_OBJECTS
        assert len(set(found)) == len(found)
        for name, answer in zip(names, found, strict=True):
            thing, place = answer.removeprefix("the ").split(" at the ")
            assert f"{thing} at the {place}" in listed
            assert thing.endswith(name.removeprefix("the "))  # its shape at least


def test_neighbours_differ_in_one_attribute():
    for scene in _scenes(100):
        for near in scenes.neighbours(scene):
            differences = (near.background != scene.background) + sum(
                t not in scene.things for t in near.things
            )
            assert differences == 1
            assert scenes.arrange(list(near.things), near.background) == near


def test_pictures_are_seeded_and_show_what_they_should():
    for scene in _scenes(30):
        image = scenes.draw(scene)
        assert (image.size, image.mode) == ((128, 128), "RGB")
        assert image.tobytes() == scenes.draw(scene).tobytes()
        assert image.tobytes() != scenes.draw(scene, seed=1).tobytes()
        pixels = np.asarray(image)
        assert tuple(pixels[64, 64]) == scenes.BACKGROUNDS[scene.background]
        for thing in scene.things:
            row, column = divmod(scenes.CELLS.index(thing.cell), 2)
            assert tuple(pixels[32 + 64 * row, 32 + 64 * column]) == scenes.COLOURS[thing.colour]


def test_near_twins_look_different():
    for scene in _scenes(10):
        picture = np.asarray(scenes.draw(scene, 64), float)
        for near in scenes.neighbours(scene):
            assert np.abs(picture - np.asarray(scenes.draw(near, 64), float)).max() > 60


def test_captions_are_read_back():
    for scene in _scenes(300):
        assert language.parse_caption(language.caption(scene)) == scene
    for text in ("", "a cat", "a large red circle at the top left", "A blank image."):
        assert language.parse_caption(text) is None


def test_descriptions_and_claims_are_true():
    rng = Random(3)
    held = []
    for scene in _scenes(500):
        assert language.satisfied(language.scene_claims(scene), scene)
        assert language.descriptions(scene)[-1] == language.caption(scene)
        held.append(language.holds(language.random_claim(scene, rng), scene))
    assert 0.4 < np.mean(held) < 0.6


def test_a_full_caption_fits_its_scene_only():
    for scene in _scenes(100):
        claims = language.scene_claims(scene)
        assert not any(language.satisfied(claims, near) for near in scenes.neighbours(scene))


@pytest.mark.parametrize("resolved", [True, False])
def test_edits_come_true(resolved):
    rng = Random(4)
    kinds = set()
    for scene in _scenes(1000):
        made, target = changes.random_changes(scene, rng)
        assert changes.apply(made, scene) == target != scene
        claims = [claim for c in made for claim in changes.claims(c, resolved)]
        assert language.satisfied(claims, target)
        assert language.judgement(claims, target).endswith("ANSWER: Yes")
        kinds |= {changes.edit_type(c) for c in made}
    assert kinds == {"Addition", "Removal", "Modification", "Comparison", "Retention"}


def test_an_undone_edit_is_noticed():
    rng = Random(5)
    for scene in _scenes(500):
        made, _ = changes.random_changes(scene, rng, count=1)
        claims = changes.claims(made[0])
        assert not language.satisfied(claims, scene)
        assert "ANSWER: No" in language.judgement(claims, scene)


def test_instructions_name_one_thing():
    """The words by which an instruction names a thing fit no other thing of the reference."""
    rng = Random(6)
    for scene in _scenes(500):
        for change in changes.random_changes(scene, rng)[0]:
            if change.old:
                fits = [all(getattr(t, n) == getattr(change.old, n) for n in change.named)
                        for t in scene.things]  # fmt: skip
                assert sum(fits) == 1


def test_instructions_survive_the_lowering_of_stage_3():
    rng = Random(7)
    for scene in _scenes(200):
        said = changes.instruction(changes.random_changes(scene, rng)[0], rng)
        assert said == said.lower().strip(" .")


def test_dialogues_are_true_and_grow():
    rng = Random(8)
    for scene in filter(can_talk, _scenes(300)):
        talk = dialogue(scene, rng)
        assert len(talk.rounds) == ROUNDS
        lengths = [len(talk.caption), *(len(r.description) for r in talk.rounds)]
        assert lengths == sorted(lengths)
        for said in talk.rounds:
            assert language.satisfied([said.claim], scene)
            assert "?" in said.text


def test_answers_parse_as_the_pipeline_reads_them():
    rng = Random(9)
    prompts, talk = load_prompts("tiny", "CIRR"), load_prompts("tiny", "VisDial")
    pairs = [answers.composed_sample(prompts, rng, "train") for _ in range(100)]
    pairs += [answers.text_sample(prompts, rng, "train") for _ in range(100)]
    pairs += answers.dialogue_samples(talk, rng, "train")
    for synthesis, asked in pairs:
        edits, described, how = parse_synthesis(synthesis.answer, "", "")
        assert how == OK and edits
        assert len(described) == (1 if synthesis.task == "dialogue" else 3)
        questions, how = parse_questions(asked.answer)
        assert how == OK and questions
        listed = [line for line in asked.prompt.splitlines() if line.startswith("   (")]
        assert len(listed) == len(edits)


def test_a_caption_s_edit_is_what_cirevl_reads() -> None:
    rng, prompts = Random(13), load_prompts("tiny", "CIRR", CIReVL.prompts, CIReVL.name)
    for _ in range(200):
        sample = answers.caption_edit_sample(prompts, rng, "train")
        before, _, wish = sample.prompt.removeprefix("Image: ").partition("\nEdit: ")
        reference = language.parse_caption(before)
        edited = language.parse_caption(labelled(sample.answer, LABEL))
        assert wish and reference and edited and edited != reference
        for thing in edited.things:
            assert f"\n{thing.cell}: {thing.size} {thing.colour} {thing.shape}\n" in sample.answer


def test_a_search_is_answered_with_what_it_names_and_no_more():
    rng, prompts = Random(12), load_prompts("tiny", "CIRR")
    words = {"little": "small", "tiny": "small", "big": "large"}
    kinds = (scenes.SIZES, scenes.COLOURS, scenes.SHAPES, scenes.CELLS, scenes.BACKGROUNDS)
    known = {word for kind in kinds for word in kind}
    for _ in range(300):
        synthesis, asked = answers.search_sample(prompts, rng, "train")
        wish = synthesis.prompt.partition("Change: ")[2]
        plain = re.sub(r"\w+", lambda found: words.get(found[0], found[0]), wish)
        edits, described, how = parse_synthesis(synthesis.answer, "", "")
        assert how == OK and 1 <= len(described) <= 3
        named = {word for word in known if re.search(rf"\b{word}\b", plain)}
        assert {w for w in known if re.search(rf"\b{w}\b", described[-1])} == named
        assert all(w in named for w in known if re.search(rf"\b{w}\b", " ".join(described)))
        assert language.parse_caption(described[-1]) is None  # less than a scene
        questions, how = parse_questions(asked.answer)
        assert how == OK and len(questions) == len(edits)


def test_the_reasoner_s_tokenizer_gives_texts_back():
    reasoner = pytest.importorskip("imagescope_tiny.reasoner")
    tokenizer = reasoner.make_tokenizer()
    assert len(tokenizer) < 1200
    source = reasoner.samples(Random(10), "benchmark")
    for sample in (next(source) for _ in range(200)):
        for text in (sample.prompt, sample.answer):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.decode(ids) == text
            assert len(ids) < 200
    odd = json.dumps({"Ünïcode": '日本 "quoted"\n\t'}, ensure_ascii=False)
    assert tokenizer.decode(tokenizer(odd)["input_ids"]) == odd
