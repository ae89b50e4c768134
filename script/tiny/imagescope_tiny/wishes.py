"""What the tiny evaluator is asked: wishes in the words of instructions, captions and dialogues,
which an image fulfils or not; and balanced cases of them to measure it by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from imagescope_tiny import changes as edits
from imagescope_tiny.changes import Change
from imagescope_tiny.dialogues import can_talk, dialogue
from imagescope_tiny.language import (
    ATTRIBUTES,
    Claim,
    caption,
    claim_of,
    describe,
    descriptions,
    free_caption,
    satisfied,
    scene_claims,
)
from imagescope_tiny.scenes import Scene, neighbour, neighbours, random_scene, split_of


@dataclass(frozen=True, slots=True)
class Wish:
    """An instruction as stage 3 sends it, and what must be true of the right image."""

    text: str
    claims: tuple[Claim, ...]


def _wish(text: str, claims: Sequence[Claim]) -> Wish:
    return Wish(text.lower().strip(" ."), tuple(claims))


def edit_wish(changes: Sequence[Change], rng: Random) -> Wish:
    """A composed query's instruction; only its own words are known of the reference."""
    claims = [claim for change in changes for claim in edits.claims(change, resolved=False)]
    return _wish(edits.instruction(changes, rng), claims)


def caption_wish(target: Scene, rng: Random) -> Wish:
    """A text-to-image query's caption: full, or poorer in one of many ways."""
    kind = rng.random()
    if kind < 0.6:
        return _wish(free_caption(target, rng), scene_claims(target))
    if kind < 0.7:
        return _wish(caption(target), scene_claims(target))
    if kind < 0.8:
        things = [claim_of(thing, edits.LOOK) for thing in target.things]
        return _wish(descriptions(target)[0], things)
    names = ("shape", *(n for n in ("size", "colour", "cell") if rng.random() < 0.6))
    things = [claim_of(thing, [n for n in ATTRIBUTES if n in names]) for thing in target.things]
    ground = target.background if rng.random() < 0.6 else None
    grounds = [Claim(background=ground)] if ground else []
    return _wish(describe(things, ground), [*things, *grounds])


def dialogue_wish(target: Scene, rng: Random) -> Wish:
    """One round of a dialogue: "question? answer"."""
    while not can_talk(target):
        target = neighbour(target, rng)
    turn = rng.choice(dialogue(target, rng).rounds)
    return _wish(turn.text, [turn.claim])


def wish_for(target: Scene, rng: Random, reference: bool) -> Wish:
    """A wish that `target` fulfils: an edit of an unseen reference, or without one a caption or
    a dialogue's round."""
    if not reference:
        return (caption_wish if rng.random() < 0.6 else dialogue_wish)(target, rng)
    changes, _ = edits.random_changes(target, rng)
    return edit_wish([inverse(change, rng) for change in changes], rng)


def any_wish(scene: Scene, rng: Random, reference: bool, fulfilled: bool) -> Wish:
    """A wish that `scene` fulfils or not; those that it does not are mostly near misses."""
    while True:
        target = scene
        if not fulfilled:
            target = neighbour(scene, rng) if rng.random() < 0.75 else random_scene(rng)
        wish = wish_for(target, rng, reference)
        if satisfied(wish.claims, scene) == fulfilled:
            return wish


def inverse(change: Change, rng: Random) -> Change:
    """The edit that takes back `change`."""
    kind = {"add": "remove", "remove": "add"}.get(change.kind, change.kind)
    named = ("shape",) if kind != "shape" and rng.random() < 0.3 else edits.LOOK
    return replace(change, kind=kind, old=change.new, new=change.old, named=named)


@dataclass(frozen=True, slots=True)
class Case:
    """A judgement to make: the images (no reference: black), the wish, whether yes is right."""

    kind: str
    left: Scene | None
    right: Scene
    wish: Wish
    expected: bool


def cases(count: int, rng: Random) -> list[Case]:
    """Balanced decisions about benchmark scenes: of every eight, two accept and two reject an
    edit (a near-twin of the target, the reference unchanged), two each a caption and a dialogue's
    round without a reference."""
    decisions: list[Case] = []
    while len(decisions) < count:
        reference = random_scene(rng, "benchmark")
        change, target = edits.random_changes(reference, rng, split="benchmark")
        wish = edit_wish(change, rng)
        if not satisfied(wish.claims, target) or satisfied(wish.claims, reference):
            continue  # "make the circle red" beside another red circle
        twins = [
            twin
            for twin in neighbours(target)
            if split_of(twin) == "benchmark" and not satisfied(wish.claims, twin)
        ]
        if not twins:
            continue  # a removed thing is rarely one attribute away
        twin = rng.choice(twins)
        decisions.append(Case("edit_accept", reference, target, wish, True))
        decisions.append(Case("edit_near_miss", reference, twin, wish, False))
        decisions.append(Case("edit_accept", reference, target, edit_wish(change, rng), True))
        decisions.append(Case("edit_unchanged", reference, reference, wish, False))
        for kind, say in (("caption", caption_wish), ("dialogue", dialogue_wish)):
            scene = random_scene(rng, "benchmark")
            right, wrong = say(scene, rng), say(neighbour(scene, rng), rng)
            while not satisfied(right.claims, scene):
                right = say(scene, rng)
            while satisfied(wrong.claims, scene):
                wrong = say(neighbour(scene, rng), rng)
            decisions.append(Case(f"{kind}_accept", None, scene, right, True))
            decisions.append(Case(f"{kind}_near_miss", None, scene, wrong, False))
    return decisions[:count]
