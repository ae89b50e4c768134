"""Galleries of look-alikes: families of benchmark scenes, each made from another by one or two
edits, so that near-twins lie beside every target and an instruction leads to exactly one image."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from imagescope_tiny.changes import Change, random_changes
from imagescope_tiny.scenes import Scene, random_scene

SPLIT = "benchmark"
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Step:
    """`changes` lead from one member of a family to another (places in its list)."""

    reference: int
    target: int
    changes: tuple[Change, ...]


def family(
    rng: Random, taken: set[Scene], size: int, edits: int | None = None
) -> tuple[list[Scene], list[Step]]:
    """`size` new scenes and the size - 1 steps that made them.

    taken: scenes that must not occur again; the new ones are added.
    edits: of every step (None: one or two).
    Every other step repeats the one before with another value (the same circle made blue, then
    green): these are the images that only a close look tells apart.
    """
    while True:
        members, steps = [random_scene(rng, SPLIT)], list[Step]()
        for _ in range(_TRIES):
            if len(members) == size:
                break
            again = steps[-1] if len(steps) % 2 else None
            start = again.reference if again else rng.randrange(len(members))
            changes, target = random_changes(members[start], rng, edits, SPLIT)
            if again and not {_about(c) for c in changes} & {_about(c) for c in again.changes}:
                continue
            if target not in taken and target not in members:
                steps.append(Step(start, len(members), tuple(changes)))
                members.append(target)
        if len(members) == size and members[0] not in taken:
            taken.update(members)
            return members, steps


def _about(change: Change) -> tuple[str, object]:
    return change.kind, change.old


def families(
    rng: Random, count: int, size: int, edits: int | None = None
) -> list[tuple[list[Scene], list[Step]]]:
    """`count` families that share no scene."""
    taken: set[Scene] = set()
    return [family(rng, taken, size, edits) for _ in range(count)]
