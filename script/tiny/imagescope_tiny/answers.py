"""What the tiny reasoner is to answer: free reasoning, then a fenced JSON object or, to CIReVL, the
edited description.

For an edit it first finds the thing ("the red circle at the top left", as the caption has it) and
writes what becomes of it ("top left: large red circle -> large blue circle"); then it goes through
the whole result place by place. So every word is one look-up, and the description is copying, in
reading order by itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

from imagescope.methods.cirevl import LABEL
from imagescope.methods.prompts import Prompts, atomic_instructions, fill
from imagescope.records import BLANK_IMAGE, Edit
from imagescope_tiny import changes as edits
from imagescope_tiny import language
from imagescope_tiny.changes import Change
from imagescope_tiny.dialogues import Round, can_talk, dialogue
from imagescope_tiny.scenes import CELLS, COLOURS, SHAPES, Scene, Thing, random_scene, random_thing


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt, filled, and the right answer.
    task: composed, text, search, dialogue, caption edit, questions or look-up."""

    task: str
    prompt: str
    answer: str


def _block(**steps: list[str] | list[list[str]]) -> str:
    return f"```json\n{json.dumps(steps)}\n```"


def _look(thing: Thing | None) -> str:
    return f"{thing.size} {thing.colour} {thing.shape}" if thing else "none"


def _places(scene: Scene) -> list[str]:
    """The scene place by place, then its background."""
    things = {thing.cell: thing for thing in scene.things}
    places = [f"{cell}: {_look(things.get(cell))}" for cell in CELLS]
    return [*places, f"background: {scene.background}"]


def _reasoning(changes: Sequence[Change], target: Scene) -> list[str]:
    plan = [line for change in changes for line in _plan(change)]
    return [*plan, "Result:", *_places(target)]


def composed_answer(changes: Sequence[Change], target: Scene) -> str:
    step1 = [[edits.edit_type(c), edits.edit_text(c)] for c in changes]
    block = _block(step1=step1, step2=language.descriptions(target))
    return "\n".join([*_reasoning(changes, target), block])


def caption_edit_answer(changes: Sequence[Change], target: Scene) -> str:
    """CIReVL's: the reference's caption, edited."""
    edited = f"{LABEL}: {language.caption(target)}"
    return "\n".join([*_reasoning(changes, target), edited])


def _plan(change: Change) -> Iterator[str]:
    """What an edit is about, where that is, and what becomes of it."""
    old, new = change.old, change.new
    if change.background:
        yield f"background: {change.background}"
    if old:
        stays = new if new and new.cell == old.cell else None
        yield _found(old)
        yield f"{old.cell}: {_look(old)} -> {_look(stays)}"
    if new and (not old or old.cell != new.cell):
        yield f"{new.cell}: none -> {_look(new)}"


def text_answer(target: Scene) -> str:
    step1 = [[e.type, e.text] for e in map(claim_edit, language.scene_claims(target))]
    return "\n".join([*_places(target), _block(step1=step1, step2=language.descriptions(target))])


def search_answer(things: Sequence[language.Claim], background: str | None) -> str:
    """Where less than a scene is known, there are no places to go through."""
    claims = _claims(things, background)
    step1 = [[e.type, e.text] for e in map(claim_edit, claims)]
    return _block(step1=step1, step2=language.levels(things, background))


def _claims(things: Sequence[language.Claim], background: str | None) -> list[language.Claim]:
    return [*things, *([language.Claim(background=background)] if background else [])]


def claim_edit(claim: language.Claim) -> Edit:
    return Edit("Addition" if claim.expected else "Removal", language.statement(claim))


def dialogue_answer(turn: Round) -> str:
    edit = claim_edit(turn.claim)
    return _block(step1=[[edit.type, edit.text]], step2=[turn.description])


def questions_answer(claims: Iterable[language.Claim]) -> str:
    return _block(step2=[[language.question(c), str(c.expected)] for c in claims])


def composed_sample(
    prompts: Prompts, rng: Random, split: str, objects: int | None = None
) -> tuple[Sample, Sample]:
    """A composed query's two samples: synthesis and questions."""
    caption, wish, changes, target = _composed_query(rng, split, objects)
    prompt = fill(prompts["synthesis"], INSTRUCTION=wish, REF_IMAGE_DESC=caption)
    listed = [Edit(edits.edit_type(c), edits.edit_text(c)) for c in changes]
    claims = [claim for c in changes for claim in edits.claims(c)]
    return (
        Sample("composed", prompt, composed_answer(changes, target)),
        _questions_sample(prompts, wish, listed, claims),
    )


def caption_edit_sample(
    prompts: Prompts, rng: Random, split: str, objects: int | None = None
) -> Sample:
    """A composed query as CIReVL asks it.  prompts: CIReVL's."""
    caption, wish, changes, target = _composed_query(rng, split, objects)
    prompt = fill(prompts["edit"], INSTRUCTION=wish, REF_IMAGE_DESC=caption)
    return Sample("caption edit", prompt, caption_edit_answer(changes, target))


def _composed_query(
    rng: Random, split: str, objects: int | None
) -> tuple[str, str, list[Change], Scene]:
    """The reference's caption, the instruction, its edits and the target."""
    reference = random_scene(rng, split, objects)
    changes, target = edits.random_changes(reference, rng, split=split)
    return language.caption(reference), edits.instruction(changes, rng), changes, target


def lookup_sample(prompts: Prompts, rng: Random) -> Sample:
    """An exercise in finding things: a list of four to six (too many for a scene), each asked for
    in another order, and where it is.

    Composed queries need one or two look-ups in a hundred words; from them alone a small model
    does not learn, in 100,000 samples, that looking up is to be done at all.
    """
    looks = rng.sample([(c, s) for c in COLOURS for s in SHAPES], rng.randint(4, 6))
    somewhere = [random_thing(rng, rng.choice(CELLS)) for _ in looks]
    things = [replace(t, colour=c, shape=s) for t, (c, s) in zip(somewhere, looks, strict=True)]
    requests = []
    for thing in rng.sample(things, len(things)):
        alone = sum(thing.shape == other.shape for other in things) == 1
        requests.append((thing, ("shape",) if alone and rng.random() < 0.5 else edits.LOOK))
    wish = ", ".join(language.phrase(language.claim_of(t, named), "the") for t, named in requests)
    prompt = fill(prompts["synthesis"], INSTRUCTION=wish, REF_IMAGE_DESC=language.describe(things))
    return Sample("look-up", prompt, "\n".join(_found(thing) for thing, _ in requests))


def _found(thing: Thing) -> str:
    """A thing that was looked up: its name and its place."""
    return language.phrase(language.claim_of(thing, (*edits.LOOK, "cell")), "the")


def text_sample(
    prompts: Prompts, rng: Random, split: str, objects: int | None = None
) -> tuple[Sample, Sample]:
    """A text-to-image query's two samples."""
    target = random_scene(rng, split, objects)
    wish = language.free_caption(target, rng)
    prompt = fill(prompts["synthesis"], INSTRUCTION=wish, REF_IMAGE_DESC=BLANK_IMAGE)
    claims = language.scene_claims(target)
    return (
        Sample("text", prompt, text_answer(target)),
        _questions_sample(prompts, wish, [claim_edit(c) for c in claims], claims),
    )


def search_sample(prompts: Prompts, rng: Random, split: str) -> tuple[Sample, Sample]:
    """The two samples of a text search that says less than a caption does."""
    target = random_scene(rng, split)
    share = rng.random()  # of the other attributes that matter to whoever searches
    things = []
    for thing in rng.sample(target.things, rng.randint(1, len(target.things))):
        names = [name for name in ("size", "colour", "cell") if rng.random() < share]
        things.append(language.claim_of(thing, [*names, "shape"]))
    things = list(dict.fromkeys(things))
    background = target.background if rng.random() < 0.3 else None
    if all(None not in (t.size, t.colour, t.cell) for t in things):
        background = None  # else it were a whole caption
    wish = language.search_text(things, background, rng)
    prompt = fill(prompts["synthesis"], INSTRUCTION=wish, REF_IMAGE_DESC=BLANK_IMAGE)
    claims = _claims(things, background)
    return (
        Sample("search", prompt, search_answer(things, background)),
        _questions_sample(prompts, wish, [claim_edit(c) for c in claims], claims),
    )


def dialogue_samples(prompts: Prompts, rng: Random, split: str) -> list[tuple[Sample, Sample]]:
    """The two samples of every round of a dialogue.  prompts: those of VisDial."""
    scene = random_scene(rng, split)
    while not can_talk(scene):
        scene = random_scene(rng, split)
    talk = dialogue(scene, rng)
    samples, description = [], talk.caption
    for turn in talk.rounds:
        prompt = fill(prompts["synthesis"], INSTRUCTION=turn.text, REF_IMAGE_DESC=description)
        questions = _questions_sample(prompts, turn.text, [claim_edit(turn.claim)], [turn.claim])
        samples.append((Sample("dialogue", prompt, dialogue_answer(turn)), questions))
        description = turn.description
    return samples


def _questions_sample(
    prompts: Prompts, wish: str, listed: Sequence[Edit], claims: Iterable[language.Claim]
) -> Sample:
    prompt = fill(prompts["questions"], INSTRUCTION=wish, ATOMIC_INST=atomic_instructions(listed))
    return Sample("questions", prompt, questions_answer(claims))
