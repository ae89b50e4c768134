"""Dialogues about a scene: a partial caption, then ten "question? answer" texts.

Shapes name things here ("the circle"), so scenes with two things of one shape have no dialogue.
Each round says what it adds to the description, and what must be true of the target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from imagescope_tiny.language import Claim, claim_of, describe, phrase
from imagescope_tiny.scenes import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES, Scene

ROUNDS = 10


@dataclass(frozen=True, slots=True)
class Round:
    """text: "question? answer".  description: of all that has been said.  claim: of this round."""

    text: str
    description: str
    claim: Claim


@dataclass(frozen=True, slots=True)
class Dialogue:
    """caption: the opening, at once the first description.  rounds: ROUNDS of them."""

    caption: str
    rounds: tuple[Round, ...]


def can_talk(scene: Scene) -> bool:
    return len({thing.shape for thing in scene.things}) == len(scene.things)


def dialogue(scene: Scene, rng: Random) -> Dialogue:
    """A random dialogue about a scene that can_talk; all it says is true."""
    first = rng.sample(scene.things, rng.randint(1, len(scene.things)))
    known = [claim_of(t, [n for n in ("size", "colour") if rng.random() < 0.2] + ["shape"])
             for t in first]  # fmt: skip
    ground = scene.background if rng.random() < 0.15 else None
    opening, rounds = describe(known, ground), []
    for _ in range(ROUNDS):
        known, ground, text, claim = _next(scene, known, ground, rng)
        rounds.append(Round(text, describe(known, ground), claim))
    return Dialogue(opening, tuple(rounds))


_State = tuple[list[Claim], str | None, str, Claim]


def _next(scene: Scene, known: list[Claim], ground: str | None, rng: Random) -> _State:
    """One round: (things known afterwards, background known afterwards, text, claim)."""
    unnamed = [t for t in scene.things if t.shape not in {k.shape for k in known}]
    gaps = [(i, n) for i, k in enumerate(known) for n in ("size", "colour", "cell")
            if not getattr(k, n)]  # fmt: skip
    news = len(gaps) + 2 * len(unnamed) + (not ground)
    if not news or rng.random() < 0.2:
        return known, ground, *_aside(scene, known, rng)
    pick = rng.randrange(news)
    if pick < len(gaps):
        i, name = gaps[pick]
        thing = next(t for t in scene.things if t.shape == known[i].shape)
        value, it = getattr(thing, name), f"the {thing.shape}"
        known = list(known)
        known[i] = replace(known[i], **{name: value})
        return known, ground, _ask(it, name, value, rng), claim_of(thing, (name, "shape"))
    if pick == news - 1 and not ground:
        guess = rng.choice((scene.background, rng.choice(tuple(BACKGROUNDS)), None))
        claim = Claim(background=scene.background)
        if guess is None:
            return known, scene.background, f"what is the background? {scene.background}", claim
        if guess == scene.background:
            return known, guess, f"is the background {guess}? yes", claim
        claim = Claim(background=guess, expected=False)
        return known, ground, f"is the background {guess}? no", claim
    thing = rng.choice(unnamed)
    if rng.random() < 0.4:
        claim = claim_of(thing, ("shape",))
        return [*known, claim], ground, f"is there a {thing.shape}? yes", claim
    names = ("size", "colour", "shape")[rng.randint(0, 1) :]
    claim = claim_of(thing, names)
    return [*known, claim], ground, f"what else is there? {phrase(claim)}", claim


def _ask(it: str, name: str, value: str, rng: Random) -> str:
    """A question about a thing's attribute with the answer that gives its value away."""
    if name == "size":
        guess = rng.choice((*SIZES, None))
        if guess:
            return f"is {it} {guess}? {'yes' if guess == value else 'no'}"
        return f"how big is {it}? {value}"
    if name == "colour":
        if rng.random() < 0.3:
            return f"is {it} {value}? yes"
        return rng.choice((f"what colour is {it}? {value}", f"which colour has {it}? {value}"))
    if rng.random() < 0.3:
        return f"is {it} at the {value}? yes"
    return f"where is {it}? at the {value}"


def _aside(scene: Scene, known: list[Claim], rng: Random) -> tuple[str, Claim]:
    """A round that rules something out: the description cannot say it, the claim can."""
    absent = [s for s in SHAPES if s not in {t.shape for t in scene.things}]
    if absent and rng.random() < 0.5:
        claim = Claim(shape=rng.choice(absent), expected=False)
        return f"is there a {claim.shape}? no", claim
    shape = rng.choice(known).shape
    thing = next(t for t in scene.things if t.shape == shape)
    if rng.random() < 0.5:
        colour = rng.choice([c for c in COLOURS if c != thing.colour])
        return f"is the {shape} {colour}? no", Claim(colour=colour, shape=shape, expected=False)
    cell = rng.choice([c for c in CELLS if c != thing.cell])
    return f"is the {shape} at the {cell}? no", Claim(shape=shape, cell=cell, expected=False)
