"""Edits of a scene, of the method's five types: what they do, how they are asked for, and what must
be true of an image that has them.

An instruction names a thing as people do ("the circle", "the red circle"); the reasoner, which
reads the reference's caption, resolves the name; the evaluator has only the instruction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from imagescope_tiny.language import ATTRIBUTES, Claim, claim_of, join, phrase, satisfied
from imagescope_tiny.scenes import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    MAX_OBJECTS,
    SHAPES,
    Scene,
    Thing,
    arrange,
    random_thing,
    split_of,
)

LOOK = ("colour", "shape")


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic edit.

    kind: add, remove, keep, colour, shape, size, scale, cell or background.
    old: the thing it is about, as the reference has it (None: add, background).
    new: that thing afterwards (None: remove, background).
    named: how the instruction names the old thing: ("shape",) or ("colour", "shape").
    background: the new background's colour, where kind is background.
    """

    kind: str
    old: Thing | None = None
    new: Thing | None = None
    named: tuple[str, ...] = LOOK
    background: str = ""


# Colours twice: they have the most values.
_KINDS = (
    *("add", "remove", "keep", "colour", "colour"),
    *("shape", "size", "scale", "cell", "background"),
)
TYPES = {"add": "Addition", "remove": "Removal", "keep": "Retention", "scale": "Comparison"}


def edit_type(change: Change) -> str:
    return TYPES.get(change.kind, "Modification")


def apply(changes: Iterable[Change], scene: Scene) -> Scene | None:
    """The scene after the edits; None where they cannot be made together."""
    things, background = list(scene.things), scene.background
    for change in changes:
        background = change.background or background
        if change.old:
            things.remove(change.old)
        if change.new:
            things.append(change.new)
    return arrange(things, background)


def random_changes(
    scene: Scene, rng: Random, count: int | None = None, split: str | None = None
) -> tuple[list[Change], Scene]:
    """One or two edits of different things that really change the scene, and the target."""
    while True:
        number = count or rng.choice((1, 2))
        changes = [c for c in (_random_change(scene, rng) for _ in range(number)) if c]
        about = [c.old or c.kind for c in changes]
        if len(changes) < number or len(set(about)) < number:
            continue
        if number == 2 and {c.kind for c in changes} == {"keep"}:
            continue
        target = apply(changes, scene)
        if not target or target == scene or split not in (None, split_of(target)):
            continue
        # "remove the red circle and make the blue circle red" says two things that cannot both be
        both = [c for change in changes for words in (True, False) for c in claims(change, words)]
        if satisfied(both, target):
            return changes, target


def _random_change(scene: Scene, rng: Random) -> Change | None:
    kind = rng.choice(_KINDS)
    if kind == "background":
        others = [b for b in BACKGROUNDS if b != scene.background]
        return Change(kind, background=rng.choice(others))
    free = [cell for cell in CELLS if cell not in {t.cell for t in scene.things}]
    if kind == "add":
        full = len(scene.things) >= MAX_OBJECTS
        return None if full else Change(kind, new=random_thing(rng, rng.choice(free)))
    old = rng.choice(scene.things)
    new: Thing | None = old
    if kind == "remove":
        new = None
    elif kind == "colour":
        new = replace(old, colour=rng.choice([c for c in COLOURS if c != old.colour]))
    elif kind == "shape":
        new = replace(old, shape=rng.choice([s for s in SHAPES if s != old.shape]))
    elif kind in ("size", "scale"):
        new = replace(old, size="small" if old.size == "large" else "large")
    elif kind == "cell":
        new = replace(old, cell=rng.choice(free))
    alone = sum(t.shape == old.shape for t in scene.things) == 1
    short = alone and kind != "shape" and rng.random() < 0.4
    return Change(kind, old, new, ("shape",) if short else LOOK)


_WORDINGS = {
    "add": ("add {new}", "put {new}", "there is also {new}"),
    "remove": ("remove {it}", "take {it} away", "{it} is gone"),
    "keep": ("keep {it}", "leave {it} as it is", "{it} stays"),
    "colour": ("make {it} {value}", "change {it} to {value}", "paint {it} {value}"),
    "shape": ("turn {it} into a {value}", "replace {it} with a {value}"),
    "size": ("make {it} {value}", "{it} is {value} now"),
    "scale": ("make {it} {scale}", "{it} is {scale} than before"),
    "cell": ("move {it} to the {value}", "put {it} at the {value}", "{it} is now at the {value}"),
    "background": (
        "change the background to {value}",
        "make the background {value}",
        "on a {value} background",
    ),
}
_SCALES = {"large": ("larger", "bigger"), "small": ("smaller",)}
JOINERS = (" and ", ", and ", ", then ")


def clause(change: Change, rng: Random) -> str:
    """One edit in one of its wordings."""
    it = phrase(claim_of(change.old, change.named), "the") if change.old else ""
    new = phrase(change.new) if change.new else ""
    value = change.background
    if change.new and change.kind in ("colour", "shape", "size", "cell"):
        value = getattr(change.new, change.kind)
    scale = rng.choice(_SCALES[change.new.size]) if change.new else ""
    wording = rng.choice(_WORDINGS[change.kind])
    return wording.format(it=it, new=new, value=value, scale=scale)


def instruction(changes: Sequence[Change], rng: Random) -> str:
    """All edits in one sentence, lower case, no full stop."""
    return join([clause(change, rng) for change in changes], rng.choice(JOINERS))


def claims(change: Change, resolved: bool = True) -> list[Claim]:
    """What must be true of an image with this edit, most telling first.

    resolved: with the colour that the reference's caption tells (the reasoner's questions); else
    only in the instruction's own words (the evaluator's), one claim an edit.
    """
    if change.kind == "background":
        return [Claim(background=change.background)]
    named = LOOK if resolved else change.named
    old, new = change.old, change.new
    if change.kind == "add" and new:
        return [claim_of(new)]
    if not old:
        raise ValueError(f"a change of kind {change.kind!r} is about a thing")
    if not new:
        return [claim_of(old, named, expected=False)]
    if change.kind in LOOK:
        claim = claim_of(new, LOOK)
        return [claim, claim_of(old, LOOK, expected=False)] if resolved else [claim]
    if change.kind in ("size", "scale"):
        return [claim_of(new, ("size", *named))]
    if change.kind == "cell":
        return [claim_of(new, (*named, "cell"))]
    return [claim_of(old, named)]


def edit_text(change: Change) -> str:
    """The edit as the reasoner writes it in step 1: one wording, the thing's name resolved."""
    if change.kind == "background":
        return f"the background becomes {change.background}"
    if change.kind == "add" and change.new:
        return f"add {phrase(change.new)}"
    if not change.old:
        raise ValueError(f"a change of kind {change.kind!r} is about a thing")
    it = phrase(claim_of(change.old, LOOK), "the")
    if not change.new:
        return f"remove {it}"
    if change.kind == "keep":
        return f"keep {it}"
    if change.kind == "cell":
        return f"{it} moves to the {change.new.cell}"
    if change.kind == "shape":
        return f"{it} becomes {phrase(claim_of(change.new, LOOK))}"
    attribute = {"scale": "size"}.get(change.kind, change.kind)
    assert attribute in ATTRIBUTES
    return f"{it} becomes {getattr(change.new, attribute)}"
