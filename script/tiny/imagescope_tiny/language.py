"""How the tiny world speaks: captions, claims, questions about one image, and their truth.

A caption in canonical words names every attribute, things in reading order:
"a large red circle at the top left and a small blue square at the bottom right on a white
background". Descriptions may leave attributes out. A claim is a partial description that an
image meets or not; every question in the tiny world asks for one claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from imagescope_tiny.scenes import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    arrange,
    neighbour,
)

ATTRIBUTES = ("size", "colour", "shape", "cell")


@dataclass(frozen=True, slots=True)
class Claim:
    """There is a thing with these attributes (None: any), or, where `background` is named, the
    background is that. `expected` is False for the claim that there is none."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    cell: str | None = None
    background: str | None = None
    expected: bool = True


def holds(claim: Claim, scene: Scene) -> bool:
    """Whether the claim's description fits the scene, whatever is expected of it."""
    if claim.background:
        return scene.background == claim.background
    attributes = [(name, getattr(claim, name)) for name in ATTRIBUTES if getattr(claim, name)]
    return any(all(getattr(t, name) == v for name, v in attributes) for t in scene.things)


def satisfied(claims: Iterable[Claim], scene: Scene) -> bool:
    """Whether the scene answers every claim as expected."""
    return all(holds(claim, scene) == claim.expected for claim in claims)


def phrase(thing: Claim | Thing, article: str = "a") -> str:
    """A thing in words ("a large red circle at the top left"), as far as attributes are named."""
    words = [w for w in (thing.size, thing.colour, thing.shape or "object") if w]
    if article == "a" and words[0][0] in "aeiou":
        article = "an"
    place = f" at the {thing.cell}" if thing.cell else ""
    return f"{article} {' '.join(words)}{place}"


def question(claim: Claim) -> str:
    if claim.background:
        return f"is the background {claim.background}?"
    return f"is there {phrase(claim)}?"


def statement(claim: Claim) -> str:
    no = "" if claim.expected else "no "
    if claim.background:
        return f"the background is {'' if claim.expected else 'not '}{claim.background}"
    return f"there is {no}{phrase(claim, '' if no else 'a').strip()}"


def claim_of(thing: Thing, names: Iterable[str] = ATTRIBUTES, expected: bool = True) -> Claim:
    """The claim that there is a thing with these attributes of `thing`."""
    return Claim(**{name: getattr(thing, name) for name in names}, expected=expected)


def scene_claims(scene: Scene) -> list[Claim]:
    """Everything a full caption says: a claim for each thing, then the background."""
    return [*map(claim_of, scene.things), Claim(background=scene.background)]


def join(phrases: Sequence[str], last: str = " and ") -> str:
    """As in "a", "a and b", "a, b and c"."""
    return last.join(filter(None, [", ".join(phrases[:-1]), phrases[-1]]))


def describe(things: Iterable[Claim | Thing], background: str | None = None) -> str:
    """A description in canonical words, in the order given."""
    ground = f" on a {background} background" if background else ""
    return join([phrase(thing) for thing in things]) + ground


def caption(scene: Scene) -> str:
    """The canonical caption: every attribute, in reading order."""
    return describe(scene.things, scene.background)


def levels(things: Sequence[Claim], background: str | None) -> list[str]:
    """The three levels of stage 1, core elements, with details, full synthesis; fewer where less
    is known."""
    core = [replace(thing, size=None, cell=None) for thing in things]
    details = [replace(thing, cell=None) for thing in things]
    texts = (describe(core), describe(details, background), describe(things, background))
    return list(dict.fromkeys(texts))


def descriptions(scene: Scene) -> list[str]:
    """The three levels of a whole scene."""
    return levels([claim_of(thing) for thing in scene.things], scene.background)


def random_description(scene: Scene, rng: Random) -> str:
    """A true description with attributes left out at random, things in any order: what dialogues
    build up round by round, and what an encoder of text has to cope with."""
    things = rng.sample(scene.things, rng.randint(1, len(scene.things)))
    claims = []
    for thing in things:
        names = [name for name in ("size", "colour", "cell") if rng.random() < 0.65]
        claims.append(claim_of(thing, [*names, "shape"]))
    return describe(claims, scene.background if rng.random() < 0.6 else None)


_THING = re.compile(
    rf"an? ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
    rf" at the ({'|'.join(CELLS)})"
)
_GROUND = re.compile(rf"(.+) on a ({'|'.join(BACKGROUNDS)}) background")


def parse_caption(text: str) -> Scene | None:
    """The scene that a canonical caption describes; None for any other text."""
    ground = _GROUND.fullmatch(text.strip())
    matches = [_THING.fullmatch(part) for part in re.split(", | and ", ground[1])] if ground else []
    things = [Thing(m[3], m[2], m[1], m[4]) for m in matches if m]
    if not ground or len(things) < len(matches):
        return None
    scene = arrange(things, ground[2])
    return scene if scene and caption(scene) == text.strip() else None


_SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
_PLACES = ("at the {0}", "in the {0}", "in the {0} corner")


def _freely(thing: Claim, place: str, rng: Random, article: bool = True) -> str:
    """A thing as people would name it, as far as its attributes are known."""
    size = rng.choice(_SIZE_WORDS[thing.size]) if thing.size else None
    words = phrase(replace(thing, size=size, cell=None), "a" if article else "").strip()
    return f"{words} {place.format(thing.cell)}" if thing.cell else words


def free_caption(scene: Scene, rng: Random) -> str:
    """A full caption as people would vary it: synonyms, and the background first or last."""
    place = rng.choice(_PLACES)
    things = join([_freely(claim_of(thing), place, rng) for thing in scene.things])
    ground = scene.background
    return rng.choice(
        (
            f"{things} on a {ground} background",
            f"{things} against a {ground} backdrop",
            f"on a {ground} background there is {things}",
            f"the background is {ground}, with {things}",
            f"{ground} background, {things}",
        )
    )


def search_text(things: Sequence[Claim], background: str | None, rng: Random) -> str:
    """What people type to search: no more than matters to them, with articles or without."""
    place, article = rng.choice(_PLACES), rng.random() < 0.7
    words = join([_freely(thing, place, rng, article) for thing in things])
    return words + (f" on {'a ' if article else ''}{background} background" if background else "")


def random_claim(scene: Scene, rng: Random) -> Claim:
    """A claim that holds for this scene or, as often, for a near-twin and not for this one."""
    fits = rng.random() < 0.5
    while True:
        source = scene if fits else neighbour(scene, rng)
        if rng.random() < 0.15:
            claim = Claim(background=source.background)
        else:
            names = [name for name in ATTRIBUTES if rng.random() < 0.6]
            claim = claim_of(rng.choice(source.things), names or ("colour", "shape"))
        if holds(claim, scene) == fits:
            return claim


def judgement(claims: Iterable[Claim], scene: Scene) -> str:
    """What the evaluator should say of a right image: each clause of the instruction as a question
    with its answer there, then whether all came out as the instruction wants."""
    claims = list(claims)
    lines = [f"{question(c)} {'yes' if holds(c, scene) else 'no'}" for c in claims]
    decision = "Yes" if satisfied(claims, scene) else "No"
    return "\n".join([*lines, f"ANSWER: {decision}"])
