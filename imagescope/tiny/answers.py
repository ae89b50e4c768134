"""What the tiny reasoner is to answer: free reasoning, then a fenced JSON object.

Its reasoning goes through the image cell by cell ("top left: large red circle -> large blue
circle"), so that writing the new description is copying, and in reading order by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from imagescope.prompts import PromptSet, atomic_instructions, fill
from imagescope.records import BLANK_IMAGE, Edit
from imagescope.tiny import changes as edits
from imagescope.tiny import language
from imagescope.tiny.changes import Change
from imagescope.tiny.dialogues import Round, can_talk, dialogue
from imagescope.tiny.scenes import CELLS, Scene, random_scene


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt, filled, and the right answer.  task: composed, text, dialogue or questions."""

    task: str
    prompt: str
    answer: str


def _block(**steps: list[str] | list[list[str]]) -> str:
    return f"```json\n{json.dumps(steps)}\n```"


def _contents(scene: Scene) -> dict[str, str]:
    looks = {t.cell: f"{t.size} {t.colour} {t.shape}" for t in scene.things}
    return {**{cell: looks.get(cell, "none") for cell in CELLS}, "background": scene.background}


def composed_answer(changes: Sequence[Change], reference: Scene, target: Scene) -> str:
    before, after = _contents(reference), _contents(target)
    lines = [f"{place}: {before[place]} -> {after[place]}" for place in before]
    step1 = [[edits.edit_type(c), edits.edit_text(c)] for c in changes]
    return "\n".join([*lines, _block(step1=step1, step2=language.descriptions(target))])


def text_answer(target: Scene) -> str:
    lines = [f"{place}: {content}" for place, content in _contents(target).items()]
    step1 = [[e.type, e.text] for e in map(claim_edit, language.scene_claims(target))]
    return "\n".join([*lines, _block(step1=step1, step2=language.descriptions(target))])


def claim_edit(claim: language.Claim) -> Edit:
    return Edit("Addition" if claim.expected else "Removal", language.statement(claim))


def dialogue_answer(said: Round) -> str:
    edit = claim_edit(said.claim)
    return _block(step1=[[edit.type, edit.text]], step2=[said.description])


def questions_answer(claims: Iterable[language.Claim]) -> str:
    return _block(step2=[[language.question(c), str(c.expected)] for c in claims])


def composed_sample(
    prompts: PromptSet, rng: Random, split: str, objects: int | None = None
) -> tuple[Sample, Sample]:
    """A composed query's two samples: synthesis and questions."""
    reference = random_scene(rng, split, objects)
    changes, target = edits.random_changes(reference, rng, split=split)
    wish = edits.instruction(changes, rng)
    prompt = fill(prompts.synthesis, INSTRUCTION=wish, REF_IMAGE_DESC=language.caption(reference))
    listed = [Edit(edits.edit_type(c), edits.edit_text(c)) for c in changes]
    claims = [claim for c in changes for claim in edits.claims(c)]
    return (
        Sample("composed", prompt, composed_answer(changes, reference, target)),
        _questions_sample(prompts, wish, listed, claims),
    )


def text_sample(
    prompts: PromptSet, rng: Random, split: str, objects: int | None = None
) -> tuple[Sample, Sample]:
    """A text-to-image query's two samples."""
    target = random_scene(rng, split, objects)
    wish = language.free_caption(target, rng)
    prompt = fill(prompts.synthesis, INSTRUCTION=wish, REF_IMAGE_DESC=BLANK_IMAGE)
    claims = language.scene_claims(target)
    return (
        Sample("text", prompt, text_answer(target)),
        _questions_sample(prompts, wish, [claim_edit(c) for c in claims], claims),
    )


def dialogue_samples(prompts: PromptSet, rng: Random, split: str) -> list[tuple[Sample, Sample]]:
    """The two samples of every round of a dialogue.  prompts: those of VisDial."""
    scene = random_scene(rng, split)
    while not can_talk(scene):
        scene = random_scene(rng, split)
    talk = dialogue(scene, rng)
    samples, known = [], talk.caption
    for said in talk.rounds:
        prompt = fill(prompts.synthesis, INSTRUCTION=said.text, REF_IMAGE_DESC=known)
        asked = _questions_sample(prompts, said.text, [claim_edit(said.claim)], [said.claim])
        samples.append((Sample("dialogue", prompt, dialogue_answer(said)), asked))
        known = said.description
    return samples


def _questions_sample(
    prompts: PromptSet, wish: str, listed: Sequence[Edit], claims: Iterable[language.Claim]
) -> Sample:
    prompt = fill(prompts.questions, INSTRUCTION=wish, ATOMIC_INST=atomic_instructions(listed))
    return Sample("questions", prompt, questions_answer(claims))
