"""Scenes of one to three flat shapes on a plain background: what they are and how they look.

A scene is a value. Whether it belongs to training or to the benchmarks is decided by a hash of
its text, so that the two can never share a scene, whoever draws how many from whatever seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random

from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 25, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 230, 40),
    "green": (20, 150, 50),
    "cyan": (50, 215, 230),
    "blue": (30, 60, 225),
    "purple": (125, 30, 155),
    "pink": (255, 130, 190),
}
SIZES = ("small", "large")
CELLS = ("top left", "top right", "bottom left", "bottom right")  # reading order
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (135, 135, 135),
    "brown": (105, 65, 35),
}
MAX_OBJECTS = 3
SPLITS = ("train", "benchmark")

# Half the extent of a shape and the most its centre is off its cell's, as shares of the image.
_RADIUS = {"small": 0.105, "large": 0.195}
_JITTER = 0.025
_SUPERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Thing:
    shape: str
    colour: str
    size: str
    cell: str


@dataclass(frozen=True, slots=True)
class Scene:
    """One to MAX_OBJECTS things in distinct cells, in reading order, no two of the same shape and
    colour ("the red circle" always names one thing)."""

    things: tuple[Thing, ...]
    background: str


def arrange(things: list[Thing], background: str) -> Scene | None:
    """The scene of these things in reading order; None where they make no scene."""
    cells = {thing.cell for thing in things}
    looks = {(thing.colour, thing.shape) for thing in things}
    if not 1 <= len(things) <= MAX_OBJECTS or len(cells) < len(things) or len(looks) < len(things):
        return None
    return Scene(tuple(sorted(things, key=lambda thing: CELLS.index(thing.cell))), background)


def random_thing(rng: Random, cell: str) -> Thing:
    return Thing(rng.choice(SHAPES), rng.choice(tuple(COLOURS)), rng.choice(SIZES), cell)


def random_scene(rng: Random, split: str | None = None, objects: int | None = None) -> Scene:
    """A scene of a split (None: any), with the given number of things (None: any number)."""
    while True:
        count = objects or rng.randint(1, MAX_OBJECTS)
        things = [random_thing(rng, cell) for cell in rng.sample(CELLS, count)]
        scene = arrange(things, rng.choice(tuple(BACKGROUNDS)))
        if scene and split in (None, split_of(scene)):
            return scene


def neighbours(scene: Scene) -> Iterator[Scene]:
    """Every scene that differs in one attribute of one thing, or in the background."""
    for background in BACKGROUNDS:
        if background != scene.background:
            yield replace(scene, background=background)
    values = {"shape": SHAPES, "colour": tuple(COLOURS), "size": SIZES, "cell": CELLS}
    for i, thing in enumerate(scene.things):
        for attribute, choices in values.items():
            for value in choices:
                if value != getattr(thing, attribute):
                    things = list(scene.things)
                    things[i] = replace(thing, **{attribute: value})
                    changed = arrange(things, scene.background)
                    if changed:
                        yield changed


def neighbour(scene: Scene, rng: Random, split: str | None = None) -> Scene:
    """A random near-twin, of a split where one is named (the scene itself if it has none there)."""
    near = [other for other in neighbours(scene) if split in (None, split_of(other))]
    return rng.choice(near) if near else scene


def key(scene: Scene) -> str:
    """A stable text that names the scene."""
    things = [f"{thing.cell}:{thing.size} {thing.colour} {thing.shape}" for thing in scene.things]
    return "|".join([*things, scene.background])


def split_of(scene: Scene) -> str:
    """'benchmark' for a quarter of all scenes, else 'train': a hash decides, never a seed."""
    digest = blake2b(key(scene).encode(), digest_size=8).digest()
    return "benchmark" if digest[0] < 64 else "train"


def draw(scene: Scene, size: int = 128, seed: int = 0) -> Image.Image:
    """The scene as an RGB image of size x size, antialiased.

    Every thing sits a little off its cell's centre; scene and seed decide how, so that the same
    call draws the same pixels and another seed another picture of the same scene.
    """
    rng = Random(f"{key(scene)}/{seed}")
    full = size * _SUPERSAMPLING
    image = Image.new("RGB", (full, full), BACKGROUNDS[scene.background])
    brush = ImageDraw.Draw(image)
    for thing in scene.things:
        row, column = divmod(CELLS.index(thing.cell), 2)
        x, y = ((0.25 + 0.5 * at + rng.uniform(-_JITTER, _JITTER)) * full for at in (column, row))
        _draw_shape(brush, thing, x, y, _RADIUS[thing.size] * full)
    return image.resize((size, size), Image.Resampling.BOX)


def _draw_shape(brush: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, r: float) -> None:
    fill = COLOURS[thing.colour]
    if thing.shape == "circle":
        brush.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif thing.shape == "square":
        half = 0.88 * r
        brush.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    elif thing.shape == "triangle":
        corners = [-math.pi / 2 + turn * 2 * math.pi / 3 for turn in range(3)]
        middle, reach = y + 0.2 * r, 1.15 * r
        points = [(x + reach * math.cos(a), middle + reach * math.sin(a)) for a in corners]
        brush.polygon(points, fill=fill)
    else:
        bar = 0.34 * r
        brush.rectangle((x - r, y - bar, x + r, y + bar), fill=fill)
        brush.rectangle((x - bar, y - r, x + bar, y + r), fill=fill)
